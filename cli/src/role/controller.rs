//! `sluice controller`.

use super::{bind, etcd, host_name, stop};
use crate::telemetry::say;
use ::controller::{Controller, ControllerConfig};
use registry::Keys;
use registry::admin::AdminService;

pub(crate) async fn run(args: crate::args::Controller) -> anyhow::Result<()> {
    let admin = bind("admin", &args.admin).await?;
    say(&format!("listening: admin {}", admin.local_addr()?));
    let registry = etcd(&args.etcd).await?;
    let keys = Keys::new(&args.place.cluster);
    let service = AdminService::new(registry.clone(), keys.clone()).into_server();
    let router = tonic::service::Routes::new(service)
        .into_axum_router()
        .route("/livez", axum::routing::get(|| async { "ok\n" }))
        .route("/readyz", axum::routing::get(|| async { "ready\n" }));
    let serving = tokio::spawn(async move { axum::serve(admin, router).await });
    let config = ControllerConfig::new(args.id.unwrap_or_else(host_name), keys);
    let controller = Controller::start(config, registry);
    stop().await?;
    controller.stop().await;
    serving.abort();
    Ok(())
}
