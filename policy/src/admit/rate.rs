//! Requests over time, as a token bucket that stores one moment: when it will be full again.

use crate::Moment;
use std::num::NonZeroU32;

/// How many requests may come in how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second in the long run.
    pub per_second: NonZeroU32,
    /// Requests at once after a quiet time.
    pub burst: NonZeroU32,
}

impl Rate {
    /// Nanoseconds that earn one request; rounded up, so that the rate is never exceeded.
    fn interval_ns(&self) -> u64 {
        1_000_000_000_u64.div_ceil(u64::from(self.per_second.get()))
    }
}

/// A bucket that begins full.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// When it is full again if nothing is taken, in nanoseconds since the process's origin.
    full_ns: u64,
}

impl Bucket {
    /// Takes one token; else milliseconds until there is one.
    pub(super) fn take(&mut self, now: Moment, rate: &Rate) -> Result<(), u32> {
        let now_ns = nanoseconds(now);
        let interval_ns = rate.interval_ns();
        // Empty when it is a whole burst away from full; one token less than that is enough for this request.
        let allowed_ns = interval_ns.saturating_mul(u64::from(rate.burst.get()).saturating_sub(1));
        let early_ns = self.full_ns.saturating_sub(now_ns).saturating_sub(allowed_ns);
        if early_ns > 0 {
            return Err(u32::try_from(early_ns.div_ceil(1_000_000)).unwrap_or(u32::MAX));
        }
        self.full_ns = self.full_ns.max(now_ns).saturating_add(interval_ns);
        Ok(())
    }

    pub(super) fn is_full(&self, now: Moment) -> bool {
        self.full_ns <= nanoseconds(now)
    }
}

fn nanoseconds(moment: Moment) -> u64 {
    moment.as_us().saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second: NonZeroU32::new(per_second).unwrap(), burst: NonZeroU32::new(burst).unwrap() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn no_window_holds_more_than_rate_and_burst(per_second in 1u32..5_000, burst in 1u32..50, gaps in prop::collection::vec(0u64..20_000, 1..200)) {
            let (mut bucket, rate, mut now) = (Bucket::default(), rate(per_second, burst), 0);
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.take(Moment::from_us(now), &rate).is_ok() {
                    taken.push(now);
                }
            }
            for (from, start) in taken.iter().enumerate() {
                for (count, end) in (1_u32..).zip(&taken[from..]) {
                    let allowed = f64::from(burst) + f64::from(per_second) * (end - start) as f64 / 1e6;
                    prop_assert!(f64::from(count) <= allowed + 1e-6, "{} in {} us", count, end - start);
                }
            }
        }

        #[test]
        fn who_waits_as_told_gets_in_and_the_rate_is_reached(per_second in 1u32..900, burst in 1u32..50) {
            let (mut bucket, rate, mut now) = (Bucket::default(), rate(per_second, burst), 0);
            for _ in 0..burst + 50 {
                if let Err(retry_ms) = bucket.take(Moment::from_us(now), &rate) {
                    now += u64::from(retry_ms) * 1_000;
                    prop_assert!(bucket.take(Moment::from_us(now), &rate).is_ok(), "told to wait {} ms", retry_ms);
                }
            }
            // Each of the 50 beyond the burst waits its interval, and at most a millisecond of rounding.
            let least = 50.0e6 / f64::from(per_second);
            prop_assert!(now as f64 >= least - 1.0 && now as f64 <= least + 50.0 * 1_001.0, "{} us for {}", now, least);
        }
    }
}
