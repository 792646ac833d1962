//! `sluice controller`.

use super::{Stop, bind, etcd, host_name};
use crate::telemetry::say;
use ::controller::{Controller, ControllerConfig};
use registry::admin::AdminService;
use registry::{Keys, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) async fn run(args: crate::args::Controller) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    let admin = bind("admin", &args.admin).await?;
    say(&format!("listening: admin {}", admin.local_addr()?));
    let registry = etcd(&args.etcd)?;
    let keys = Keys::new(&args.place.cluster);
    let service = AdminService::new(registry.clone(), keys.clone()).into_server();
    let router = tonic::service::Routes::new(service)
        .into_axum_router()
        .route("/livez", axum::routing::get(|| async { "ok\n" }))
        .route("/readyz", axum::routing::get(|| async { "ready\n" }));
    let serving = tokio::spawn(async move { axum::serve(admin, router).await });
    let config = ControllerConfig::new(args.id.unwrap_or_else(host_name), keys);
    let controller = Running::start(registry, config);
    stop.wait().await;
    controller.stop().await;
    serving.abort();
    Ok(())
}

/// A controller in a task of its own.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(registry: Arc<dyn Registry>, config: ControllerConfig) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (controller, _) = Controller::new(registry, config);
        let task = tokio::spawn(controller.run(async move {
            let _ = stopped.await; // a dropped sender means the same
        }));
        Self { stop, task }
    }

    /// Gives leadership up and ends.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(Duration::from_secs(1), self.task).await.is_err() {
            tracing::warn!("the registry does not answer, leadership ends with its lease");
        }
    }
}
