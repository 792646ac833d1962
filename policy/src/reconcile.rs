//! What a worker does about the placements it sees, and the rule that keeps an old leader from being obeyed.
//!
//! Epochs (I3). Every placement carries the epoch of the leader that wrote it. A newly elected leader takes an epoch above
//! every one seen anywhere ([`next_epoch`]) and rewrites *all* placements with it, changed or not. A worker remembers the
//! newest epoch it has seen ([`newest_epoch`]) and reads an older placement as "nothing said": it neither loads nor reloads
//! because of it, and keeps what is loaded. So a leader that was asleep and writes late changes nothing, and a change of
//! leaders never unloads anything by itself.
//!
//! A deletion carries no epoch. That a late leader cannot delete is the registry's part: every transaction of a
//! controller compares the election key. A worker therefore calls [`reconcile`] only with a *complete* list of its
//! placements, never before its first one and never because the registry is away (I2).

use crate::{Digest, PlacementRecord, ReplicaState, VariantId};
use std::collections::BTreeMap;

/// A variant a worker has loaded, is loading or failed to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it is.
    pub variant: VariantId,
    /// From which artifact.
    pub artifact: Digest,
    /// For which generation. While a reload is under way: the one being loaded.
    pub generation: u64,
    /// Where it stands. A failed one is not tried again before its artifact or generation changes.
    pub state: ReplicaState,
}

/// What a worker has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Load, warm up, report.
    Load(PlacementRecord),
    /// Load it anew from this artifact or for this generation. The old one serves until the new one is warm (I1); the
    /// planner has set memory aside for both.
    Reload(PlacementRecord),
    /// Let it finish what it has, then free it.
    Unload(VariantId),
    /// Do nothing but count it: a leader older than the newest seen wants a change.
    IgnoreStale {
        /// What it wants changed.
        variant: VariantId,
        /// Its epoch.
        epoch: u64,
        /// The newest epoch seen.
        newest: u64,
    },
}

/// Compares what is wanted of one worker with what it has. Idempotent: what is loaded as wanted, is being loaded or has
/// failed as wanted gives no action. Actions come in the order of variants, unloads first: they make room.
///
/// Whatever changes how a variant runs (provider, instances, latency target) comes with a higher generation, so artifact and generation
/// say it all.
pub fn reconcile(placements: &[PlacementRecord], loaded: &[Loaded], newest_epoch: u64) -> Vec<Action> {
    let wanted: BTreeMap<&VariantId, &PlacementRecord> = placements.iter().map(|p| (&p.variant, p)).collect();
    let have: BTreeMap<&VariantId, &Loaded> = loaded.iter().map(|l| (&l.variant, l)).collect();
    let gone = have.keys().filter(|variant| !wanted.contains_key(*variant));
    let mut actions: Vec<Action> = gone.map(|variant| Action::Unload((*variant).clone())).collect();
    for (variant, placement) in wanted {
        let now = have.get(variant);
        if now.is_some_and(|l| l.artifact == placement.artifact && l.generation == placement.generation) {
            continue;
        }
        actions.push(if placement.epoch < newest_epoch {
            Action::IgnoreStale { variant: variant.clone(), epoch: placement.epoch, newest: newest_epoch }
        } else if now.is_some() {
            Action::Reload(placement.clone())
        } else {
            Action::Load(placement.clone())
        });
    }
    actions
}

/// The newest epoch a worker has seen: what it remembers, raised by the placements it sees now. Kept in its own record,
/// so that it survives the worker and a wiped registry.
pub fn newest_epoch(remembered: u64, placements: &[PlacementRecord]) -> u64 {
    placements.iter().map(|p| p.epoch).fold(remembered, u64::max)
}

/// The epoch of a leader whose election key was created at `election_created_revision`: not below that revision, and above
/// every epoch `seen` in a worker's, replica's, placement's or former leader's record. The second half is what survives a
/// wiped registry, whose revisions start again at 1.
pub fn next_epoch(election_created_revision: i64, seen: impl Iterator<Item = u64>) -> u64 {
    let above = seen.max().map_or(0, |greatest| greatest.saturating_add(1));
    u64::try_from(election_created_revision).unwrap_or_default().max(above)
}

#[cfg(test)]
mod tests;
