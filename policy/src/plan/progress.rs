//! How far a wanted model is, for whoever waits for it.

use super::Observed;
use super::target::{missing, wanted_versions};
use super::view::View;
use crate::{ModelRecord, PlacementRecord, PlanRecord, ReplicaState, Rest, VersionRecord, VersionState};

/// How far the cluster is with what was asked of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Every wanted version is routable, or will be when somebody asks. The text says what else is not as wanted, such as a missing second replica.
    Ready(String),
    /// Nothing of an unwanted model is left to be routed to.
    Unloaded,
    /// Under way; the text says what it waits for.
    Waiting(String),
    /// No worker offers it. One may yet: for how long to wait is the caller's choice.
    Unknown(String),
    /// It will not become routable without someone changing something.
    Failed(String),
}

/// Judges what is observed of a model. `decided` is the leader's word on this very model record, none while it has not spoken.
pub fn progress(model: &ModelRecord, observed: &Observed, decided: Option<&PlanRecord>) -> Progress {
    let view = View::new(observed);
    if !model.wanted {
        return unloading(model, &view);
    }
    let rollout = view.rollout(model);
    let chosen = wanted_versions(model, rollout, view.versions_of(&model.name));
    let missing = missing(model, rollout, &view).into_iter().next();
    let unknown = match missing {
        Some(version) => Some(Progress::Unknown(format!("no worker offers version {version} of model `{}`", model.name))),
        None if !chosen.is_empty() => None,
        None => Some(nothing_chosen(model, &view)),
    };
    let versions = chosen.iter().map(|v| of_version(model, v, &view, decided)).chain(unknown);
    let all: Vec<_> = versions.collect();
    let worst = all.into_iter().max_by_key(|p| match p {
        Progress::Ready(_) | Progress::Unloaded => 0,
        Progress::Waiting(_) => 1,
        Progress::Unknown(_) => 2,
        Progress::Failed(_) => 3,
    });
    match worst {
        Some(Progress::Ready(_)) if is_asleep(decided) => Progress::Ready(ASLEEP.to_owned()),
        Some(Progress::Ready(_)) => Progress::Ready(reasons(decided, |_| true)),
        Some(other) => other,
        None => Progress::Waiting("nothing is known of it yet".to_owned()),
    }
}

/// Where each placement stands, in the order of workers and variants.
pub fn standings(observed: &Observed) -> Vec<(&PlacementRecord, ReplicaState)> {
    let view = View::new(observed);
    observed.placements.iter().map(|placement| (placement, standing(placement, &view))).collect()
}

fn standing(placement: &PlacementRecord, view: &View<'_>) -> ReplicaState {
    if !view.workers.contains_key(&placement.worker) {
        return ReplicaState::Loading("its worker is gone".to_owned());
    }
    if let Some(reason) = view.failure(placement) {
        return ReplicaState::Failed(reason.to_owned());
    }
    match (view.answer(placement), view.replica(placement)) {
        (Some(answer), _) => answer.state.clone(),
        (None, Some(before)) => ReplicaState::Loading(before.reloading.clone().unwrap_or_else(|| "waits behind what serves".to_owned())),
        (None, None) => ReplicaState::Loading("its worker has not begun".to_owned()),
    }
}

/// What is said of a model that has no replica because nobody asks.
const ASLEEP: &str = "asleep: the next request loads it";

fn is_asleep(decided: Option<&PlanRecord>) -> bool {
    decided.is_some_and(|plan| plan.idle.rest == Some(Rest::Asleep))
}

fn reasons(decided: Option<&PlanRecord>, about: impl Fn(&crate::UnplacedRecord) -> bool) -> String {
    let unplaced = decided.into_iter().flat_map(|d| &d.unplaced);
    unplaced.filter(|u| about(u)).map(|u| u.reason.as_str()).collect::<Vec<_>>().join("; ")
}

/// No version is named and none is valid: the newest says why, if there is one.
fn nothing_chosen(model: &ModelRecord, view: &View<'_>) -> Progress {
    match view.versions_of(&model.name).next_back().map(|v| (v.version, &v.state)) {
        Some((version, VersionState::Invalid(reason))) => Progress::Failed(format!("version {version} is invalid: {reason}")),
        _ => Progress::Unknown(format!("no worker offers model `{}`: put it in a --models directory", model.name)),
    }
}

fn of_version(model: &ModelRecord, version: &VersionRecord, view: &View<'_>, decided: Option<&PlanRecord>) -> Progress {
    if let VersionState::Invalid(reason) = &version.state {
        return Progress::Failed(format!("version {} is invalid: {reason}", version.version));
    }
    let answers = |p: &&&PlacementRecord| {
        let same = p.variant.model == model.name && p.variant.version == version.version;
        let current = version.run_of(&p.variant.name).is_some_and(|runs| p.artifact == *runs.artifact);
        same && current && p.generation >= model.generation
    };
    let placed: Vec<_> = view.placements.values().filter(answers).collect();
    if is_asleep(decided) || placed.iter().any(|p| view.is_done(p)) {
        return Progress::Ready(String::new());
    }
    let under_way = placed.iter().filter(|p| view.failure(p).is_none()).map(|p| match view.answer(p).map(|r| &r.state) {
        Some(ReplicaState::Loading(step)) => format!("{}: {step}", p.worker),
        _ => match view.replica(p).and_then(|r| r.reloading.as_ref()) {
            Some(step) => format!("{}: {step}", p.worker),
            None => format!("{} to load it", p.worker),
        },
    });
    let under_way: Vec<_> = under_way.collect();
    let about = |u: &crate::UnplacedRecord| u.version.is_none_or(|v| v == version.version);
    let lasting = reasons(decided, |u| about(u) && !u.waits);
    if !under_way.is_empty() {
        Progress::Waiting(format!("version {} waits for {}", version.version, under_way.join(", ")))
    } else if !lasting.is_empty() {
        Progress::Failed(lasting)
    } else if decided.is_none() {
        Progress::Waiting(format!("version {} waits for a controller to plan it", version.version))
    } else {
        let passing = reasons(decided, about);
        let passing = if passing.is_empty() { "is not placed yet".to_owned() } else { passing };
        Progress::Waiting(format!("version {}: {passing}", version.version))
    }
}

fn unloading(model: &ModelRecord, view: &View<'_>) -> Progress {
    let placed = view.placements.values().filter(|p| p.variant.model == model.name).map(|p| &p.worker);
    let busy = |state: &ReplicaState| matches!(state, ReplicaState::Ready | ReplicaState::Loading(_));
    let there = view.replicas.values().filter(|r| r.variant.model == model.name && busy(&r.state)).map(|r| &r.worker);
    let mut workers: Vec<_> = placed.chain(there).map(|w| w.as_str()).collect();
    workers.sort_unstable();
    workers.dedup();
    if workers.is_empty() { Progress::Unloaded } else { Progress::Waiting(format!("{} to unload it", workers.join(", "))) }
}
