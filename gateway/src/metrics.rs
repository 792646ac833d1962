//! Counters and histograms of the gateway, in Prometheus' text form.

use policy::{Code, Failure, Version};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;

/// Labels come from the registry's records or from a fixed set, never from a request: a client cannot make series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

/// Where a request was when it ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its bytes were coming.
    Receive,
    /// It waited for others to leave.
    Door,
    /// It waited for the first replica of a model that was asleep.
    Wake,
    /// No worker could be in time.
    Choose,
    /// It was on its way to a worker, or there.
    Worker,
    /// A worker said that it took it out of its queue.
    Queue,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Door => "door",
            Self::Wake => "wake",
            Self::Choose => "choose",
            Self::Worker => "worker",
            Self::Queue => "queue",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LostLabels {
    stage: &'static str,
    why: &'static str,
}

/// A request at a stage: one that is dropped there has lost its caller.
pub(crate) struct At<'m> {
    metrics: &'m Metrics,
    stage: Stage,
    ended: bool,
}

impl At<'_> {
    /// It came through, or not.
    pub(crate) fn ended<T>(mut self, outcome: &Result<T, Failure>) {
        self.ended = true;
        if let Err(failure) = outcome {
            self.metrics.lost(self.stage, failure);
        }
    }
}

impl Drop for At<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.lost(self.stage, &Failure::Cancelled);
        }
    }
}

/// All of a gateway's metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    success: Family<ModelLabels, Counter>,
    failure: Family<ModelLabels, Counter>,
    duration: Family<ModelLabels, Histogram, fn() -> Histogram>,
    refused: Family<CodeLabels, Counter>,
    lost: Family<LostLabels, Counter>,
    /// Attempts on a second worker.
    pub(crate) retries: Counter,
    /// Bytes of requests held now.
    pub(crate) in_flight_bytes: Gauge,
    /// Requests that wait for others to leave.
    pub(crate) waiting: Gauge,
    registry: Arc<Registry>,
}

/// The handles of one version, looked up once.
#[derive(Clone)]
pub(crate) struct ModelMetrics {
    pub(crate) success: Counter,
    pub(crate) failure: Counter,
    duration: Histogram,
}

impl ModelMetrics {
    /// A request was answered, or failed, after `length`.
    pub(crate) fn answered(&self, length: Duration, is_ok: bool) {
        self.duration.observe(length.as_secs_f64());
        if is_ok {
            self.success.inc()
        } else {
            self.failure.inc()
        };
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_1, 2.0, 18));
        let mut registry = Registry::with_prefix("sluice_gateway");
        let success = Family::default();
        let failure = Family::default();
        let duration = Family::new_with_constructor(buckets);
        let (refused, lost) = (Family::default(), Family::default());
        let (retries, in_flight_bytes, waiting) = (Counter::default(), Gauge::default(), Gauge::default());
        registry.register("requests_success", "Requests answered", success.clone());
        registry.register("requests_failure", "Requests of a known model that failed", failure.clone());
        registry.register("request_duration_seconds", "Time from the last byte in to the answer", duration.clone());
        registry.register("errors", "Errors answered, by gRPC code", refused.clone());
        registry.register("lost", "Requests whose time was up or whose caller had gone, by where they were then", lost.clone());
        registry.register("retries", "Attempts on a second worker", retries.clone());
        registry.register("in_flight_bytes", "Bytes of requests held", in_flight_bytes.clone());
        registry.register("waiting", "Requests that wait for others to leave", waiting.clone());
        Self { success, failure, duration, refused, lost, retries, in_flight_bytes, waiting, registry: Arc::new(registry) }
    }

    pub(crate) fn of_model(&self, model: &str, version: Version) -> ModelMetrics {
        let labels = ModelLabels { model: model.to_owned(), version: version.to_string() };
        ModelMetrics {
            success: self.success.get_or_create_owned(&labels),
            failure: self.failure.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
        }
    }

    /// A request enters `stage`.
    pub(crate) fn at(&self, stage: Stage) -> At<'_> {
        At { metrics: self, stage, ended: false }
    }

    /// A request ended at `stage`: counted when that was for its time or its caller.
    pub(crate) fn lost(&self, stage: Stage, failure: &Failure) {
        let why = match failure {
            Failure::Hopeless { .. } => "hopeless",
            Failure::Cancelled => "cancelled",
            other if other.wire().0 == Code::DeadlineExceeded => "expired",
            _ => return,
        };
        self.lost.get_or_create(&LostLabels { stage: stage.as_str(), why }).inc();
    }

    pub(crate) fn refused(&self, code: Code) {
        let code = match code {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unauthenticated => "UNAUTHENTICATED",
        };
        self.refused.get_or_create(&CodeLabels { code }).inc();
    }

    /// Requests lost at `stage` for `why`.
    #[cfg(test)]
    pub(crate) fn lost_at(&self, stage: &'static str, why: &'static str) -> u64 {
        self.lost.get_or_create(&LostLabels { stage, why }).get()
    }

    /// Everything as text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            tracing::warn!(%error, "metrics cannot be rendered");
        }
        out
    }
}
