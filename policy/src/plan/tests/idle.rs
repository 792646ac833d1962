//! Models that may be without replicas while nobody asks.

use super::*;
use crate::demand::Demand;
use crate::{DemandRecord, IdleRecord, Pin, ProfileRecord, Rest};
use proptest::prelude::*;

/// A gateway's word on `m`: somebody asks or waits, or only the rate of before is left.
fn told(gateway: &str, rate: f64, quiet: bool) -> DemandRecord {
    let demand = Demand { fast: rate, slow: rate, variance: 0.0, uneven: 1.0, quiet };
    let models = BTreeMap::from([(ModelName::new("m").unwrap(), demand)]);
    DemandRecord { schema: crate::SCHEMA, gateway: gateway.to_owned(), models, unknown: Unknown::new() }
}

/// `m` on so many workers, without replicas after so many idle seconds.
fn cluster(workers: usize, bytes: u64, idle_s: u32) -> Sim {
    let workers = (0..workers).map(|i| worker(&format!("w{i}"), &format!("h{i}"), bytes)).collect();
    let mut sim = Sim::new(workers, vec![version("m", 1, 1, 10)], vec![ModelRecord { idle_s: Some(idle_s), ..model("m") }]);
    sim.observed.now_s = Some(1_000);
    sim
}

fn pass(sim: &mut Sim, seconds: u64) {
    sim.observed.now_s = sim.observed.now_s.map(|now| now + seconds);
    sim.settle();
}

fn idle(sim: &Sim) -> IdleRecord {
    sim.plan.idle.get("m").copied().unwrap_or_default()
}

fn replicas(sim: &Sim) -> usize {
    sim.ready("m", None).len()
}

#[test]
fn a_model_nobody_asks_for_sleeps_once_its_time_is_over_and_no_sooner() {
    let mut sim = cluster(2, 99, 60);
    sim.settle();
    assert_eq!((replicas(&sim), idle(&sim).since_s), (2, Some(1_000)), "never asked: counted from when it was routable");
    pass(&mut sim, 59);
    assert_eq!((replicas(&sim), idle(&sim).rest), (2, None));
    pass(&mut sim, 1);
    assert_eq!((replicas(&sim), idle(&sim).rest, sim.plan.placements.len()), (0, Some(Rest::Asleep), 0));
    assert_eq!(reasons(&sim), Vec::<&str>::new(), "nothing is missing");
    assert_eq!(progress_of(&sim, "m"), Progress::Ready("asleep: the next request loads it".to_owned()));
    sim.model("m").expected_rate = Some(50.0);
    pass(&mut sim, 100_000);
    assert_eq!((replicas(&sim), sim.plan.models.len()), (0, 0), "what is expected is for when it is awake");
}

#[test]
fn a_model_that_loads_slowly_is_kept_for_twenty_loads() {
    let mut sim = cluster(1, 99, 1);
    let profile = serde_json::json!({
        "artifact": format!("{:064x}", 1), "class": "c", "engine": "onnxruntime 1", "threads": 1, "alpha_us": 1.0, "beta_us": 0.0,
        "bytes_resident": 0, "load_ms": 3_000,
    });
    sim.observed.profiles = vec![serde_json::from_value::<ProfileRecord>(profile).unwrap()];
    sim.settle();
    pass(&mut sim, 59);
    assert_eq!(replicas(&sim), 1);
    pass(&mut sim, 1);
    assert_eq!((replicas(&sim), idle(&sim).load_ms), (0, Some(3_000)));
}

#[test]
fn one_plan_wakes_it_with_one_placement_and_the_second_follows_the_first() {
    let mut sim = cluster(3, 99, 60);
    sim.settle();
    pass(&mut sim, 60);
    // Whoever waits has no rate yet; the other gateway tells what is left of hours ago.
    sim.observed.demands = vec![told("a", 3.0, true), told("b", 0.0, false)];
    sim.plan();
    assert_eq!((sim.plan.placements.len(), idle(&sim).rest), (1, Some(Rest::Waking)));
    sim.plan();
    assert_eq!(sim.plan.placements.len(), 1, "still one load");
    sim.work(|| true);
    sim.plan();
    assert_eq!((sim.plan.placements.len(), replicas(&sim), idle(&sim)), (2, 1, IdleRecord::default()));
    sim.settle();
    assert_eq!(replicas(&sim), 2);
    sim.observed.demands = vec![told("a", 3.0, true), told("b", 2.0, true)];
    pass(&mut sim, 1);
    assert_eq!(idle(&sim).since_s, Some(1_061), "a rate that is left of before is no request");
    pass(&mut sim, 60);
    assert_eq!(replicas(&sim), 0);
}

#[test]
fn a_new_leader_goes_on_where_the_last_was_and_a_clock_that_was_ahead_does_no_harm() {
    let mut sim = cluster(1, 99, 60);
    sim.settle();
    pass(&mut sim, 50);
    let before = sim.observed.idle.clone();
    sim.observed.idle.clear();
    sim.plan();
    assert_eq!(idle(&sim).since_s, Some(1_050), "without the record it begins anew");
    sim.observed.idle = before;
    pass(&mut sim, 10);
    assert_eq!(replicas(&sim), 0);
    let mut sim = cluster(1, 99, 60);
    sim.settle();
    sim.observed.idle = BTreeMap::from([(ModelName::new("m").unwrap(), IdleRecord { since_s: Some(99_999), ..IdleRecord::default() })]);
    sim.plan();
    assert_eq!(idle(&sim).since_s, Some(1_000));
}

#[test]
fn a_load_that_fails_everywhere_ends_the_waking_and_is_tried_again_after_a_sleep() {
    let mut sim = cluster(2, 99, 60);
    sim.settle();
    pass(&mut sim, 60);
    let artifact = sim.observed.versions[0].artifact.clone();
    sim.bad = ["w0", "w1"].map(|w| (artifact.clone(), WorkerId::new(w).unwrap())).into();
    sim.observed.demands = vec![told("a", 0.0, false)];
    let mut waking = 0;
    for _ in 0..4 {
        sim.plan();
        waking += usize::from(idle(&sim).rest.is_some());
        sim.work(|| true);
    }
    sim.plan();
    assert_eq!((waking, idle(&sim)), (2, IdleRecord::default()), "the second worker is tried before it is given up");
    assert!(reasons(&sim).iter().any(|reason| reason.contains("failed on w0: no; failed on w1: no")), "{:?}", reasons(&sim));
    sim.observed.demands.clear();
    pass(&mut sim, 1);
    pass(&mut sim, 60);
    assert_eq!((idle(&sim).rest, sim.plan.placements.len()), (Some(Rest::Asleep), 0), "the marks are gone");
    sim.bad.clear();
    sim.observed.demands = vec![told("a", 0.0, false)];
    sim.settle();
    assert_eq!(replicas(&sim), 2);
}

#[test]
fn what_wakes_takes_the_room_of_spares_of_models_that_are_asked() {
    let mut sim = cluster(1, 30, 60);
    sim.settle();
    pass(&mut sim, 60);
    let asked = super::variants::with_variant("int8@ort", 15, None);
    let other = ModelName::new("other").unwrap();
    let mut record = VersionRecord { model: other.clone(), artifact: Digest::new(format!("{:064x}", 99)).unwrap(), ..asked };
    record.bytes_resident = 9;
    sim.really.insert(record.artifact.clone(), 9);
    sim.really.extend(record.runs().map(|runs| (runs.artifact.clone(), runs.bytes_resident)).collect::<Vec<_>>());
    sim.observed.versions.push(record);
    sim.observed.profiles = vec![super::demand::timed(7, 5_000.0, true)];
    sim.wanted.models.push(model("other"));
    let demand = Demand { fast: 1.0, slow: 1.0, variance: 0.0, uneven: 1.0, quiet: false };
    let of_other = |mut demands: DemandRecord| {
        demands.models.insert(other.clone(), demand);
        demands
    };
    let serve = |sim: &mut Sim| {
        for _ in 0..10 {
            sim.plan_once();
            sim.work(|| true);
            sim.check_memory();
        }
    };
    sim.observed.demands = vec![of_other(told("a", 1.0, true))];
    serve(&mut sim);
    assert_eq!(sim.plan.placements.len(), 2, "both variants of the other are warm, nothing is left: {:?}", sim.plan.placements);
    // What is young stays.
    sim.observed.now_s = sim.observed.now_s.map(|now| now + 60);
    sim.observed.demands = vec![of_other(told("a", 0.0, false))];
    serve(&mut sim);
    assert_eq!(replicas(&sim), 1, "{:?}", reasons(&sim));
}

#[test]
fn a_waking_model_with_no_place_to_go_waits_for_one_as_long_as_somebody_asks() {
    let mut sim = cluster(1, 99, 60);
    sim.settle();
    pass(&mut sim, 60);
    let workers = std::mem::take(&mut sim.observed.workers);
    sim.observed.demands = vec![told("a", 0.0, false)];
    pass(&mut sim, 500);
    assert_eq!((idle(&sim).rest, reasons(&sim)), (Some(Rest::Waking), vec!["no worker is alive"]));
    sim.observed.demands = vec![told("a", 0.0, true)];
    pass(&mut sim, 1);
    assert_eq!((idle(&sim).rest, reasons(&sim)), (Some(Rest::Asleep), vec![]));
    sim.observed.demands = vec![told("a", 0.0, false)];
    sim.plan();
    sim.observed.workers = workers;
    sim.settle();
    assert_eq!(replicas(&sim), 1);
}

#[test]
fn a_pinned_model_never_sleeps() {
    let mut sim = cluster(1, 99, 1);
    sim.model("m").pins = vec![Pin { variant: VariantName::new("fp32@ort").unwrap(), worker: WorkerId::new("w0").unwrap() }];
    sim.settle();
    pass(&mut sim, 9_999);
    assert_eq!(replicas(&sim), 1);
}

/// What callers and hosts do between two plans.
#[derive(Debug, Clone)]
enum Event {
    /// So many seconds pass.
    Pass(u64),
    /// Gateway 0 or 1 is asked, or tells that nobody asks, with so much left of the rate.
    Told(usize, f64, bool),
    /// A gateway is gone.
    Gone(usize),
    /// Another leader, with what the registry holds.
    NewVersion,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u64..90).prop_map(Event::Pass),
        (0usize..2, 0.0f64..40.0, any::<bool>()).prop_map(|(g, rate, quiet)| Event::Told(g, rate, quiet)),
        (0usize..2).prop_map(Event::Gone),
        Just(Event::NewVersion),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn i1_i8_hold_and_who_is_asked_never_sleeps(
        workers in 1usize..4, bytes in 13u64..60, idle_s in 1u32..120,
        events in prop::collection::vec((events(), any::<u64>()), 0..24),
    ) {
        let mut sim = cluster(workers, bytes, idle_s);
        let mut last_asked = sim.observed.now_s.unwrap();
        let mut told_now: [Option<DemandRecord>; 2] = [None, None];
        let (mut was_ready, mut content) = (false, 100);
        for (event, luck) in events {
            match event {
                Event::Pass(seconds) => sim.observed.now_s = sim.observed.now_s.map(|now| now + seconds),
                Event::Told(gateway, rate, quiet) => told_now[gateway] = Some(told(&format!("g{gateway}"), rate, quiet)),
                Event::Gone(gateway) => told_now[gateway] = None,
                Event::NewVersion => {
                    content += 1;
                    let known = sim.observed.versions.len() as u64;
                    sim.add_version(version("m", known + 1, content, 5));
                }
            }
            sim.observed.demands = told_now.iter().flatten().cloned().collect();
            let now = sim.observed.now_s.unwrap();
            let asked = sim.observed.demands.iter().any(|d| d.models.values().any(|d| !d.quiet));
            last_asked = if asked { now } else { last_asked };
            let mut luck = luck | 1;
            for _ in 0..3 {
                sim.plan_once();
                sim.check_memory();
                let rest = idle(&sim).rest;
                prop_assert!(rest != Some(Rest::Asleep) || (!asked && now - last_asked >= u64::from(idle_s)), "{rest:?} {now} {last_asked}");
                prop_assert_eq!(rest == Some(Rest::Asleep), sim.plan.placements.is_empty(), "one plan is enough to wake and to sleep");
                if rest == Some(Rest::Waking) {
                    prop_assert_eq!(sim.plan.placements.len(), 1, "one load");
                }
                was_ready &= rest != Some(Rest::Asleep);
                sim.work(|| { luck = luck.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15); luck >> 62 != 0 });
                sim.check_memory();
                let ready = replicas(&sim) > 0;
                prop_assert!(ready || !was_ready, "routable, and neither asleep nor dead");
                was_ready |= ready && rest.is_none();
            }
        }
    }
}
