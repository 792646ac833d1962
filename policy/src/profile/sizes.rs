//! One profile for each size of a row: a sentence of 500 words takes many times what one of five does, and a line through both tells of
//! neither.

use super::{Forecast, Latency, Profile};
use std::collections::BTreeMap;

/// Size classes per doubling of a row's bytes: rows of a class are at most 1.41 times apart.
const PER_DOUBLING: f64 = 2.0;
/// Most classes: from a byte to a tebibyte.
const CLASSES_MAX: u32 = 80;

/// Where a decision learns how long a batch takes.
pub trait Forecasts {
    /// Of rows as they come, large and small.
    fn whole(&self) -> Forecast;

    /// Of rows of `row_bytes`.
    fn of(&self, row_bytes: u64) -> Forecast;
}

impl Forecasts for Forecast {
    /// The same for all sizes.
    fn whole(&self) -> Forecast {
        *self
    }

    fn of(&self, _: u64) -> Forecast {
        *self
    }
}

/// Profiles of one replica: of all that it runs, and of each size that it has run once there are two of them.
#[derive(Debug, Clone)]
pub struct Profiles {
    whole: Profile,
    classes: BTreeMap<u32, Profile>,
    coverage: Coverage,
}

/// How well the predicted tail held: 99 of 100 batches should be within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Batches that ran.
    pub executions: u64,
    /// Of those, longer than what 99 of 100 were predicted to take just before.
    pub over_p99: u64,
}

impl Profiles {
    /// Starts from what was measured at load.
    pub fn new(prior: Latency) -> Self {
        Self { whole: Profile::new(prior), classes: BTreeMap::new(), coverage: Coverage::default() }
    }

    /// How well the predicted tail held since the start.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Learns that a batch of `rows`, each of `row_bytes`, took `us` microseconds.
    pub fn observe(&mut self, rows: u32, row_bytes: u64, us: f64) {
        let is_over = us > self.of(row_bytes).tail_us(rows);
        self.coverage.executions = self.coverage.executions.saturating_add(1);
        self.coverage.over_p99 = self.coverage.over_p99.saturating_add(u64::from(is_over));
        let prior = self.whole.forecast().latency;
        self.classes.entry(class(row_bytes)).or_insert_with(|| Profile::new(prior)).observe(rows, us);
        self.whole.observe(rows, us);
    }
}

impl Forecasts for Profiles {
    fn whole(&self) -> Forecast {
        self.whole.forecast()
    }

    fn of(&self, row_bytes: u64) -> Forecast {
        let class = class(row_bytes);
        let (below, above) = (self.classes.range(..=class).next_back(), self.classes.range(class..).next());
        // A size that never ran goes by the nearest that did.
        let nearest = below.into_iter().chain(above).min_by_key(|(other, _)| other.abs_diff(class));
        nearest.filter(|_| self.classes.len() > 1).map_or(&self.whole, |(_, profile)| profile).forecast()
    }
}

fn class(row_bytes: u64) -> u32 {
    ((row_bytes.max(1) as f64).log2() * PER_DOUBLING).min(f64::from(CLASSES_MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(alpha_us: f64) -> Latency {
        Latency { alpha_us, beta_us: 10.0 }
    }

    #[test]
    fn each_size_has_its_own_line_and_one_alone_that_of_all() {
        let mut profiles = Profiles::new(line(100.0));
        (0..100).for_each(|n| profiles.observe(1 + n % 3, 40, line(100.0).batch_us(1 + n % 3)));
        assert_eq!(profiles.of(40), profiles.whole());
        assert_eq!(profiles.of(4_000), profiles.whole(), "nothing else is known yet");
        for n in 0..200 {
            let (bytes, alpha_us) = if n % 2 == 0 { (40, 100.0) } else { (4_000, 5_000.0) };
            profiles.observe(1 + n % 3, bytes, line(alpha_us).batch_us(1 + n % 3));
        }
        let near = |bytes, rows, us: f64| {
            let expected = profiles.of(bytes).batch_us(rows);
            assert!((expected / us - 1.0).abs() < 0.1, "{bytes}: {expected} for {us}");
        };
        near(40, 2, 210.0);
        near(44, 2, 210.0); // of the same class
        near(100, 2, 210.0); // the nearest
        near(1_000_000, 2, 10_010.0);
        near(4_000, 2, 10_010.0);
        let whole = profiles.whole().batch_us(2);
        assert!((1_000.0..9_000.0).contains(&whole), "{whole}");
    }

    #[test]
    fn a_batch_over_its_predicted_tail_is_counted_by_what_was_predicted_before_it_ran() {
        let mut profiles = Profiles::new(line(100.0));
        (0..10).for_each(|_| profiles.observe(1, 40, 110.0));
        assert_eq!(profiles.coverage(), Coverage { executions: 10, over_p99: 0 });
        profiles.observe(1, 40, 1.1 * profiles.of(40).tail_us(1));
        assert_eq!(profiles.coverage(), Coverage { executions: 11, over_p99: 1 });
    }

    proptest! {
        #[test]
        fn sizes_of_any_kind_are_bounded_in_number(sizes in prop::collection::vec(any::<u64>(), 0..200)) {
            let mut profiles = Profiles::new(line(1.0));
            for bytes in sizes.into_iter().chain([0, 1, u64::MAX]) {
                profiles.observe(1, bytes, 10.0);
                prop_assert!(profiles.of(bytes).batch_us(1) > 0.0);
            }
            prop_assert!(profiles.classes.len() <= CLASSES_MAX as usize + 1);
        }
    }
}
