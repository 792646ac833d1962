//! One placement being served: what is wanted of it, what serves now, and how loading it goes.

use crate::engine::ProviderReport;
use crate::load::Warm;
use policy::profile::Latency;
use policy::reconcile::Loaded;
use policy::{Digest, PlacementRecord, ReloadFailure, ReplicaRecord, ReplicaState, SCHEMA, Unknown, WorkerRecord};
use std::time::{Duration, Instant};

/// Pause before a replica is loaded again; doubled this many times at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_DOUBLINGS: u32 = 6;
/// After this long of serving, earlier failures are forgotten.
pub(super) const STEADY: Duration = Duration::from_secs(300);

/// A placement being served.
pub(crate) struct Slot {
    /// As reconcile sees it.
    pub(super) loaded: Loaded,
    pub(super) placement: PlacementRecord,
    /// Which load this slot waits for; the result of an older one is dropped.
    pub(super) attempt: u64,
    /// What serves, if anything does.
    pub(super) report: Option<Report>,
    pub(super) reload_failed: Option<ReloadFailure>,
    /// Failures in a row: each makes the next attempt wait longer.
    pub(super) failures: u32,
}

/// What a warm replica reports: what serves, while something else may be loading.
pub(crate) struct Report {
    /// The load it came from.
    pub(super) attempt: u64,
    pub(super) since: Instant,
    artifact: Digest,
    generation: u64,
    instances: u32,
    bytes: u64,
    latency: Latency,
    provider: ProviderReport,
}

impl Slot {
    /// A slot whose placement is about to be loaded, while `serving` goes on.
    pub(super) fn loading(placement: PlacementRecord, serving: Option<Report>) -> Self {
        let state = if serving.is_some() { ReplicaState::Ready } else { ReplicaState::Loading("waiting to load".to_owned()) };
        let (variant, artifact) = (placement.variant.clone(), placement.artifact.clone());
        let loaded = Loaded { variant, artifact, generation: placement.generation, state };
        Self { loaded, placement, attempt: 0, report: serving, reload_failed: None, failures: 0 }
    }

    /// `warm`, which came from load `attempt`, serves from now on.
    pub(super) fn serves(&mut self, warm: &Warm, attempt: u64) {
        self.loaded.state = ReplicaState::Ready;
        self.reload_failed = None;
        self.report = Some(Report {
            attempt,
            since: Instant::now(),
            artifact: self.loaded.artifact.clone(),
            generation: self.loaded.generation,
            instances: warm.instances,
            bytes: warm.bytes_resident,
            latency: warm.latency,
            provider: warm.provider.clone(),
        });
    }

    /// How long to wait before the next attempt; longer each time.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = RETRY.saturating_mul(1 << self.failures.min(RETRY_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// What `worker` reports of it.
    pub(super) fn record(&self, worker: &WorkerRecord) -> ReplicaRecord {
        let report = self.report.as_ref();
        ReplicaRecord {
            schema: SCHEMA,
            worker: worker.id.clone(),
            incarnation: worker.incarnation,
            variant: self.loaded.variant.clone(),
            device: self.placement.device.clone(),
            epoch: self.placement.epoch,
            state: self.loaded.state.clone(),
            bytes_resident: report.map_or(0, |r| r.bytes),
            instances: report.map_or(0, |r| r.instances),
            provider: report.map_or(self.placement.provider, |r| r.provider.summary),
            fallback: report.and_then(|r| r.provider.fallback.clone()),
            artifact: report.map_or_else(|| self.loaded.artifact.clone(), |r| r.artifact.clone()),
            generation: report.map_or(self.loaded.generation, |r| r.generation),
            reload_failed: self.reload_failed.clone(),
            alpha_us: report.map_or(0.0, |r| r.latency.alpha_us),
            beta_us: report.map_or(0.0, |r| r.latency.beta_us),
            unknown: Unknown::new(),
        }
    }
}
