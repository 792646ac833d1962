//! Bytes promised per device (I8).

use super::target::Target;
use super::view::View;
use crate::{ReplicaRecord, ReplicaState, Runs, VariantId, WorkerId};
use std::collections::BTreeMap;

/// What is promised on each device.
pub(super) struct Ledger<'a> {
    capacity: BTreeMap<(&'a WorkerId, &'a str), u64>,
    used: BTreeMap<(WorkerId, String), u64>,
    /// Replicas that no kept placement wants any more; their bytes are in `used`.
    leaving: BTreeMap<(&'a WorkerId, &'a VariantId), &'a ReplicaRecord>,
}

impl<'a> Ledger<'a> {
    /// Starts with what every replica holds now, placed or leaving.
    pub(super) fn new(view: &View<'a>) -> Self {
        let devices = view.workers.values().flat_map(|w| w.devices.iter().map(|d| ((&w.id, d.name.as_str()), w.memory_of(d))));
        let mut ledger = Self { capacity: devices.collect(), used: BTreeMap::new(), leaving: BTreeMap::new() };
        for replica in view.replicas.values() {
            ledger.charge(&replica.worker, &replica.device, held(view, replica));
        }
        ledger
    }

    pub(super) fn charge(&mut self, worker: &WorkerId, device: &str, bytes: u64) {
        let used = self.used.entry((worker.clone(), device.to_owned())).or_default();
        *used = used.saturating_add(bytes);
    }

    pub(super) fn free(&self, worker: &WorkerId, device: &str) -> u64 {
        let capacity = self.capacity.get(&(worker, device)).copied().unwrap_or_default();
        let used = self.used.get(&(worker.clone(), device.to_owned())).copied().unwrap_or_default();
        capacity.saturating_sub(used)
    }

    /// Notes that a replica will go. Its bytes stay charged until it has gone.
    pub(super) fn leave(&mut self, replica: &'a ReplicaRecord) {
        self.leaving.insert((&replica.worker, &replica.variant), replica);
    }

    /// Takes [`Ledger::leave`] back.
    pub(super) fn stay(&mut self, replica: &'a ReplicaRecord) {
        self.leaving.remove(&(&replica.worker, &replica.variant));
    }

    /// What will be free once everything that leaves has gone.
    pub(super) fn free_later(&self, view: &View<'_>, worker: &WorkerId, device: &str) -> u64 {
        let leaving = self.leaving.values().filter(|r| r.worker == *worker && r.device == device);
        leaving.map(|r| held(view, r)).fold(self.free(worker, device), u64::saturating_add)
    }

    /// Charges what is not there yet, if there is room for it.
    pub(super) fn try_charge(&mut self, worker: &WorkerId, device: &str, bytes: u64) -> bool {
        let fits = bytes <= self.free(worker, device);
        if fits {
            self.charge(worker, device, bytes);
        }
        fits
    }
}

/// Bytes a replica holds, or will when it is loaded. A failed one holds what it says.
pub(super) fn held(view: &View<'_>, replica: &ReplicaRecord) -> u64 {
    let expected = view.expected_bytes(&replica.variant);
    match (&replica.state, replica.bytes_resident) {
        (ReplicaState::Failed(_), measured) => measured,
        (_, 0) => expected.saturating_mul(u64::from(replica.instances.max(1))),
        (_, measured) => measured.max(expected),
    }
}

/// Bytes one more replica of a target will hold: what validation measured for one instance or what any replica of the same
/// artifact measured per instance, whichever is more, times the instances asked for.
pub(super) fn needed(view: &View<'_>, runs: &Runs<'_>, instances: Option<u32>) -> u64 {
    let same =
        |r: &&&ReplicaRecord| r.artifact == *runs.artifact && r.variant.name == *runs.name && !matches!(r.state, ReplicaState::Failed(_));
    let per_instance = |r: &&ReplicaRecord| r.bytes_resident.div_ceil(u64::from(r.instances.max(1)));
    let measured = view.replicas.values().filter(same).map(per_instance).max().unwrap_or_default();
    runs.bytes_resident.max(measured).saturating_mul(u64::from(instances.unwrap_or(1).max(1)))
}

/// A number of bytes as people say it, rounded up: `340 MB`.
pub(super) fn at_least(bytes: u64) -> String {
    shown(bytes, u64::div_ceil)
}

/// The same, rounded down.
pub(super) fn at_most(bytes: u64) -> String {
    shown(bytes, |bytes, unit| bytes.checked_div(unit).unwrap_or_default())
}

fn shown(bytes: u64, divide: fn(u64, u64) -> u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", divide(bytes, 1_000)),
        1_000_000..10_000_000_000 => format!("{} MB", divide(bytes, 1_000_000)),
        _ => format!("{} GB", divide(bytes, 1_000_000_000)),
    }
}

impl Target<'_> {
    /// [`needed`] for one replica of it.
    pub(super) fn bytes(&self, view: &View<'_>) -> u64 {
        needed(view, &self.runs, self.model.instances)
    }
}
