//! Wishes that contradict each other or the world, and records that say what cannot be.

use super::demand::{asked, cluster, serve, share, timed};
use super::variants::{ready, with_variant};
use super::*;
use crate::Pin;

fn variant(name: &str) -> VariantName {
    VariantName::new(name).unwrap()
}

fn pin(name: &str, worker: &str) -> Pin {
    Pin { variant: variant(name), worker: WorkerId::new(worker).unwrap() }
}

#[test]
fn a_floor_that_nothing_meets_is_said_with_the_nearest_and_the_rest_keeps_running() {
    let said = "no variant it may use has the accuracy of 0.995; the nearest is `int8@ort` with 0.9900";
    for rate in [0.0, 40.0] {
        let mut sim = cluster(&[99, 99], None);
        sim.add_version(version("n", 1, 2, 10));
        sim.wanted.models.push(model("n"));
        (sim.model("m").slo.min_accuracy, sim.model("m").variants) = (Some(0.995), vec![variant("int8@ort")]);
        serve(&mut sim, rate);
        assert_eq!(reasons(&sim), [said], "at {rate}");
        assert_eq!(sim.ready("n", None), ["w0", "w1"]);
        sim.model("m").slo.min_accuracy = Some(0.99);
        serve(&mut sim, rate);
        assert_eq!(reasons(&sim), [""; 0]);
        let slo = &mut sim.model("m").slo;
        slo.accuracy_metric = Some(crate::card::Metric::Labels);
        serve(&mut sim, rate);
        assert_eq!(reasons(&sim), ["no variant it may use has an accuracy that is measured as its floor wants it"]);
    }
}

#[test]
fn a_target_that_cannot_be_kept_leaves_other_models_alone() {
    let mut sim = cluster(&[99, 99], Some(1));
    sim.add_version(version("n", 1, 2, 10));
    sim.wanted.models.push(ModelRecord { expected_rate: Some(5.0), ..model("n") });
    sim.observed.profiles.push(timed(2, 10_000.0, false));
    serve(&mut sim, 10.0);
    let n = sim.plan.models.iter().find(|m| m.model.as_str() == "n").unwrap();
    assert!(n.served > 4.9 && n.feasible_ms.is_none(), "{n:?}");
    let all = reasons(&sim);
    assert!(matches!(all.as_slice(), [one] if one.starts_with("no replica can keep 1 ms, the fastest needs")), "{all:?}");
}

#[test]
fn a_pin_that_contradicts_what_else_is_wanted_is_said() {
    let check = |change: fn(&mut Sim), expected: &str| {
        for rate in [0.0, 10.0] {
            let mut sim = cluster(&[99, 99], None);
            sim.model("m").pins = vec![pin("int8@ort", "w1")];
            change(&mut sim);
            serve(&mut sim, rate);
            assert_eq!(reasons(&sim), [format!("`int8@ort` is pinned to worker `w1`, {expected}")], "at {rate}");
            assert!(ready(&sim, "fp32@ort").contains(&"w0".to_owned()), "the rest is served");
        }
    };
    check(|sim| (sim.model("m").zones, sim.observed.workers[0].zone) = (vec!["z".into()], "z".into()), "which is not in its zones");
    check(
        |sim| (sim.model("m").cost_classes, sim.observed.workers[0].cost_class) = (vec!["spot".into()], "spot".into()),
        "which is not of its cost classes",
    );
    check(|sim| sim.observed.workers[1].draining = true, "which is draining");
    check(|sim| sim.observed.workers[1].devices.clear(), "which has no engine or device for it");
}

#[test]
fn of_two_pins_to_one_place_one_is_kept_and_the_other_is_told_what_it_lacks() {
    for rate in [0.0, 1.0] {
        let mut sim =
            Sim::new(vec![worker("a", "h", 15)], vec![version("m", 1, 1, 10), version("n", 1, 2, 10)], vec![model("m"), model("n")]);
        sim.model("m").pins = vec![pin("fp32@ort", "a")];
        sim.model("n").pins = vec![pin("fp32@ort", "a")];
        serve(&mut sim, rate);
        let served = sim.ready("m", None).len() + sim.ready("n", None).len();
        assert_eq!(served, 1, "{:?}", sim.plan.placements);
        assert!(reasons(&sim).contains(&"needs 10 B, no device it may use has more than 5 B free"), "{:?}", reasons(&sim));
    }
}

#[test]
fn a_profile_of_another_device_class_is_no_evidence() {
    let mut sim = cluster(&[99, 99], None);
    serve(&mut sim, 300.0);
    let (fp32, int8) = (share(&sim, "fp32@ort"), share(&sim, "int8@ort"));
    // Another class is so fast, or so slow, that one would plan otherwise.
    for alpha_us in [1.0, 1e6] {
        for (artifact, pays) in [(1, false), (7, alpha_us > 1.0)] {
            let mut elsewhere = timed(artifact, alpha_us, pays);
            elsewhere.class = "d".to_owned();
            sim.observed.profiles.insert(0, elsewhere);
        }
        serve(&mut sim, 300.0);
        assert_eq!((share(&sim, "fp32@ort"), share(&sim, "int8@ort")), (fp32, int8), "{alpha_us}");
    }
    sim.observed.profiles.retain(|profile| profile.class == "d");
    serve(&mut sim, 300.0);
    assert_eq!(ready(&sim, "int8@ort"), [""; 0], "nobody has shown that it pays here");
}

#[test]
fn a_wish_that_cannot_be_is_not_believed_and_leaves_the_model_served() {
    let wishes: [fn(&mut ModelRecord); 13] = [
        |m| m.expected_rate = Some(1e300),
        |m| m.expected_rate = Some(-5.0),
        |m| m.expected_rate = Some(f64::NAN),
        |m| m.expected_rate = Some(f64::INFINITY),
        |m| m.max_rate = Some(-1.0),
        |m| m.max_rate = Some(f64::NAN),
        |m| m.weight = Some(f64::NAN),
        |m| m.weight = Some(-1.0),
        |m| m.weight = Some(1e300),
        |m| m.slo.percentile = Some(f64::NAN),
        |m| m.slo.percentile = Some(1e300),
        |m| m.slo.percentile = Some(-3.0),
        |m| m.replicas = Some(u32::MAX),
    ];
    for (number, wish) in wishes.into_iter().enumerate() {
        let mut sim = cluster(&[99, 99], Some(200));
        wish(sim.model("m"));
        serve(&mut sim, 40.0);
        let [plan] = sim.plan.models.as_slice() else { panic!("{number}: {:?}", sim.plan.models) };
        assert!((plan.rate - 42.0).abs() < 1e-6 && plan.served > 41.0 && plan.row_price.is_finite(), "{number}: {plan:?}");
        assert_eq!(sim.ready("m", None).len(), 4, "{number}");
    }
}

#[test]
fn memory_that_a_host_does_not_have_is_not_planned_with() {
    let mut sim =
        Sim::new(vec![worker("a", "h", 1 << 40)], vec![version("m", 1, 1, 10), version("n", 1, 2, 10)], vec![model("m"), model("n")]);
    sim.observed.workers[0].capabilities.memory_bytes = 15;
    sim.settle();
    assert_eq!(sim.ready("m", None).len() + sim.ready("n", None).len(), 1);
    assert_eq!(reasons(&sim), ["needs 10 B, no device it may use has more than 5 B free"]);
    let mut sim = cluster(&[u64::MAX, 14], None);
    sim.observed.workers[0].capabilities.memory_bytes = 14;
    serve(&mut sim, 300.0);
    assert!(sim.plan.devices.iter().all(|device| device.bytes_max == 11), "{:?}", sim.plan.devices);
    let mut sim = cluster(&[u64::MAX, u64::MAX], None);
    sim.observed.versions[0].bytes_resident = u64::MAX;
    serve(&mut sim, 40.0);
    assert!(share(&sim, "int8@ort") > 40.0, "what does not fit anywhere is not needed: {:?}", sim.plan.models);
}

#[test]
fn a_clock_that_jumps_moves_nothing_and_holds_nothing_in_place() {
    let mut sim = cluster(&[99, 99], None);
    sim.observed.now_s = Some(2_000_000_000);
    serve(&mut sim, 40.0);
    let placed = sim.plan.placements.clone();
    for now_s in [1_000_000_000, 0, 1_000_000_000, u64::MAX, 999_999_999] {
        sim.observed.now_s = Some(now_s);
        serve(&mut sim, 40.0);
        assert_eq!(sim.plan.placements, placed, "at {now_s}");
    }
    // Replicas from before a clock was put back are not young for years.
    let mut sim = cluster(&[14, 14], None);
    sim.observed.now_s = Some(2_000_000_000);
    serve(&mut sim, 10.0);
    assert_eq!(ready(&sim, "fp32@ort").len(), 2);
    sim.observed.now_s = Some(1_000_000_000);
    serve(&mut sim, 300.0);
    assert_eq!((ready(&sim, "fp32@ort").len(), ready(&sim, "int8@ort").len()), (0, 2));
}

#[test]
fn where_a_load_failed_the_next_plan_has_the_next_best_there() {
    let mut best = with_variant("int8@ort", 5, None);
    let mut next = best.variants[0].clone();
    (next.name, next.artifact, next.accuracy) = (variant("int4@ort"), version("m", 1, 8, 1).artifact, 0.97);
    next.bytes_resident = 9;
    best.variants.push(next);
    let mut sim = cluster(&[14, 14], None);
    sim.observed.versions.clear();
    sim.add_version(best);
    for artifact in [7, 8] {
        sim.really.insert(version("m", 1, artifact, 1).artifact, if artifact == 7 { 5 } else { 9 });
    }
    sim.observed.profiles.push(timed(8, 2_000.0, true));
    let w0 = WorkerId::new("w0").unwrap();
    sim.bad.insert((version("m", 1, 7, 1).artifact, w0.clone()));
    sim.observed.demands = asked(300.0);
    let on_w0 = |sim: &Sim, name: &str| sim.plan.placements.iter().any(|p| p.worker == w0 && p.variant.name.as_str() == name);
    let failed = |sim: &Sim| sim.observed.replicas.iter().any(|r| r.worker == w0 && matches!(r.state, crate::ReplicaState::Failed(_)));
    for _ in 0..20 {
        sim.plan_once();
        if failed(&sim) {
            break;
        }
        sim.work(|| true);
    }
    assert!(failed(&sim) && on_w0(&sim, "int8@ort"), "the mark");
    assert!(on_w0(&sim, "int4@ort"), "{:?}", sim.plan.placements);
    serve(&mut sim, 300.0);
    assert!(share(&sim, "int4@ort") > 100.0 && share(&sim, "int8@ort") > 100.0, "{:?}", sim.plan.models);
    assert!(sim.plan.models[0].served > 0.99 * sim.plan.models[0].rate);
}
