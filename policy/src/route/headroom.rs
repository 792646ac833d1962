//! The part of a deadline that is kept for errors of the prediction, learned from how late answers were.

/// Answers that count.
const WINDOW: usize = 1_000;
/// Bounds of the share. The upper one keeps a bad hour from refusing everything; at the lower one a simulated overload lost least.
const SHARE: (f64, f64) = (0.2, 0.4);
/// Steps between the bounds: a hundredth each.
const STEPS: u8 = 20;
/// The share is this quantile, in tenths.
const TENTHS: usize = 9;

/// The last answers of one model: by which share of their time they came later than predicted.
#[derive(Debug, Clone)]
pub struct Headroom {
    /// Step of each answer; 0 at or below the lower bound, [`STEPS`] at or above the upper. The oldest is overwritten.
    recent: Vec<u8>,
    next: usize,
    /// How many of `recent` are at each step.
    counts: [u16; STEPS as usize + 1],
}

impl Default for Headroom {
    fn default() -> Self {
        Self { recent: Vec::with_capacity(WINDOW), next: 0, counts: [0; STEPS as usize + 1] }
    }
}

impl Headroom {
    /// An answer came after `actual_us` where `predicted_us` was chosen with `remaining_us` left. Only answers count to requests that had
    /// a deadline; one that did not come by then counts with the time it was waited for.
    pub fn record(&mut self, predicted_us: u64, actual_us: u64, remaining_us: u64) {
        let late = (actual_us as f64 - predicted_us as f64) / remaining_us.max(1) as f64;
        let step = ((late - SHARE.0) / (SHARE.1 - SHARE.0) * f64::from(STEPS)).ceil().clamp(0.0, f64::from(STEPS)) as u8;
        if self.recent.len() < WINDOW {
            self.recent.push(step);
        } else if let Some(oldest) = self.recent.get_mut(self.next) {
            let left = std::mem::replace(oldest, step);
            self.count(left, |n| n.saturating_sub(1));
        }
        self.next = self.next.saturating_add(1) % WINDOW;
        self.count(step, |n| n.saturating_add(1));
    }

    /// The share of the time left that no prediction may use. The lower bound before the first answer.
    pub fn share(&self) -> f64 {
        let mut below = 0_usize;
        let wanted = self.recent.len().saturating_mul(TENTHS);
        for (step, count) in (0_u8..).zip(self.counts) {
            below = below.saturating_add(usize::from(count));
            if below.saturating_mul(10) >= wanted {
                return SHARE.0 + (SHARE.1 - SHARE.0) * f64::from(step) / f64::from(STEPS);
            }
        }
        SHARE.1
    }

    fn count(&mut self, step: u8, change: impl Fn(u16) -> u16) {
        if let Some(count) = self.counts.get_mut(usize::from(step)) {
            *count = change(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_share_is_the_quantile_of_the_last_thousand(errors in prop::collection::vec(0u32..600, 1..2500)) {
            let mut headroom = Headroom::default();
            for error in &errors {
                headroom.record(1_000, 1_000 + u64::from(*error), 1_000);
            }
            let mut last: Vec<_> = errors.iter().rev().take(WINDOW).copied().collect();
            last.sort_unstable();
            let exact = f64::from(last[(last.len() * 9).div_ceil(10) - 1]) / 1_000.0;
            let step = (SHARE.1 - SHARE.0) / f64::from(STEPS);
            let share = headroom.share();
            prop_assert!((SHARE.0..=SHARE.1).contains(&share));
            prop_assert!((share - exact.clamp(SHARE.0, SHARE.1)).abs() <= step + 1e-9, "{} for {}", share, exact);
        }
    }

    #[test]
    fn answers_that_come_early_ask_for_no_more_than_the_least() {
        let mut headroom = Headroom::default();
        assert_eq!(headroom.share(), SHARE.0);
        headroom.record(50, 10, 0);
        headroom.record(u64::MAX, 0, 1);
        assert_eq!(headroom.share(), SHARE.0);
    }
}
