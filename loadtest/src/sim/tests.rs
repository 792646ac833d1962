use super::*;
use crate::mix::{Ask, Mix};
use crate::report::{Devices, Place};
use crate::schedule::{Arrivals, Phase};
use policy::batch::BatchPolicy;
use policy::route::baseline::RoutePolicy;
use proptest::prelude::*;
use std::time::Duration;

/// Unequal: 6 processors, 4 with int8, 2 graphics cards, behind 3 gateways that each know only a part.
const MIXED: &str = r#"
    gateways = 3
    one_way_us = 100
    push_ms = 100
    [[model]]
    name = "m"
    slo_ms = 40
    max_batch_size = 32
    [[worker]]
    count = 6
    models = ["m"]
    alpha_us = 10_000
    [[worker]]
    count = 4
    models = ["m"]
    alpha_us = 3_000
    [[worker]]
    count = 2
    models = ["m"]
    alpha_us = 250
    beta_us = 4_000
"#;

const ONE: &str = "[[model]]\nname = \"m\"\n[[worker]]\nmodels = [\"m\"]\nalpha_us = 10_000\n";

fn within(deadline_ms: f64) -> Ask {
    Ask { deadline_ms: Some(deadline_ms), ..Ask::of("m") }
}

fn poisson(ask: Ask, rate: f64, seconds: f64) -> Script {
    Script::new(ask, Pace::Open(Arrivals::Poisson { rate }), Duration::from_secs_f64(seconds))
}

/// Half and one and a half of the mean rate in turn, for 100 ms each in the mean.
fn bursts(rate: f64, seconds: f64) -> Script {
    let [calm, burst] = [0.5, 1.5].map(|factor| Phase { rate: factor * rate, dwell_s: 0.1 });
    Script::new(within(40.0), Pace::Open(Arrivals::Bursts { calm, burst }), Duration::from_secs_f64(seconds))
}

fn devices(report: &Report) -> Devices {
    let Place::Simulation(devices) = report.place else { panic!("{report}") };
    devices
}

fn errors(report: &Report) -> u64 {
    report.errors.values().sum()
}

#[test]
fn the_mean_wait_at_one_worker_is_that_of_the_formula() {
    let fleet = Fleet::parse(ONE).unwrap();
    for load in [0.5, 0.7] {
        let script = Script { warm_up: Duration::from_secs(10), ..poisson(Ask::of("m"), load * 100.0, 3_000.0) };
        let report = simulate(&fleet, &script).unwrap();
        assert_eq!(report.answered, report.offered);
        let wait_us = report.latency_us.mean() - 10_000.0;
        let formula_us = load * 10_000.0 / (2.0 * (1.0 - load)); // Pollaczek and Khinchine, all services equal
        assert!((wait_us / formula_us - 1.0).abs() < 0.05, "at {load}: {wait_us} us, by the formula {formula_us} us");
        let busy = devices(&report).busy_us / 1e6 / 3_000.0;
        assert!((busy - load).abs() < 0.02, "{report}");
    }
}

#[test]
fn the_same_seed_gives_the_same_report_to_the_byte_and_another_seed_another() {
    let fleet = Fleet { service_noise: 0.3, ..Fleet::parse(MIXED).unwrap() };
    let all = |seed| {
        let script = Script { seed, ..bursts(6_000.0, 0.5) };
        let measurement = measure("mixed", &fleet, &script, 2).unwrap();
        (measurement.to_string(), measurement.json().to_string(), crate::svg(&measurement))
    };
    let first = all(1);
    assert_eq!(first, all(1));
    let (text, json, svg) = first;
    let other = all(2);
    assert!(text != other.0 && json != other.1 && svg != other.2);
    assert!(text.starts_with("SIMULATED fleet mixed") && text.contains("nothing was sent"), "{text}");
    assert!(json.contains("\"simulated\":true") && svg.contains("SIMULATED"), "{json}");
}

#[test]
fn ours_answers_more_in_time_on_an_unequal_fleet() {
    let fleet = Fleet::parse(MIXED).unwrap();
    let of = |fleet: &Fleet, route| {
        let script = bursts(0.85 * fleet.capacity(), 2.0);
        let reports = (1..=2).map(|seed| simulate(&Fleet { route, ..fleet.clone() }, &Script { seed, ..script.clone() }).unwrap());
        let (offered, in_time) = reports.fold((0, 0), |sum, report| (sum.0 + report.offered, sum.1 + report.in_time));
        (offered, 100.0 * in_time as f64 / offered as f64)
    };
    let (offered, ours) = of(&fleet, RoutePolicy::Finish);
    for route in [RoutePolicy::TwoChoices, RoutePolicy::PeakEwma, RoutePolicy::Prequal, RoutePolicy::RoundRobin] {
        let (same, other) = of(&fleet, route);
        assert!(offered == same && ours > other, "{ours} % in time, by {route} {other} %");
    }
    // Workers that form batches as ours do refuse early what cannot be in time, and nearly make up for a router that does not.
    let (_, other) = of(&fleet, RoutePolicy::LeastRequest);
    assert!(ours > other - 1.5, "{ours} % in time, by least request {other} %");
    // Workers that only drop what has expired do not.
    let plain = Fleet { batch: BatchPolicy::Triton, ..fleet };
    let (ours, other) = (of(&plain, RoutePolicy::Finish).1, of(&plain, RoutePolicy::LeastRequest).1);
    assert!(ours > other, "{ours} % in time, by least request {other} %");
}

#[test]
fn what_is_refused_is_counted_by_who_refused_it() {
    let fleet = Fleet::parse(ONE).unwrap();
    let refusals = |fleet: &Fleet, deadline_ms, rate| {
        let report = simulate(fleet, &poisson(within(deadline_ms), rate, 5.0)).unwrap();
        assert_eq!(report.answered + errors(&report), report.offered, "{report}");
        report.errors.keys().cloned().collect::<Vec<_>>().join("; ")
    };
    assert_eq!(refusals(&fleet, 100.0, 300.0), "Unavailable: refused by the gateway, all replicas are too busy to be in time");
    let unaware = Fleet { route: RoutePolicy::RoundRobin, ..fleet.clone() };
    let said = refusals(&unaware, 100.0, 300.0);
    assert_eq!(said, "DeadlineExceeded: refused by a worker, it could not be in time");
    let said = refusals(&fleet, 5.0, 50.0);
    assert!(said.starts_with("DeadlineExceeded: refused by the gateway, it could not be in time"), "{said}");
}

#[test]
fn a_worker_that_is_slower_than_it_says_is_found_out() {
    let text = MIXED.replacen("alpha_us = 3_000", "alpha_us = 3_000\n    slow = 5", 1);
    let fleet = Fleet::parse(&text).unwrap();
    let report = simulate(&fleet, &bursts(0.3 * fleet.capacity(), 2.0)).unwrap();
    assert!(report.in_time as f64 > 0.98 * report.offered as f64, "{report}");
}

#[test]
fn models_share_a_workers_queue_but_no_batch() {
    let fleet = "[[model]]\nname = \"a\"\nmax_batch_size = 8\n[[model]]\nname = \"b\"\nmax_batch_size = 8\n\
                 [[worker]]\nmodels = [\"a\", \"b\"]\nbeta_us = 10_000\n";
    let fleet = Fleet::parse(fleet).unwrap();
    let rows_mean = |asks: Vec<Ask>| {
        let script = Script { mix: Mix { asks }, ..poisson(Ask::of("a"), 100_000.0, 0.2) };
        devices(&simulate(&fleet, &script).unwrap()).rows_mean()
    };
    assert!(rows_mean(vec![Ask::of("a")]) > 7.0);
    assert!(rows_mean(vec![Ask::of("a"), Ask::of("b")]) > 7.0, "each has enough for itself");
    let few = Script { mix: Mix { asks: vec![Ask::of("a"), Ask::of("b")] }, ..poisson(Ask::of("a"), 150.0, 20.0) };
    let one = simulate(&fleet, &poisson(Ask::of("a"), 150.0, 20.0)).unwrap();
    let two = simulate(&fleet, &few).unwrap();
    assert!(devices(&two).rows_mean() < devices(&one).rows_mean(), "{two}\n{one}");
}

#[test]
fn what_cannot_be_simulated_is_said() {
    let fleet = Fleet::parse(ONE).unwrap();
    let check = |script: Script, says: &str| {
        let error = simulate(&fleet, &script).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    let fine = poisson(Ask::of("m"), 1.0, 1.0);
    check(Script { pace: Pace::Closed { concurrency: 1 }, ..fine.clone() }, "closed loop");
    check(Script { mix: Ask::of("n").into(), ..fine.clone() }, "model n: not one of the fleet's models m");
    let wide = Ask { rows: 2.try_into().unwrap(), ..Ask::of("m") };
    check(Script { mix: wide.into(), ..fine.clone() }, "over its max_batch_size 1");
    check(Script { duration: Duration::ZERO, ..fine }, "duration 0ns must be above 0");
}

#[test]
fn a_bad_fleet_file_names_field_value_and_what_was_expected() {
    let check = |from: &str, to: &str, says: &[&str]| {
        assert!(MIXED.contains(from));
        let error = Fleet::parse(&MIXED.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(says.iter().all(|says| error.contains(says)), "{to}: {error}");
    };
    check("gateways = 3", "gateways = 0", &["gateways: 0; expected 1 to 1000"]);
    check("gateways = 3", "gateways = -1", &["line 2", "gateways", "-1"]);
    check("gateways = 3", "gateway = 3", &["line 2", "gateway", "unknown field"]);
    check("one_way_us = 100", "one_way_us = nan", &["one_way_us: NaN; expected 0 to"]);
    check("one_way_us = 100", "one_way_us = -1", &["one_way_us: -1; expected 0 to"]);
    check("push_ms = 100", "push_ms = 0.1", &["push_ms: 0.1; expected 1 to"]);
    check("gateways = 3", "route = \"best\"", &["best", "finish, round-robin", "line 2"]);
    check("gateways = 3", "batch = \"best\"", &["best", "sluice, triton", "line 2"]);
    check("gateways = 3", "service_noise = inf", &["service_noise: inf; expected 0 to 3"]);
    check("gateways = 3", "preferred_rows = [0]", &["preferred_rows: 0; expected 1 to"]);
    check("slo_ms = 40", "slo_ms = 0", &["model 1 (\"m\"): slo_ms: 0; expected"]);
    check("max_batch_size = 32", "max_batch_size = 0", &["max_batch_size: 0; expected 1 to"]);
    check("count = 6", "count = 0", &["worker 1: count: 0; expected 1 to"]);
    check("count = 6", "count = 4_000_000_000", &["worker 1: count: 4000000000; expected", "workers: 4000000006; expected"]);
    check("alpha_us = 3_000", "alpha_us = -3.5", &["worker 2: alpha_us: -3.5; expected 0 to"]);
    check("alpha_us = 3_000", "alpha_us = 0", &["worker 2: alpha_us + beta_us: 0; expected 1 to"]);
    check("alpha_us = 3_000", "alpha_us = \"fast\"", &["alpha_us", "fast", "line 16"]);
    check("count = 4", "slow = nan", &["worker 2: slow: NaN; expected 0.01 to 1000"]);
    check("count = 4", "instances = 0", &["worker 2: instances: 0; expected 1 to"]);
    check("models = [\"m\"]", "models = [\"n\"]", &["worker 1: models: \"n\"; expected each at most once, of m"]);
    check("models = [\"m\"]", "models = []", &["worker 1: models: it serves none"]);
    check("name = \"m\"", "name = \"n\"", &["model 1 (\"n\"): name: no worker serves it", "worker 1: models: \"m\"; expected"]);
    assert!(Fleet::parse("").unwrap_err().to_string().contains("missing field"));
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let worker = (1u32..4, 0.0f64..5_000.0, 1.0f64..5_000.0, 1u32..4, prop::sample::select(vec![0.5, 1.0, 8.0]), 0usize..3).prop_map(
        |(count, alpha_us, beta_us, instances, slow, zone)| FleetWorker {
            count,
            models: vec!["a".to_owned(), "b".to_owned()],
            alpha_us,
            beta_us,
            rows_max: None,
            instances,
            slow,
            zone: format!("z{zone}"),
        },
    );
    let rules = (0u64..5_000, prop::collection::vec(1u32..8, 0..3));
    let policies = (prop::sample::select(RoutePolicy::ALL.to_vec()), prop::sample::select(BatchPolicy::ALL.to_vec()));
    let model = |name: &str, slo_ms| FleetModel { name: name.to_owned(), slo_ms, max_batch_size: 8 };
    (policies, rules, prop::collection::vec(worker, 1..4), (1u32..4, 0.0f64..0.5, prop::bool::ANY)).prop_map(
        move |((route, (batch, _)), (max_delay_us, preferred_rows), workers, (gateways, service_noise, pushes))| Fleet {
            gateways,
            one_way_us: 150.0,
            push_ms: if pushes { 20.0 } else { 0.0 },
            route,
            batch,
            max_delay_us,
            preferred_rows,
            service_noise,
            models: vec![model("a", None), model("b", Some(30.0))],
            workers,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_request_is_in_time_late_or_refused_exactly_once(fleet in any_fleet(), load in 0.2f64..3.0, seed in 0u64..1_000) {
        let asks = vec![
            Ask { priority: Some(1), ..Ask::of("a") },
            Ask { rows: 3.try_into().unwrap(), deadline_ms: Some(25.0), ..Ask::of("b") },
            Ask { deadline_ms: Some(4.0), priority: Some(3), ..Ask::of("a") },
        ];
        let rate = (load * fleet.capacity() / 2.0).min(20_000.0);
        let script = Script { mix: Mix { asks }, seed, ..poisson(Ask::of("a"), rate, 0.3) };
        let due = script.schedule().count() as u64;
        let report = simulate(&fleet, &script).unwrap();
        let late = report.answered - report.in_time;
        prop_assert_eq!(report.offered, due);
        prop_assert_eq!(report.in_time + late + errors(&report), due, "{}", report);
        prop_assert!(devices(&report).ran == report.answered && devices(&report).started_late == 0, "{}", report);
    }
}
