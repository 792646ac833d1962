//! What a replica is still good for when more comes than it can do.

use super::super::BatchPolicy;
use super::virtual_time::Trial;
use crate::profile::tests::{CPU, GPU};
use crate::profile::{Forecast, Latency};

/// Rows per second in the largest useful batches.
fn capacity(truth: Latency, slo_us: u64) -> f64 {
    let useful = Forecast { kappa: 1.25, ..Forecast::from(truth) }.rows_useful(64, slo_us as f64, 0.0);
    f64::from(useful) * 1e6 / truth.batch_us(useful)
}

fn trial(truth: Latency, slo_us: u64, load: f64, cv2: f64) -> Trial {
    let rate = load * capacity(truth, slo_us);
    Trial {
        truth,
        rows_max: 64,
        slo_us,
        rate,
        cv2,
        noise: 0.1,
        instances: 1,
        shapes: 1,
        policy: BatchPolicy::Sluice,
        requests: 20_000,
        seed: 1,
    }
}

/// Models and targets: a GPU of 4 ms and 0.25 ms a row, a CPU of 10 ms a row.
const CASES: [(Latency, u64); 4] = [(GPU, 20_000), (GPU, 50_000), (CPU, 50_000), (CPU, 200_000)];

#[test]
fn goodput_at_twice_the_capacity_is_that_at_capacity() {
    for (truth, slo_us) in CASES {
        for cv2 in [1.0, 4.0] {
            let at = |load, seed| Trial { seed, ..trial(truth, slo_us, load, cv2) }.run();
            for seed in 1..=2 {
                let [once, twice] = [1.0, 2.0].map(|load| at(load, seed));
                let kept = twice.goodput() / once.goodput();
                assert!(kept >= 0.95, "{truth:?} {slo_us} us, cv2 {cv2}: {kept}");
                for outcome in [once, twice] {
                    let wasted = outcome.wasted_us / outcome.busy_us;
                    assert!(wasted < 0.02, "{truth:?} {slo_us} us, cv2 {cv2}: {wasted} of the device's time for answers that were late");
                }
            }
        }
    }
}

#[test]
fn i7_nothing_starts_after_its_deadline_with_any_policy() {
    for (policy, name) in BatchPolicy::ALL {
        for (load, instances) in [(0.7, 1), (1.5, 1), (2.5, 2)] {
            let outcome = Trial { policy, instances, requests: 5_000, ..trial(GPU, 20_000, load, 4.0) }.run();
            assert_eq!(outcome.started_late, 0, "{name}");
            assert!(outcome.in_time + outcome.refused <= outcome.offered && outcome.offered == 5_000.0, "{name}: {outcome:?}");
        }
    }
}

#[test]
fn in_overload_no_baseline_is_better() {
    for (truth, slo_us) in CASES {
        for load in [1.2, 2.0] {
            let ours = Trial { requests: 5_000, ..trial(truth, slo_us, load, 4.0) }.run();
            for (policy, name) in BatchPolicy::ALL {
                let other = Trial { policy, requests: 5_000, ..trial(truth, slo_us, load, 4.0) }.run();
                assert!(
                    ours.goodput() >= other.goodput(),
                    "{truth:?} {slo_us} us at {load}: {name} {}, ours {}",
                    other.goodput(),
                    ours.goodput()
                );
            }
        }
    }
}

#[test]
fn several_shapes_on_one_device_are_served_as_well_as_by_fixed_settings() {
    for load in [0.6, 0.8, 1.0, 2.0] {
        let trial = Trial { shapes: 8, ..trial(GPU, 50_000, load, 1.0) };
        let in_time = |policy| Trial { policy, ..trial }.run().in_time;
        let (ours, theirs) = (in_time(BatchPolicy::Sluice), in_time(BatchPolicy::Triton));
        assert!(ours >= theirs, "at {load}: ours {ours}, Triton's {theirs}");
    }
}
