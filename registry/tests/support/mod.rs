//! A real etcd, and a wire to it that can be cut.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use registry::{Etcd, EtcdConfig, Registry};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long etcd may take to come up on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);

/// One etcd member with its data. Killed when dropped.
pub(crate) struct EtcdProcess {
    binary: OsString,
    child: Child,
    client: SocketAddr,
    peer: SocketAddr,
    dir: TempDir,
}

/// The etcd to test with, or `None` after saying that there is none.
pub(crate) fn binary() -> Option<OsString> {
    let binary = std::env::var_os("SLUICE_ETCD");
    if binary.is_none() {
        eprintln!("not run: needs SLUICE_ETCD (cargo xtask test sets it)");
    }
    binary
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl EtcdProcess {
    /// Starts an empty etcd and waits until it answers.
    pub(crate) async fn start(binary: OsString) -> Self {
        loop {
            let (client, peer, dir) = (free_port(), free_port(), tempfile::tempdir().unwrap());
            let child = spawn(&binary, client, peer, &dir);
            let mut etcd = Self { binary: binary.clone(), child, client, peer, dir };
            if etcd.answers().await {
                return etcd;
            }
            // A port was taken between our asking and etcd's: the next ones will be others.
        }
    }

    /// Whether it answers, as opposed to having ended.
    async fn answers(&mut self) -> bool {
        let began = Instant::now();
        let registry = Etcd::connect(EtcdConfig::new([self.url()])).unwrap();
        // A refusal is an answer, too.
        while registry.get("/up").await.is_err_and(|error| error.may_retry()) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(began.elapsed() < START_MAX, "etcd does not come up, see {:?}", self.dir.path());
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.client
    }

    pub(crate) fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(Etcd::connect(EtcdConfig::new([self.url()])).unwrap())
    }

    /// etcd's own client, for what the registry does not offer.
    pub(crate) async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.url()], None).await.unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same ports, with what it had.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.binary, self.client, self.peer, &self.dir);
        assert!(self.answers().await, "etcd ended, see {:?}", self.dir.path());
    }

    /// Forgets all data of a killed etcd.
    pub(crate) fn wipe(&mut self) {
        std::fs::remove_dir_all(data(&self.dir)).unwrap();
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("data")
}

fn spawn(binary: &OsString, client: SocketAddr, peer: SocketAddr, dir: &TempDir) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.path().join("log")).unwrap();
    let mut command = Command::new(binary);
    command.arg("--data-dir").arg(data(dir));
    for (flag, value) in [
        ("--name", "one".to_owned()),
        ("--listen-client-urls", format!("http://{client}")),
        ("--advertise-client-urls", format!("http://{client}")),
        ("--listen-peer-urls", format!("http://{peer}")),
        ("--initial-advertise-peer-urls", format!("http://{peer}")),
        ("--initial-cluster", format!("one=http://{peer}")),
        // A short election allows short leases.
        ("--heartbeat-interval", "50".to_owned()),
        ("--election-timeout", "500".to_owned()),
    ] {
        command.arg(flag).arg(value);
    }
    // The data outlasts the process, not the machine: enough here, and much faster.
    command.arg("--unsafe-no-fsync").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Counts the cuts, so that a connection notices one that was mended at once.
#[derive(Clone, Copy, Default)]
struct WireState {
    cut: bool,
    cuts: usize,
}

/// Forwards connections to an address, until cut.
pub(crate) struct Wire {
    pub(crate) url: String,
    state: watch::Sender<WireState>,
    accept: JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, state) = watch::channel(WireState::default());
        let accept = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(forward(inbound, target, state.clone()));
            }
        });
        Self { url, state: sender, accept }
    }

    /// Breaks every connection and lets no new one through.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| *state = WireState { cut: true, cuts: state.cuts + 1 });
    }

    /// Lets new connections through.
    pub(crate) fn mend(&self) {
        self.state.send_modify(|state| state.cut = false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn forward(mut inbound: TcpStream, target: SocketAddr, mut state: watch::Receiver<WireState>) {
    let before = *state.borrow_and_update();
    if before.cut {
        return;
    }
    let Ok(mut outbound) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
        _ = state.wait_for(|state| state.cuts != before.cuts) => {}
    }
}
