//! The `sluice up` of the demo: a child that never outlives it.

use anyhow::Context as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Longest wait for the models: the first start validates each in a child process.
const READY_MAX: Duration = Duration::from_secs(120);

/// A running `sluice up`.
pub(crate) struct Server {
    child: Child,
    /// URL of the HTTP port.
    pub(crate) http: String,
    /// URL of the gRPC port.
    pub(crate) grpc: String,
    /// URL of the admin port.
    pub(crate) admin: String,
    /// What it said when its models were ready.
    pub(crate) ready: String,
    _data: tempfile::TempDir,
}

impl Server {
    /// Starts it on free ports and waits until its models are ready.
    pub(crate) async fn start(sluice: &Path, models: &Path) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let mut child = Command::new(sluice)
            .args(["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn", "--models"])
            .arg(models)
            .arg("--data-dir")
            .arg(data.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{}", sluice.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let listening = line(&mut lines, "listening:").await?;
        let [http, grpc, admin] = ports(&listening).with_context(|| format!("cannot read {listening:?}"))?;
        let ready = line(&mut lines, "ready:").await?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} }); // a full pipe must not stop it
        Ok(Self { child, http, grpc, admin, ready, _data: data })
    }

    /// Stops it as an operator would.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.context("it did not stop in 30 s")??;
        anyhow::ensure!(status.success(), "sluice up ended with {status}");
        Ok(())
    }
}

/// The next line that starts with `start`; other lines are shown.
async fn line(lines: &mut Lines<BufReader<ChildStdout>>, start: &str) -> anyhow::Result<String> {
    let wanted = async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with(start) {
                return Ok(line);
            }
            println!("{line}");
        }
        anyhow::bail!("sluice up ended before it said {start:?}")
    };
    tokio::time::timeout(READY_MAX, wanted).await.with_context(|| format!("no {start:?} within {READY_MAX:?}"))?
}

/// URLs of HTTP, gRPC and admin port from `listening: http 127.0.0.1:1, grpc 127.0.0.1:2, admin 127.0.0.1:3`.
fn ports(line: &str) -> Option<[String; 3]> {
    let (http, rest) = line.strip_prefix("listening: http ")?.split_once(", grpc ")?;
    let (grpc, admin) = rest.split_once(", admin ")?;
    Some([http, grpc, admin].map(|port| format!("http://{port}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_listening_line_gives_the_urls() {
        let urls = super::ports("listening: http 127.0.0.1:1, grpc 127.0.0.1:2, admin 127.0.0.1:3");
        assert_eq!(urls, Some([1, 2, 3].map(|port| format!("http://127.0.0.1:{port}"))));
    }
}
