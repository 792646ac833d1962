//! Does what a profile says still hold? Each replica sums up what its batches take ([`Drift`]); what all replicas of a variant on a device
//! class say together is held against the profile of that class ([`no_longer_holds`]).
//!
//! Others on a replica's device show as its slow ratio, or they were there for long and only that replica is slow: neither is the profile's
//! fault. A replica that is alone of its kind is believed.

use super::{Forecast, Latency, US_MAX, US_MIN};
use crate::{Moment, Unknown};
use serde::{Deserialize, Serialize};

/// Median of measured over profiled time within which a profile holds.
pub const HOLDS: (f64, f64) = (0.7, 1.5);
/// Fewest batches that are summed up ...
const RUNS_MIN: u32 = 500;
/// ... and least time over which they ran, in microseconds.
const SPAN_US: u64 = 60_000_000;
/// How long a sum is believed, in microseconds.
const BELIEVED_US: u64 = 1_800_000_000;
/// Slow ratio above which a batch does not count: the replica is being disturbed, or its line has not followed a change yet.
const DISTURBED: f64 = 1.25;
/// A change of what was told that is worth telling.
const NEWS: f64 = 1.1;
/// Classes of ratios for each doubling, from a sixteenth to sixteen times: the median is off by 4.4 % at most.
const PER_DOUBLING: f64 = 8.0;
const CLASSES: usize = 65;

/// What batches of a replica took of late, as a rule and on an otherwise quiet device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Mean rows of a batch.
    pub rows: f64,
    /// Median microseconds of a batch of so many.
    pub us: f64,
    /// Batches summed up.
    pub runs: u32,
    /// Threads that work on one.
    pub threads: u32,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Measured {
    /// How many times as long as `line` says; `None` where it makes no sense.
    pub fn over(&self, line: Latency) -> Option<f64> {
        let ratio = self.us / (line.alpha_us * self.rows + line.beta_us);
        (ratio > 0.0 && ratio.is_finite()).then_some(ratio)
    }

    /// Is it so far from what was told last that others should hear of it?
    pub fn is_news(&self, told: &Self) -> bool {
        let near = |now: f64, before: f64| now <= NEWS * before && before <= NEWS * now;
        self.threads != told.threads || !near(self.us, told.us) || !near(self.rows, told.rows)
    }
}

/// How many times as long as a profile's `line` says batches take, if that is so far from it that it no longer holds: the median of what
/// the replicas of the class `measured`. Of an even number the one of the middle two counts that is nearer to the profile.
pub fn no_longer_holds<'m>(line: Latency, measured: impl IntoIterator<Item = &'m Measured>) -> Option<f64> {
    let mut ratios: Vec<f64> = measured.into_iter().filter_map(|measured| measured.over(line)).collect();
    ratios.sort_by(f64::total_cmp);
    let last = ratios.len().checked_sub(1)?;
    let (low, high) = (*ratios.get(last / 2)?, *ratios.get(last.div_ceil(2))?);
    let median = if low.ln().abs() <= high.ln().abs() { low } else { high };
    (!(HOLDS.0..=HOLDS.1).contains(&median)).then_some(median)
}

/// Is it worth measuring a profile anew that batches are `ratio` times off from? `confirmed` is how far off they were when that was last
/// done, and came to the same: what is asked differs from the profile's samples, and only another change makes it worth trying again.
pub fn is_worth_measuring(ratio: f64, confirmed: Option<f64>) -> bool {
    confirmed.is_none_or(|before| !(HOLDS.0..=HOLDS.1).contains(&(ratio / before)))
}

/// Sums up the batches of one replica. Fixed room, no allocation.
#[derive(Debug, Clone)]
pub struct Drift {
    threads: u32,
    /// The line that ratios of this sum are over: as it was learned when the sum began.
    line: Latency,
    since: Moment,
    runs: u32,
    rows: u64,
    counts: [u32; CLASSES],
    /// The last whole sum: when, rows, microseconds, batches.
    last: Option<(Moment, f64, f64, u32)>,
}

impl Drift {
    /// Of a replica that has `threads` threads work on a run.
    pub fn new(threads: u32) -> Self {
        let (line, since) = (Latency::default(), Moment::default());
        Self { threads, line, since, runs: 0, rows: 0, counts: [0; CLASSES], last: None }
    }

    /// A batch of `rows` took `us` microseconds while nobody else used the device. `forecast` has learned from it.
    pub fn observe(&mut self, now: Moment, rows: u32, us: f64, forecast: &Forecast) {
        if forecast.slow > DISTURBED || rows == 0 || !(us > 0.0 && us <= US_MAX) {
            return;
        }
        if self.runs == 0 {
            (self.line, self.since) = (forecast.latency, now);
        }
        let doublings = (us / self.line.batch_us(rows).max(US_MIN)).log2();
        let class = (doublings * PER_DOUBLING + (CLASSES / 2) as f64).round().max(0.0) as usize; // no number is class 0
        if let Some(count) = self.counts.get_mut(class.min(CLASSES - 1)) {
            *count = count.saturating_add(1);
        }
        (self.runs, self.rows) = (self.runs.saturating_add(1), self.rows.saturating_add(u64::from(rows)));
        if self.runs >= RUNS_MIN && now.us_since(self.since) >= SPAN_US {
            let rows = self.rows as f64 / f64::from(self.runs);
            let us = self.median() * (self.line.alpha_us * rows + self.line.beta_us);
            *self = Self { last: Some((now, rows, us, self.runs)), ..Self::new(self.threads) };
        }
    }

    /// What the last whole sum says, while that is believed.
    pub fn measured(&self, now: Moment) -> Option<Measured> {
        let (at, rows, us, runs) = self.last.filter(|(at, ..)| now.us_since(*at) < BELIEVED_US)?;
        debug_assert!(at <= now);
        Some(Measured { rows, us, runs, threads: self.threads, unknown: Unknown::new() })
    }

    fn median(&self) -> f64 {
        let mut before = 0u32;
        let half = self.runs.div_ceil(2);
        let class = self.counts.iter().position(|count| {
            before = before.saturating_add(*count);
            before >= half
        });
        ((class.unwrap_or(CLASSES / 2) as f64 - (CLASSES / 2) as f64) / PER_DOUBLING).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::profile::tests::{CPU, Random};

    /// A replica with a core, and what its batches take.
    struct Replica {
        profile: Profile,
        drift: Drift,
        random: Random,
        now_us: u64,
    }

    impl Replica {
        fn new() -> Self {
            Self { profile: Profile::new(CPU), drift: Drift::new(1), random: Random(5), now_us: 0 }
        }

        /// Runs `batches`, one every `every_us`, which take `times` as long as they should.
        fn run(&mut self, batches: u32, every_us: u64, times: impl Fn(u32) -> f64) -> Option<Measured> {
            for batch in 0..batches {
                let (rows, us) = (1 + batch % 3, times(batch) * CPU.batch_us(1 + batch % 3) * self.random.noise(0.1));
                self.now_us += every_us;
                self.profile.observe(rows, us);
                self.drift.observe(Moment::from_us(self.now_us), rows, us, &self.profile.forecast());
            }
            self.drift.measured(Moment::from_us(self.now_us))
        }
    }

    fn measured(times: f64) -> Measured {
        Measured { rows: 2.0, us: times * 20_000.0, runs: 500, threads: 1, unknown: Unknown::new() }
    }

    #[test]
    fn five_hundred_batches_and_a_minute_are_needed() {
        let mut replica = Replica::new();
        assert_eq!(replica.run(499, 200_000, |_| 2.0), None);
        assert!(replica.run(60, 200_000, |_| 2.0).is_some(), "the first few, while the line follows, do not count");
        let mut fast = Replica::new();
        assert_eq!(fast.run(5_000, 10_000, |_| 2.0), None, "in 50 seconds");
        let told = fast.run(1_100, 10_000, |_| 2.0).unwrap();
        assert!((told.rows - 2.0).abs() < 0.01 && told.runs > 5_000, "{told:?}");
    }

    #[test]
    fn a_lasting_change_ends_what_a_profile_holds_and_steady_work_does_not() {
        for (times, flagged) in [(1.0, false), (1.35, false), (0.8, false), (1.8, true), (3.0, true), (0.5, true)] {
            let told = Replica::new().run(3_000, 100_000, |_| times).unwrap();
            let ratio = told.over(CPU).unwrap();
            assert!((ratio / times - 1.0).abs() < 0.06, "{ratio} for {times}");
            assert_eq!(no_longer_holds(CPU, [&told]).is_some(), flagged, "{times}");
        }
    }

    #[test]
    fn bouts_of_interference_do_not_count() {
        // Every ten seconds somebody takes half of the machine, for six: most batches take twice as long.
        let told = Replica::new().run(3_000, 100_000, |batch| if batch % 100 < 60 { 2.0 } else { 1.0 }).unwrap();
        assert_eq!(no_longer_holds(CPU, [&told]), None, "{told:?}");
    }

    #[test]
    fn one_of_several_replicas_that_is_slow_does_not_end_the_profile_of_its_class() {
        let check = |times: &[f64], expected: Option<f64>| {
            let told: Vec<_> = times.iter().map(|times| measured(*times)).collect();
            assert_eq!(no_longer_holds(CPU, &told), expected, "{times:?}");
        };
        check(&[], None);
        check(&[2.0], Some(2.0));
        check(&[1.0, 3.0], None);
        check(&[2.0, 3.0], Some(2.0));
        check(&[0.5, 0.4], Some(0.5));
        check(&[1.0, 1.1, 9.0], None);
        check(&[1.0, 2.0, 9.0], Some(2.0));
    }

    #[test]
    fn a_sum_is_forgotten_after_half_an_hour_and_told_when_it_is_news() {
        let mut replica = Replica::new();
        replica.run(700, 100_000, |_| 2.0).unwrap();
        let ended = replica.drift.last.unwrap().0.as_us();
        assert!(replica.drift.measured(Moment::from_us(ended + BELIEVED_US - 1)).is_some());
        assert_eq!(replica.drift.measured(Moment::from_us(ended + BELIEVED_US)), None);
        assert!(!measured(1.05).is_news(&measured(1.0)) && measured(1.2).is_news(&measured(1.0)) && measured(0.8).is_news(&measured(1.0)));
    }

    #[test]
    fn what_was_measured_anew_and_came_to_the_same_is_measured_again_only_after_another_change() {
        assert!(is_worth_measuring(2.0, None) && !is_worth_measuring(2.2, Some(2.0)));
        assert!(is_worth_measuring(4.0, Some(2.0)) && is_worth_measuring(0.5, Some(2.0)));
    }

    #[test]
    fn numbers_that_make_no_sense_say_nothing() {
        let strange = |us, rows| Measured { us, rows, ..measured(1.0) };
        for (us, rows) in [(f64::NAN, 1.0), (-1.0, 1.0), (0.0, 1.0), (1e300, 0.0), (f64::INFINITY, 1.0)] {
            assert_eq!(no_longer_holds(CPU, [&strange(us, rows)]), None, "{us} {rows}");
        }
        let mut replica = Replica::new();
        for us in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
            replica.drift.observe(Moment::default(), 1, us, &Forecast::from(CPU));
        }
        assert_eq!(replica.drift.runs, 0);
    }
}
