//! An etcd of the bench's own.

use anyhow::{Context as _, ensure};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A running etcd that never outlives the bench.
pub(crate) struct Etcd {
    /// Where it answers.
    pub(crate) url: String,
    _process: Child,
}

impl Etcd {
    /// Starts `program` with its data under `dir`. It need not answer yet.
    pub(crate) async fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        let (url, peers) = (free_url().await?, free_url().await?);
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(dir.join("etcd")).args(["--log-level", "error", "--name", "bench"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("bench={peers}")]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
        let process = process.with_context(|| missing(command.as_std().get_program()))?;
        Ok(Self { url, _process: process })
    }
}

/// A port that was free a moment ago.
async fn free_url() -> anyhow::Result<String> {
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    ensure!(address.port() != 0, "no free port");
    Ok(format!("http://{address}"))
}

fn missing(program: &OsStr) -> String {
    format!("{}: cargo xtask bench fetches it; by hand name one with --etcd", program.display())
}
