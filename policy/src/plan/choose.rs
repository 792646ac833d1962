//! Which worker and device get the next replica.

use super::ledger::{Ledger, held};
use super::target::Target;
use super::view::{self, View};
use crate::{DeviceRecord, ExecutionProvider, ModelRecord, PlacementRecord, ReplicaState, VariantId, WorkerId, WorkerRecord};
use std::cmp::Reverse;

/// Whether a worker has an engine. One that lists none says nothing about it.
pub(super) fn has_engine(worker: &WorkerRecord, engine: &str) -> bool {
    let engines = &worker.capabilities.engines;
    let long = if engine == "ort" { "onnxruntime" } else { engine };
    engines.is_empty() || engines.contains_key(engine) || engines.contains_key(long)
}

/// Whether a device serves a model: `Some(true)` with its provider, `Some(false)` with its fallback.
pub(super) fn native(device: &DeviceRecord, model: &ModelRecord) -> Option<bool> {
    let serves = |provider| match provider {
        ExecutionProvider::Cpu => device.name == "cpu",
        ExecutionProvider::Cuda | ExecutionProvider::Tensorrt => device.name.starts_with("cuda"),
    };
    if serves(model.provider) {
        return Some(true);
    }
    model.fallback.is_some_and(serves).then_some(false)
}

/// The device of a worker that suits a model best: its provider before its fallback, then the most free bytes.
pub(super) fn device<'w>(worker: &'w WorkerRecord, model: &ModelRecord, free: impl Fn(&str) -> u64) -> Option<(&'w str, bool)> {
    serving(worker, model).max_by_key(|(name, native)| (*native, free(name), Reverse(*name)))
}

/// The devices of a worker that serve a model.
pub(super) fn serving<'w>(worker: &'w WorkerRecord, model: &ModelRecord) -> impl Iterator<Item = (&'w str, bool)> {
    worker.devices.iter().filter_map(|d| native(d, model).map(|native| (d.name.as_str(), native)))
}

/// Adds the next replica of a target, if there is a worker that has none, has not failed at it, and has room.
///
/// Among those: its provider before its fallback; a zone, then a host with fewest replicas of the same; the worker with
/// fewest placements; one that holds the files; the most free bytes; and at last a hash, so that equals differ by model.
pub(super) fn add<'a>(target: &mut Target<'a>, view: &View<'a>, ledger: &mut Ledger<'a>, load: impl Fn(&WorkerId) -> usize) -> bool {
    let bytes = target.bytes(view);
    let taken = |id: &WorkerId| target.all().any(|p| p.worker == *id);
    let candidates = target.eligible.iter().filter(|w| !taken(&w.id) && !is_blocked(w, target, view)).filter_map(|worker| {
        let free = |device: &str| ledger.free(&worker.id, device);
        let extra = |device: &str| extra_bytes(worker, device, target, view, bytes);
        let roomy = target.devices(worker, view).filter(|(device, _)| extra(device) <= free(device));
        let (device, native) = roomy.max_by_key(|(name, native)| (*native, free(name), Reverse(*name)))?;
        let beside = |same: &dyn Fn(&WorkerRecord) -> bool| {
            target.live.iter().filter(|p| view.workers.get(&p.worker).is_some_and(|w| same(w))).count()
        };
        let zone = beside(&|w| (&w.site, &w.zone) == (&worker.site, &worker.zone));
        let host = beside(&|w| (&w.site, &w.host) == (&worker.site, &worker.host));
        let holds = view.holds(target.runs.artifact, &worker.id);
        let score = (
            !target.is_pinned(&worker.id),
            !native,
            zone,
            host,
            load(&worker.id),
            !holds,
            Reverse(free(device)),
            tie(&target.variant, &worker.id),
        );
        Some((score, &worker.id, device, extra(device)))
    });
    let Some((_, worker, device, extra)) = candidates.min() else { return false };
    let placement = target.placement(worker, device, None);
    ledger.charge(&placement.worker, device, extra);
    view.answer(&placement).filter(|r| r.state != ReplicaState::Draining).into_iter().for_each(|r| ledger.stay(r));
    target.live.push(placement);
    true
}

/// Bytes that a replica on a device adds to what is charged: one that was to go and is just what is wanted again is there already, unless
/// it drains: then it goes in any case, and another is loaded beside it.
fn extra_bytes(worker: &WorkerRecord, device: &str, target: &Target<'_>, view: &View<'_>, bytes: u64) -> u64 {
    let there = view.replicas.get(&(&worker.id, &target.variant)).filter(|r| {
        let same = r.artifact == *target.runs.artifact && r.generation == target.model.generation;
        same && r.device == device && r.state != ReplicaState::Draining
    });
    there.map_or(bytes, |r| if r.bytes_resident > 0 { 0 } else { bytes.saturating_sub(held(view, r)) })
}

/// Whether a worker has failed at just this, or still has something else of the variant that must go first.
fn is_blocked(worker: &WorkerRecord, target: &Target<'_>, view: &View<'_>) -> bool {
    let (artifact, generation) = (target.runs.artifact, target.model.generation);
    view.replicas.get(&(&worker.id, &target.variant)).is_some_and(|r| {
        let same = r.artifact == *artifact && r.generation == generation;
        !same || view::failure(r, artifact, generation).is_some()
    })
}

/// A number for a pair, the same in every process and build (FNV-1a).
pub(super) fn tie(variant: &VariantId, worker: &WorkerId) -> u64 {
    let text = [variant.model.as_str(), "|", worker.as_str()];
    let bytes = text.iter().flat_map(|t| t.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Target<'_> {
    /// Its placements of every kind.
    pub(super) fn all(&self) -> impl Iterator<Item = &PlacementRecord> {
        self.live.iter().chain(&self.failed).chain(&self.surplus)
    }
}
