//! What is observed, indexed, without what is gone.

use super::Observed;
use crate::profile::{Forecast, Latency, no_longer_holds};
use crate::{
    Digest, ModelName, ModelRecord, PlacementRecord, ProfileRecord, ReplicaRecord, ReplicaState, RolloutRecord, Runs, VariantId, Version,
    VersionRecord, WorkerId, WorkerRecord,
};
use std::collections::{BTreeMap, BTreeSet};

/// Observed records by name. Placements of workers that are gone, and replicas of another incarnation, are left out.
pub(super) struct View<'a> {
    pub(super) workers: BTreeMap<&'a WorkerId, &'a WorkerRecord>,
    pub(super) versions: BTreeMap<(&'a ModelName, Version), &'a VersionRecord>,
    pub(super) replicas: BTreeMap<(&'a WorkerId, &'a VariantId), &'a ReplicaRecord>,
    pub(super) placements: BTreeMap<(&'a WorkerId, &'a VariantId), &'a PlacementRecord>,
    holders: BTreeSet<(&'a Digest, &'a WorkerId)>,
    profiles: BTreeMap<&'a Digest, Vec<&'a ProfileRecord>>,
    rollouts: &'a BTreeMap<ModelName, RolloutRecord>,
}

impl<'a> View<'a> {
    pub(super) fn new(observed: &'a Observed) -> Self {
        let workers: BTreeMap<_, _> = observed.workers.iter().map(|w| (&w.id, w)).collect();
        let current = |r: &&ReplicaRecord| workers.get(&r.worker).is_some_and(|w| w.incarnation == r.incarnation);
        let replicas = observed.replicas.iter().filter(current).map(|r| ((&r.worker, &r.variant), r)).collect();
        let alive = |p: &&PlacementRecord| workers.contains_key(&p.worker);
        let placements = observed.placements.iter().filter(alive).map(|p| ((&p.worker, &p.variant), p)).collect();
        let versions = observed.versions.iter().map(|v| ((&v.model, v.version), v)).collect();
        let holders = observed.holders.iter().map(|h| (&h.artifact, &h.worker)).collect();
        let mut profiles: BTreeMap<_, Vec<_>> = BTreeMap::new();
        observed.profiles.iter().for_each(|p| profiles.entry(&p.artifact).or_default().push(p));
        Self { workers, versions, replicas, placements, holders, profiles, rollouts: &observed.rollouts }
    }

    /// Where the rollout of a model stands.
    pub(super) fn rollout(&self, model: &ModelRecord) -> Option<&'a RolloutRecord> {
        self.rollouts.get(&model.name)
    }

    /// The versions known of a model, oldest first.
    pub(super) fn versions_of(&self, model: &'a ModelName) -> impl DoubleEndedIterator<Item = &'a VersionRecord> + '_ {
        self.versions.iter().filter(move |((m, _), _)| *m == model).map(|(_, v)| *v)
    }

    /// The replica that stands where a placement wants one, of whatever artifact or generation.
    pub(super) fn replica(&self, placement: &PlacementRecord) -> Option<&'a ReplicaRecord> {
        self.replicas.get(&(&placement.worker, &placement.variant)).copied()
    }

    /// The replica a placement asked for.
    pub(super) fn answer(&self, placement: &PlacementRecord) -> Option<&'a ReplicaRecord> {
        self.replica(placement).filter(|r| r.artifact == placement.artifact && r.generation == placement.generation)
    }

    /// Something routable stands there, be it what was asked for before.
    pub(super) fn is_routable(&self, placement: &PlacementRecord) -> bool {
        self.replica(placement).is_some_and(|r| r.state == ReplicaState::Ready)
    }

    /// What was asked for stands there and is routable.
    pub(super) fn is_done(&self, placement: &PlacementRecord) -> bool {
        self.answer(placement).is_some_and(|r| r.state == ReplicaState::Ready)
    }

    /// Why what was asked for did not load. What was there before may still be routable.
    pub(super) fn failure(&self, placement: &PlacementRecord) -> Option<&'a str> {
        failure(self.replica(placement)?, &placement.artifact, placement.generation)
    }

    /// Since when a placement's replica is wanted there, if it was before.
    pub(super) fn since_s(&self, placement: &PlacementRecord) -> Option<u64> {
        let before = self.placements.get(&(&placement.worker, &placement.variant))?;
        let same = before.artifact == placement.artifact && before.generation == placement.generation && before.device == placement.device;
        before.since_s.filter(|_| same)
    }

    /// Does a profile say that this pays on a device class?
    pub(super) fn pays(&self, runs: &Runs<'_>, class: &str) -> bool {
        let of_class = self.profiles_of(runs).filter(|p| p.class == class);
        of_class.filter_map(|p| p.speed.as_ref()).any(|speed| speed.refusal().is_none())
    }

    /// How long batches of a variant take on a device class: as profiled there, else as replicas of it told, else a guess.
    pub(super) fn forecast(&self, runs: &Runs<'_>, class: &str) -> Forecast {
        let profile = self.profile(runs, class);
        // What was timed in the shapes of real samples goes before what a load measured on the smallest there are.
        // Where replicas say that it no longer holds, it counts as they do.
        let now = |p: &ProfileRecord| p.line().scaled(self.drift(p, runs).unwrap_or(1.0));
        let profiled = profile.map(now).filter(Latency::is_plausible);
        let told = || {
            let told = self.of_class(runs, class).map(|r| Latency { alpha_us: r.alpha_us, beta_us: r.beta_us });
            told.filter(Latency::is_plausible).reduce(|a, b| if a.batch_us(1) <= b.batch_us(1) { a } else { b })
        };
        let tail = profile.and_then(|p| p.batches.iter().find(|b| b.rows == 1)).map(|b| b.p99_us / b.p50_us).filter(|k| k.is_finite());
        let forecast = Forecast::from(profiled.or_else(told).unwrap_or(Latency::UNKNOWN));
        Forecast { kappa: tail.map_or(forecast.kappa, |k| k.clamp(1.05, 3.0)), ..forecast }
    }

    /// How many times as long as a profile of `runs` says its batches take, where it no longer holds.
    pub(super) fn drift(&self, profile: &ProfileRecord, runs: &Runs<'_>) -> Option<f64> {
        let measured = self.of_class(runs, &profile.class).filter_map(|r| r.measured.as_ref());
        no_longer_holds(profile.line(), measured.filter(|measured| measured.threads == profile.threads))
    }

    /// The profiles of `runs`, of whatever class.
    pub(super) fn profiles_of(&self, runs: &Runs<'_>) -> impl Iterator<Item = &'a ProfileRecord> {
        self.profiles.get(runs.artifact).into_iter().flatten().copied().filter(|p| p.is_of(runs))
    }

    /// The replicas of a variant on devices of a class.
    fn of_class<'s>(&'s self, runs: &'s Runs<'_>, class: &'s str) -> impl Iterator<Item = &'a ReplicaRecord> + 's {
        self.replicas.values().copied().filter(move |r| {
            let device = self.workers.get(&r.worker).and_then(|w| w.devices.iter().find(|d| d.name == r.device));
            r.artifact == *runs.artifact && r.variant.name == *runs.name && device.is_some_and(|d| d.class == class)
        })
    }

    /// Seconds that a load of a variant takes on a device class, where that was measured.
    pub(super) fn load_s(&self, runs: &Runs<'_>, class: &str) -> Option<f64> {
        self.profile(runs, class).map(|p| p.load_ms as f64 / 1e3)
    }

    fn profile(&self, runs: &Runs<'_>, class: &str) -> Option<&'a ProfileRecord> {
        self.profiles_of(runs).find(|p| p.class == class)
    }

    /// Bytes that one instance of a variant holds, as its validation measured.
    pub(super) fn expected_bytes(&self, variant: &VariantId) -> u64 {
        let version = self.versions.get(&(&variant.model, variant.version));
        version.and_then(|v| v.run_of(&variant.name)).map_or(0, |runs| runs.bytes_resident)
    }

    pub(super) fn holds(&self, artifact: &'a Digest, worker: &'a WorkerId) -> bool {
        self.holders.contains(&(artifact, worker))
    }
}

/// Why a worker could not load an artifact for a generation.
pub(super) fn failure<'r>(replica: &'r ReplicaRecord, artifact: &Digest, generation: u64) -> Option<&'r str> {
    let reload = replica.reload_failed.as_ref().filter(|f| f.artifact == *artifact && f.generation == generation);
    match (reload, &replica.state) {
        (Some(f), _) => Some(&f.reason),
        (None, ReplicaState::Failed(reason)) if replica.artifact == *artifact && replica.generation == generation => Some(reason),
        _ => None,
    }
}
