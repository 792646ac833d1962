//! Servers under measurement: children that never outlive the bench, and what they cost.

use anyhow::Context as _;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Longest wait for a server.
const READY_MAX: Duration = Duration::from_secs(120);

/// What this program wants to be told in any case, where it is started by itself.
pub(crate) const OWN: [&str; 4] = ["--sluice", "-", "--models", "-"];

/// A running server.
pub(crate) struct Server {
    child: Child,
    /// `host:port` of HTTP/1.1.
    pub(crate) http: String,
    /// `host:port` of gRPC.
    pub(crate) grpc: String,
    /// `host:port` of its admin port, where it has told one.
    pub(crate) admin: String,
    /// From start to ready.
    pub(crate) start: Duration,
}

impl Server {
    /// Starts `program` and waits for its lines `listening:` and `ready:`.
    pub(crate) async fn start(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Self> {
        Self::started(program, arguments, "ready:").await
    }

    /// Starts another of this program: what a bench measures against.
    pub(crate) async fn own(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Self> {
        let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Self::start(&std::env::current_exe()?, OWN.map(OsString::from).into_iter().chain(arguments)).await
    }

    /// The same for a part of a cluster, which is ready when the others say so.
    pub(crate) async fn part(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Self> {
        Self::started(program, arguments, "listening:").await
    }

    async fn started(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, last: &str) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let read = async {
            let (mut http, mut grpc, mut admin) = (String::new(), String::new(), String::new());
            while let Some(line) = lines.next_line().await? {
                if let Some(ports) = line.strip_prefix("listening: ") {
                    let port = |name: &str| {
                        let named = ports.split(", ").find_map(|p| p.strip_prefix(name)).unwrap_or_default();
                        named.trim().to_owned()
                    };
                    (http, grpc, admin) = (port("http "), port("grpc "), port("admin "));
                }
                if line.starts_with(last) {
                    return Ok((http, grpc, admin));
                }
            }
            anyhow::bail!("{} ended before it was ready", program.display())
        };
        let (http, grpc, admin) = tokio::time::timeout(READY_MAX, read).await.context("not ready in time")??;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, http, grpc, admin, start: started.elapsed() })
    }

    /// A whole cluster in one process.
    pub(crate) async fn up(sluice: &Path, models: &Path, data: &Path) -> anyhow::Result<Self> {
        Self::up_with(sluice, models, data, &[]).await
    }

    /// The same, with one in a hundred requests traced to `collector`, as in production.
    pub(crate) async fn up_traced(sluice: &Path, models: &Path, data: &Path, collector: &Self) -> anyhow::Result<Self> {
        let up = Self::up_with(sluice, models, data, &["--otlp", &format!("http://{}", collector.grpc)]).await?;
        up.trace_one_in_a_hundred().await?;
        Ok(up)
    }

    async fn up_with(sluice: &Path, models: &Path, data: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let ports = ["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn"];
        let arguments = ports.iter().chain(flags).map(OsStr::new);
        let folders = [OsStr::new("--models"), models.as_os_str(), OsStr::new("--data-dir"), data.as_os_str()];
        Self::start(sluice, arguments.chain(folders)).await
    }

    /// A server that takes traces and forgets them: it answers every call with an empty message.
    pub(crate) async fn collector() -> anyhow::Result<Self> {
        Self::own(["echo", "--answer", "5"]).await
    }

    /// Sets the share of requests for which this gateway begins a trace.
    pub(crate) async fn trace_one_in_a_hundred(&self) -> anyhow::Result<()> {
        let status = self.http(http::Method::POST, "/v2/trace/setting", r#"{"trace_rate":"100"}"#).await?;
        anyhow::ensure!(status.is_success(), "trace_rate: {status}");
        Ok(())
    }

    /// What its HTTP port answers.
    pub(crate) async fn http(&self, method: http::Method, path: &str, body: &'static str) -> anyhow::Result<http::StatusCode> {
        Ok(ask(&self.http, method, path, body).await?.0)
    }

    /// What its admin port says of its counters, as Prometheus has it.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        let (status, text) = ask(&self.admin, http::Method::GET, "/metrics", "").await?;
        anyhow::ensure!(status.is_success(), "/metrics: {status}");
        Ok(text)
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Its process.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }

    fn process(&self, file: &str) -> anyhow::Result<String> {
        let pid = self.id()?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    /// Its runners.
    pub(crate) fn children(&self) -> anyhow::Result<Vec<i32>> {
        let mut all = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id()?))?.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        Ok(all)
    }

    /// Processor time that it and its runners have used.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut ticks = ticks(&self.process("stat")?)?;
        for child in self.children()? {
            ticks = ticks.saturating_add(self::ticks(&std::fs::read_to_string(format!("/proc/{child}/stat"))?)?);
        }
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = self.process("status")?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }
}

/// What the server at `authority` answers.
async fn ask(authority: &str, method: http::Method, path: &str, body: &'static str) -> anyhow::Result<(http::StatusCode, String)> {
    let socket = tokio::net::TcpStream::connect(authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "bench");
    let answer = sender.send_request(request.body(http_body_util::Full::new(bytes::Bytes::from_static(body.as_bytes())))?).await?;
    let (head, body) = answer.into_parts();
    let text = http_body_util::BodyExt::collect(body).await?.to_bytes();
    connection.abort();
    Ok((head.status, String::from_utf8_lossy(&text).into_owned()))
}

/// Clock ticks in a process's `stat`: utime and stime, the 14th and 15th field; the name took two.
fn ticks(stat: &str) -> anyhow::Result<u64> {
    let (_, fields) = stat.rsplit_once(')').context("/proc stat")?;
    Ok(fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum())
}
