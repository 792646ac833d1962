//! How the cores of a worker become the instances of a replica and the threads of each.

use crate::profile::{Forecast, Latency};
use std::num::NonZeroUsize;

/// A replica with more instances than this holds its weights too often.
const INSTANCES_MAX: usize = 4;
/// Part of its latency target that a lone row may take, with its tail: as long again it may have to wait for the run before it.
const TARGET_SHARE_MAX: f64 = 0.5;
/// A run on `n` threads is taken to be `n` to this power times as fast as on one: not all of a graph can be shared out.
const SPEED_UP_POWER: f64 = 0.8;

/// Instances of a replica and threads of each; together they never use more than the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreShare {
    /// Runs at the same time.
    pub instances: NonZeroUsize,
    /// Threads that work on one run.
    pub intra_threads: NonZeroUsize,
}

impl CoreShare {
    /// As many instances as there are cores, up to four: runs on one thread are steady and need no hand-off. The rest of the cores
    /// become threads of each.
    pub fn for_throughput(cores: NonZeroUsize) -> Self {
        Self::of_instances(cores, cores.get().min(INSTANCES_MAX))
    }

    /// Instances first as above, unless one row, which takes `one_row_us` microseconds on one thread, then leaves too little of a latency
    /// target of `target_us`. Then the fewest threads with which it is in time by the usual speed-up; all cores for one run where no
    /// number is enough.
    pub fn by_profile(cores: NonZeroUsize, one_row_us: f64, target_us: Option<f64>) -> Self {
        let throughput = Self::for_throughput(cores);
        let one_row = Forecast::from(Latency { alpha_us: one_row_us, beta_us: 0.0 });
        let is_late = |threads: usize| {
            let speed_up = (threads as f64).powf(SPEED_UP_POWER);
            target_us.is_some_and(|target_us| one_row.tail_us(1) / speed_up > TARGET_SHARE_MAX * target_us)
        };
        if !is_late(1) {
            return throughput;
        }
        // Numbers that leave few cores over, or whose halves do.
        let sensible = |threads: &usize| threads.is_power_of_two() || cores.get().is_multiple_of(*threads);
        let threads = (throughput.intra_threads.get()..cores.get()).filter(sensible).find(|threads| !is_late(*threads));
        let threads = threads.unwrap_or(cores.get());
        let instances = cores.get().checked_div(threads).unwrap_or(1).min(INSTANCES_MAX);
        Self { instances: at_least_one(instances), intra_threads: at_least_one(threads) }
    }

    /// A given number of instances, at most one per core and at least one, and the cores shared out among them.
    pub fn of_instances(cores: NonZeroUsize, instances: usize) -> Self {
        let instances = instances.clamp(1, cores.get());
        let threads = cores.get().checked_div(instances).unwrap_or(1);
        Self { instances: at_least_one(instances), intra_threads: at_least_one(threads) }
    }
}

fn at_least_one(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cores(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    fn numbers(share: CoreShare) -> (usize, usize) {
        (share.instances.get(), share.intra_threads.get())
    }

    fn us() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), Just(f64::INFINITY), Just(f64::NAN), 1.0..1e6]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn threads_never_exceed_the_cores(n in 1usize..256, instances in 0usize..300, one_row_us in us(), target_us in prop::option::of(us())) {
            for share in [CoreShare::of_instances(cores(n), instances), CoreShare::by_profile(cores(n), one_row_us, target_us)] {
                prop_assert!(share.instances.get() * share.intra_threads.get() <= n, "{:?}", share);
            }
        }

        #[test]
        fn without_a_target_or_with_half_of_it_to_spare_instances_come_first(n in 1usize..256, one_row_us in us(), target_us in us()) {
            let throughput = CoreShare::for_throughput(cores(n));
            prop_assert_eq!(CoreShare::by_profile(cores(n), one_row_us, None), throughput);
            if 1.15 * one_row_us < 0.499 * target_us {
                prop_assert_eq!(CoreShare::by_profile(cores(n), one_row_us, Some(target_us)), throughput);
            }
        }

        #[test]
        fn a_stricter_target_never_gives_fewer_threads(n in 1usize..256, one_row_us in 1.0..1e6, a in 1.0..1e7f64, b in 1.0..1e7f64) {
            let threads = |target_us: f64| CoreShare::by_profile(cores(n), one_row_us, Some(target_us)).intra_threads;
            prop_assert!(threads(a.min(b)) >= threads(a.max(b)));
        }

        #[test]
        fn a_row_is_in_time_where_any_number_of_threads_makes_it(n in 1usize..256, one_row_us in 1.0..1e6, target_us in 1.0..1e7) {
            let share = CoreShare::by_profile(cores(n), one_row_us, Some(target_us));
            let in_time = |threads: usize| 1.15 * one_row_us / (threads as f64).powf(0.8) <= 0.5 * target_us;
            prop_assert_eq!(in_time(share.intra_threads.get()), in_time(n));
        }
    }

    #[test]
    fn the_fewest_threads_that_are_in_time_are_taken() {
        let check = |n: usize, target_us: f64, expected: (usize, usize)| {
            assert_eq!(numbers(CoreShare::by_profile(cores(n), 10_000.0, Some(target_us))), expected, "{n} cores, {target_us} us");
        };
        check(4, 23_000.0, (4, 1)); // its tail is just half of that
        check(4, 22_900.0, (2, 2));
        check(4, 10_000.0, (1, 4));
        check(4, 1.0, (1, 4)); // nothing is enough
        check(8, 20_000.0, (4, 2)); // that many it has anyway
        check(8, 10_000.0, (2, 4));
        check(6, 10_000.0, (2, 3));
        check(1, 1.0, (1, 1));
        check(64, 20_000.0, (4, 16));
        check(64, 2_000.0, (2, 32));
    }
}
