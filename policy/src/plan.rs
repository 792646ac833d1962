//! Where replicas go: of models that somebody asks for, where [`crate::place`] finds that the demand is answered best; of all others, counts
//! within measured memory, spread over zones and hosts. All are moved make-before-break.
//!
//! [`plan`] is called over and over with what is there now, and each time gives *all* placements wanted now. It remembers
//! nothing: what it needs to know of its own past stands in the placements and replicas it is shown. Two leaders that see
//! the same compute the same.
//!
//! Invariants, each named by the test that fails without it:
//! * I1: the last routable replica of a model that does not go to sleep is given up only for a routable successor. A successor is a newer version,
//!   or the same version from another artifact or for a higher generation, in which case one replica goes ahead of the others.
//! * I8: bytes promised on a device never exceed what it has, counting what leaves it until it is gone.
//!
//! Every variant that pays on a device class is placed there beside the reference, after all references, as far as there is memory; which
//! of them answers a request is the gateway's choice. So a rise of the load finds the faster variants warm.
//!
//! How a failed replica is remembered: its placement stays where it is, as a mark, until enough others are ready. So every
//! worker is tried once for an artifact and generation, none twice.
//!
//! A model with an `idle_s` of which nobody asks has no placement ([`IdleRecord`]). One that is asked again gets one, and what else is wanted
//! of it once that is routable.
//!
//! Not here: relief of a device on which replicas grew beyond what was measured: nothing more is put there, and nothing is taken away.

mod choose;
mod idle;
mod ledger;
mod problem;
mod progress;
mod rollouts;
mod steps;
mod target;
#[cfg(test)]
mod tests;
mod view;
mod whatif;

pub use problem::{DevicePlan, ModelPlan, Share};
pub use progress::{Progress, progress, standings};
pub use rollouts::Rollouts;
pub use target::wanted_versions;
pub use whatif::{Alternative, Change, Told, tell};

use crate::demand::Demand;
use crate::{
    CountsRecord, DemandRecord, HolderRecord, IdleRecord, ModelName, ModelRecord, PlacementRecord, ProfileRecord, ReplicaRecord,
    RolloutRecord, VariantId, Version, VersionRecord, WorkerRecord,
};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Where rollouts stand, by model.
    pub rollouts: BTreeMap<ModelName, RolloutRecord>,
    /// What was counted of them, by gateway.
    pub counts: Vec<CountsRecord>,
    /// Rows a second planned for last time, by model.
    pub rates: BTreeMap<ModelName, f64>,
    /// Where models with an `idle_s` stood after the last plan for just that model record.
    pub idle: BTreeMap<ModelName, IdleRecord>,
    /// Now, in seconds since 1970 by the leader's clock; none where age is of no interest.
    pub now_s: Option<u64>,
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
    /// Models that somebody asks for, by name.
    pub models: Vec<ModelPlan>,
    /// The devices, where somebody asks for anything.
    pub devices: Vec<DevicePlan>,
    /// Where models with an `idle_s` stand.
    pub idle: BTreeMap<ModelName, IdleRecord>,
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

/// The profiles that no longer hold, each with how many times as long as it says batches take (see [`crate::profile::no_longer_holds`]).
pub fn drifts(observed: &Observed) -> Vec<(&ProfileRecord, f64)> {
    let view = view::View::new(observed);
    let mut found: Vec<(&ProfileRecord, f64)> = Vec::new();
    for runs in observed.versions.iter().flat_map(VersionRecord::runs) {
        for profile in view.profiles_of(&runs) {
            let known = found.iter().any(|(known, _)| std::ptr::eq(*known, profile));
            found.extend(view.drift(profile, &runs).filter(|_| !known).map(|times| (profile, times)));
        }
    }
    found
}

/// Plans. The result fed back as `observed.placements`, all else unchanged, gives itself again, but for models that somebody asks for: those
/// are changed a little at a time. `more` is asked between two steps of the search whether there is time.
pub fn plan(observed: &Observed, wanted: &Wanted, epoch: u64, more: &mut dyn FnMut() -> bool) -> Plan {
    let view = view::View::new(observed);
    let mut unplaced = Vec::new();
    let mut models: BTreeMap<_, _> = BTreeMap::new();
    for model in wanted.models.iter().filter(|m| m.wanted) {
        models.insert(&model.name, target::targets(model, &view, &mut unplaced));
    }
    let mut idle = idle::judge(&mut models, wanted, &view, observed);
    unplaced.retain(|u| models.contains_key(&u.model));
    let mut rates = problem::rates(observed, wanted);
    rates.retain(|model, _| models.contains_key(model));
    // Who waits for a model may have no rate yet, and its first replica may need the room of others' spare ones.
    let waking = models.iter().filter(|(name, group)| group.is_waking && !rates.contains_key(**name)).map(|(name, _)| (*name).clone());
    let waking: BTreeSet<_> = waking.collect();
    rates.extend(waking.iter().map(|name| (name.clone(), (1.0, Demand { uneven: 1.0, ..Demand::default() }))));
    let mut answer = match rates.is_empty() {
        true => problem::Answer::default(),
        false => problem::Asked::new(&view, &models, &rates, observed.now_s).answer(more),
    };
    answer.models.retain(|plan| !waking.contains(&plan.model));
    if answer.models.is_empty() {
        answer.devices.clear();
    }
    for group in models.values_mut() {
        let has_place = group.targets.iter().any(|t| answer.wanted.get(&t.variant).is_some_and(|workers| !workers.is_empty()));
        // A waking model that the search left out goes wherever there is room.
        for target in group.targets.iter_mut().filter(|_| has_place || !group.is_waking) {
            if let Some(workers) = answer.wanted.get(&target.variant) {
                let workers = target.with_redundancy(workers, &view);
                target.settle_on(&workers, &view);
            }
        }
    }
    unplaced.extend(answer.models.iter().filter(|plan| !answer.nowhere.contains(&plan.model)).filter_map(ModelPlan::shortfall));
    let mut placements = steps::run(&view, &mut models, &mut unplaced);
    idle::give_up(&mut idle, &placements, &unplaced, &view);
    for placement in &mut placements {
        placement.epoch = epoch;
        placement.since_s = view.since_s(placement).or(observed.now_s);
    }
    placements.sort_by(|a, b| (&a.worker, &a.variant).cmp(&(&b.worker, &b.variant)));
    unplaced.sort();
    Plan { placements, unplaced, models: answer.models, devices: answer.devices, idle }
}
