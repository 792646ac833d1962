//! Pauses between attempts to reach a store that is away.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential pauses from 100 ms to 5 s, each drawn from its upper half so that many watchers do not come back as one.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1).min(16);
        jitter(pause, 0.5, 1.0)
    }

    /// The store answers again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `length` times a random factor between `low` and `high`.
pub(crate) fn jitter(length: Duration, low: f64, high: f64) -> Duration {
    length.mul_f64(low + fastrand::f64() * (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..100).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{:?}", pauses[0]);
        assert!(pauses[99] >= LONGEST / 2, "{:?}", pauses[99]);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
