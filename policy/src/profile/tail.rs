//! How far the slowest hundredth of batches is from what was expected of them.

/// Batches looked back on.
const WINDOW: usize = 500;
/// Batches before the estimate counts.
const SAMPLES_MIN: usize = 100;
/// Batches between two estimates.
const INTERVAL: u32 = 100;
/// Most that an estimate goes down when no batch of the window exceeded it, as a factor.
const NARROWING: f64 = 0.99;
/// Share of the window, in per cent, that may exceed the estimate before it is widened at once.
const EXCEEDED_MAX: usize = 3;
const KAPPA_MIN: f64 = 1.05;
const KAPPA_MAX: f64 = 3.0;

/// What is expected before enough batches ran.
pub(super) const KAPPA_START: f64 = 1.15;

/// Running 99th percentile κ of measured over expected time: the fifth largest of the last 500, which a next batch exceeds in 1 of
/// 100 cases whatever the distribution. Fixed room, no allocation.
///
/// Looked at every 100 batches, and at once when over 3 % of the window exceed it. When none does, which says that it is too
/// wide but not by how much, it goes down by 1 % at most.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    ratios: [f32; WINDOW],
    len: usize,
    next: usize,
    /// How many of the window exceed `kappa`.
    exceeded: usize,
    since_estimate: u32,
    kappa: f64,
}

impl Default for Tail {
    fn default() -> Self {
        Self { ratios: [0.0; WINDOW], len: 0, next: 0, exceeded: 0, since_estimate: 0, kappa: KAPPA_START }
    }
}

impl Tail {
    pub(super) fn kappa(&self) -> f64 {
        self.kappa
    }

    pub(super) fn observe(&mut self, ratio: f64) {
        let Some(slot) = self.ratios.get_mut(self.next) else { return };
        let ratio = f64::from(ratio as f32); // as it is kept, so that it is counted out as it was counted in
        let oldest = f64::from(std::mem::replace(slot, ratio as f32));
        self.exceeded += usize::from(ratio > self.kappa);
        if self.len == WINDOW {
            self.exceeded -= usize::from(oldest > self.kappa);
        } else {
            self.len += 1;
        }
        self.next = (self.next + 1) % WINDOW;
        self.since_estimate += 1;
        let too_narrow = self.exceeded * 100 > self.len * EXCEEDED_MAX && self.kappa < KAPPA_MAX;
        if self.len >= SAMPLES_MIN && (too_narrow || self.since_estimate >= INTERVAL) {
            self.estimate();
        }
    }

    fn estimate(&mut self) {
        let mut sorted = self.ratios; // a copy on the stack, 2 KB
        let Some(seen) = sorted.get_mut(..self.len) else { return };
        let rank = self.len - (self.len + 1) / 100;
        let (_, estimate, _) = seen.select_nth_unstable_by(rank, f32::total_cmp);
        let floor = if self.exceeded == 0 { self.kappa * NARROWING } else { 0.0 };
        self.kappa = f64::from(*estimate).max(floor).clamp(KAPPA_MIN, KAPPA_MAX);
        self.exceeded = self.ratios.iter().take(self.len).filter(|ratio| f64::from(**ratio) > self.kappa).count();
        self.since_estimate = 0;
    }
}
