//! Models that somebody asks for.

use super::variants::{kept, ready, refused, with_variant};
use super::*;
use crate::demand::Demand;
use crate::profile::Measured;
use crate::{DemandRecord, Pin, ProfileRecord};
use proptest::prelude::*;

/// `rate` rows a second of `m`, evenly.
pub(super) fn asked(rate: f64) -> Vec<DemandRecord> {
    let demand = Demand { fast: rate, slow: rate, variance: 0.0, uneven: 1.0, quiet: false };
    let models = BTreeMap::from([(ModelName::new("m").unwrap(), demand)]);
    vec![DemandRecord { schema: crate::SCHEMA, gateway: "g".to_owned(), models, unknown: Unknown::new() }]
}

pub(super) fn timed(artifact: u64, alpha_us: f64, pays: bool) -> ProfileRecord {
    let json = serde_json::json!({
        "artifact": format!("{artifact:064x}"), "class": "c", "engine": "onnxruntime 1", "threads": 1, "alpha_us": alpha_us, "beta_us": 0.0,
        "bytes_resident": 0, "load_ms": 1_000, "speed": if pays { kept() } else { refused() },
    });
    serde_json::from_value(json).unwrap()
}

/// Workers with memory for so many bytes, one core each; fp32 takes 20 ms, int8 5 ms of accuracy .99 and half of the bytes.
pub(super) fn cluster(memory: &[u64], slo_ms: Option<u32>) -> Sim {
    let workers = memory.iter().enumerate().map(|(i, bytes)| {
        let mut worker = worker(&format!("w{i}"), &format!("h{i}"), *bytes);
        worker.capabilities.cores = 1;
        worker
    });
    let slo = Slo { latency_ms: slo_ms, ..Slo::default() };
    let record = ModelRecord { slo, ..model("m") };
    let mut sim = Sim::new(workers.collect(), vec![with_variant("int8@ort", 5, None)], vec![record]);
    sim.observed.profiles = vec![timed(1, 20_000.0, false), timed(7, 5_000.0, true)];
    sim
}

/// Sets a rate and lets it settle, a load at a time.
pub(super) fn serve(sim: &mut Sim, rate: f64) {
    sim.observed.demands = asked(rate);
    for _ in 0..20 {
        sim.plan_once();
        sim.work(|| true);
        sim.check_memory();
    }
}

pub(super) fn share(sim: &Sim, variant: &str) -> f64 {
    let shares = sim.plan.models.iter().flat_map(|m| &m.shares);
    shares.filter(|s| s.variant.name.as_str() == variant).map(|s| s.rate).sum()
}

#[test]
fn int8_takes_over_as_the_load_rises_and_gives_back_as_it_falls() {
    let mut sim = cluster(&[99, 99], None);
    serve(&mut sim, 40.0);
    assert!(share(&sim, "fp32@ort") > 40.0 && share(&sim, "int8@ort") < 0.1, "{:?}", sim.plan.models);
    serve(&mut sim, 300.0);
    assert!(share(&sim, "int8@ort") > 250.0 && share(&sim, "fp32@ort") < 20.0, "{:?}", sim.plan.models);
    let [plan] = sim.plan.models.as_slice() else { panic!() };
    assert!(plan.accuracy < 0.995 && plan.served > 0.99 * plan.rate && plan.row_price < 1.0, "{plan:?}");
    serve(&mut sim, 30.0);
    assert!(share(&sim, "fp32@ort") > 30.0 && share(&sim, "int8@ort") < 0.1, "{:?}", sim.plan.models);
}

#[test]
fn where_memory_is_short_the_reference_makes_room_for_what_answers_more() {
    // 85 % of 14 bytes: the reference of 10 or int8 of 5, not both.
    let mut sim = cluster(&[14, 14], None);
    serve(&mut sim, 300.0);
    assert_eq!((ready(&sim, "fp32@ort"), ready(&sim, "int8@ort")), (vec![], vec!["w0".to_owned(), "w1".to_owned()]));
    assert!(matches!(progress_of(&sim, "m"), Progress::Ready(_)), "{:?}", progress_of(&sim, "m"));
}

#[test]
fn what_is_wanted_instead_gets_its_room_one_worker_after_the_other() {
    let mut sim = cluster(&[14, 14], None);
    serve(&mut sim, 10.0);
    assert_eq!((ready(&sim, "fp32@ort").len(), ready(&sim, "int8@ort").len()), (2, 0));
    sim.observed.demands = asked(300.0);
    for _ in 0..20 {
        sim.plan_once();
        sim.work(|| true);
        sim.check_memory();
        assert!(!sim.ready("m", None).is_empty(), "I1");
    }
    assert_eq!((ready(&sim, "fp32@ort").len(), ready(&sim, "int8@ort").len()), (0, 2));
    let mut sim = cluster(&[14], None);
    serve(&mut sim, 10.0);
    serve(&mut sim, 300.0);
    assert_eq!(ready(&sim, "fp32@ort"), ["w0"], "the only one is not given up");
}

#[test]
fn a_floor_keeps_variants_out_whatever_is_lost() {
    let mut sim = cluster(&[99, 99], None);
    sim.model("m").slo.min_accuracy = Some(0.995);
    serve(&mut sim, 300.0);
    assert_eq!(share(&sim, "int8@ort"), 0.0);
    let said = reasons(&sim).join("; ");
    assert!(said.contains("of 315 rows a second can be answered in time: ask for less, allow more time or add workers"), "{said}");
}

#[test]
fn a_target_that_nobody_can_keep_is_said_with_the_nearest_that_can_be_kept() {
    let mut sim = cluster(&[99], Some(3));
    serve(&mut sim, 10.0);
    let said = reasons(&sim).join("; ");
    assert!(said.contains("no replica can keep 3 ms, the fastest needs 6.2 ms"), "{said}");
    assert!(!sim.ready("m", None).is_empty(), "it is served all the same");
    let mut sim = cluster(&[99], Some(15));
    serve(&mut sim, 10.0);
    assert!(share(&sim, "int8@ort") > 10.0 && share(&sim, "fp32@ort") == 0.0, "20 ms are over the target: {:?}", sim.plan.models);
}

#[test]
fn what_an_operator_allows_and_pins_holds() {
    let mut sim = cluster(&[99, 99], None);
    sim.model("m").pins = vec![Pin { variant: VariantName::new("int8@ort").unwrap(), worker: WorkerId::new("w1").unwrap() }];
    sim.observed.profiles.clear();
    serve(&mut sim, 1.0);
    assert_eq!(ready(&sim, "int8@ort"), ["w1"], "pinned, though no profile says that it pays");
    sim.model("m").pins[0].worker = WorkerId::new("gone").unwrap();
    serve(&mut sim, 1.0);
    assert!(reasons(&sim).contains(&"`int8@ort` is pinned to worker `gone`, which is not there"), "{:?}", reasons(&sim));
    let mut sim = cluster(&[99, 99], None);
    sim.model("m").variants = vec![VariantName::new("int8@ort").unwrap()];
    for rate in [0.0, 40.0] {
        serve(&mut sim, rate);
        assert_eq!((ready(&sim, "fp32@ort").len(), ready(&sim, "int8@ort").len()), (0, 2), "at {rate}");
    }
    let mut sim = cluster(&[99, 99, 99], None);
    sim.observed.workers[2].zone = "far".to_owned();
    sim.observed.workers[1].cost_class = "dear".to_owned();
    (sim.model("m").zones, sim.model("m").cost_classes) = (vec![String::new()], vec![String::new()]);
    serve(&mut sim, 300.0);
    assert!(sim.ready("m", None).iter().all(|w| w == "w0"), "{:?}", sim.ready("m", None));
}

#[test]
fn a_load_that_failed_is_not_tried_again_and_the_next_best_is_taken() {
    let mut sim = cluster(&[99, 99], None);
    for worker in ["w0", "w1"] {
        sim.bad.insert((Digest::new(format!("{:064x}", 7)).unwrap(), WorkerId::new(worker).unwrap()));
    }
    serve(&mut sim, 300.0);
    assert_eq!((ready(&sim, "fp32@ort").len(), ready(&sim, "int8@ort").len()), (2, 0));
    let marks = sim.observed.placements.iter().filter(|p| p.variant.name.as_str() == "int8@ort").count();
    assert_eq!(marks, 2, "the marks stay");
}

/// Each worker's replica of the reference says that its batches take so many times what was profiled.
fn reference_takes(sim: &mut Sim, times: &[(&str, f64)]) {
    let said = times.iter().map(|(worker, times)| {
        let measured = Measured { rows: 1.0, us: times * 20_000.0, runs: 500, threads: 1, unknown: Unknown::new() };
        ((WorkerId::new(*worker).unwrap(), VariantId::parse("m:1:fp32@ort").unwrap()), measured)
    });
    sim.measured = said.collect();
}

#[test]
fn where_a_profile_no_longer_holds_the_plan_goes_by_what_is_measured() {
    let mut sim = cluster(&[99, 99], None);
    serve(&mut sim, 70.0);
    let before = share(&sim, "fp32@ort");
    assert!(before > 70.0, "{:?}", sim.plan.models);
    reference_takes(&mut sim, &[("w0", 2.0), ("w1", 1.0)]);
    serve(&mut sim, 70.0);
    assert_eq!(share(&sim, "fp32@ort"), before, "one is slow, and that is not the profile's fault");
    assert_eq!(drifts(&sim.observed), []);
    reference_takes(&mut sim, &[("w0", 2.0), ("w1", 2.2)]);
    serve(&mut sim, 70.0);
    assert!(share(&sim, "fp32@ort") < 50.0 && share(&sim, "int8@ort") > 20.0, "{:?}", sim.plan.models);
    assert_eq!(
        drifts(&sim.observed).iter().map(|(profile, times)| (&profile.artifact, *times)).collect::<Vec<_>>(),
        [(&sim.observed.versions[0].artifact, 2.0)]
    );
    sim.measured.values_mut().for_each(|measured| measured.threads = 4);
    serve(&mut sim, 70.0);
    assert!(share(&sim, "fp32@ort") > 70.0, "measured otherwise than profiled: {:?}", sim.plan.models);
}

#[test]
fn the_more_answers_may_be_late_the_fuller_a_device_may_be() {
    let at = |percentile: Option<f64>| {
        let mut sim = cluster(&[99, 99], Some(200));
        sim.model("m").variants = vec![VariantName::new("fp32@ort").unwrap()];
        sim.model("m").slo.percentile = percentile;
        serve(&mut sim, 300.0);
        let [plan] = sim.plan.models.as_slice() else { panic!() };
        (plan.served, plan.tail_ms.unwrap())
    };
    let ((usual, tail_ms), loose, strict) = (at(None), at(Some(70.0)), at(Some(99.9)));
    assert_eq!((usual, tail_ms), at(Some(99.0)));
    assert!(strict.0 < 0.95 * usual && usual < 0.95 * loose.0, "{strict:?} {usual} {loose:?}");
    // 20 ms with a tail of 15 % at 99 of 100 and of 22 % at 999 of 1000.
    let mut sim = cluster(&[99], Some(24));
    sim.model("m").variants = vec![VariantName::new("fp32@ort").unwrap()];
    serve(&mut sim, 1.0);
    assert_eq!(reasons(&sim), [""; 0]);
    sim.model("m").slo.percentile = Some(99.9);
    serve(&mut sim, 1.0);
    assert!(reasons(&sim).join("; ").contains("no replica can keep 24 ms, the fastest needs 25.0 ms"), "{:?}", reasons(&sim));
}

#[test]
fn expected_and_greatest_rates_are_planned_for() {
    let mut sim = cluster(&[99, 99], None);
    sim.model("m").expected_rate = Some(200.0);
    sim.observed.demands.clear();
    sim.plan_once();
    assert_eq!(sim.plan.models[0].rate, 200.0);
    sim.model("m").max_rate = Some(250.0);
    sim.observed.demands = asked(9_000.0);
    sim.plan_once();
    assert_eq!(sim.plan.models[0].rate, 250.0);
    sim.observed.rates = BTreeMap::from([(ModelName::new("m").unwrap(), 240.0)]);
    sim.plan_once();
    assert_eq!(sim.plan.models[0].rate, 240.0, "noise plans nothing anew");
}

#[test]
fn absurd_demands_are_not_believed() {
    let mut sim = cluster(&[99, 99], None);
    for rate in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        sim.observed.demands = asked(rate);
        sim.plan_once();
        assert!(sim.plan.models.is_empty(), "{rate}");
    }
}

#[test]
fn what_redundancy_puts_on_an_empty_worker_gives_way_to_what_answers_more_there_in_the_same_plan() {
    let mut sim = cluster(&[8, 14], None);
    serve(&mut sim, 386.0);
    let placed = |sim: &Sim| sim.plan.placements.iter().map(|p| (p.worker.clone(), p.variant.clone())).collect::<Vec<_>>();
    let before = placed(&sim);
    for _ in 0..5 {
        sim.plan_once();
        sim.work(|| true);
        assert_eq!(placed(&sim), before, "the same is asked, so nothing moves");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn i1_i8_hold_whatever_is_asked(
        memory in prop::collection::vec(8u64..60, 1..5),
        rates in prop::collection::vec((0.0f64..600.0, any::<u64>()), 1..8),
        slo_ms in prop::option::of(10u32..200),
    ) {
        let mut sim = cluster(&memory, slo_ms);
        let mut was_ready = false;
        for (rate, luck) in rates {
            sim.observed.demands = asked(rate);
            let mut luck = luck | 1;
            for _ in 0..4 {
                sim.plan_once();
                sim.check_memory();
                sim.work(|| { luck = luck.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15); luck >> 62 != 0 });
                sim.check_memory();
                let ready = !sim.ready("m", None).is_empty();
                prop_assert!(ready || !was_ready, "routable, and nobody died");
                was_ready |= ready;
            }
        }
    }
}
