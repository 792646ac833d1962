//! The admin port: liveness, readiness, metrics, and the operator's service.

use crate::shard::Core;
use axum::http::StatusCode;
use axum::routing::get;
use policy::{Failure, ModelName};
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
                metrics.metrics.in_flight_bytes.set(i64::try_from(metrics.budget.held()).unwrap_or(i64::MAX));
                ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.metrics.render())
            }),
        )
}

/// Longest a load or unload call waits: Triton's clients have no timeout of their own here.
const CHANGE_MAX: Duration = Duration::from_secs(120);

/// How long this gateway's own table may lag behind the registry before a change is answered all the same.
const LAG_MAX: Duration = Duration::from_secs(5);

/// Makes a model wanted or unwanted and waits until it is so, here too: a client that asks next must not find the table of a
/// moment ago. Otherwise gives the reason why not.
pub(crate) async fn want(core: &Core, model: ModelName, wanted: bool) -> Result<(), Failure> {
    if let Err(failure @ Failure::NoTable { .. }) = core.table.load().resolve(model.as_str(), "") {
        return Err(failure);
    }
    // Refused before anything is written: a mistyped name must not stay behind, wanted or unwanted.
    let versions = core.table.load().models.get(model.as_str()).map(|m| m.versions.len());
    match (wanted, versions) {
        (true, None | Some(0)) => {
            let reason = format!("no worker offers model {model}: put it in a worker's --models directory");
            return Err(Failure::LoadFailed { reason });
        }
        (false, None) => return Err(Failure::UnknownModel { model: model.to_string() }),
        _ => {}
    }
    let change = if wanted { Change::Load(model.clone()) } else { Change::Unload(model.clone()) };
    core.operator.change(change, CHANGE_MAX).await?;
    let mut changed = core.changed.subscribe();
    let here = async {
        while core.table.load().resolve(model.as_str(), "").is_ok() != wanted {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(LAG_MAX, here).await.is_err() {
        tracing::warn!(%model, wanted, "the routing table does not follow the registry");
    }
    Ok(())
}
