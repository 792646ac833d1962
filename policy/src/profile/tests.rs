use super::*;
use proptest::prelude::*;

#[test]
fn a_straight_line_is_found_again() {
    let fit = Latency::fit(&[(1, 130.0), (2, 230.0), (4, 430.0)]);
    assert!((fit.alpha_us - 100.0).abs() < 1e-6 && (fit.beta_us - 30.0).abs() < 1e-6, "{fit:?}");
}

proptest! {
    #[test]
    fn a_prediction_is_never_negative(samples in prop::collection::vec((1u32..64, 0.0f64..1e7), 0..9), rows in 0u32..1000) {
        prop_assert!(Latency::fit(&samples).batch_us(rows) >= 0.0);
    }
}

/// A seeded stream of random numbers: splitmix64, and Box–Muller for normal ones.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Log-normal noise of mean 1.
    pub(crate) fn noise(&mut self, sigma: f64) -> f64 {
        (sigma * self.normal() - sigma * sigma / 2.0).exp()
    }

    fn rows(&mut self, limit: u32) -> u32 {
        1 + (self.uniform() * f64::from(limit)) as u32
    }
}

pub(crate) const GPU: Latency = Latency { alpha_us: 250.0, beta_us: 4_000.0 };
pub(crate) const CPU: Latency = Latency { alpha_us: 10_000.0, beta_us: 0.0 };

#[test]
fn the_line_is_found_under_noise_from_any_prior() {
    let wrong = Latency { alpha_us: 1.0, beta_us: 1.0 };
    let slow = Latency { alpha_us: 9e5, beta_us: 0.0 };
    for truth in [GPU, CPU] {
        for prior in [truth, wrong, slow, Latency::default()] {
            let (mut profile, mut random) = (Profile::new(prior), Random(7));
            let mut worst = 0.0f64;
            for batch in 0..4_000 {
                let rows = random.rows(32);
                profile.observe(rows, truth.batch_us(rows) * random.noise(0.1));
                if batch > 400 {
                    let line = profile.forecast().latency;
                    let off = |rows| (line.batch_us(rows) / truth.batch_us(rows) - 1.0).abs();
                    worst = worst.max(off(8)).max(off(32));
                }
            }
            assert!(worst < 0.15, "{truth:?} from {prior:?}: {worst}");
        }
    }
}

#[test]
fn a_single_size_keeps_the_priors_proportion() {
    let mut profile = Profile::new(GPU);
    for _ in 0..5_000 {
        profile.observe(8, 3.0 * GPU.batch_us(8));
    }
    let line = profile.forecast().latency;
    assert!((line.alpha_us / GPU.alpha_us - 3.0).abs() < 0.01 && (line.beta_us / GPU.beta_us - 3.0).abs() < 0.01, "{line:?}");
}

#[test]
fn a_slowdown_is_noticed_within_ten_batches_and_not_exaggerated() {
    for truth in [GPU, CPU] {
        let (mut profile, mut random) = (Profile::new(truth), Random(3));
        for _ in 0..1_000 {
            let rows = random.rows(16);
            profile.observe(rows, truth.batch_us(rows) * random.noise(0.05));
        }
        for batch in 1..300 {
            let rows = random.rows(16);
            profile.observe(rows, 2.0 * truth.batch_us(rows) * random.noise(0.05));
            let times = profile.forecast().batch_us(8) / truth.batch_us(8);
            assert!(batch < 10 || (1.8..2.3).contains(&times), "{times} after {batch}");
        }
    }
}

#[test]
fn a_slowness_nobody_sees_any_more_is_forgotten_and_one_that_is_seen_stays() {
    let slow = Forecast { slow: 7.0, ..Forecast::from(Latency { alpha_us: 100.0, beta_us: 0.0 }) };
    assert_eq!(slow.aged(0), slow);
    assert!(slow.aged(100_000).slow > 6.5, "at ten requests a second it is still seen");
    assert!(slow.aged(20_000_000).slow < 1.01);
    let fast = Forecast { slow: 0.5, ..slow };
    assert_eq!(fast.aged(20_000_000), fast);
}

#[test]
fn ninety_nine_of_a_hundred_batches_are_within_the_tail() {
    for (seed, sigma) in [0.05, 0.1, 0.2, 0.3, 0.4].into_iter().enumerate() {
        for truth in [GPU, CPU] {
            let (mut profile, mut random) = (Profile::new(truth), Random(seed as u64 + 11));
            let mut within = 0;
            for _ in 0..20_000 {
                let rows = random.rows(32);
                let us = truth.batch_us(rows) * random.noise(sigma);
                within += u32::from(us <= profile.forecast().tail_us(rows));
                profile.observe(rows, us);
            }
            let coverage = f64::from(within) / 20_000.0;
            assert!((0.985..=0.995).contains(&coverage), "sigma {sigma} {truth:?}: {coverage}");
        }
    }
}

#[test]
fn the_tail_widens_at_once_and_narrows_slowly() {
    let (mut profile, mut random) = (Profile::new(CPU), Random(5));
    let mut run = |profile: &mut Profile, batches, sigma| {
        for _ in 0..batches {
            profile.observe(1, CPU.batch_us(1) * random.noise(sigma));
        }
        profile.forecast().kappa
    };
    assert_eq!(run(&mut profile, 99, 0.3), 1.15, "too few to tell");
    assert!(run(&mut profile, 500, 0.02) <= 2.2);
    let calm = run(&mut profile, 8_000, 0.02);
    assert!(calm < 1.1, "{calm}");
    let wild = run(&mut profile, 60, 0.4);
    assert!(wild > 1.5, "{wild} after 60 wild batches");
    let settled = run(&mut profile, 500, 0.4);
    run(&mut profile, 400, 0.001);
    let before = run(&mut profile, 100, 0.001);
    let after = run(&mut profile, 100, 0.001);
    assert!(settled > 2.0 && after >= 0.98 * before && after < before, "{settled} {before} {after}");
}

#[test]
fn the_largest_batches_are_those_that_help_and_fit() {
    let forecast = Forecast { latency: GPU, kappa: 1.25, slow: 1.0 };
    assert_eq!(forecast.rows_max(64), 64);
    assert_eq!(Forecast { latency: CPU, ..forecast }.rows_max(64), 1, "nothing is gained");
    assert_eq!(forecast.rows_within(64, 1.25 * 6_000.0), 8);
    assert_eq!(forecast.rows_within(64, 1.25 * 6_000.0 - 1.0), 7);
    assert_eq!(forecast.rows_within(64, 5_000.0), 0);
    assert_eq!(forecast.rows_within(64, f64::INFINITY), 64);
    assert_eq!(forecast.rows_useful(64, 17_000.0, 2_000.0), 8);
    assert_eq!(forecast.rows_useful(64, 100.0, 2_000.0), 0);
    assert_eq!(Forecast { slow: 2.0, ..forecast }.rows_within(64, 2.5 * 6_000.0), 8);
    let free = Forecast::from(Latency::default());
    assert_eq!((free.rows_max(8), free.rows_within(8, 0.0), free.rows_useful(8, 0.0, 0.0)), (8, 8, 8));
}

fn any_us() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), 0.0f64..1e7, Just(f64::NAN), Just(f64::INFINITY), Just(0.0), Just(-1.0), Just(1e-300), Just(1e300)]
}

proptest! {
    /// Whatever it is told, every number stays finite and in its bounds, and it still learns from what is true afterwards.
    #[test]
    fn absurd_input_never_poisons_it(prior in (any_us(), any_us()), seen in prop::collection::vec((any::<u32>(), any_us()), 0..300)) {
        let mut profile = Profile::new(Latency { alpha_us: prior.0, beta_us: prior.1 });
        let check = |profile: &Profile| {
            let Forecast { latency, kappa, slow } = profile.forecast();
            let fine = latency.alpha_us.is_finite() && latency.beta_us.is_finite() && latency.alpha_us >= 0.0 && latency.beta_us >= 0.0
                && (1.05..=3.0).contains(&kappa) && (0.5..=20.0).contains(&slow);
            prop_assert!(fine, "{:?}", profile.forecast());
            Ok(())
        };
        check(&profile)?;
        for (rows, us) in seen {
            profile.observe(rows, us);
            check(&profile)?;
        }
        for batch in 0..6_000u32 {
            let rows = 1 + batch % 16;
            profile.observe(rows, GPU.batch_us(rows));
        }
        let off = profile.forecast().batch_us(8) / GPU.batch_us(8);
        prop_assert!((0.9..1.1).contains(&off), "{} {:?}", off, profile.forecast());
    }
}

#[test]
fn a_tail_is_longer_the_fewer_may_be_beyond_it() {
    let usual = Forecast { kappa: 1.3, ..Forecast::from(CPU) };
    let kappa = |allowance| usual.held_to(allowance).kappa;
    assert!((kappa(0.01) - 1.3).abs() < 1e-12 && (kappa(0.001) - 1.45).abs() < 1e-12, "{} {}", kappa(0.01), kappa(0.001));
    assert!(kappa(0.5) > 1.0 && kappa(0.5) < 1.05 && (waits(0.01) - 4.605).abs() < 1e-3);
    assert!([f64::INFINITY, 0.0, -1.0, 1.0].iter().all(|allowance| kappa(*allowance).is_finite()), "whatever a record says");
}
