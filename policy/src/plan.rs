//! Where replicas go: counts within measured memory, spread over zones and hosts, moved make-before-break.
//!
//! [`plan`] is called over and over with what is there now, and each time gives *all* placements wanted now. It remembers
//! nothing: what it needs to know of its own past stands in the placements and replicas it is shown. Two leaders that see
//! the same compute the same.
//!
//! Invariants, each named by the test that fails without it:
//! * I1: the last routable replica of a model is given up only for a routable successor. A successor is a newer version,
//!   or the same version from another artifact or for a higher generation, in which case one replica goes ahead of the others.
//! * I8: bytes promised on a device never exceed what it has, counting what leaves it until it is gone.
//!
//! Every variant that pays on a device class is placed there beside the reference, after all references; which of them answers a request
//! is the gateway's choice.
//!
//! How a failed replica is remembered: its placement stays where it is, as a mark, until enough others are ready. So every
//! worker is tried once for an artifact and generation, none twice.
//!
//! Not here: demand, latency targets, which variants are worth their memory. Relief of a device on which replicas grew beyond
//! what was measured: nothing more is put there, and nothing is taken away.

mod choose;
mod ledger;
mod progress;
mod steps;
mod target;
#[cfg(test)]
mod tests;
mod view;

pub use progress::{Progress, progress};
pub use target::wanted_versions;

use crate::{
    DemandRecord, HolderRecord, ModelName, ModelRecord, PlacementRecord, ProfileRecord, ReplicaRecord, VariantId, Version, VersionRecord,
    WorkerRecord,
};
use std::collections::BTreeMap;

/// What is there, as its owners report it. Order does not matter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The workers that hold a lease. A placement or replica of any other is gone.
    pub workers: Vec<WorkerRecord>,
    /// The versions that some worker has validated.
    pub versions: Vec<VersionRecord>,
    /// The replicas.
    pub replicas: Vec<ReplicaRecord>,
    /// The placements of the last plan, whoever made it.
    pub placements: Vec<PlacementRecord>,
    /// Where artifacts are.
    pub holders: Vec<HolderRecord>,
    /// What was measured: a variant goes where a profile says that it pays.
    pub profiles: Vec<ProfileRecord>,
    /// What is asked, by gateway.
    pub demands: Vec<DemandRecord>,
}

/// What operators want.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// The models, unwanted ones too.
    pub models: Vec<ModelRecord>,
}

/// What should be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// All placements, in the order of worker and variant, all with the epoch given.
    pub placements: Vec<PlacementRecord>,
    /// What is not as wanted, in the order of models and versions.
    pub unplaced: Vec<Unplaced>,
}

/// Why something is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unplaced {
    /// The model.
    pub model: ModelName,
    /// Its version, where it is about one.
    pub version: Option<Version>,
    /// The variant, where it is about one.
    pub variant: Option<VariantId>,
    /// In plain words.
    pub reason: String,
    /// It may pass by itself: a worker starts, memory is being freed.
    pub waits: bool,
}

/// Plans. The result fed back as `observed.placements`, all else unchanged, gives itself again.
pub fn plan(observed: &Observed, wanted: &Wanted, epoch: u64) -> Plan {
    let view = view::View::new(observed);
    let mut unplaced = Vec::new();
    let mut models: BTreeMap<_, _> = BTreeMap::new();
    for model in wanted.models.iter().filter(|m| m.wanted) {
        models.insert(&model.name, target::targets(model, &view, &mut unplaced));
    }
    let mut placements = steps::run(&view, &mut models, &mut unplaced);
    for placement in &mut placements {
        placement.epoch = epoch;
    }
    placements.sort_by(|a, b| (&a.worker, &a.variant).cmp(&(&b.worker, &b.variant)));
    unplaced.sort();
    Plan { placements, unplaced }
}
