//! What replicas count, in Prometheus' text form. Written when somebody asks: nothing is kept up to date for it.

use crate::handle::WorkerHandle;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    model: String,
    version: String,
    variant: String,
}

/// Everything as text, of the replicas that are here now.
pub(crate) fn render(handle: &WorkerHandle) -> String {
    let (executions, over) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
    let slow = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for replica in handle.all() {
        let (id, (coverage, ratio)) = (replica.variant(), replica.predicted());
        let labels = Labels { model: id.model.to_string(), version: id.version.to_string(), variant: id.name.to_string() };
        executions.get_or_create(&labels).inc_by(coverage.executions);
        over.get_or_create(&labels).inc_by(coverage.over_p99);
        slow.get_or_create(&labels).set(ratio);
    }
    let mut registry = Registry::with_prefix("sluice_worker");
    registry.register("executions", "Batches run since the replica was loaded", executions);
    registry.register("executions_over_p99", "Of these, longer than what 99 of 100 were predicted to take", over);
    registry.register("slow_ratio", "Time of the last batches over what the replica's line says", slow);
    let mut out = String::new();
    if let Err(error) = text::encode(&mut out, &registry) {
        tracing::warn!(%error, "metrics cannot be rendered");
    }
    out
}
