use super::*;
use crate::card::Metric;
use crate::{Digest, Pin, TenantDefaults, VariantName, WorkerId};
use proptest::prelude::*;
use serde_json::json;

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// What reading `value`, with a name, complains of.
fn told(value: Value) -> Vec<String> {
    let mut fields = fields(value);
    fields.insert("name".to_owned(), json!("m"));
    read(&fields).err().unwrap_or_default()
}

#[test]
fn a_record_with_every_field_is_read_and_written_as_it_was() {
    let whole = json!({
        "schema": 1, "name": "m", "wanted": true, "replicas": 2, "provider": "cpu", "generation": 0,
        "slo": {"latency_ms": 40, "percentile": 99.0, "min_accuracy": 0.98, "accuracy_metric": "cosine", "accuracy_data": "a".repeat(64)},
        "expected_rate": 200.0, "max_rate": 1000.0, "weight": 2.5, "variants": ["fp32@ort", "int8@ort"], "zones": ["a", "b"],
        "cost_classes": ["spot"], "pins": [{"variant": "int8@ort", "worker": "w1"}, {"variant": "int8@ort", "worker": "w2"}],
        "tenants": {"blue": {"latency_ms": 20, "min_accuracy": 0.99}, "red": {}}, "later": [1], "aliases": {"stable": 3},
        "rollout": {
            "candidate": {"variant": "int8@ort"}, "weights": [0.25, 1.0], "shadow": 0.5, "margin": 0.02, "error_rate": 0.01, "cosine_min": 0.75,
            "metric": "cosine", "null_rate": 0.01, "pairs_min": 10, "step_s": 5,
        },
    });
    let record = read(&fields(whole.clone())).unwrap();
    assert_eq!(serde_json::to_value(&record).unwrap(), whole);
    assert_eq!((record.pins.len(), record.slo.accuracy_metric), (2, Some(Metric::Cosine)));
    assert_eq!(read(&fields(json!({"name": "m"}))).unwrap(), ModelRecord::new(ModelName::new("m").unwrap()), "nothing said means defaults");
}

#[test]
fn what_is_not_said_is_not_written() {
    let written = serde_json::to_value(ModelRecord::new(ModelName::new("m").unwrap())).unwrap();
    assert_eq!(written, json!({"schema": 1, "name": "m", "wanted": true, "provider": "cpu", "slo": {}, "generation": 0}));
}

#[test]
fn each_rule_names_field_value_and_what_is_expected() {
    let check = |value: Value, expected: &[&str]| assert_eq!(told(value.clone()), expected, "{value}");
    let latency = "1 to 3600000 milliseconds";
    check(json!({"slo": {"latency_ms": 0}}), &[&format!("slo.latency_ms: 0; expected {latency}")]);
    check(json!({"slo": {"latency_ms": 3_600_001}}), &[&format!("slo.latency_ms: 3600001; expected {latency}")]);
    check(json!({"slo": {"percentile": 49.9}}), &["slo.percentile: 49.9; expected 50 to 99.99, in per cent"]);
    check(json!({"slo": {"percentile": 100}}), &["slo.percentile: 100; expected 50 to 99.99, in per cent"]);
    check(json!({"slo": {"percentile": 99.995}}), &["slo.percentile: 99.995; expected 50 to 99.99, in per cent"]);
    check(json!({"slo": {"min_accuracy": 1.2}}), &["slo.min_accuracy: 1.2; expected 0 to 1"]);
    check(json!({"slo": {"min_accuracy": -0.1}}), &["slo.min_accuracy: -0.1; expected 0 to 1"]);
    let alone = "expected slo.min_accuracy beside it, the floor that it is about";
    check(json!({"slo": {"accuracy_metric": "cosine"}}), &[&format!("slo.accuracy_metric: cosine; {alone}")]);
    let digest = "a".repeat(64);
    check(json!({"slo": {"accuracy_data": digest}}), &[&format!("slo.accuracy_data: {digest}; {alone}")]);
    let rate = "expected more than 0 and at most 1e9 rows per second";
    check(json!({"expected_rate": 0}), &[&format!("expected_rate: 0; {rate}")]);
    check(json!({"max_rate": 1.1e9}), &[&format!("max_rate: 1100000000; {rate}")]);
    check(json!({"expected_rate": 10, "max_rate": 9.5}), &["max_rate: 9.5; expected at least expected_rate, 10"]);
    check(json!({"weight": 0}), &["weight: 0; expected 0.001 to 1000"]);
    check(json!({"weight": 1000.5}), &["weight: 1000.5; expected 0.001 to 1000"]);
    check(json!({"idle_s": 0}), &["idle_s: 0; expected at least 1; leave it out to keep replicas always"]);
    let pin = |worker: &str| json!({"variant": "int8@ort", "worker": worker});
    check(json!({"pins": [pin("w"), pin("v"), pin("w")]}), &["pins[2]: int8@ort on w; expected each pin once"]);
    check(
        json!({"pins": [pin("w")], "variants": ["fp32@ort"]}),
        &["pins[0].variant: int8@ort; expected one of `variants`, which say what may be used"],
    );
    check(json!({"pins": [pin("w")], "idle_s": 9}), &["idle_s: 9; expected no `pins` beside it: pinned replicas never go"]);
    check(json!({"replicas": 0}), &["replicas: 0; expected at least 1; `wanted = false` unloads a model"]);
    let tenant = json!({"tenants": {"blue": {"latency_ms": 0, "min_accuracy": 2}}});
    check(tenant, &[&format!("tenants.blue.latency_ms: 0; expected {latency}"), "tenants.blue.min_accuracy: 2; expected 0 to 1"]);
}

#[test]
fn a_rollout_and_aliases_are_judged_with_their_paths() {
    let check = |value: Value, expected: &[&str]| assert_eq!(told(value.clone()), expected, "{value}");
    let candidate = json!({"version": 2});
    check(json!({"rollout": {"candidate": candidate, "null_rate": 0.01}, "versions": [1]}), &[]);
    check(json!({"rollout": {"candidate": {"variant": "int8@ort"}}, "aliases": {"stable": 3, "canary": 4}}), &[]);
    check(
        json!({"rollout": {"candidate": candidate, "null_rate": 0.01, "step_s": 0, "cosine_min": 0, "weights": [0.5, 2.0]}, "versions": [2]}),
        &[
            "rollout.weights: expected shares from 0 to 1, got [0.5, 2.0]",
            "rollout.cosine_min: expected a cosine above 0, at most 1, got 0",
            "rollout.step_s: expected at least 1 second",
            "rollout.candidate.version: 2; expected another of `versions` beside it, the one that it takes over from",
        ],
    );
    check(
        json!({"rollout": {"candidate": {"variant": "int8@ort"}}, "variants": ["fp32@ort"]}),
        &["rollout.candidate.variant: int8@ort; expected one of `variants`, which say what may be used"],
    );
    let found = told(json!({"aliases": {"7": 1, "stable": 0}, "rollout": {"candidate": {"version": 0}, "shadow": "x", "weight": 1}}));
    let starts = ["aliases.stable: ", "rollout.candidate: ", "rollout.shadow: invalid type", "rollout.weight: unknown field"];
    starts.iter().for_each(|start| assert!(found.iter().any(|f| f.starts_with(start)), "{start}: {found:#?}"));
    assert!(told(json!({"aliases": {"7": 1}}))[0].starts_with("aliases.7: alias \"7\" is not allowed"));
}

#[test]
fn the_edges_of_each_range_are_inside() {
    for good in [
        json!({"slo": {"latency_ms": 1, "percentile": 50, "min_accuracy": 0, "accuracy_metric": "labels"}}),
        json!({"slo": {"latency_ms": 3_600_000, "percentile": 99.99, "min_accuracy": 1, "accuracy_data": "0".repeat(64)}}),
        json!({"expected_rate": 1e9, "max_rate": 1e9, "weight": 0.001, "idle_s": 1}),
        json!({"max_rate": 0.01, "weight": 1000, "replicas": 1}),
        json!({"pins": [{"variant": "a@ort", "worker": "w"}, {"variant": "b@ort", "worker": "w"}], "variants": ["a@ort", "b@ort"]}),
    ] {
        assert_eq!(told(good.clone()), [""; 0], "{good}");
    }
}

#[test]
fn a_fault_of_type_is_told_where_it_is_and_hides_no_other() {
    let found = told(json!({
        "replicas": -1, "weight": "much", "zones": ["a", 3], "max_rate": 0,
        "slo": {"latency_ms": 1.5, "min_accuracy": "high", "accuracy_data": "x", "percentile": 3, "accuracy_metric": "cosine"},
        "pins": [{"variant": "int8", "worker": "w"}, {"variant": "int8@ort"}, {"variant": "int8@ort", "worker": "w", "device": "cpu"}],
        "tenants": {"blue": {"latency": 3}, "red": 5, "green": {"latency_ms": 0}},
    }));
    let starts = [
        "replicas: invalid value",
        "weight: invalid type",
        "zones[1]: invalid type",
        "slo.latency_ms: invalid type",
        "slo.min_accuracy: invalid type",
        "slo.accuracy_data: digest \"x\"",
        "pins[0].variant: variant name \"int8\"",
        "pins[1]: missing field `worker`",
        "pins[2].device: unknown field `device`",
        "tenants.blue.latency: unknown field `latency`",
        "tenants.red: invalid type",
        "max_rate: 0; expected",
        "slo.percentile: 3; expected",
        "tenants.green.latency_ms: 0; expected",
    ];
    starts.iter().for_each(|start| assert!(found.iter().any(|f| f.starts_with(start)), "{start}: {found:#?}"));
    assert_eq!(found.len(), starts.len(), "{found:#?}");
}

#[test]
fn what_a_caller_wrote_is_repeated_in_part_only() {
    let found = told(json!({"slo": {"accuracy_metric": "x".repeat(100_000)}}));
    assert!(found.len() == 1 && found[0].chars().count() == PROBLEM_CHARS_MAX + 1, "{found:?}");
}

#[test]
fn a_models_files_say_how_it_is_served_but_not_who_it_is() {
    let of_files: Vec<_> = of_files().collect();
    for field in ["replicas", "instances", "slo", "expected_rate", "max_rate", "weight", "variants", "zones", "cost_classes", "pins"] {
        assert!(of_files.contains(&field), "{field}");
    }
    assert!(of_files.contains(&"idle_s") && of_files.contains(&"tenants"));
    assert!(NOT_OF_FILES.iter().all(|field| ModelRecord::FIELDS.contains(field) && !of_files.contains(field)));
}

/// Numbers near and far from every bound, and none.
fn any_number() -> impl Strategy<Value = f64> {
    let edges = [0.0, -0.0, 0.001, 1.0, 50.0, 100.0, 1000.0, 1e9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];
    prop_oneof![any::<f64>(), prop::sample::select(edges.to_vec()), (0u32..100_000).prop_map(|n| f64::from(n) / 1000.0)]
}

fn any_milliseconds() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(prop_oneof![any::<u32>(), 0..4u32, 3_599_999..3_600_002u32])
}

prop_compose! {
    fn any_slo()(
        latency_ms in any_milliseconds(), percentile in prop::option::of(any_number()), min_accuracy in prop::option::of(any_number()),
        metric in prop::option::of(prop::sample::select(vec![Metric::Labels, Metric::Cosine])), data in any::<bool>(),
    ) -> Slo {
        let accuracy_data = data.then(|| Digest::new("0".repeat(64)).unwrap());
        Slo { latency_ms, percentile, min_accuracy, accuracy_metric: metric, accuracy_data }
    }
}

prop_compose! {
    fn any_record()(
        slo in any_slo(), rates in prop::array::uniform2(prop::option::of(any_number())), weight in prop::option::of(any_number()),
        variants in prop::collection::vec(0u8..3, 0..3), pins in prop::collection::vec((0u8..3, 0u8..3), 0..4),
        idle_s in prop::option::of(0u32..3), replicas in prop::option::of(0u32..3),
        tenants in prop::collection::btree_map(".{0,8}", (any_milliseconds(), prop::option::of(any_number())), 0..3),
    ) -> ModelRecord {
        let variant = |n: u8| VariantName::new(format!("v{n}@ort")).unwrap();
        let pin = |(v, w): (u8, u8)| Pin { variant: variant(v), worker: WorkerId::new(format!("w{w}")).unwrap() };
        let defaults = |(name, (latency_ms, min_accuracy))| (name, TenantDefaults { latency_ms, min_accuracy });
        ModelRecord {
            slo, weight, idle_s, replicas,
            expected_rate: rates[0], max_rate: rates[1],
            variants: variants.into_iter().map(variant).collect(),
            pins: pins.into_iter().map(pin).collect(),
            tenants: tenants.into_iter().map(defaults).collect(),
            ..ModelRecord::new(ModelName::new("m").unwrap())
        }
    }
}

/// Near enough to be the same number written and read as decimal text.
fn near(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * a.abs(),
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]
    #[test]
    fn a_record_nothing_is_wrong_with_survives_being_written(record in any_record()) {
        if problems(&record).is_empty() {
            let value = serde_json::to_value(&record).unwrap();
            prop_assert_eq!(&serde_json::from_value::<ModelRecord>(value.clone()).unwrap(), &record);
            prop_assert_eq!(&read(value.as_object().unwrap()).unwrap(), &record);
            let text: ModelRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
            prop_assert!(near(text.slo.percentile, record.slo.percentile) && near(text.slo.min_accuracy, record.slo.min_accuracy));
            prop_assert!(near(text.expected_rate, record.expected_rate) && near(text.weight, record.weight));
        }
    }

    #[test]
    fn reading_whatever_json_there_is_tells_of_something_or_gives_a_record(record in any_record(), field in 0usize..30, instead in 0usize..6) {
        let junk = [json!(null), json!(-1), json!("x"), json!([{}]), json!({"a": {"b": []}}), json!([[1]])];
        let mut fields = fields(serde_json::to_value(&record).unwrap());
        if let Some(name) = ModelRecord::FIELDS.get(field) {
            fields.insert((*name).to_owned(), junk[instead].clone());
        }
        match read(&fields) {
            Ok(record) => prop_assert_eq!(problems(&record), Vec::<String>::new()),
            Err(problems) => prop_assert!(!problems.is_empty() && problems.iter().all(|p| p.chars().count() <= PROBLEM_CHARS_MAX + 1)),
        }
    }
}
