//! The steps of a plan, in their order. Each takes what the one before left in the targets.

use super::ledger::{Ledger, at_least, at_most, held, needed};
use super::target::{Group, Target};
use super::view::View;
use super::{Unplaced, choose};
use crate::{ModelName, PlacementRecord, ReplicaState, Version, WorkerId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

type Groups<'a> = BTreeMap<&'a ModelName, Group<'a>>;

/// Sorts the placements there are, drops and moves what must, adds what is missing, and says what could not be done.
pub(super) fn run<'a>(view: &View<'a>, groups: &mut Groups<'a>, unplaced: &mut Vec<Unplaced>) -> Vec<PlacementRecord> {
    sort_existing(view, groups);
    let mut ledger = Ledger::new(view);
    charge_existing(view, groups, &mut ledger);
    for target in groups.values_mut().flat_map(|g| &mut g.targets) {
        renew(target, view, &mut ledger);
    }
    add_missing(view, groups, &mut ledger);
    note_leaving(view, groups, &mut ledger);
    for target in groups.values_mut().flat_map(|g| &mut g.targets) {
        go_ahead(target, view, &mut ledger);
    }
    groups.values_mut().for_each(|group| release_covered(group, view, &mut ledger));
    // What leaves for one may be room for another: until nobody moves. Each time takes a placement away, so it ends.
    while groups.values_mut().any(|group| {
        let given_way = group.targets.iter_mut().any(|target| give_way(target, view, &mut ledger));
        given_way || make_room(group, view, &mut ledger) || swap(group, view, &mut ledger)
    }) {}
    for group in groups.values() {
        for (number, target) in group.targets.iter().enumerate() {
            let is_enough = group.is_waking && group.has_live(number);
            explain(target, (!group.old.is_empty(), is_enough), view, &ledger, unplaced);
        }
    }
    let kept = groups.values().flat_map(Group::all);
    kept.cloned().collect()
}

/// Decides for each placement whether it counts, marks a failure, waits to be relieved, or goes.
fn sort_existing<'a>(view: &View<'a>, groups: &mut Groups<'a>) {
    for placement in view.placements.values() {
        let Some(group) = groups.get_mut(&placement.variant.model) else { continue };
        let routable = view.is_routable(placement);
        match group.targets.iter_mut().find(|t| t.variant == placement.variant) {
            None if routable => group.old.push((*placement).clone()),
            Some(t) if t.eligible.iter().any(|w| w.id == placement.worker) => {
                let failed = view.failure(placement).is_some() && t.is_current(placement, view);
                if failed { &mut t.failed } else { &mut t.live }.push((*placement).clone());
            }
            Some(t) if routable => t.surplus.push((*placement).clone()),
            None | Some(_) => {}
        }
    }
    for target in groups.values_mut().flat_map(|g| &mut g.targets) {
        target.cut(view);
    }
    groups.values_mut().for_each(|group| drop(group.relieved(view)));
}

/// Charges what the placements that count will hold beyond what is there. What cannot be taken back (something is loading)
/// is charged in any case, then the rest as far as it fits: a placement that no longer fits is dropped.
fn charge_existing<'a>(view: &View<'a>, groups: &mut Groups<'a>, ledger: &mut Ledger<'a>) {
    // A reload may be under way in what will go, too.
    for p in groups.values().flat_map(|g| g.old.iter().chain(g.targets.iter().flat_map(|t| &t.surplus))) {
        let version = view.versions.get(&(&p.variant.model, p.variant.version));
        let runs = version.and_then(|v| v.run_of(&p.variant.name));
        if let Some(runs) = runs.filter(|_| view.answer(p).is_none() && view.failure(p).is_none()) {
            ledger.charge(&p.worker, &p.device, needed(view, &runs, p.instances));
        }
    }
    for target in groups.values().flat_map(|g| &g.targets) {
        let bytes = target.bytes(view);
        for p in target.live.iter().filter(|p| target.is_current(p, view)) {
            let answer = view.answer(p).filter(|r| r.state != ReplicaState::Draining);
            match (view.replica(p), answer) {
                (_, Some(r)) if r.bytes_resident == 0 => ledger.charge(&p.worker, &p.device, bytes.saturating_sub(held(view, r))),
                (Some(_), None) => ledger.charge(&p.worker, &p.device, bytes),
                (_, _) => {}
            }
        }
    }
    for target in groups.values_mut().flat_map(|g| &mut g.targets) {
        let bytes = target.bytes(view);
        let live = std::mem::take(&mut target.live);
        let fits = |p: &PlacementRecord| {
            let nothing_there = target.is_current(p, view) && view.replica(p).is_none();
            !nothing_there || ledger.try_charge(&p.worker, &p.device, bytes)
        };
        target.live = live.into_iter().filter(fits).collect();
    }
    for target in groups.values_mut().flat_map(|g| &mut g.targets) {
        let bytes = target.bytes(view);
        let live = std::mem::take(&mut target.live);
        let renewed = live.into_iter().filter_map(|p| {
            if target.is_current(&p, view) || view.is_routable(&p) {
                return Some(p);
            }
            let device = device_on(&p, target, view, ledger)?;
            ledger.try_charge(&p.worker, &device, bytes).then(|| target.placement(&p.worker, &device, Some(&p)))
        });
        target.live = renewed.collect();
    }
}

/// Where a placement that is written anew goes: to its own device while that serves.
fn device_on(placement: &PlacementRecord, target: &Target<'_>, view: &View<'_>, ledger: &Ledger<'_>) -> Option<String> {
    let worker = view.workers.get(&placement.worker)?;
    let own = target.devices(worker, view).find(|(device, _)| *device == placement.device);
    let best = || target.devices(worker, view).max_by_key(|(device, native)| (*native, ledger.free(&worker.id, device), Reverse(*device)));
    own.or_else(best).map(|(device, _)| device.to_owned())
}

/// Notes what will go: replicas without a placement, and those whose placement asks for something else in their place.
fn note_leaving<'a>(view: &View<'a>, groups: &Groups<'_>, ledger: &mut Ledger<'a>) {
    let stays = |p: &&PlacementRecord| view.answer(p).is_some() || view.failure(p).is_some();
    let staying: BTreeSet<_> = groups.values().flat_map(Group::all).filter(stays).map(|p| (&p.worker, &p.variant)).collect();
    for (_, replica) in view.replicas.iter().filter(|(key, _)| !staying.contains(*key)) {
        ledger.leave(replica);
    }
}

/// Brings routable placements to the wanted artifact and generation: one goes ahead, the others follow once it is routable (I1).
/// With one more than wanted on the way, that one will relieve one of them instead.
fn renew(target: &mut Target<'_>, view: &View<'_>, ledger: &mut Ledger<'_>) {
    let Some(done) = target.may_renew(view).filter(|_| target.live.len() <= target.replicas) else { return };
    let bytes = target.bytes(view);
    let (mut live, mut moved) = (std::mem::take(&mut target.live), false);
    for p in live.iter_mut().filter(|p| !target.is_current(p, view)) {
        let Some(device) = device_on(p, target, view, ledger) else { continue };
        if (done || !moved) && ledger.try_charge(&p.worker, &device, bytes) {
            *p = target.placement(&p.worker, &device, Some(p));
            moved = true;
        }
    }
    target.live = live;
}

/// Where no worker has room for old and new side by side, one more goes ahead on another.
fn go_ahead<'a>(target: &mut Target<'a>, view: &View<'a>, ledger: &mut Ledger<'a>) {
    if target.is_stuck(view) {
        choose::add(target, view, ledger, |_| 0);
    }
}

/// Where that is not possible either, takes one of several old replicas away, to be placed anew when it has gone.
fn give_way<'a>(target: &mut Target<'_>, view: &View<'a>, ledger: &mut Ledger<'a>) -> bool {
    let bytes = target.bytes(view);
    let stale = || target.live.iter().filter(|p| !target.is_current(p, view));
    let room = |p: &PlacementRecord| ledger.free_later(view, &p.worker, &p.device);
    if !target.is_stuck(view) || target.routable(view) < 2 || target.waits(view, ledger) || stale().any(|p| room(p) >= bytes) {
        return false;
    }
    let freed = |p: &PlacementRecord| view.replica(p).map_or(0, |r| held(view, r));
    let Some(victim) = stale().rfind(|p| room(p).saturating_add(freed(p)) >= bytes).cloned() else { return false };
    target.live.retain(|p| *p != victim);
    view.replica(&victim).into_iter().for_each(|r| ledger.leave(r));
    true
}

/// Gives every target its first replica before any its second, in the order of models; references before other variants.
fn add_missing<'a>(view: &View<'a>, groups: &mut Groups<'a>, ledger: &mut Ledger<'a>) {
    let mut load: BTreeMap<WorkerId, usize> = BTreeMap::new();
    for placement in groups.values().flat_map(Group::all) {
        let count = load.entry(placement.worker.clone()).or_default();
        *count = count.saturating_add(1);
    }
    let most = groups.values().flat_map(|g| &g.targets).map(|t| t.replicas).max().unwrap_or_default();
    for (reference, round) in [true, false].into_iter().flat_map(|reference| (1..=most).map(move |round| (reference, round))) {
        for group in groups.values_mut() {
            for number in 0..group.targets.len() {
                let one_is_there = group.is_waking && group.has_live(number);
                let Some(target) = group.targets.get_mut(number).filter(|t| t.is_reference() == reference) else { continue };
                let wants = !one_is_there && target.live.len() < round.min(target.replicas);
                if wants
                    && choose::add(target, view, ledger, |worker| load.get(worker).copied().unwrap_or_default())
                    && let Some(added) = target.live.last()
                {
                    let count = load.entry(added.worker.clone()).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
    }
}

/// Lets go what was kept only until others had taken over, and marks of failures once there is enough without them.
fn release_covered<'a>(group: &mut Group<'_>, view: &View<'a>, ledger: &mut Ledger<'a>) {
    let mut gone = group.outplanned(view);
    for target in &mut group.targets {
        let count = |is: &dyn Fn(&PlacementRecord) -> bool| target.live.iter().filter(|p| is(p)).count();
        let zero = target.model.replicas == Some(0);
        if zero || count(&|p| view.is_routable(p)) >= target.live.len().max(1) {
            gone.append(&mut target.surplus);
        }
        // Where the demand decides, a mark stays: the search would try the same place again.
        let enough = count(&|p| target.is_current(p, view) && view.is_done(p)) >= target.replicas;
        if zero || (enough && !target.is_planned) {
            gone.append(&mut target.failed);
        }
    }
    gone.append(&mut group.relieved(view));
    for placement in gone {
        view.replica(&placement).into_iter().for_each(|r| ledger.leave(r));
    }
}

/// Takes replicas of a version that is no longer wanted off one device, when its successor fits nowhere and each of those
/// versions stays routable elsewhere (I1). The successor is placed when they have gone.
fn make_room<'a>(group: &mut Group<'_>, view: &View<'a>, ledger: &mut Ledger<'a>) -> bool {
    for target in group.targets.iter().filter(|t| t.is_reference()) {
        if !target.live.is_empty() || !target.failed.is_empty() || target.waits(view, ledger) {
            continue;
        }
        let bytes = target.bytes(view);
        // One that is being reloaded is left alone: what it will hold when told to stop is not known.
        let settled = |p: &PlacementRecord| view.answer(p).is_some() || view.failure(p).is_some();
        let spare = |p: &&PlacementRecord| settled(p) && group.old.iter().filter(|o| o.variant == p.variant).count() >= 2;
        let devices = target.eligible.iter().flat_map(|w| target.devices(w, view).map(|(device, _)| (&w.id, device)));
        let room = |(worker, device): &(&WorkerId, &str)| {
            let here = group.old.iter().filter(|p| p.worker == **worker && p.device == *device).filter(spare);
            let freed = here.filter_map(|p| view.replica(p)).map(|r| held(view, r)).fold(0, u64::saturating_add);
            freed > 0 && ledger.free_later(view, worker, device).saturating_add(freed) >= bytes
        };
        let Some((worker, device)) = devices.into_iter().find(room) else { continue };
        let leaves = |p: &PlacementRecord| p.worker == *worker && p.device == device && spare(&p);
        let (gone, kept): (Vec<_>, Vec<_>) = group.old.iter().cloned().partition(leaves);
        group.old = kept;
        for replica in gone.iter().filter_map(|p| view.replica(p)) {
            ledger.leave(replica);
        }
        return true;
    }
    false
}

/// Takes replicas that the demand no longer wants off one device, where what it wants there instead has no room beside them and their
/// version stays routable elsewhere (I1). That is placed when they have gone.
fn swap<'a>(group: &mut Group<'_>, view: &View<'a>, ledger: &mut Ledger<'a>) -> bool {
    let Some((version, worker, device)) = group.targets.iter().find_map(|target| group.swappable(target, view, ledger)) else {
        return false;
    };
    for target in group.targets.iter_mut().filter(|t| t.version.version == version) {
        let leaves = |p: &PlacementRecord| p.worker == worker && p.device == device && view.answer(p).is_some();
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut target.surplus).into_iter().partition(leaves);
        target.surplus = kept;
        gone.iter().filter_map(|p| view.replica(p)).for_each(|replica| ledger.leave(replica));
    }
    true
}

/// Says why a target has less than it wants.
fn explain(target: &Target<'_>, (has_old, is_enough): (bool, bool), view: &View<'_>, ledger: &Ledger<'_>, unplaced: &mut Vec<Unplaced>) {
    let mut say = |reason: String, waits: bool| {
        let (model, version) = (target.model.name.clone(), Some(target.version.version));
        unplaced.push(Unplaced { model, version, variant: Some(target.variant.clone()), reason, waits });
    };
    let failures: Vec<_> = target.failed.iter().filter_map(|p| Some(format!("failed on {}: {}", p.worker, view.failure(p)?))).collect();
    if !failures.is_empty() {
        return say(failures.join("; "), false);
    }
    let done = target.live.iter().any(|p| target.is_current(p, view));
    let stale = !done && target.live.iter().any(|p| !target.is_current(p, view));
    if target.live.len() >= if is_enough { 0 } else { target.replicas } && !stale {
        return;
    }
    let bytes = at_least(target.bytes(view));
    if target.waits(view, ledger) {
        return say(format!("waits for {bytes} to be freed"), true);
    }
    let devices = target.eligible.iter().flat_map(|w| target.devices(w, view).map(|(device, _)| ledger.free(&w.id, device)));
    let most = at_most(devices.max().unwrap_or_default());
    let beside = if stale || has_old { " beside what it replaces" } else { "" };
    say(format!("needs {bytes}{beside}, no device it may use has more than {most} free"), false);
}

impl Target<'_> {
    fn routable(&self, view: &View<'_>) -> usize {
        self.live.iter().chain(&self.failed).filter(|p| view.is_routable(p)).count()
    }

    /// Whether routable placements may be brought up to date: `Some(true)` all of them, `Some(false)` one that goes ahead,
    /// `None` while one is ahead, and when that failed and only one other is left.
    fn may_renew(&self, view: &View<'_>) -> Option<bool> {
        let done = self.live.iter().any(|p| self.is_current(p, view) && view.is_done(p));
        let under_way = self.live.iter().any(|p| self.is_current(p, view) && !view.is_done(p));
        let last_hope = self.routable(view) < 2 && !self.failed.is_empty();
        (done || !(under_way || last_hope)).then_some(done)
    }

    /// Some placements are not current, they may be brought up to date, and none is on the way.
    fn is_stuck(&self, view: &View<'_>) -> bool {
        let stale = self.live.iter().any(|p| !self.is_current(p, view));
        let under_way = self.live.iter().any(|p| self.is_current(p, view) && !view.is_done(p));
        stale && !under_way && self.may_renew(view).is_some()
    }

    /// Whether there will be room for one more once what leaves has gone.
    fn waits(&self, view: &View<'_>, ledger: &Ledger<'_>) -> bool {
        let bytes = self.bytes(view);
        let free = |w: &crate::WorkerRecord| self.devices(w, view).any(|(device, _)| ledger.free_later(view, &w.id, device) >= bytes);
        let taken = |w: &crate::WorkerRecord| self.all().any(|p| p.worker == w.id);
        self.eligible.iter().any(|w| !taken(w) && free(w))
    }
}

impl Group<'_> {
    /// Where replicas that are no longer wanted are all that keeps a target from a place, if others of their version are elsewhere.
    fn swappable(&self, target: &Target<'_>, view: &View<'_>, ledger: &Ledger<'_>) -> Option<(Version, WorkerId, String)> {
        if !target.is_planned || target.live.len() >= target.replicas || target.waits(view, ledger) {
            return None;
        }
        let (version, bytes) = (target.version.version, target.bytes(view));
        let same = || self.targets.iter().filter(|t| t.version.version == version);
        let routable = same().flat_map(|t| t.live.iter().chain(&t.surplus)).filter(|p| view.is_routable(p)).count();
        let open = target.eligible.iter().filter(|w| !target.all().any(|p| p.worker == w.id));
        let places = open.flat_map(|w| target.devices(w, view).map(|(device, _)| (&w.id, device)));
        let found = places.into_iter().find(|(worker, device)| {
            let here = || same().flat_map(|t| &t.surplus).filter(|p| p.worker == **worker && p.device == *device);
            let here = || here().filter_map(|p| view.answer(p));
            let freed = here().map(|r| held(view, r)).fold(0, u64::saturating_add);
            here().count() > 0 && here().count() < routable && ledger.free_later(view, worker, device).saturating_add(freed) >= bytes
        });
        found.map(|(worker, device)| (version, worker.clone(), device.to_owned()))
    }

    /// Takes out routable placements that the demand no longer wants where they are, of versions that stay routable without them (I1).
    fn outplanned(&mut self, view: &View<'_>) -> Vec<PlacementRecord> {
        let mut gone = Vec::new();
        for number in 0..self.targets.len() {
            let Some(target) = self.targets.get(number).filter(|t| t.is_planned && !t.surplus.is_empty()) else { continue };
            let same = |t: &&Target<'_>| t.version.version == target.version.version;
            let others = self.targets.iter().filter(same).flat_map(|t| &t.live).filter(|p| view.is_routable(p)).count();
            if others >= if target.replicas == 0 { 1 } else { 2 }
                && let Some(target) = self.targets.get_mut(number)
            {
                gone.append(&mut target.surplus);
            }
        }
        gone
    }

    /// Takes out the placements of versions no longer wanted, once a successor is routable.
    fn relieved(&mut self, view: &View<'_>) -> Vec<PlacementRecord> {
        let successor = |t: &Target<'_>| t.model.replicas == Some(0) || t.live.iter().any(|p| view.is_routable(p));
        // A variant alone relieves its forerunner only where the demand wants no reference.
        let without = self.targets.iter().all(|t| !t.is_reference() || (t.is_planned && t.replicas == 0));
        if self.targets.iter().filter(|t| t.is_reference() || without).any(successor) { std::mem::take(&mut self.old) } else { Vec::new() }
    }

    /// Does any placement count of the version that a target is of?
    fn has_live(&self, number: usize) -> bool {
        let version = self.targets.get(number).map(|t| t.version.version);
        self.targets.iter().any(|t| Some(t.version.version) == version && !t.live.is_empty())
    }

    fn all(&self) -> impl Iterator<Item = &PlacementRecord> {
        self.targets.iter().flat_map(Target::all).chain(&self.old)
    }
}
