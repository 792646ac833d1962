use super::layout::{Freedom, Layout, Rate, Stand};
use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// Two processors, an edge box and a graphics card in two zones; two models of which one has a floor and a variant nobody measured.
const SMALL: &str = r#"
    gateways = 2
    one_way_us = 100
    push_ms = 100
    service_noise = 0.1
    [[class]]
    name = "cpu"
    instances = 2
    bytes = 1_000_000_000
    [[class]]
    name = "gpu"
    bytes = 2_000_000_000
    loads = 2
    price = 5
    [[device]]
    class = "cpu"
    count = 2
    zone = "a"
    [[device]]
    class = "gpu"
    zone = "b"
    [[model]]
    name = "m"
    share = 2
    slo_ms = 100
    floor = 0.97
    max_batch_size = 8
    [[model.variant]]
    name = "fp32"
    accuracy = 1
    bytes = 400_000_000
    load_s = 2
    on = { cpu = [20_000, 0], gpu = [1_000, 4_000] }
    [[model.variant]]
    name = "int8"
    accuracy = 0.985
    bytes = 120_000_000
    load_s = 1
    on = { cpu = [8_000, 0], gpu = [500, 3_000] }
    [[model.variant]]
    name = "small"
    accuracy = 0.93
    bytes = 80_000_000
    load_s = 1
    on = { cpu = [3_000, 0] }
    [[model.variant]]
    name = "unmeasured"
    bytes = 80_000_000
    load_s = 1
    on = { cpu = [1_000, 0] }
    [[model]]
    name = "n"
    slo_ms = 200
    [[model.variant]]
    name = "fp32"
    accuracy = 1
    bytes = 500_000_000
    load_s = 2
    on = { cpu = [40_000, 0], gpu = [2_000, 3_000] }
    [[model.variant]]
    name = "int8"
    accuracy = 0.98
    bytes = 150_000_000
    load_s = 1
    on = { cpu = [15_000, 0] }
"#;

fn small() -> PlacedFleet {
    PlacedFleet::parse(SMALL).unwrap()
}

/// A load that steps from a third to `top` of what the references can.
fn steps(fleet: &PlacedFleet, top: f64, bursty: bool, seed: u64) -> Script {
    let rate = fleet.capacity();
    let stretch = |seconds, level: f64| Stretch { seconds, rate: level * rate, crowd: Vec::new() };
    script(fleet, &[stretch(6.0, 0.3), stretch(14.0, top), stretch(5.0, 0.5)], bursty, Duration::from_secs(2), seed)
}

fn policies() -> Vec<Policy> {
    vec![
        Policy::Sluice,
        Policy::BestSingle(vec![1, 1]),
        Policy::Fastest,
        Policy::StaticMean,
        Policy::Infaas,
        Policy::Proteus,
        Policy::Random,
    ]
}

#[test]
fn the_same_seed_gives_the_same_outcome_and_another_seed_another() {
    let fleet = small();
    for policy in policies() {
        let of = |seed| simulate(&fleet, &policy, &steps(&fleet, 1.5, false, seed)).unwrap();
        assert_eq!(of(1), of(1), "{policy}");
        assert!(of(1) != of(2), "{policy}");
    }
}

#[test]
fn a_variant_below_the_floor_or_of_unknown_accuracy_is_no_way() {
    let layout = Layout::new(&small());
    let variants: Vec<usize> = layout.ways.iter().filter(|way| way.model == 0).map(|way| way.variant).collect();
    assert!(variants.contains(&0) && variants.contains(&1) && !variants.contains(&2) && !variants.contains(&3), "{variants:?}");
}

#[test]
fn a_rise_is_planned_for_at_once_and_accuracy_comes_back_when_it_is_over() {
    let fleet = small();
    let rate = fleet.capacity();
    let stretch = |seconds, level: f64| Stretch { seconds, rate: level * rate, crowd: Vec::new() };
    let load = script(&fleet, &[stretch(20.0, 0.2), stretch(30.0, 1.2), stretch(150.0, 0.2)], false, Duration::from_secs(2), 1);
    let outcome = simulate(&fleet, &Policy::Sluice, &load).unwrap();
    let soon = outcome.epochs.iter().find(|epoch| epoch.at_s > 20.0).unwrap();
    assert!(soon.at_s <= 23.0 && outcome.epochs.last().unwrap().at_s > 190.0, "{:?}", outcome.epochs);
    let (calm, after) = (outcome.between(5, 20), outcome.between(180, 200));
    assert!(calm.accuracy_percent() > 99.9 && after.accuracy_percent() > 99.9, "{calm:?} {after:?}");
    assert!(outcome.between(30, 50).in_time_percent() > 99.0, "{:?}", outcome.between(30, 50));
}

#[test]
fn a_problem_holds_every_way_with_its_utilisation_and_what_leaves_holds_its_bytes() {
    let layout = Layout::new(&small());
    let rates = [Rate { rows: 10.0, uneven: 1.0 }, Rate { rows: 0.0, uneven: 1.0 }];
    let all = |stand: Stand| move |way: usize| if way == 0 { stand } else { Stand::Absent };
    let (problem, index) = layout.problem(&rates, &all(Stand::Absent), Freedom::FIRST);
    assert_eq!((index.len(), problem.pairs.len()), (layout.ways.len(), layout.ways.len()));
    assert!(problem.pairs.iter().all(|pair| (0.3..=0.9).contains(&pair.utilisation_max) && pair.service_s > 0.0));
    assert_eq!((problem.models[0].replicas_min, problem.models[1].replicas_min), (2, 1));
    let (leaving, index) = layout.problem(&rates, &all(Stand::Leaving), Freedom { first: false, loading: 0, full: false });
    assert!(!index.contains(&0) && leaving.loads_max == 2);
    assert_eq!(problem.devices[0].bytes - leaving.devices[0].bytes, layout.ways[0].bytes);
    let (fixed, _) = layout.problem(&rates, &all(Stand::Fixed), Freedom { first: false, loading: 2, full: true });
    assert!(fixed.pairs[0].fixed && fixed.pairs[0].placed && fixed.loads_max == 0 && fixed.pairs[0].utilisation_max == 1.0);
}

#[test]
fn the_best_single_variant_is_the_most_accurate_that_holds() {
    let fleet = small();
    let at = |level: f64| {
        let stretch = Stretch { seconds: 10.0, rate: level * fleet.capacity(), crowd: Vec::new() };
        best_single(&fleet, &script(&fleet, &[stretch], false, Duration::from_secs(1), 1)).unwrap()
    };
    assert_eq!(at(0.1), [0, 0]);
    assert!(at(1.2)[0] == 1, "{:?}", at(1.2));
}

#[test]
fn what_cannot_be_is_said() {
    let check = |from: &str, to: &str, says: &str| {
        assert!(SMALL.contains(from));
        let error = PlacedFleet::parse(&SMALL.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    };
    check("gateways = 2", "gateways = 0", "gateways: 0; expected 1 to");
    check("gateways = 2", "gateway = 2", "unknown field");
    check("class = \"cpu\"", "class = \"tpu\"", "class: \"tpu\"; expected one of the classes");
    check("slo_ms = 100", "slo_ms = 0", "model \"m\": slo_ms: 0; expected");
    check("accuracy = 1", "accuracy = 2", "accuracy: 2; expected 0 to 1");
    check("floor = 0.97", "floor = -1", "floor: -1; expected 0 to 1");
    check("cpu = [20_000, 0]", "cpu = [0, 0]", "alpha_us + beta_us: 0; expected 1 to");
    check("name = \"n\"", "name = \"m\"", "expected one that no other model has");
    let fleet = small();
    let load = steps(&fleet, 1.0, false, 1);
    let closed = Script { pace: Pace::Closed { concurrency: 1 }, ..load };
    assert!(simulate(&fleet, &Policy::Sluice, &closed).unwrap_err().to_string().contains("closed loop"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// I1 and I8 are also assertions where they could break.
    #[test]
    fn floors_memory_and_the_last_replica_are_kept_whatever_comes(
        top in 0.2f64..4.0, seed in 0u64..1_000, bursty in prop::bool::ANY, which in 0usize..7, megabytes in 650u64..1_500, zones in prop::bool::ANY,
    ) {
        let mut fleet = small();
        fleet.classes[0].bytes = megabytes * 1_000_000;
        if !zones {
            fleet.devices.iter_mut().for_each(|group| group.zone.clear());
        }
        let load = steps(&fleet, top, bursty, seed);
        let due = load.schedule().count() as u64;
        let outcome = simulate(&fleet, &policies()[which], &load).unwrap();
        let all = outcome.between(0, usize::MAX);
        prop_assert!(all.offered == due && all.in_time <= all.answered && all.answered <= all.offered, "{:?}", all);
        prop_assert_eq!(all.below_floor, 0);
        prop_assert!(outcome.bytes_share_max <= 1.0, "{}", outcome.bytes_share_max);
        prop_assert_eq!(outcome.lost_models, 0);
        prop_assert!(all.accuracy <= all.in_time as f64 + 1e-6);
    }
}
