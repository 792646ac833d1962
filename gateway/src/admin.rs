//! The admin port: liveness, readiness, metrics, and the operator's service.

use crate::shard::Core;
use axum::http::StatusCode;
use axum::routing::get;
use policy::Failure;
use registry::admin::Change;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Serves the admin port.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) {
    if let Err(error) = axum::serve(listener, router(core)).await {
        tracing::warn!(%error, "the admin port stopped");
    }
}

fn router(core: Arc<Core>) -> axum::Router {
    let (ready, metrics) = (core.clone(), core.clone());
    tonic::service::Routes::new(core.operator.clone().into_server())
        .into_axum_router()
        .route("/livez", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                metrics.metrics.in_flight_bytes.set(i64::try_from(metrics.in_flight_bytes()).unwrap_or(i64::MAX));
                ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.metrics.render())
            }),
        )
}

/// Longest a load or unload call waits: Triton's clients have no timeout of their own here.
const CHANGE_MAX: Duration = Duration::from_secs(120);

/// Changes what is wanted of a model and waits until it is so, or for the reason why not.
pub(crate) async fn change(core: &Core, change: Change) -> Result<(), Failure> {
    core.operator.change(change, CHANGE_MAX).await.map(drop)
}
