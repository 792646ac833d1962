//! Models that nobody asks for and that may be without replicas meanwhile (`idle_s`).
//!
//! Awake -> Asleep: nobody asks since the longer of `idle_s` and twenty loads. A model that was never asked counts from when it became
//! routable, or failed: a load that failed is tried again by the first request after a sleep.
//! Asleep -> Waking: any gateway's demand names it.
//! Waking -> Awake: its first replica is routable, or every worker has failed at it.
//! Waking -> Asleep: nothing could be placed, and nobody asks any more.
//!
//! A change of the model's record begins anew, awake: an `apply` or `load` tells whether it loads.

use super::target::Group;
use super::view::View;
use super::{Observed, Unplaced, Wanted};
use crate::{IdleRecord, ModelName, ModelRecord, PlacementRecord, Rest};
use std::collections::BTreeMap;

/// A pause shorter than this many loads is not worth one.
const LOADS_MIN: f64 = 20.0;

/// Where each model with an `idle_s` stands now. Takes those that sleep out of `models` and marks those that wake. Pins go before `idle_s`.
pub(super) fn judge(
    models: &mut BTreeMap<&ModelName, Group<'_>>,
    wanted: &Wanted,
    view: &View<'_>,
    observed: &Observed,
) -> BTreeMap<ModelName, IdleRecord> {
    let mut all = BTreeMap::new();
    for (model, idle_s) in wanted.models.iter().filter(|m| m.pins.is_empty()).filter_map(|m| Some((m, m.idle_s?))) {
        let Some(group) = models.get_mut(&model.name) else { continue };
        let before = observed.idle.get(&model.name).copied().unwrap_or_default();
        let now = now(model, idle_s, group.load_s(view), before, view, observed);
        group.is_waking = now.rest == Some(Rest::Waking);
        if now.rest == Some(Rest::Asleep) {
            models.remove(&model.name);
        }
        all.insert(model.name.clone(), now);
    }
    all
}

fn now(model: &ModelRecord, idle_s: u32, load_s: Option<f64>, before: IdleRecord, view: &View<'_>, observed: &Observed) -> IdleRecord {
    let named = observed.demands.iter().filter_map(|d| d.models.get(&model.name));
    let asked = named.filter(|demand| demand.is_plausible()).any(|demand| !demand.quiet);
    let mine = || view.placements.values().filter(|p| p.variant.model == model.name);
    let routable = mine().any(|p| view.is_routable(p));
    let failed = mine().next().is_some() && mine().all(|p| view.failure(p).is_some());
    let pause_s = f64::from(idle_s).max(LOADS_MIN * load_s.unwrap_or_default());
    // A leader whose clock was ahead must not keep it awake for as long.
    let since_s = before.since_s.map(|since| since.min(observed.now_s.unwrap_or(since)));
    let over = since_s.zip(observed.now_s).is_some_and(|(since, now)| now.saturating_sub(since) as f64 >= pause_s);
    let (since_s, rest) = match before.rest {
        Some(Rest::Asleep) if !asked => (since_s, Some(Rest::Asleep)),
        Some(Rest::Waking) if !asked && mine().next().is_none() => (observed.now_s, Some(Rest::Asleep)),
        Some(Rest::Asleep) => (None, Some(Rest::Waking)),
        Some(Rest::Waking) if !routable => (None, Some(Rest::Waking)),
        _ if asked => (None, None),
        _ if since_s.is_some() => (since_s, over.then_some(Rest::Asleep)),
        _ if routable || failed => (observed.now_s, None),
        _ => (None, None),
    };
    let load_ms = load_s.filter(|_| rest.is_some()).map(|s| (s * 1e3).ceil() as u64);
    IdleRecord { since_s, rest, load_ms }
}

/// Models that should wake and cannot are no longer waited for: nothing of them is on its way, and no time alone will change that.
pub(super) fn give_up(idle: &mut BTreeMap<ModelName, IdleRecord>, placements: &[PlacementRecord], unplaced: &[Unplaced], view: &View<'_>) {
    for (model, idle) in idle.iter_mut().filter(|(_, idle)| idle.rest == Some(Rest::Waking)) {
        let failed = placements.iter().filter(|p| p.variant.model == *model).all(|p| view.failure(p).is_some());
        if failed && unplaced.iter().any(|u| u.model == *model && !u.waits) {
            *idle = IdleRecord::default();
        }
    }
}

impl Group<'_> {
    /// Seconds that a load of what wakes first takes where it is fastest, where that was measured.
    fn load_s(&self, view: &View<'_>) -> Option<f64> {
        let first = self.targets.iter().find(|t| !t.eligible.is_empty())?;
        let on = first.eligible.iter().flat_map(|worker| first.devices(worker, view).map(|(device, _)| (*worker, device)));
        let classes = on.filter_map(|(worker, device)| worker.devices.iter().find(|d| d.name == device));
        classes.filter_map(|device| view.load_s(&first.runs, &device.class)).filter(|s| s.is_finite()).reduce(f64::min)
    }
}
