//! Who waits, by what can ride together, and whose turn it is.

use super::{Ticket, Waiting};
use std::collections::BTreeMap;

/// Levels of a model whose configuration has none of its own; 1 the highest.
pub(super) const LEVELS: std::ops::RangeInclusive<u32> = 1..=3;
/// Level of a request that names none of them.
const MIDDLE: u32 = 2;
/// What a row costs its level: the inverse of the weights 8 : 2 : 1.
const ROW_COSTS: [u64; 3] = [1, 4, 8];
/// Batches that go without a lane before it is starved.
const LOST_MAX: u64 = 20;

/// The level of a request that asks for `priority`.
pub(super) fn level(priority: u32) -> u32 {
    if LEVELS.contains(&priority) { priority } else { MIDDLE }
}

/// Requests of one level that can share a batch; those without a deadline apart, since deadlines would never let them go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) level: u32,
    pub(super) endless: bool,
    pub(super) group: u64,
}

impl Lane {
    pub(super) fn of(place: Ticket, waiting: &Waiting) -> Self {
        Self { level: place.level(), endless: place.is_endless(), group: waiting.group }
    }

    fn all_of(level: u32) -> std::ops::RangeInclusive<Self> {
        Self { level, endless: false, group: 0 }..=Self { level, endless: true, group: u64::MAX }
    }
}

/// What waits in a lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) len: u64,
    pub(super) rows: u64,
    /// Its level's count of batches when one of its requests last left, or the first of them came.
    since: u64,
}

/// A level's claim: the one with the least `paid` is next.
#[derive(Debug, Clone, Copy, Default)]
struct Claim {
    paid: u64,
    /// Batches formed for it.
    batches: u64,
}

/// All that waits, in a map that has few entries: one per level and shape.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    loads: BTreeMap<Lane, Load>,
    claims: [Claim; 3],
    /// What the level of the last batch had paid before: a level that was empty starts from here, and has saved up nothing.
    paid: u64,
}

impl Lanes {
    fn claim(&mut self, level: u32) -> Option<&mut Claim> {
        self.claims.get_mut(usize::try_from(level.checked_sub(1)?).ok()?)
    }

    pub(super) fn enter(&mut self, lane: Lane, rows: u32) {
        let (paid, first) = (self.paid, self.of(lane.level).next().is_none());
        let Some(claim) = self.claim(lane.level) else { return };
        if first {
            claim.paid = claim.paid.max(paid);
        }
        let since = claim.batches;
        let load = self.loads.entry(lane).or_insert(Load { since, ..Load::default() });
        load.len = load.len.saturating_add(1);
        load.rows = load.rows.saturating_add(u64::from(rows));
    }

    pub(super) fn leave(&mut self, lane: Lane, rows: u32) {
        let Some(load) = self.loads.get_mut(&lane) else { return };
        load.len = load.len.saturating_sub(1);
        load.rows = load.rows.saturating_sub(u64::from(rows));
        if load.len == 0 {
            self.loads.remove(&lane);
        }
    }

    /// The level whose turn it is.
    pub(super) fn next_level(&self) -> Option<u32> {
        let waiting = LEVELS.zip(&self.claims).filter(|(level, _)| self.of(*level).next().is_some());
        waiting.min_by_key(|(_, claim)| claim.paid).map(|(level, _)| level)
    }

    /// A batch is formed for `level`.
    pub(super) fn begin(&mut self, level: u32) {
        let Some(claim) = self.claim(level) else { return };
        claim.batches = claim.batches.saturating_add(1);
        self.paid = claim.paid;
    }

    /// One of its requests rides.
    pub(super) fn charge(&mut self, lane: Lane, rows: u32) {
        let cost = ROW_COSTS.get(usize::try_from(lane.level.saturating_sub(1)).unwrap_or(usize::MAX)).copied().unwrap_or_default();
        let Some(claim) = self.claim(lane.level) else { return };
        claim.paid = claim.paid.saturating_add(cost.saturating_mul(u64::from(rows)));
        let batches = claim.batches;
        if let Some(load) = self.loads.get_mut(&lane) {
            load.since = batches;
        }
    }

    /// The lane of `level` that has lost longest, if any is starved. In overload all may be; otherwise only those without deadlines,
    /// since the others' come.
    pub(super) fn starved(&self, level: u32, overload: bool) -> Option<Lane> {
        let batches = self.claims.get(usize::try_from(level.saturating_sub(1)).ok()?)?.batches;
        let lost = |load: &Load| batches.saturating_sub(load.since) >= LOST_MAX;
        let starved = self.of(level).filter(|(lane, load)| (overload || lane.endless) && lost(load));
        starved.min_by_key(|(_, load)| load.since).map(|(lane, _)| *lane)
    }

    /// The lanes of a level, and what waits there.
    pub(super) fn of(&self, level: u32) -> impl Iterator<Item = (&Lane, &Load)> {
        self.loads.range(Lane::all_of(level))
    }

    pub(super) fn rows(&self, lane: Lane) -> u32 {
        self.loads.get(&lane).map_or(0, |load| u32::try_from(load.rows).unwrap_or(u32::MAX))
    }

    /// Batches of at most `rows_max` rows in which all that waits can go, lane by lane.
    pub(super) fn batches(&self, rows_max: u32) -> u64 {
        self.loads.values().map(|load| load.rows.div_ceil(u64::from(rows_max.max(1))).min(load.len)).sum()
    }
}
