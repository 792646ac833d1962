//! One placement being served: what is wanted of it, what serves now, and how loading it goes.

use crate::engine::ProviderReport;
use crate::load::Warm;
use crate::phase::Phase;
use policy::profile::{Latency, Measured};
use policy::reconcile::Loaded;
use policy::{Digest, PlacementRecord, ReloadFailure, ReplicaRecord, ReplicaState, SCHEMA, Signature, Unknown, WorkerRecord};
use std::time::{Duration, Instant};

/// Pause before a replica is loaded again; doubled this many times at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_DOUBLINGS: u32 = 9;
/// After this long of serving, earlier failures are forgotten.
const STEADY: Duration = Duration::from_secs(300);

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
    /// Where the load is that is to take the place of what serves.
    pub(super) reloading: Option<String>,
    /// Why the last attempt came to nothing.
    trouble: Option<String>,
    /// What the replica's batches took, as it was told last.
    measured: Option<Measured>,
    /// Failures in a row: each makes the next attempt wait longer.
    pub(super) failures: u32,
}

/// What to do after an engine failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// It serves no more.
    Nothing,
    /// Its successor is loading already.
    Wait,
    /// Load it again after this pause: another worker may not exist, and what failed once after a thousand answers deserves
    /// another try.
    LoadAgain(Duration),
}

/// What a warm replica reports: what serves, while something else may be loading.
pub(crate) struct Report {
    /// The load it came from.
    pub(super) attempt: u64,
    pub(super) since: Instant,
    artifact: Digest,
    generation: u64,
    signature: Signature,
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
        Self {
            loaded,
            placement,
            attempt: 0,
            report: serving,
            reload_failed: None,
            reloading: None,
            trouble: None,
            measured: None,
            failures: 0,
        }
    }

    /// `warm`, which came from load `attempt`, serves from now on.
    pub(super) fn serves(&mut self, warm: &Warm, attempt: u64) {
        self.loaded.state = ReplicaState::Ready;
        (self.reload_failed, self.reloading, self.trouble, self.measured) = (None, None, None, None);
        self.report = Some(Report {
            attempt,
            since: Instant::now(),
            artifact: self.loaded.artifact.clone(),
            generation: self.loaded.generation,
            signature: warm.replica.signature().clone(),
            instances: warm.instances,
            bytes: warm.bytes_resident,
            latency: warm.latency,
            provider: warm.provider.clone(),
        });
    }

    /// An engine of what load `attempt` brought has failed. What serves may be older than the load this slot waits for.
    pub(super) fn engine_failed(&mut self, attempt: u64, reason: &str) -> AfterFailure {
        let Some(report) = self.report.take_if(|report| report.attempt == attempt) else { return AfterFailure::Nothing };
        if report.since.elapsed() > STEADY {
            self.failures = 0;
        }
        self.loaded.state = ReplicaState::Failed(reason.to_owned());
        // A reload that has failed has nothing under way any more.
        if self.attempt != attempt && self.reload_failed.is_none() {
            AfterFailure::Wait
        } else {
            AfterFailure::LoadAgain(self.next_pause())
        }
    }

    /// Its load is at `phase`; says whether that is new.
    pub(super) fn is_at(&mut self, phase: Phase) -> bool {
        let text = match &self.trouble {
            None => phase.to_string(),
            Some(trouble) => format!("{phase}, once more after: {trouble}"),
        };
        self.says(text)
    }

    /// Its load came to nothing, and is begun anew.
    pub(super) fn retries(&mut self, trouble: &str) {
        self.says(format!("trying again: {trouble}"));
        self.trouble = Some(trouble.to_owned());
    }

    fn says(&mut self, text: String) -> bool {
        if self.report.is_some() {
            return self.reloading.replace(text.clone()) != Some(text);
        }
        let state = ReplicaState::Loading(text);
        std::mem::replace(&mut self.loaded.state, state.clone()) != state
    }

    /// How long to wait before the next attempt; longer each time.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = RETRY.saturating_mul(1 << self.failures.min(RETRY_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Takes what the replica's batches take now; says whether that is worth telling.
    pub(super) fn takes(&mut self, measured: Option<Measured>) -> bool {
        let is_news = match (&measured, &self.measured) {
            (Some(now), Some(told)) => now.is_news(told),
            (now, told) => now.is_some() != told.is_some(),
        };
        if is_news {
            self.measured = measured;
        }
        is_news
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
            signature: report.map(|r| r.signature.clone()),
            reload_failed: self.reload_failed.clone(),
            reloading: report.and(self.reloading.clone()),
            measured: report.and(self.measured.clone()),
            alpha_us: report.map_or(0.0, |r| r.latency.alpha_us),
            beta_us: report.map_or(0.0, |r| r.latency.beta_us),
            unknown: Unknown::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{ExecutionProvider, VariantId, WorkerId};

    fn placement(generation: u64) -> PlacementRecord {
        PlacementRecord {
            schema: SCHEMA,
            worker: WorkerId::new("w").unwrap(),
            variant: VariantId::parse("m:1:fp32@ort").unwrap(),
            device: "cpu".into(),
            epoch: 1,
            artifact: Digest::new("0".repeat(64)).unwrap(),
            provider: ExecutionProvider::Cpu,
            fallback: None,
            instances: None,
            since_s: None,
            latency_target_us: None,
            generation,
            unknown: Unknown::new(),
        }
    }

    fn report(attempt: u64) -> Report {
        let provider = ProviderReport { asked: ExecutionProvider::Cpu, used: vec![], summary: ExecutionProvider::Cpu, fallback: None };
        let artifact = Digest::new("0".repeat(64)).unwrap();
        Report {
            attempt,
            since: Instant::now(),
            artifact,
            generation: 0,
            signature: Signature::default(),
            instances: 1,
            bytes: 1,
            latency: Latency::default(),
            provider,
        }
    }

    /// Load 1 serves while the slot waits for load 2.
    fn reloading() -> Slot {
        Slot { attempt: 2, ..Slot::loading(placement(1), Some(report(1))) }
    }

    #[test]
    fn a_failure_of_what_serves_is_heard_whatever_is_loading() {
        let mut slot = reloading();
        assert_eq!(slot.engine_failed(1, "broken"), AfterFailure::Wait);
        assert_eq!((slot.loaded.state.clone(), slot.report.is_none()), (ReplicaState::Failed("broken".into()), true));
        let mut slot = reloading();
        let Loaded { artifact, generation, .. } = slot.loaded.clone();
        slot.reload_failed = Some(ReloadFailure { artifact, generation, reason: "no".into() });
        assert_eq!(slot.engine_failed(1, "broken"), AfterFailure::LoadAgain(RETRY), "nothing else will");
        assert_eq!(slot.engine_failed(1, "broken"), AfterFailure::Nothing, "once");
    }

    #[test]
    fn what_batches_take_is_told_when_it_is_news_and_only_of_what_serves() {
        let measured = |us| Some(Measured { rows: 1.0, us, runs: 500, threads: 1, unknown: Unknown::new() });
        let worker: WorkerRecord = serde_json::from_value(serde_json::json!({
            "id": "w", "incarnation": 1, "data": "", "admin": "", "host": "", "site": "", "zone": "", "epoch": 0, "devices": [],
            "capabilities": {},
        }))
        .unwrap();
        let mut slot = reloading();
        let told = [None, measured(100.0), measured(105.0), measured(150.0), None].map(|now| slot.takes(now));
        assert_eq!(told, [false, true, false, true, true]);
        assert!(slot.takes(measured(150.0)) && slot.record(&worker).measured.is_some());
        slot.engine_failed(1, "broken");
        assert_eq!(slot.record(&worker).measured, None);
    }

    #[test]
    fn the_phase_of_a_load_is_reported_beside_what_serves_and_with_what_went_wrong_before() {
        let mut slot = Slot::loading(placement(0), None);
        assert!(slot.is_at(Phase::Validating) && !slot.is_at(Phase::Validating));
        assert_eq!(slot.loaded.state, ReplicaState::Loading("validating".into()));
        slot.retries("no room");
        assert_eq!(slot.loaded.state, ReplicaState::Loading("trying again: no room".into()));
        assert!(slot.is_at(Phase::WarmingUp));
        assert_eq!(slot.loaded.state, ReplicaState::Loading("warming up, once more after: no room".into()));
        let mut slot = reloading();
        assert!(slot.is_at(Phase::Calibrating));
        assert_eq!((slot.loaded.state.clone(), slot.reloading.as_deref()), (ReplicaState::Ready, Some("calibrating")));
        slot.engine_failed(1, "broken");
        assert!(slot.is_at(Phase::WarmingUp));
        assert_eq!(slot.loaded.state, ReplicaState::Loading("warming up".into()), "nothing serves beside it any more");
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_longer() {
        let mut slot = Slot::loading(placement(0), None);
        let mut pauses = Vec::new();
        for attempt in 1..12 {
            (slot.attempt, slot.report) = (attempt, Some(report(attempt)));
            let AfterFailure::LoadAgain(pause) = slot.engine_failed(attempt, "broken") else { panic!() };
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 51_200]);
    }
}
