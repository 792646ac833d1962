//! What is observed, indexed, without what is gone.

use super::Observed;
use crate::{
    Digest, ModelName, PlacementRecord, ProfileRecord, ReplicaRecord, ReplicaState, Runs, VariantId, Version, VersionRecord, WorkerId,
    WorkerRecord,
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
        Self { workers, versions, replicas, placements, holders, profiles }
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

    /// Does a profile say that this pays on a device class?
    pub(super) fn pays(&self, runs: &Runs<'_>, class: &str) -> bool {
        let profiles = self.profiles.get(runs.artifact).into_iter().flatten();
        let of_class = profiles.filter(|p| p.class == class && p.is_of(runs));
        of_class.filter_map(|p| p.speed.as_ref()).any(|speed| speed.refusal().is_none())
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
