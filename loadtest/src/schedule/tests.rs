use super::*;
use crate::mix::Ask;
use proptest::prelude::*;

fn gaps(arrivals: Arrivals, seed: u64, count: usize) -> Vec<f64> {
    let mut before = 0.0;
    arrivals.moments(seed).take(count).map(|at| at - std::mem::replace(&mut before, at)).collect()
}

/// Mean and coefficient of variation.
fn moments_of(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt() / mean)
}

fn any_arrivals() -> impl Strategy<Value = Arrivals> {
    let phase = || (1.0..500.0f64, 0.05..2.0f64).prop_map(|(rate, dwell_s)| Phase { rate, dwell_s });
    let crowd = (0.0..10.0f64, 0.0..5.0f64, 0.1..8.0f64).prop_map(|(at_s, length_s, factor)| Crowd { at_s, length_s, factor });
    prop_oneof![
        (1.0..1e5f64).prop_map(|rate| Arrivals::Constant { rate }),
        (1.0..1e5f64).prop_map(|rate| Arrivals::Poisson { rate }),
        (1.0..1e5f64, 0.1..8.0f64).prop_map(|(rate, cv)| Arrivals::Gamma { rate, cv }),
        (phase(), phase()).prop_map(|(calm, burst)| Arrivals::Bursts { calm, burst }),
        (1.0..1e3f64, 0.0..=1.0f64, 0.5..60.0f64, prop::option::of(crowd)).prop_map(|(rate, depth, period_s, crowd)| Arrivals::Wave {
            rate,
            depth,
            period_s,
            crowd
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn moments_never_go_back_and_are_the_same_for_the_same_seed(arrivals in any_arrivals(), seed in any::<u64>()) {
        let mut problems = Vec::new();
        arrivals.check(&mut problems);
        prop_assert!(problems.is_empty(), "{:?}", problems);
        let first: Vec<f64> = arrivals.moments(seed).take(500).collect();
        prop_assert!(first.iter().all(|at| at.is_finite() && *at >= 0.0));
        prop_assert!(first.windows(2).all(|pair| pair[0] <= pair[1]));
        prop_assert_eq!(&first, &arrivals.moments(seed).take(500).collect::<Vec<_>>());
        if !matches!(arrivals, Arrivals::Constant { .. }) {
            prop_assert_ne!(&first, &arrivals.moments(seed ^ 1).take(500).collect::<Vec<_>>());
        }
    }

    #[test]
    fn gaps_have_the_mean_and_the_variation_asked_for(rate in 1.0..1e4f64, cv in 0.2..4.0f64, seed in any::<u64>()) {
        const COUNT: usize = 50_000;
        let constant = gaps(Arrivals::Constant { rate }, seed, COUNT);
        let cases = [
            (gaps(Arrivals::Gamma { rate, cv }, seed, COUNT), cv),
            (gaps(Arrivals::Poisson { rate }, seed, COUNT), 1.0),
            (constant[1..].to_vec(), 0.0),
        ];
        for (gaps, cv) in cases {
            let (mean, seen) = moments_of(&gaps);
            // Five standard errors of the mean; the variation of a clumped process settles slowly.
            prop_assert!((mean * rate - 1.0).abs() < 5.0 * cv / (COUNT as f64).sqrt() + 1e-6, "mean {} at rate {}", mean, rate);
            prop_assert!((seen - cv).abs() < 0.2 * cv + 1e-6, "variation {}, not {}", seen, cv);
        }
    }

    #[test]
    fn the_rate_of_bursts_and_waves_is_their_mean(seed in any::<u64>(), high in 2.0..20.0f64, depth in 0.0..=1.0f64) {
        let calm = Phase { rate: 50.0, dwell_s: 0.1 };
        let burst = Phase { rate: 50.0 * high, dwell_s: 0.05 };
        let wave = Arrivals::Wave { rate: 200.0, depth, period_s: 10.0, crowd: None };
        for (arrivals, tolerance) in [(Arrivals::Bursts { calm, burst }, 0.12), (wave, 0.03)] {
            let count = arrivals.moments(seed).take_while(|at| *at < 500.0).count() as f64 / 500.0;
            prop_assert!((count / arrivals.mean_rate() - 1.0).abs() < tolerance, "{} of {}", count, arrivals.mean_rate());
        }
    }
}

#[test]
fn bursts_vary_more_than_a_steady_process_of_their_rate() {
    let quiet = Phase { rate: 0.0, dwell_s: 1.0 }; // an off state is allowed
    let burst = Phase { rate: 1_000.0, dwell_s: 0.25 };
    let (mean, cv) = moments_of(&gaps(Arrivals::Bursts { calm: quiet, burst }, 3, 200_000));
    assert!((mean * 200.0 - 1.0).abs() < 0.1 && cv > 3.0, "{mean} {cv}");
}

#[test]
fn a_crowd_multiplies_the_rate_while_it_is_there() {
    let crowd = Crowd { at_s: 20.0, length_s: 10.0, factor: 8.0 };
    let arrivals = Arrivals::Wave { rate: 100.0, depth: 0.5, period_s: 10.0, crowd: Some(crowd) };
    let moments: Vec<f64> = arrivals.moments(5).take_while(|at| *at < 60.0).collect();
    let inside = moments.iter().filter(|at| (20.0..30.0).contains(*at)).count();
    assert!((7_500..8_500).contains(&inside), "{inside}");
    assert!((4_700..5_300).contains(&(moments.len() - inside)), "{}", moments.len() - inside);
    let trough = moments.iter().filter(|at| (6.5..8.5).contains(*at)).count();
    assert!((60..140).contains(&trough), "{trough}");
}

#[test]
fn a_schedule_ends_and_its_moments_do_not_hang_on_the_mix() {
    let mix = |second: f64| Mix { asks: vec![Ask::of("a"), Ask { share: second, ..Ask::of("b") }] };
    let pace = Pace::Open(Arrivals::Poisson { rate: 1_000.0 });
    let of = |mix| schedule(&pace, &mix, 9, Duration::from_secs(2)).collect::<Vec<_>>();
    let (even, skewed) = (of(mix(1.0)), of(mix(9.0)));
    assert!((1_700..2_300).contains(&even.len()), "{}", even.len());
    assert_eq!(even.iter().map(|d| d.at).collect::<Vec<_>>(), skewed.iter().map(|d| d.at).collect::<Vec<_>>());
    assert_ne!(even, skewed);
    let replay = Pace::Replay(even.clone().into());
    assert_eq!(
        schedule(&replay, &mix(1.0), 0, Duration::from_secs(1)).count(),
        even.iter().filter(|d| d.at < Duration::from_secs(1)).count()
    );
}

#[test]
fn impossible_settings_are_listed_together() {
    let crowd = Some(Crowd { at_s: -1.0, length_s: f64::NAN, factor: 0.0 });
    let mut problems = Vec::new();
    Arrivals::Wave { rate: -5.0, depth: 2.0, period_s: 0.0, crowd }.check(&mut problems);
    assert_eq!(problems.len(), 6, "{problems:?}");
}
