use super::seeded::{self, Stream};
use super::*;
use crate::demand::planned;
use proptest::prelude::*;

/// One device of 1,000 bytes and one model of two variants: exact and slow, or worse and four times as fast.
fn one(rate: f64) -> Problem {
    let pair = |variant, accuracy, service_s, bytes| Pair {
        variant,
        accuracy,
        service_s,
        bytes,
        utilisation_max: 0.8,
        load_s: 1.0,
        ..Pair::default()
    };
    Problem {
        devices: vec![Device { bytes: 1_000, loads_max: 4, load_s_max: 10.0, ..Device::default() }],
        models: vec![Model { rate, weight: 1.0, replicas_min: 1 }],
        pairs: vec![pair(0, 1.0, 0.04, 600), pair(1, 0.98, 0.01, 200)],
        loads_max: 4,
    }
}

fn solved(problem: &Problem) -> Solution {
    solve(problem, &mut || true)
}

/// What of its rules a plan breaks.
fn broken(problem: &Problem, found: &Solution) -> Vec<String> {
    let mut broken = Vec::new();
    let there = || problem.pairs.iter().zip(&found.placed).zip(&found.flow).filter(|((_, placed), _)| **placed).map(|((p, _), f)| (p, *f));
    for (n, device) in problem.devices.iter().enumerate() {
        let here = || there().filter(|(p, _)| p.device == n);
        let bytes: u64 = here().map(|(p, _)| p.bytes).sum();
        let before: u64 = problem.pairs.iter().filter(|p| p.device == n && (p.placed || p.fixed)).map(|p| p.bytes).sum();
        let busy: f64 = here().map(|(p, f)| p.share() * f).sum();
        let loads = here().filter(|(p, _)| !p.placed).count();
        (bytes > device.bytes.max(before)).then(|| broken.push(format!("device {n} has {bytes} bytes of {}", device.bytes)));
        (busy > 1.0 + 1e-9).then(|| broken.push(format!("device {n} is {busy} busy")));
        (loads > device.loads_max).then(|| broken.push(format!("device {n} loads {loads}")));
    }
    let loads = there().filter(|(p, _)| !p.placed).count();
    (loads > problem.loads_max).then(|| broken.push(format!("{loads} loads of {}", problem.loads_max)));
    for (k, (model, unserved)) in problem.models.iter().zip(&found.unserved).enumerate() {
        let served: f64 = there().filter(|(p, _)| p.model == k).map(|(_, f)| f).sum();
        ((served + unserved - model.rate).abs() > 1e-6 * model.rate.max(1.0)).then(|| broken.push(format!("model {k} leaks")));
    }
    let lost = problem.pairs.iter().zip(&found.placed).any(|(p, placed)| p.fixed && !placed);
    lost.then(|| broken.push("a fixed pair went".to_owned()));
    let ghost = found.placed.iter().zip(&found.flow).any(|(placed, f)| !placed && *f > 0.0);
    ghost.then(|| broken.push("rows flow where nothing is".to_owned()));
    broken
}

#[test]
fn the_exact_variant_answers_all_while_it_can() {
    let found = solved(&one(10.0));
    assert_eq!(found.placed, [true, false]);
    assert!((found.flow[0] - 10.0).abs() < 1e-6 && found.unserved[0] < 1e-6, "{found:?}");
}

#[test]
fn the_fast_variant_takes_what_the_exact_one_cannot() {
    let found = solved(&one(50.0));
    assert_eq!(found.placed, [true, true]);
    // .04 a + .01 b = .8 and a + b = 50.
    assert!((found.flow[0] - 10.0).abs() < 1e-3 && (found.flow[1] - 40.0).abs() < 1e-3, "{found:?}");
    assert!(found.unserved[0] < 1e-3 && found.time_prices[0] > 0.0);
}

#[test]
fn beyond_what_can_be_answered_the_fast_one_has_the_device_alone() {
    let found = solved(&one(100.0));
    assert!(found.flow[0] < 1e-3 && (found.flow[1] - 80.0).abs() < 1e-3, "{found:?}");
    assert!((found.unserved[0] - 20.0).abs() < 1e-3 && found.row_prices[0] < 0.0, "{found:?}");
}

#[test]
fn what_does_not_fit_beside_it_takes_its_place() {
    let mut problem = one(100.0);
    problem.pairs[0].placed = true;
    problem.devices[0].bytes = 700;
    assert_eq!(solved(&problem).placed, [false, true]);
    problem.pairs[0].fixed = true;
    assert_eq!(solved(&problem).placed, [true, false]);
}

#[test]
fn a_model_nobody_asks_for_is_kept_as_often_as_redundancy_wants_in_two_zones() {
    let mut problem = Problem { loads_max: 9, models: vec![Model { rate: 0.0, weight: 1.0, replicas_min: 2 }], ..Problem::default() };
    for device in 0..4 {
        problem.devices.push(Device { node: device, zone: device / 3, bytes: 100, loads_max: 1, load_s_max: 9.0, kind: 0 });
        let pair = Pair { device, accuracy: 1.0, service_s: 0.1, utilisation_max: 0.5, bytes: 50, ..Pair::default() };
        problem.pairs.push(pair);
    }
    let found = solved(&problem);
    let on: Vec<_> = (0..4).filter(|j| found.placed[*j]).collect();
    assert!(on.len() == 2 && on.contains(&3), "{on:?}");
}

#[test]
fn no_model_starves_for_another() {
    let mut problem = one(60.0);
    let second = Model { weight: 1.0, ..problem.models[0] };
    problem.models.push(second);
    problem.pairs.extend(problem.pairs.clone().into_iter().map(|p| Pair { model: 1, ..p }));
    problem.devices[0].bytes = 10_000;
    let found = solved(&problem);
    // 80 of 120 rows can be answered: both lose, and neither more than the other's whole shortfall.
    assert!(found.unserved.iter().all(|u| *u >= 12.0 - 1e-3), "{:?}", found.unserved);
}

#[test]
fn noise_moves_nothing() {
    let mut stream = Stream::new(7);
    let mut problem = seeded::problem(3, 10, 25, 0.8);
    let rates: Vec<f64> = problem.models.iter().map(|m| m.rate).collect();
    let settle = |problem: &mut Problem| {
        let found = solve(problem, &mut || true);
        let loads = problem.pairs.iter().zip(&found.placed).filter(|(p, x)| **x && !p.placed).count();
        problem.pairs.iter_mut().zip(&found.placed).for_each(|(p, x)| p.placed = *x);
        loads
    };
    for _ in 0..20 {
        settle(&mut problem);
    }
    let mut loads = 0;
    for _ in 0..200 {
        let seen = |rate: &f64, stream: &mut Stream| rate * (0.1 * stream.normal()).exp();
        problem.models.iter_mut().zip(&rates).for_each(|(m, rate)| m.rate = planned(m.rate, seen(rate, &mut stream)));
        loads += settle(&mut problem);
    }
    assert!(loads <= 20, "{loads} loads in 200 epochs of noise");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_plan_keeps_the_rules_and_is_no_worse_than_staying(
        seed in 0u64..1_000_000, devices in 2usize..9, models in 1usize..12, load in 0.1f64..3.0, programs in 0usize..60,
    ) {
        let problem = seeded::problem(seed, devices, models, load);
        let mut left = programs;
        let found = solve(&problem, &mut || { left = left.saturating_sub(1); left > 0 });
        prop_assert_eq!(broken(&problem, &found), Vec::<String>::new());
        let mut left = programs;
        prop_assert_eq!(&found, &solve(&problem, &mut || { left = left.saturating_sub(1); left > 0 }), "the same again");
        let stay = Problem { loads_max: 0, devices: problem.devices.iter().map(|d| Device { loads_max: 0, ..*d }).collect(), ..problem.clone() };
        let stayed = solved(&stay);
        prop_assert!(found.objective >= stayed.objective - 1e-6 * problem.worth(), "{} {}", found.objective, stayed.objective);
        let most = bound(&problem).unwrap();
        prop_assert!(found.objective <= most + 1e-5 * problem.worth(), "{} over the bound {most}", found.objective);
    }
}
