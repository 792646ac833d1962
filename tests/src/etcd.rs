//! A real etcd process.

use crate::{Kit, free_port, until};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// One member on loopback. Can be killed and started again on the same data and ports. Killed when dropped.
pub struct Etcd {
    kit: Kit,
    child: Option<Child>,
    ports: (u16, u16),
    data: tempfile::TempDir,
}

impl Etcd {
    pub fn start(kit: &Kit) -> Self {
        let mut etcd = Self::absent(kit);
        etcd.restart();
        etcd
    }

    /// One that nobody has started yet: `restart` does.
    pub fn absent(kit: &Kit) -> Self {
        Self { kit: kit.clone(), child: None, ports: (free_port(), free_port()), data: tempfile::tempdir().unwrap() }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.0)
    }

    /// Starts it, on what is there, and waits until it takes connections.
    pub fn restart(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.ports.1));
        let child = Command::new(&self.kit.etcd)
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let port = self.ports.0;
        until("etcd listens", Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
