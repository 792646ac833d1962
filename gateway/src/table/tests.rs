use super::*;
use crate::testing::{Content, model, replica, version, worker};
use policy::profile::Forecast;
use policy::{Backlog, Code, ModelName, SCHEMA, Unknown};
use proto::call::LoadReport;

#[test]
fn i1_only_a_ready_replica_of_a_living_incarnation_is_routable() {
    let states = [ReplicaState::Loading("x".into()), ReplicaState::Failed("x".into()), ReplicaState::Draining];
    for state in states {
        let content = Content::default().worker(&worker("w", 7)).version(&version(1, VersionState::Valid)).replica(&replica(
            "w",
            7,
            1,
            state.clone(),
        ));
        assert!(matches!(content.table().resolve("m", ""), Err(Failure::NotReady { .. } | Failure::NoVersion { .. })), "{state:?}");
    }
    let ready = Content::default().version(&version(1, VersionState::Valid)).replica(&replica("w", 7, 1, ReplicaState::Ready));
    assert!(ready.table().resolve("m", "").is_err(), "its worker is not there");
    let ready = ready.worker(&worker("w", 8));
    assert!(ready.table().resolve("m", "").is_err(), "it went with the incarnation before");
    let ready = ready.worker(&worker("w", 7));
    assert!(ready.table().resolve("m", "").is_ok());
    let ready = ready.worker(&WorkerRecord { draining: true, ..worker("w", 7) });
    assert!(ready.table().resolve("m", "").is_err(), "its worker is going");
}

#[test]
fn without_a_version_the_highest_ready_one_answers() {
    let content = Content::default()
        .worker(&worker("w", 1))
        .version(&version(1, VersionState::Valid))
        .version(&version(2, VersionState::Valid))
        .version(&version(10, VersionState::Invalid("bad graph".into())))
        .replica(&replica("w", 1, 1, ReplicaState::Ready))
        .replica(&replica("w", 1, 2, ReplicaState::Ready));
    let table = content.table();
    assert_eq!(table.resolve("m", "").unwrap().record.version.to_string(), "2");
    assert_eq!(table.resolve("m", "1").unwrap().record.version.to_string(), "1");
    let code = |name: &str, version: &str| table.resolve(name, version).err().map(|f| (f.wire().0, f.to_string())).unwrap();
    assert_eq!(code("m", "3"), (Code::NotFound, "model `m` has no version 3".into()));
    assert_eq!(code("n", "").0, Code::NotFound);
    assert_eq!(code("../n", "").0, Code::InvalidArgument);
    assert_eq!(code("m", "x").0, Code::InvalidArgument);
    assert_eq!(code("m", "10"), (Code::Unavailable, "model `m` version 10 is not ready: bad graph".into()));
}

#[test]
fn an_unwanted_model_says_so_and_one_bad_record_hides_no_other() {
    let mut content = Content::default().version(&version(1, VersionState::Valid)).put(Content::keys().model("m"), &model(false));
    let bad = Content::keys().worker("bad");
    content.0.insert(bad.clone(), Entry { key: bad, value: b"junk".to_vec(), revision: 1, created: 1 });
    let table = content.table();
    assert_eq!(table.unreadable, 1);
    assert!(table.resolve("m", "").err().unwrap().to_string().contains("unloaded"));
}

#[test]
fn a_version_without_replicas_says_whether_it_is_on_its_way_or_not_wanted() {
    let asked = ModelRecord { versions: vec![Version::parse("1").unwrap()], ..model(true) };
    let content = Content::default()
        .worker(&worker("w", 1))
        .version(&version(1, VersionState::Valid))
        .version(&version(2, VersionState::Valid))
        .replica(&replica("w", 1, 1, ReplicaState::Loading("fetching".into())))
        .put(Content::keys().model("m"), &asked);
    let table = content.table();
    let model = &table.models["m"];
    let of = |number: &str| model.versions.get(&Version::parse(number).unwrap()).unwrap();
    assert_eq!((model.is_loading(of("1")), model.is_loading(of("2"))), (true, false));
    let why = |number: &str| table.resolve("m", number).err().unwrap().to_string();
    assert!(why("1").ends_with("fetching") && why("2").ends_with("not one of the versions that its model wants served"), "{}", why("2"));
}

#[test]
fn a_model_without_a_version_that_is_ready_is_not_found_unless_one_may_be_soon() {
    let ask = |content: &Content| content.table().resolve("m", "").err().map(|f| (f.wire().0, f.to_string())).unwrap();
    let pending = Content::default().version(&version(1, VersionState::Valid));
    assert_eq!(ask(&pending), (Code::Unavailable, "model `m` version 1 is not ready: no replica yet".into()));
    let unloaded = pending.put(Content::keys().model("m"), &model(false));
    assert_eq!(ask(&unloaded), (Code::NotFound, "model `m` has no version that is ready: unloaded".into()));
    let five = ModelRecord { versions: vec![Version::parse("5").unwrap()], ..model(true) };
    let table = Content::default().version(&version(1, VersionState::Valid)).put(Content::keys().model("m"), &five).table();
    assert!(matches!(table.models["m"].outlook(), Some(Outlook::Failed(_))), "nobody waits for a version that nobody offers");
}

#[test]
fn what_was_learned_of_a_replica_survives_a_new_table() {
    let content = Content::default().worker(&worker("w", 1)).version(&version(1, VersionState::Valid)).replica(&replica(
        "w",
        1,
        1,
        ReplicaState::Ready,
    ));
    let before = content.table();
    before.resolve("m", "").unwrap().replicas[0].gauge.doubt(Moment::from_us(9));
    let after = Table::build(&content.0, &Content::keys(), ("s", "z"), &Metrics::new(), &before);
    assert!(after.resolve("m", "").unwrap().replicas[0].gauge.is_doubtful(Moment::from_us(8)));
}

#[test]
fn i5_requests_are_checked_against_what_is_loaded_not_against_what_was_offered_last() {
    let signature = |rows| Signature { max_batch_size: rows, ..Signature::default() };
    let mut offered = version(1, VersionState::Valid);
    offered.signature = signature(9);
    let loaded = |id: &str, generation, rows| ReplicaRecord {
        generation,
        signature: Some(signature(rows)),
        ..replica(id, 1, 1, ReplicaState::Ready)
    };
    let content = Content::default().worker(&worker("a", 1)).worker(&worker("b", 1)).version(&offered);
    let rows_and_replicas = |content: &Content| {
        let table = content.table();
        let found = table.resolve("m", "").unwrap();
        (found.signature().max_batch_size, found.replicas.iter().map(|r| r.worker.to_string()).collect::<Vec<_>>())
    };
    // A reload failed: both still run what was there before.
    let content = content.replica(&loaded("a", 1, 4)).replica(&loaded("b", 1, 4));
    assert_eq!(rows_and_replicas(&content), (4, vec!["a".to_owned(), "b".to_owned()]));
    // One is under way: only who is through with it can answer its requests.
    let content = content.replica(&loaded("b", 2, 9));
    assert_eq!(rows_and_replicas(&content), (9, vec!["b".to_owned()]));
}

#[test]
fn a_latency_that_cannot_be_is_not_believed_whoever_tells_it() {
    let content = |alpha_us: serde_json::Value| {
        let mut record = serde_json::to_value(replica("w", 1, 1, ReplicaState::Ready)).unwrap();
        record["beta_us"] = alpha_us.clone();
        match alpha_us {
            serde_json::Value::Bool(_) => record.as_object_mut().unwrap().retain(|name, _| !name.ends_with("a_us")),
            other => record["alpha_us"] = other,
        }
        let content = Content::default().worker(&worker("w", 1)).version(&version(1, VersionState::Valid));
        content.put(Content::keys().replica("w", "m:1:fp32@ort"), &record)
    };
    let latency = |alpha_us| content(alpha_us).table().resolve("m", "").unwrap().replicas[0].latency;
    assert_eq!(latency(serde_json::json!(7.0)), Latency { alpha_us: 7.0, beta_us: 7.0 });
    // None, as NaN is written; zero; less; more than an hour; not there at all.
    for absurd in [serde_json::Value::Null, 0.into(), (-5).into(), 1e12.into(), false.into()] {
        assert_eq!(latency(absurd.clone()), Latency::UNKNOWN, "{absurd}");
    }
    let gauge = Gauge::default();
    let told = Forecast { latency: Latency { alpha_us: f64::NAN, beta_us: 0.0 }, kappa: 1.0, slow: 1.0 };
    gauge.report(Moment::default(), &LoadReport { forecast: Some(told), ..LoadReport::default() });
    assert_eq!(gauge.forecast(Latency::UNKNOWN).latency, Latency::UNKNOWN);
}

#[test]
fn replicas_of_a_device_know_of_each_others_work() {
    let other = ReplicaRecord { variant: VariantId::parse("m:1:int8@ort").unwrap(), ..replica("w", 1, 1, ReplicaState::Ready) };
    let elsewhere = replica("v", 1, 1, ReplicaState::Ready);
    let content = Content::default().worker(&worker("w", 1)).worker(&worker("v", 1)).version(&version(1, VersionState::Valid));
    let table = content.replica(&replica("w", 1, 1, ReplicaState::Ready)).replica(&other).replica(&elsewhere).table();
    let replicas = &table.resolve("m", "").unwrap().replicas;
    let find = |worker: &str, variant: &str| {
        &replicas.iter().find(|r| r.worker.as_str() == worker && r.variant.name.as_str() == variant).unwrap().gauge
    };
    let (exact, fast, far) = (find("w", "fp32@ort"), find("w", "int8@ort"), find("v", "fp32@ort"));
    exact.sent(2, 800);
    fast.sent(1, 100);
    assert_eq!((exact.since_report(), fast.since_report(), far.since_report()), ((2, 100), (1, 800), (0, 0)));
    let told = Backlog::from_steps([100, 700]);
    fast.report(Moment::from_us(50), &LoadReport { backlog: told, ..LoadReport::default() });
    assert_eq!((exact.since_report(), exact.reported()), ((0, 0), (told, Moment::from_us(50))));
    assert_eq!((exact.heard(), fast.heard(), far.reported().0), (Moment::default(), Moment::from_us(50), Backlog::default()));
    exact.report(Moment::from_us(60_000_000), &LoadReport { backlog: told, ..LoadReport::default() });
    assert!(fast.spare() < 0.01 && far.spare() == 1.0, "a minute without a rest");
    exact.sent(3, 30);
    assert_eq!((exact.since_report(), fast.since_report()), ((3, 0), (0, 30)));
}

#[test]
fn waits_on_a_shared_device_are_bounded_where_the_plan_falls_short() {
    let patient = ModelRecord { slo: Slo { latency_ms: Some(400), ..Slo::default() }, ..ModelRecord::new(ModelName::new("m").unwrap()) };
    let hurried = ModelRecord { slo: Slo { latency_ms: Some(50), ..Slo::default() }, ..ModelRecord::new(ModelName::new("n").unwrap()) };
    let beside = ReplicaRecord { variant: VariantId::parse("n:1:fp32@ort").unwrap(), ..replica("w", 1, 1, ReplicaState::Ready) };
    let wait_us_max = |served: f64| {
        let variant = VariantId::parse("m:1:fp32@ort").unwrap();
        let shares = vec![ShareRecord { variant, worker: WorkerId::new("w").unwrap(), rate: served }];
        let plan = PlanRecord {
            schema: SCHEMA,
            model: ModelName::new("m").unwrap(),
            epoch: 1,
            revision: 1,
            unplaced: Vec::new(),
            rate: Some(100.0),
            shares,
            idle: policy::IdleRecord::default(),
            unknown: Unknown::new(),
        };
        let content = Content::default().worker(&worker("w", 1)).version(&version(1, VersionState::Valid));
        let content = content.put(Content::keys().model("m"), &patient).put(Content::keys().model("n"), &hurried);
        let content = content.replica(&replica("w", 1, 1, ReplicaState::Ready)).replica(&beside).put(Content::keys().plan("m"), &plan);
        content.table().resolve("m", "").unwrap().replicas[0].wait_us_max
    };
    assert_eq!(wait_us_max(100.0), f64::INFINITY);
    assert_eq!(wait_us_max(10.0), 25_000.0);
}

#[test]
fn how_many_answers_may_be_late_is_the_models_word() {
    let of = |percentile| {
        let record = policy::ModelRecord { slo: policy::Slo { percentile, ..policy::Slo::default() }, ..model(true) };
        let content = Content::default().worker(&worker("w", 1)).version(&version(1, VersionState::Valid));
        let table = content.replica(&replica("w", 1, 1, ReplicaState::Ready)).put(Content::keys().model("m"), &record).table();
        let allowance = table.resolve("m", "").unwrap().allowance;
        (allowance * 1e6).round()
    };
    assert_eq!([of(None), of(Some(99.0)), of(Some(95.0)), of(Some(99.9))], [1e4, 1e4, 5e4, 1e3]);
}
