//! The admin port: liveness, readiness, metrics, and the operator's service.

use crate::shard::Core;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;
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
                metrics.metrics.in_flight_bytes.set(i64::try_from(metrics.budget.held()).unwrap_or(i64::MAX));
                metrics.metrics.waiting.set(i64::try_from(metrics.door.waiting()).unwrap_or(i64::MAX));
                ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.metrics.render())
            }),
        )
}
