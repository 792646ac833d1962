//! A cluster of workers that do what `reconcile` says, in steps whose order a test chooses.

use super::*;
use crate::profile::Measured;
use crate::reconcile::{Action, Loaded, newest_epoch, reconcile};
use crate::{ReloadFailure, ReplicaState};
use std::collections::BTreeSet;

/// A variant on a worker.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// What is warm.
    serving: Option<PlacementRecord>,
    /// What is being loaded, beside it if need be.
    loading: Option<PlacementRecord>,
    failed: Option<PlacementRecord>,
    leaving: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Sim {
    pub(super) observed: Observed,
    pub(super) wanted: Wanted,
    /// (artifact, worker) pairs that do not load.
    pub(super) bad: BTreeSet<(Digest, WorkerId)>,
    /// What a replica of an artifact really holds.
    pub(super) really: BTreeMap<Digest, u64>,
    /// What replicas say that their batches take.
    pub(super) measured: BTreeMap<(WorkerId, VariantId), Measured>,
    slots: BTreeMap<(WorkerId, VariantId), Slot>,
    epoch: u64,
    pub(super) plan: Plan,
}

impl Sim {
    pub(super) fn new(workers: Vec<WorkerRecord>, versions: Vec<VersionRecord>, models: Vec<ModelRecord>) -> Self {
        let really = versions.iter().flat_map(|v| v.runs().map(|r| (r.artifact.clone(), r.bytes_resident)).collect::<Vec<_>>()).collect();
        let observed = Observed { workers, versions, ..Observed::default() };
        Self {
            observed,
            wanted: Wanted { models },
            bad: BTreeSet::new(),
            really,
            measured: BTreeMap::new(),
            slots: BTreeMap::new(),
            epoch: 1,
            plan: Plan::default(),
        }
    }

    /// One plan, checked to give itself again, and written.
    pub(super) fn plan(&mut self) {
        self.observed.replicas = self.replicas();
        let plan = plan(&self.observed, &self.wanted, self.epoch, &mut || true);
        self.observed.placements = plan.placements.clone();
        self.observed.idle = plan.idle.clone();
        let again = super::plan(&self.observed, &self.wanted, self.epoch, &mut || true);
        assert!(again == plan, "planning again changes the plan:\n{}\n{}", shown(&plan), shown(&again));
        self.plan = plan;
    }

    /// One plan, written: what is asked for is brought about a little at a time.
    pub(super) fn plan_once(&mut self) {
        self.observed.replicas = self.replicas();
        self.plan = plan(&self.observed, &self.wanted, self.epoch, &mut || true);
        self.observed.placements = self.plan.placements.clone();
        self.observed.idle = self.plan.idle.clone();
        self.observed.rates = self.plan.models.iter().map(|m| (m.model.clone(), m.rate)).collect();
    }

    /// Workers see the placements, and those which `lucky` picks finish what they are at.
    pub(super) fn work(&mut self, mut lucky: impl FnMut() -> bool) {
        for worker in self.observed.workers.clone() {
            let placements: Vec<_> = self.observed.placements.iter().filter(|p| p.worker == worker.id).cloned().collect();
            for action in reconcile(&placements, &self.loaded(&worker.id), newest_epoch(0, &placements)) {
                match action {
                    Action::Load(p) | Action::Reload(p) => {
                        let key = (worker.id.clone(), p.variant.clone());
                        let slot = self.slots.entry(key).or_insert(Slot { serving: None, loading: None, failed: None, leaving: false });
                        (slot.loading, slot.failed, slot.leaving) = (Some(p), None, false);
                    }
                    Action::Unload(variant) => {
                        let slot = self.slots.get_mut(&(worker.id.clone(), variant));
                        slot.into_iter().for_each(|s| (s.leaving, s.loading) = (true, None));
                    }
                    Action::IgnoreStale { .. } => panic!("one leader only"),
                }
            }
        }
        let bad = self.bad.clone();
        self.slots.retain(|(worker, _), slot| {
            if slot.leaving {
                return !lucky();
            }
            if slot.loading.is_some() && lucky() {
                let done = slot.loading.take();
                let fails = done.as_ref().is_some_and(|p| bad.contains(&(p.artifact.clone(), worker.clone())));
                if fails { slot.failed = done } else { (slot.serving, slot.failed) = (done, None) }
            }
            true
        });
    }

    /// Plans and works, everyone lucky, until nothing changes.
    pub(super) fn settle(&mut self) -> usize {
        for step in 0..60 {
            let before = (self.observed.placements.clone(), format!("{:?}", self.slots));
            self.plan();
            self.work(|| true);
            if before == (self.observed.placements.clone(), format!("{:?}", self.slots)) {
                return step;
            }
        }
        panic!("does not settle: {}", shown(&self.plan));
    }

    pub(super) fn kill(&mut self, worker: &WorkerId) {
        self.observed.workers.retain(|w| w.id != *worker);
        self.slots.retain(|(w, _), _| w != worker);
    }

    pub(super) fn model(&mut self, name: &str) -> &mut ModelRecord {
        self.wanted.models.iter_mut().find(|m| m.name.as_str() == name).unwrap()
    }

    pub(super) fn add_version(&mut self, new: VersionRecord) {
        self.really.insert(new.artifact.clone(), new.bytes_resident);
        self.observed.versions.push(new);
    }

    /// Workers on which a version of a model is routable.
    pub(super) fn ready(&self, model: &str, version: Option<u64>) -> Vec<String> {
        let asked = |v: &VariantId| v.model.as_str() == model && version.is_none_or(|n| u64::from(v.version) == n);
        let slots = self.slots.iter().filter(|((_, v), slot)| asked(v) && slot.serving.is_some() && !slot.leaving);
        slots.map(|((worker, _), _)| worker.to_string()).collect()
    }

    /// Generations served of a model.
    pub(super) fn generations(&self, model: &str) -> Vec<u64> {
        let slots = self.slots.iter().filter(|((_, v), _)| v.model.as_str() == model);
        slots.filter_map(|(_, slot)| slot.serving.as_ref().map(|p| p.generation)).collect()
    }

    /// Bytes that replicas hold on each device, loading and leaving ones too, against what it has.
    pub(super) fn check_memory(&self) {
        for worker in &self.observed.workers {
            for device in &worker.devices {
                let slots = self.slots.iter().filter(|((w, _), _)| *w == worker.id).map(|(_, slot)| slot);
                let held = slots.flat_map(|s| s.serving.iter().chain(&s.loading)).filter(|p| p.device == device.name);
                let bytes: u64 = held.map(|p| self.really[&p.artifact]).sum();
                assert!(bytes <= device.memory_bytes, "{} {}: {bytes} of {}", worker.id, device.name, device.memory_bytes);
            }
        }
    }

    fn loaded(&self, worker: &WorkerId) -> Vec<Loaded> {
        let slots = self.slots.iter().filter(|((w, _), slot)| w == worker && !slot.leaving);
        let newest = slots.filter_map(|((_, variant), slot)| {
            let last = slot.loading.as_ref().or(slot.failed.as_ref()).or(slot.serving.as_ref())?;
            let (artifact, generation) = (last.artifact.clone(), last.generation);
            Some(Loaded { variant: variant.clone(), artifact, generation, state: ReplicaState::Ready })
        });
        newest.collect()
    }

    fn replicas(&self) -> Vec<ReplicaRecord> {
        let records = self.slots.iter().filter_map(|((worker, variant), slot)| {
            let (shown, state) = match slot {
                Slot { serving: Some(p), leaving: true, .. } => (p, ReplicaState::Draining),
                Slot { serving: Some(p), .. } => (p, ReplicaState::Ready),
                Slot { loading: Some(p), .. } => (p, ReplicaState::Loading("loading".to_owned())),
                Slot { failed: Some(p), .. } => (p, ReplicaState::Failed("no".to_owned())),
                _ => return None,
            };
            let warm = matches!(state, ReplicaState::Ready | ReplicaState::Draining);
            let refused = slot.serving.as_ref().and(slot.failed.as_ref());
            let reload_failed =
                refused.map(|p| ReloadFailure { artifact: p.artifact.clone(), generation: p.generation, reason: "no".to_owned() });
            let incarnation = self.observed.workers.iter().find(|w| w.id == *worker)?.incarnation;
            Some(ReplicaRecord {
                schema: crate::SCHEMA,
                worker: worker.clone(),
                incarnation,
                variant: variant.clone(),
                device: shown.device.clone(),
                epoch: shown.epoch,
                state,
                bytes_resident: if warm { self.really[&shown.artifact] } else { 0 },
                instances: 1,
                provider: shown.provider,
                fallback: None,
                artifact: shown.artifact.clone(),
                generation: shown.generation,
                signature: None,
                reload_failed,
                reloading: None,
                measured: self.measured.get(&(worker.clone(), variant.clone())).cloned(),
                alpha_us: 1.0,
                beta_us: 1.0,
                unknown: Unknown::new(),
            })
        });
        records.collect()
    }
}

fn shown(plan: &Plan) -> String {
    let placed = |p: &PlacementRecord| format!("{} {} {:.4} g{}", p.worker, p.variant, &p.artifact.as_str()[60..], p.generation);
    format!(
        "{:?} {:?}",
        plan.placements.iter().map(placed).collect::<Vec<_>>(),
        plan.unplaced.iter().map(|u| &u.reason).collect::<Vec<_>>()
    )
}
