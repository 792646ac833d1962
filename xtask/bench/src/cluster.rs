//! The same model spread over processes: etcd, a controller, a worker, a gateway.

use crate::Args;
use crate::etcd::Etcd;
use crate::server::Server;
use anyhow::Context as _;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the model.
const READY_MAX: Duration = Duration::from_secs(60);

/// Running processes that never outlive the bench.
pub(crate) struct Cluster {
    pub(crate) gateway: Server,
    pub(crate) worker: Server,
    _controller: Server,
    _etcd: Etcd,
}

impl Cluster {
    /// Starts everything under `dir`, the worker with `flags` too, and waits until the gateway answers for `model`. One in a hundred
    /// requests is traced to `collector`.
    pub(crate) async fn start(
        args: &Args,
        models: &Path,
        dir: &Path,
        model: &str,
        flags: &[&str],
        collector: &Server,
    ) -> anyhow::Result<Self> {
        let (sluice, etcd) = (&args.sluice, Etcd::start(&args.etcd, dir).await?);
        let otlp = format!("http://{}", collector.grpc);
        let common = ["--etcd", &etcd.url, "--cluster", "bench", "--log", "warn", "--admin", "127.0.0.1:0", "--otlp", &otlp];
        let start = async |role: &str, more: &[&OsStr]| {
            let arguments = std::iter::once(role).chain(common).map(OsStr::new).chain(more.iter().copied());
            Server::part(sluice, arguments).await
        };
        let text = OsStr::new;
        let controller = start("controller", &[text("--id"), text("c")]).await?;
        let (worker, gateway) = (dir.join("worker"), dir.join("gateway"));
        let listen = [text("--id"), text("w"), text("--listen"), text("127.0.0.1:0"), text("--models"), models.as_os_str()];
        let flags: Vec<&OsStr> = flags.iter().map(|flag| text(flag)).collect();
        let worker = start("worker", &[&listen[..], &[text("--data-dir"), worker.as_os_str()], &flags].concat()).await?;
        let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir"].map(OsStr::new);
        let gateway = start("gateway", &[&ports[..], &[gateway.as_os_str()]].concat()).await?;
        let cluster = Self { gateway, worker, _controller: controller, _etcd: etcd };
        tokio::time::timeout(READY_MAX, cluster.ready(model)).await.with_context(|| format!("{model} is not ready on the gateway"))??;
        cluster.gateway.trace_one_in_a_hundred().await?;
        Ok(cluster)
    }

    /// Asks until the gateway says that it can answer.
    async fn ready(&self, model: &str) -> anyhow::Result<()> {
        loop {
            if self.gateway.http(http::Method::GET, &format!("/v2/models/{model}/ready"), "").await?.is_success() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
