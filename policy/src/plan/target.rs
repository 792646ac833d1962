//! What is wanted of each model: which versions, how many replicas, which workers could run them.

use super::view::View;
use super::{Unplaced, choose};
use crate::rollout::Candidate;
use crate::{
    ExecutionProvider, ModelRecord, Phase, PlacementRecord, RolloutRecord, Runs, VariantId, Version, VersionRecord, VersionState, WorkerId,
    WorkerRecord,
};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A variant of one wanted version, and where its placements stand.
pub(super) struct Target<'a> {
    pub(super) model: &'a ModelRecord,
    pub(super) version: &'a VersionRecord,
    /// How it is run.
    pub(super) runs: Runs<'a>,
    pub(super) variant: VariantId,
    /// As many as there are workers for, at most.
    pub(super) replicas: usize,
    /// A side of a rollout that has not ended, or what won: it is kept loaded, whatever the demand asks for.
    pub(super) is_side: bool,
    /// Those are what the demand asks for, redundancy included, and `eligible` is where.
    pub(super) is_planned: bool,
    /// Workers that may get one, in the order of their ids.
    pub(super) eligible: Vec<&'a WorkerRecord>,
    /// Placements that count.
    pub(super) live: Vec<PlacementRecord>,
    /// Marks of workers where it failed.
    pub(super) failed: Vec<PlacementRecord>,
    /// Routable ones in a wrong place (their worker drains), kept until those that count have taken over.
    pub(super) surplus: Vec<PlacementRecord>,
}

/// A wanted model: its targets, and the routable placements of versions no longer wanted, kept until a successor is routable.
pub(super) struct Group<'a> {
    pub(super) targets: Vec<Target<'a>>,
    pub(super) old: Vec<PlacementRecord>,
    /// It comes from sleep: one replica first, so that nothing is loaded beside what somebody waits for.
    pub(super) is_waking: bool,
}

/// The versions a model record asks for, of those known, ascending: the ones it names, or else so many of the latest valid ones.
///
/// While the record has a rollout, no version takes over by being newer. `rollout` says how far that is: until it has ended both sides are
/// wanted, then the one that won.
pub fn wanted_versions<'a>(
    model: &ModelRecord,
    rollout: Option<&RolloutRecord>,
    known: impl Iterator<Item = &'a VersionRecord>,
) -> Vec<&'a VersionRecord> {
    let mut known: Vec<_> = known.filter(|v| v.model == model.name).collect();
    known.sort_by_key(|v| v.version);
    let Some(asked) = &model.rollout else { return plainly_wanted(model, known) };
    let record = RolloutRecord::of(rollout, model);
    let (phase, baseline) = (record.map_or(Phase::Waits, RolloutRecord::phase), record.and_then(|r| r.baseline));
    let frozen = |v: &&VersionRecord| !model.versions.is_empty() || baseline.is_none_or(|baseline| v.version <= baseline);
    let Candidate::Version(number) = asked.candidate else {
        known.retain(|v| phase != Phase::Runs || frozen(v));
        return plainly_wanted(model, known);
    };
    let candidate = known.iter().find(|v| v.version == number).copied();
    known.retain(|v| v.version != number && frozen(v));
    let mut wanted = plainly_wanted(model, known);
    let Some(candidate) = candidate.filter(|_| phase != Phase::RolledBack) else { return wanted };
    if phase == Phase::Promoted && model.versions.is_empty() {
        wanted.drain(..wanted.len().saturating_add(1).saturating_sub(latest(model)).min(wanted.len()));
    } else if phase == Phase::Promoted {
        wanted.retain(|v| Some(v.version) != baseline);
    }
    wanted.push(candidate);
    wanted.sort_by_key(|v| v.version);
    wanted
}

/// The same without a rollout; `known` are the versions of the model, ascending.
pub(super) fn plainly_wanted<'a>(model: &ModelRecord, mut known: Vec<&'a VersionRecord>) -> Vec<&'a VersionRecord> {
    if model.versions.is_empty() {
        known.retain(|v| v.state == VersionState::Valid);
        known.split_off(known.len().saturating_sub(latest(model)))
    } else {
        known.retain(|v| model.versions.contains(&v.version));
        known
    }
}

fn latest(model: &ModelRecord) -> usize {
    usize::try_from(model.latest.unwrap_or(1)).unwrap_or(usize::MAX)
}

/// The targets of a wanted model, without placements yet, and what stands in the way of more.
pub(super) fn targets<'a>(model: &'a ModelRecord, view: &View<'a>, unplaced: &mut Vec<Unplaced>) -> Group<'a> {
    let mut say = |version: Option<Version>, reason: String, waits: bool| {
        unplaced.push(Unplaced { model: model.name.clone(), version, variant: None, reason, waits });
    };
    let rollout = view.rollout(model);
    let chosen = wanted_versions(model, rollout, view.versions_of(&model.name));
    for missing in missing(model, rollout, view) {
        say(Some(missing), format!("no worker offers version {missing}"), true);
    }
    if model.versions.is_empty() && view.versions_of(&model.name).next().is_none() {
        say(None, format!("no worker offers model `{}`: put it in a --models directory", model.name), true);
    }
    if model.versions.is_empty() && model.rollout.is_none() {
        let served = chosen.last().map(|v| v.version);
        let newer = view.versions_of(&model.name).rev().take_while(|v| Some(v.version) > served);
        for (version, reason) in newer.filter_map(invalid) {
            let instead = served.map_or(String::new(), |s| format!("; version {s} is served instead"));
            say(Some(version), format!("version {version} is invalid: {reason}{instead}"), false);
        }
    }
    let mut targets = Vec::new();
    for pin in &model.pins {
        let unable = match view.workers.get(&pin.worker) {
            None => Some("which is not there"),
            Some(_) if !chosen.iter().any(|v| v.run_of(&pin.variant).is_some()) => Some("but nobody offers that variant"),
            Some(worker) => excluded(model, worker, pin.variant.engine()),
        };
        if let Some(unable) = unable {
            say(None, format!("`{}` is pinned to worker `{}`, {unable}", pin.variant, pin.worker), true);
        }
    }
    for version in chosen {
        match invalid(version) {
            Some((number, reason)) => say(Some(number), format!("version {number} is invalid: {reason}"), false),
            None => {
                if let Some(reason) = below_floor(model, version) {
                    say(Some(version.version), reason, false);
                }
                targets.push(Target::reference(model, version, view, unplaced_by(&mut say)));
                let others = version.runs().skip(1).map(|runs| Target::beside(model, version, runs, view));
                targets.extend(others.filter(|target| !target.eligible.is_empty()));
            }
        }
    }
    Group { targets, old: Vec::new(), is_waking: false }
}

/// Versions that are named and that no worker offers, the candidate of a rollout that has not been rolled back too.
pub(super) fn missing(model: &ModelRecord, rollout: Option<&RolloutRecord>, view: &View<'_>) -> Vec<Version> {
    let phase = RolloutRecord::of(rollout, model).map_or(Phase::Waits, RolloutRecord::phase);
    let candidate = model.rollout.as_ref().filter(|_| phase != Phase::RolledBack).and_then(|r| match r.candidate {
        Candidate::Version(version) => Some(version),
        Candidate::Variant(_) => None,
    });
    let named = model.versions.iter().copied().chain(candidate.filter(|c| !model.versions.contains(c)));
    named.filter(|version| !view.versions.contains_key(&(&model.name, *version))).collect()
}

fn unplaced_by<'s>(say: &'s mut impl FnMut(Option<Version>, String, bool)) -> impl FnMut(Version, String, bool) + 's {
    move |version, reason, waits| say(Some(version), reason, waits)
}

/// Why a worker may not get replicas of a model that an engine runs.
fn excluded(model: &ModelRecord, worker: &WorkerRecord, engine: &str) -> Option<&'static str> {
    let is_able = choose::has_engine(worker, engine) && choose::device(worker, model, |_| 0).is_some();
    match worker {
        w if w.draining => Some("which is draining"),
        w if !(model.zones.is_empty() || model.zones.contains(&w.zone)) => Some("which is not in its zones"),
        w if !(model.cost_classes.is_empty() || model.cost_classes.contains(&w.cost_class)) => Some("which is not of its cost classes"),
        _ if !is_able => Some("which has no engine or device for it"),
        _ => None,
    }
}

/// That no variant which a model may use meets its floor, and which is nearest.
fn below_floor(model: &ModelRecord, version: &VersionRecord) -> Option<String> {
    let floor = model.slo.min_accuracy?;
    let allowed = version.runs().filter(|runs| model.variants.is_empty() || model.variants.contains(runs.name));
    let proven = allowed.filter_map(|runs| Some((version.proven_accuracy(runs.name, &model.slo)?, runs.name)));
    match proven.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
        Some((accuracy, _)) if accuracy >= floor => None,
        Some((accuracy, name)) => {
            Some(format!("no variant it may use has the accuracy of {floor}; the nearest is `{name}` with {accuracy:.4}"))
        }
        None => Some("no variant it may use has an accuracy that is measured as its floor wants it".to_owned()),
    }
}

fn invalid(version: &VersionRecord) -> Option<(Version, &str)> {
    match &version.state {
        VersionState::Valid => None,
        VersionState::Invalid(reason) => Some((version.version, reason)),
    }
}

impl<'a> Target<'a> {
    fn reference(model: &'a ModelRecord, version: &'a VersionRecord, view: &View<'a>, mut say: impl FnMut(Version, String, bool)) -> Self {
        let target = Self::new(model, version, version.reference_runs(), view);
        let (replicas, asked, engine) = (target.replicas, target.asked(), target.engine());
        if !target.is_allowed() {
            return target;
        }
        if view.workers.is_empty() {
            say(version.version, "no worker is alive".to_owned(), true);
        } else if view.workers.values().all(|w| w.draining) {
            say(version.version, "every worker is draining".to_owned(), true);
        } else if target.eligible.is_empty() {
            say(version.version, unable(model.provider, engine, view), true);
        } else if model.replicas.is_some() && replicas < asked {
            say(version.version, format!("wants {asked} replicas, only {replicas} workers can run it"), true);
        }
        target
    }

    /// A variant beside the reference: on workers with a device on which it pays, or anywhere while it is to take over.
    fn beside(model: &'a ModelRecord, version: &'a VersionRecord, runs: Runs<'a>, view: &View<'a>) -> Self {
        let mut target = Self::new(model, version, runs, view);
        let mut eligible = std::mem::take(&mut target.eligible);
        eligible.retain(|worker| target.is_pinned(&worker.id) || target.devices(worker, view).next().is_some());
        target.replicas = target.asked().max(target.pins()).min(eligible.len());
        Self { eligible, ..target }
    }

    fn new(model: &'a ModelRecord, version: &'a VersionRecord, runs: Runs<'a>, view: &View<'a>) -> Self {
        let variant = VariantId { model: model.name.clone(), version: version.version, name: runs.name.clone() };
        let mut target = Self {
            model,
            version,
            runs,
            variant,
            replicas: 0,
            is_side: false,
            is_planned: false,
            eligible: Vec::new(),
            live: Vec::new(),
            failed: Vec::new(),
            surplus: Vec::new(),
        };
        let able = |w: &&&WorkerRecord| excluded(model, w, target.engine()).is_none();
        target.eligible = view.workers.values().filter(able).copied().collect();
        let rollout = RolloutRecord::of(view.rollout(model), model);
        let phase = rollout.map_or(Phase::Waits, RolloutRecord::phase);
        let candidate = model.rollout.as_ref().map(|rollout| &rollout.candidate);
        target.is_side = match candidate {
            None => false,
            Some(Candidate::Version(_)) => target.is_reference(),
            Some(Candidate::Variant(_)) if target.is_reference() => phase == Phase::Waits || phase == Phase::Runs,
            Some(Candidate::Variant(variant)) => variant == target.runs.name && phase != Phase::RolledBack,
        };
        let gone = phase == Phase::RolledBack && matches!(candidate, Some(Candidate::Variant(variant)) if variant == target.runs.name);
        if !target.is_allowed() || gone {
            target.eligible.clear();
            target.is_planned = true;
        }
        target.replicas = target.asked().max(target.pins()).min(target.eligible.len());
        target
    }

    /// May it be used at all?
    fn is_allowed(&self) -> bool {
        self.model.variants.is_empty() || self.model.variants.contains(self.runs.name)
    }

    fn pins(&self) -> usize {
        self.eligible.iter().filter(|w| self.is_pinned(&w.id)).count()
    }

    /// Two are the default: one can be lost, wherever the two are.
    fn asked(&self) -> usize {
        self.model.replicas.map_or(2, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    fn engine(&self) -> &'a str {
        self.runs.name.as_str().split_once('@').map_or("", |(_, engine)| engine)
    }

    /// Is it the variant that all others are measured against?
    pub(super) fn is_reference(&self) -> bool {
        *self.runs.name == self.version.reference
    }

    /// The devices of a worker that it may be on.
    pub(super) fn devices<'w>(&self, worker: &'w WorkerRecord, view: &View<'_>) -> impl Iterator<Item = (&'w str, bool)> {
        let pays = |device: &str| {
            let class = worker.devices.iter().find(|d| d.name == device).map_or("", |d| d.class.as_str());
            self.is_reference() || self.is_pinned(&worker.id) || self.may_try(class) || view.pays(&self.runs, class)
        };
        choose::serving(worker, self.model).filter(move |(device, _)| pays(device)).collect::<Vec<_>>().into_iter()
    }

    /// May it be tried on a device class though nobody knows whether it pays there?
    fn may_try(&self, class: &str) -> bool {
        let needs = self.version.variants.iter().find(|v| v.name == *self.runs.name).map_or(&[][..], |v| &v.needs);
        self.is_side && needs.iter().all(|need| class.contains(need.as_str()))
    }

    /// The workers on which the demand wants it, and as many more as redundancy wants of a side of a rollout.
    pub(super) fn with_redundancy(&self, workers: &BTreeSet<WorkerId>, view: &View<'_>) -> BTreeSet<WorkerId> {
        let mut all = workers.clone();
        let mut others: Vec<_> = self.eligible.iter().filter(|w| self.is_side && !workers.contains(&w.id)).collect();
        others.sort_by_key(|w| (!view.placements.contains_key(&(&w.id, &self.variant)), choose::tie(&self.variant, &w.id)));
        all.extend(others.into_iter().take(self.asked().saturating_sub(workers.len())).map(|w| w.id.clone()));
        all
    }

    /// Its accuracy, if that is known and meets its model's floor.
    pub(super) fn accuracy_of_floor(&self) -> Option<f64> {
        let accuracy = self.version.accuracy_of(self.runs.name)?;
        let floor = self.model.slo.min_accuracy;
        let proven = || self.version.proven_accuracy(self.runs.name, &self.model.slo);
        (floor.is_none_or(|floor| proven().is_some_and(|accuracy| accuracy >= floor))).then_some(accuracy)
    }

    /// Must it be on a worker, because an operator says so?
    pub(super) fn is_pinned(&self, worker: &WorkerId) -> bool {
        self.model.pins.iter().any(|pin| pin.variant == *self.runs.name && pin.worker == *worker)
    }

    /// Can it be put on a device: one that serves it, of a worker that may have it and has not failed at it?
    pub(super) fn may_be_on(&self, worker: &WorkerRecord, device: &crate::DeviceRecord, view: &View<'_>) -> bool {
        let failed = view.replicas.get(&(&worker.id, &self.variant));
        let failed = failed.is_some_and(|r| super::view::failure(r, self.runs.artifact, self.model.generation).is_some());
        let eligible = self.eligible.iter().any(|w| w.id == worker.id);
        eligible && !failed && self.devices(worker, view).any(|(name, _)| name == device.name)
    }

    /// Takes what the whole plan wants of it: so many replicas, on these workers. Where it failed it may stay as a mark.
    pub(super) fn settle_on(&mut self, workers: &BTreeSet<WorkerId>, view: &View<'_>) {
        let (artifact, generation) = (self.runs.artifact, self.model.generation);
        let variant = &self.variant;
        let marked = |w: &WorkerRecord| {
            let replica = view.replicas.get(&(&w.id, variant));
            replica.is_some_and(|r| super::view::failure(r, artifact, generation).is_some())
        };
        self.eligible.retain(|w| workers.contains(&w.id) || marked(w));
        self.replicas = workers.len();
        self.is_planned = true;
    }

    /// The placement it wants on a worker, keeping of `before` what this build does not know.
    pub(super) fn placement(&self, worker: &WorkerId, device: &str, before: Option<&PlacementRecord>) -> PlacementRecord {
        PlacementRecord {
            schema: crate::SCHEMA,
            worker: worker.clone(),
            variant: self.variant.clone(),
            device: device.to_owned(),
            epoch: 0, // the plan's own is set at its end
            artifact: self.runs.artifact.clone(),
            provider: self.model.provider,
            fallback: self.model.fallback,
            instances: self.model.instances,
            since_s: before.and_then(|p| p.since_s),
            latency_target_us: self.model.slo.latency_ms.map(|ms| u64::from(ms).saturating_mul(1_000)),
            generation: self.model.generation,
            unknown: before.map(|p| p.unknown.clone()).unwrap_or_default(),
        }
    }

    /// Whether a placement says what would be said today.
    pub(super) fn is_current(&self, placement: &PlacementRecord, view: &View<'_>) -> bool {
        let device = view.workers.get(&placement.worker).and_then(|w| w.devices.iter().find(|d| d.name == placement.device));
        device.is_some_and(|d| choose::native(d, self.model).is_some())
            && placement.artifact == *self.runs.artifact
            && (placement.provider, placement.fallback) == (self.model.provider, self.model.fallback)
            && (placement.instances, placement.generation) == (self.model.instances, self.model.generation)
    }

    /// Keeps as many as are wanted: what is routable first, then what is current, then what is on the idler workers.
    /// One that goes ahead of others which are not current is kept beside them.
    pub(super) fn cut(&mut self, view: &View<'_>) {
        let load = |worker: &WorkerId| view.placements.keys().filter(|(w, _)| *w == worker).count();
        let mut live = std::mem::take(&mut self.live);
        live.sort_by_cached_key(|p| {
            let current = self.is_current(p, view);
            let done = current && view.is_done(p);
            (
                Reverse(self.is_pinned(&p.worker)),
                Reverse(view.is_routable(p)),
                Reverse(done),
                Reverse(current),
                load(&p.worker),
                choose::tie(&self.variant, &p.worker),
            )
        });
        let beyond = live.split_off(self.replicas.min(live.len()));
        if live.iter().any(|p| !self.is_current(p, view)) {
            live.extend(beyond.into_iter().find(|p| self.is_current(p, view)));
        }
        self.live = live;
    }
}

impl<'a> Group<'a> {
    /// Those that requests are planned for, with the share of requests of each: of the newest version, or the two sides of a rollout.
    pub(super) fn shares(&self, view: &View<'_>) -> Vec<(Vec<&Target<'a>>, f64)> {
        let of = |version: Option<Version>| self.targets.iter().filter(move |t| Some(t.version.version) == version).collect::<Vec<_>>();
        let newest_but = |but: Option<Version>| self.targets.iter().map(|t| t.version.version).filter(|v| Some(*v) != but).max();
        let Some(model) = self.targets.first().map(|t| t.model) else { return Vec::new() };
        let Some(rollout) = &model.rollout else { return vec![(of(newest_but(None)), 1.0)] };
        let record = RolloutRecord::of(view.rollout(model), model);
        let (baseline, candidate): (Vec<_>, Vec<_>) = match &rollout.candidate {
            Candidate::Version(number) => {
                let baseline = of(record.and_then(|r| r.baseline));
                let other = || of(newest_but(Some(*number)));
                (if baseline.is_empty() { other() } else { baseline }, of(Some(*number)))
            }
            Candidate::Variant(name) => of(newest_but(None)).into_iter().partition(|t| t.runs.name != name),
        };
        let weight = match (baseline.is_empty(), candidate.is_empty()) {
            (true, _) => 1.0,
            (false, true) => 0.0,
            (false, false) => record.map_or(0.0, |r| r.weight),
        };
        let sides = [(baseline, 1.0 - weight), (candidate, weight)];
        sides.into_iter().filter(|(targets, share)| *share > 0.0 && !targets.is_empty()).collect()
    }
}

/// Why no worker can run something on a provider.
fn unable(provider: ExecutionProvider, engine: &str, view: &View<'_>) -> String {
    if view.workers.values().any(|w| choose::has_engine(w, engine)) {
        format!("no worker that takes new work has {provider}")
    } else {
        format!("no worker has the engine `{engine}`")
    }
}
