//! From a plan to transactions: only what differs, in pieces.

use policy::plan::Plan;
use policy::{ModelName, PlanRecord, SCHEMA, ShareRecord, Unknown, UnplacedRecord};
use registry::admin::Records;
use registry::{Keys, Op, RegistryError, State, TXN_OPS_MAX, encode};
use std::collections::BTreeMap;

/// Longest reason kept in a record: many workers may each have a long one.
const REASON_CHARS_MAX: usize = 2_000;
/// Most reasons kept of one model.
const REASONS_MAX: usize = 8;
/// Most replicas whose share is told of one model: a record has 64 KiB.
const SHARES_MAX: usize = 256;
/// Keys and values of one transaction; half of what a registry takes.
const PIECE_BYTES_MAX: usize = 512 * 1024;

/// What must be written so that placements and plan records say what `plan` says, and those of rollouts what `records` do.
pub(crate) fn difference(state: &State, keys: &Keys, records: &Records, plan: &Plan, epoch: u64) -> Result<Vec<Op>, RegistryError> {
    let mut wanted: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for placement in &plan.placements {
        wanted.insert(keys.placement(placement.worker.as_str(), &placement.variant.to_string()), encode(placement)?);
    }
    for (model, (record, revision)) in records.models.iter().filter(|(_, (record, _))| record.wanted) {
        debug_assert_eq!(*model, record.name);
        wanted.insert(keys.plan(model.as_str()), encode(&plan_record(model, *revision, plan, epoch))?);
    }
    for rollout in records.observed.rollouts.values() {
        wanted.insert(keys.rollout(rollout.model.as_str()), encode(rollout)?);
    }
    let prefixes = [keys.placements(), keys.plans(), keys.rollouts()];
    let there = state.entries.iter().filter(|(key, _)| prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())));
    let gone: Vec<_> = there.map(|(key, _)| key).filter(|key| !wanted.contains_key(*key)).cloned().collect();
    let new = wanted.into_iter().filter(|(key, value)| state.entries.get(key).is_none_or(|entry| entry.value != *value));
    let puts = new.map(|(key, value)| Op::Put { key, value, lease: None });
    Ok(puts.chain(gone.into_iter().map(|key| Op::Delete { key })).collect())
}

fn plan_record(model: &ModelName, revision: i64, plan: &Plan, epoch: u64) -> PlanRecord {
    let about = plan.unplaced.iter().filter(|u| u.model == *model).take(REASONS_MAX);
    let unplaced = about.map(|u| {
        let reason = u.reason.chars().take(REASON_CHARS_MAX).collect();
        UnplacedRecord { version: u.version, reason, waits: u.waits }
    });
    // Of both sides while one version takes over from another.
    let planned = || plan.models.iter().filter(|planned| planned.model == *model);
    let shares = planned().flat_map(|planned| &planned.shares).take(SHARES_MAX).map(|share| ShareRecord {
        variant: share.variant.clone(),
        worker: share.worker.clone(),
        rate: (share.rate * 10.0).round() / 10.0,
    });
    PlanRecord {
        schema: SCHEMA,
        model: model.clone(),
        epoch,
        revision,
        unplaced: unplaced.collect(),
        rate: planned().map(|planned| planned.rate).reduce(|a, b| a + b),
        shares: shares.collect(),
        idle: plan.idle.get(model).copied().unwrap_or_default(),
        unknown: Unknown::new(),
    }
}

/// Cuts operations into pieces a transaction can carry.
pub(crate) fn pieces(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut pieces: Vec<Vec<Op>> = Vec::new();
    let mut bytes: usize = 0;
    for op in ops {
        let size = match &op {
            Op::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Op::Delete { key } | Op::DeletePrefix { prefix: key } => key.len(),
        };
        bytes = bytes.saturating_add(size);
        match pieces.last_mut().filter(|piece| piece.len() < TXN_OPS_MAX && bytes <= PIECE_BYTES_MAX) {
            Some(piece) => piece.push(op),
            None => {
                bytes = size;
                pieces.push(vec![op]);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_more_than_a_transaction_can_carry() {
        let check = |count: usize, length: usize, expected: &[usize]| {
            let put = |i: usize| Op::Put { key: format!("{i:04}"), value: vec![0; length], lease: None };
            let pieces = pieces((0..count).map(put).collect());
            assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        };
        check(0, 10, &[]);
        check(250, 10, &[100, 100, 50]);
        check(17, 64 * 1024, &[7, 7, 3]);
    }
}
