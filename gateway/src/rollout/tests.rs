use super::*;
use crate::infer::tests::{Behaviour, Workers, gateway, of};
use crate::metrics::Metrics;
use crate::table::Table;
use crate::testing::{Content, model, replica, version, worker};
use policy::rollout::{End, Rollout};
use policy::{
    DataType, InputTensor, Param, ReplicaState, Shape, Signature, TensorSpec, VariantId, VariantRecord, VersionRecord, VersionState,
};
use proto::chain::Chain;
use serde_json::json;
use std::time::Duration;

fn spec() -> TensorSpec {
    TensorSpec { name: "x".into(), datatype: DataType::Fp32, shape: vec![-1], optional: false, graph_shape: None }
}

fn served(number: u64) -> VersionRecord {
    let signature = Signature { max_batch_size: 4, inputs: vec![spec()], outputs: vec![TensorSpec { name: "logits".into(), ..spec() }] };
    VersionRecord { signature, ..version(number, VersionState::Valid) }
}

fn rollout(candidate: serde_json::Value) -> Rollout {
    serde_json::from_value(json!({ "candidate": candidate, "null_rate": 0.01 })).unwrap()
}

fn to_version() -> Rollout {
    rollout(json!({ "version": 2 }))
}

/// Where the rollout stands, over version 1.
fn record(rollout: &Rollout, weight: f64, shadow: f64) -> RolloutRecord {
    let mut record = RolloutRecord::new(policy::ModelName::new("m").unwrap(), 7, rollout.clone());
    (record.baseline, record.weight, record.shadow) = (Some(Version::parse("1").unwrap()), weight, shadow);
    record
}

fn wanting(rollout: &Rollout) -> ModelRecord {
    ModelRecord { rollout: Some(rollout.clone()), ..model(true) }
}

/// Version 1 on worker `a`, version 2 on worker `b`.
fn versions(asked: &ModelRecord, record: &RolloutRecord) -> Content {
    let content = Content::default().worker(&worker("a", 1)).worker(&worker("b", 1)).version(&served(1)).version(&served(2));
    let content = content.replica(&replica("a", 1, 1, ReplicaState::Ready)).replica(&replica("b", 1, 2, ReplicaState::Ready));
    content.put(Content::keys().model("m"), asked).put(Content::keys().rollout("m"), record)
}

/// Version 1 as fp32@ort on worker `a`, as int8@ort on worker `b`.
fn variants(asked: &ModelRecord, record: &RolloutRecord) -> Content {
    let int8: VariantRecord = serde_json::from_value(json!({
        "name": "int8@ort", "artifact": "1".repeat(64), "files": [], "bytes_resident": 1, "accuracy": 0.98, "metric": "agreement",
        "data": "2".repeat(64),
    }))
    .unwrap();
    let int8_on_b = policy::ReplicaRecord { variant: VariantId::parse("m:1:int8@ort").unwrap(), ..replica("b", 1, 1, ReplicaState::Ready) };
    let content = Content::default().worker(&worker("a", 1)).worker(&worker("b", 1));
    let content = content.version(&VersionRecord { variants: vec![int8], ..served(1) });
    let content = content.replica(&replica("a", 1, 1, ReplicaState::Ready)).replica(&int8_on_b);
    content.put(Content::keys().model("m"), asked).put(Content::keys().rollout("m"), record)
}

fn says(numbers: &[f32]) -> Behaviour {
    Behaviour::Says(numbers.to_vec())
}

/// A gateway over `content` whose workers say the same.
async fn start(content: &Content) -> (Shard, Arc<Workers>) {
    let (shard, workers) = gateway([("a", says(&[0.1, 0.9])), ("b", says(&[0.1, 0.9]))]).await;
    shard.core.install(content.table());
    (shard, workers)
}

async fn ask_for(shard: &Shard, version: &str, parameter: Option<(&str, Param)>) -> Result<String, Failure> {
    let input =
        InputTensor { name: "x".into(), datatype: "FP32".into(), shape: Shape::from_slice(&[1]), byte_length: 4, ..Default::default() };
    let parameters = parameter.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let envelope = Envelope { model: "m".into(), version: version.into(), inputs: vec![input], parameters, ..Default::default() };
    shard.answer(envelope, Tensors::Here(vec![Chain::from(vec![0; 4])]), of("t")).await.map(|reply| reply.reply.model)
}

/// A gateway that compares every request, and what asks it.
pub(crate) async fn rolling_out() -> (Shard, impl AsyncFn(Shard)) {
    let (shard, _) = start(&versions(&wanting(&to_version()), &record(&to_version(), 0.5, 1.0))).await;
    let ask = async |shard: Shard| {
        ask(&shard).await.unwrap();
        tokio::task::yield_now().await;
    };
    (shard, ask)
}

async fn ask(shard: &Shard) -> Result<String, Failure> {
    ask_for(shard, "", None).await
}

fn counts(shard: &Shard) -> Counts {
    let table = shard.core.table.load();
    table.models["m"].rolling.as_ref().unwrap().counted(shard.core.now()).unwrap().counts
}

/// Waits until so many copies came to something.
async fn copies(shard: &Shard, count: u64) -> Counts {
    loop {
        let counts = counts(shard);
        if counts.pairs.compared + counts.skipped >= count {
            return counts;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_names_nothing_is_split_by_weight_and_who_names_something_is_not() {
    let content = versions(&wanting(&to_version()), &record(&to_version(), 0.25, 0.0));
    let (shard, workers) = start(&content).await;
    for _ in 0..400 {
        ask(&shard).await.unwrap();
    }
    let of_candidate = workers.asked_of("b");
    assert!((55..=145).contains(&of_candidate), "{of_candidate} of 400 at a weight of a quarter");
    let long = counts(&shard).latency;
    assert_eq!((long.candidate.long.total as usize, long.baseline.long.total as usize), (of_candidate, 400 - of_candidate));
    for _ in 0..40 {
        assert_eq!(ask_for(&shard, "1", None).await.unwrap(), "a");
        assert_eq!(ask_for(&shard, "2", None).await.unwrap(), "b");
        assert_eq!(ask_for(&shard, "", Some(("sluice_variant", Param::String("fp32@ort".into())))).await.unwrap(), "a");
    }
    assert_eq!(counts(&shard).latency.candidate.long.total as usize, of_candidate, "what was named was not drawn");
}

#[tokio::test]
async fn a_side_that_is_not_there_is_stood_in_for_and_that_is_counted() {
    let content = versions(&wanting(&to_version()), &record(&to_version(), 1.0, 0.0));
    let (shard, workers) = start(&content.replica(&replica("b", 1, 2, ReplicaState::Draining))).await;
    for _ in 0..20 {
        assert_eq!(ask(&shard).await.unwrap(), "a");
    }
    let latency = counts(&shard).latency;
    assert_eq!((latency.candidate.long.total, latency.candidate.long.late), (20, 20));
    assert_eq!((latency.baseline.long.total, latency.baseline.long.late, workers.asked_of("b")), (20, 0, 0));
}

#[tokio::test]
async fn a_candidate_that_refuses_what_the_baseline_takes_is_stood_in_for() {
    let mut other = served(2);
    other.signature.inputs[0].name = "pixels".into();
    let content = versions(&wanting(&to_version()), &record(&to_version(), 1.0, 0.0)).version(&other);
    let (shard, _) = start(&content).await;
    assert_eq!(ask(&shard).await.unwrap(), "a");
    assert_eq!(counts(&shard).latency.candidate.long.late, 1);
}

#[tokio::test]
async fn what_has_failed_fails_its_caller_and_is_counted_as_late() {
    let content = versions(&wanting(&to_version()), &record(&to_version(), 1.0, 0.0));
    let (shard, workers) = start(&content).await;
    workers.set("b", Behaviour::Fails(Failure::Engine { reason: "x".into() }));
    assert!(matches!(ask(&shard).await, Err(Failure::Engine { .. })));
    workers.set("b", Behaviour::Fails(Failure::EngineInput { what: "x".into() }));
    assert!(ask(&shard).await.is_err());
    let latency = counts(&shard).latency;
    assert_eq!((latency.candidate.long.total, latency.candidate.long.late), (1, 1), "a caller's mistake is nobody's fault");
}

#[tokio::test]
async fn before_it_begins_and_after_it_lost_the_candidate_answers_nobody_and_after_it_won_everybody() {
    let mut waits = record(&to_version(), 0.0, 0.0);
    waits.baseline = None;
    let ended = |end: End| {
        let mut record = record(&to_version(), 0.0, 0.0);
        record.progress.end = Some(end);
        record
    };
    let of_another = record(&Rollout { step_s: 1, ..to_version() }, 1.0, 0.0);
    for (record, who) in [(waits.clone(), "a"), (of_another, "a"), (ended(End::RolledBack("x".into())), "a"), (ended(End::Promoted), "b")] {
        let (shard, _) = start(&versions(&wanting(&to_version()), &record)).await;
        for _ in 0..10 {
            assert_eq!(ask(&shard).await.unwrap(), who, "{record:?}");
        }
    }
    let without = |record: &RolloutRecord| versions(&wanting(&to_version()), record).replica(&replica("a", 1, 1, ReplicaState::Draining));
    let (shard, _) = start(&without(&ended(End::RolledBack("x".into())))).await;
    assert!(ask(&shard).await.is_err(), "not even where nobody else can");
    assert_eq!(ask_for(&shard, "2", None).await.unwrap(), "b");
    let (shard, _) = start(&without(&waits)).await;
    assert_eq!(ask(&shard).await.unwrap(), "b", "it may have been served before");
}

#[tokio::test]
async fn copies_are_compared_and_change_no_answer() {
    for (weight, who) in [(0.0, "a"), (1.0, "b")] {
        let content = versions(&wanting(&to_version()), &record(&to_version(), weight, 1.0));
        let (shard, workers) = start(&content).await;
        workers.set("b", says(&[0.2, 0.8]));
        for _ in 0..10 {
            assert_eq!(ask(&shard).await.unwrap(), who);
        }
        let agreed = copies(&shard, 10).await;
        assert_eq!((agreed.pairs, agreed.skipped), (Pairs { compared: 10, disagreed: 0 }, 0), "the same class");
        workers.set("b", says(&[0.9, 0.1]));
        for _ in 0..5 {
            assert_eq!(ask(&shard).await.unwrap(), who);
        }
        assert_eq!(copies(&shard, 15).await.pairs, Pairs { compared: 15, disagreed: 5 });
        let latency = counts(&shard).latency;
        assert_eq!((latency.candidate.long.total, latency.baseline.long.total), (15, 15), "copies included");
        assert_eq!((workers.asked_of("a"), workers.asked_of("b")), (15, 15));
        let soon = shard.core.now().after(Duration::from_secs(1));
        let offered = shard.core.table.load().models["m"].offered.lock().unwrap().demand(soon).fast;
        assert!((1.0..16.0).contains(&offered), "a copy is not asked for: {offered} rows a second");
    }
}

#[tokio::test]
async fn a_candidate_that_fails_where_the_baseline_answers_disagrees() {
    for weight in [0.0, 1.0] {
        let content = versions(&wanting(&to_version()), &record(&to_version(), weight, 1.0));
        let (shard, workers) = start(&content).await;
        workers.set("b", Behaviour::Fails(Failure::Engine { reason: "x".into() }));
        assert_eq!(ask(&shard).await.is_ok(), weight == 0.0);
        assert_eq!(copies(&shard, 1).await.pairs, Pairs { compared: 1, disagreed: 1 });
        workers.set("b", Behaviour::Fails(Failure::ConnectionLost));
        let _ = ask(&shard).await;
        assert_eq!(copies(&shard, 2).await.skipped, 1, "that it cannot be reached says nothing of its answers");
    }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_hangs_delays_nobody_and_holds_a_bounded_number_of_copies() {
    let content = versions(&wanting(&to_version()), &record(&to_version(), 0.0, 1.0));
    let (shard, workers) = start(&content).await;
    workers.set("b", Behaviour::Hangs);
    let began = tokio::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(ask(&shard).await.unwrap(), "a");
        tokio::task::yield_now().await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((workers.asked_of("b"), counts(&shard).skipped), (32, 68));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let counts = counts(&shard);
    assert_eq!((counts.skipped, counts.pairs, counts.latency.candidate.long.late), (100, Pairs::default(), 32));
    workers.set("b", says(&[0.1, 0.9]));
    ask(&shard).await.unwrap();
    assert_eq!(copies(&shard, 101).await.pairs.compared, 1, "their places are free again");
}

#[tokio::test]
async fn where_others_wait_nothing_is_copied() {
    let content = versions(&wanting(&to_version()), &record(&to_version(), 0.0, 1.0));
    let (shard, workers) = start(&content).await;
    let core = shard.core.clone();
    let _most = core.door.enter(core.now(), &of("another"), 3 << 18).await.unwrap();
    let waiting = tokio::spawn({
        let shard = shard.clone();
        async move { ask(&shard).await }
    });
    while core.door.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let table = core.table.load_full();
    let envelope = Envelope { model: "m".into(), ..Default::default() };
    let rolling = table.models["m"].rolling.clone().unwrap();
    assert!(shard.take_copy(&rolling, &envelope, &Tensors::default(), &of("t")).is_none());
    assert_eq!((counts(&shard).skipped, workers.asked()), (1, 0));
    waiting.abort();
}

#[tokio::test]
async fn a_variant_is_split_withheld_and_taken_over_by_as_a_version_is() {
    let int8 = rollout(json!({ "variant": "int8@ort" }));
    let pin = |name: &str| Some(("sluice_variant", Param::String(name.into())));
    let (shard, workers) = start(&variants(&wanting(&int8), &record(&int8, 0.5, 0.0))).await;
    for _ in 0..100 {
        ask(&shard).await.unwrap();
    }
    let of_candidate = workers.asked_of("b");
    assert!((25..=75).contains(&of_candidate), "{of_candidate} of 100 at a half");
    assert_eq!(ask_for(&shard, "", pin("int8@ort")).await.unwrap(), "b");
    let floor = Some(("sluice_min_accuracy", Param::Double(0.99)));
    for _ in 0..20 {
        assert_eq!(ask_for(&shard, "", floor.clone()).await.unwrap(), "a");
    }
    assert_eq!(counts(&shard).latency.candidate.long.late, 0, "that a caller asks for more than it has is no fault");

    let mut ended = record(&int8, 1.0, 0.0);
    ended.progress.end = Some(End::Promoted);
    let (shard, _) = start(&variants(&wanting(&int8), &ended)).await;
    assert_eq!(ask(&shard).await.unwrap(), "b", "whatever the choice by accuracy would be");
    assert_eq!(ask_for(&shard, "", floor).await.unwrap(), "a");
    ended.progress.end = Some(End::RolledBack("x".into()));
    let content = variants(&wanting(&int8), &ended);
    let (shard, _) = start(&content).await;
    for _ in 0..20 {
        assert_eq!(ask(&shard).await.unwrap(), "a");
    }
    assert_eq!(ask_for(&shard, "", pin("int8@ort")).await.unwrap(), "b");
    let (shard, _) = start(&content.replica(&replica("a", 1, 1, ReplicaState::Draining))).await;
    assert!(ask(&shard).await.is_err(), "not even where nobody else can");
}

#[tokio::test]
async fn a_variant_is_compared_with_the_reference_by_its_cards_metric() {
    let int8 = rollout(json!({ "variant": "int8@ort" }));
    let (shard, workers) = start(&variants(&wanting(&int8), &record(&int8, 0.0, 1.0))).await;
    assert_eq!(shard.core.table.load().models["m"].rolling.as_ref().unwrap().likeness, Likeness::Classes);
    workers.set("b", says(&[0.6, 0.4]));
    assert_eq!(ask(&shard).await.unwrap(), "a");
    assert_eq!(copies(&shard, 1).await.pairs, Pairs { compared: 1, disagreed: 1 });
    // Of a baseline of several variants only what the reference said is compared.
    workers.set("a", Behaviour::Answers);
    ask(&shard).await.unwrap();
    assert_eq!(copies(&shard, 2).await.skipped, 1);
}

#[test]
fn counts_outlive_a_table_but_not_their_look_nor_their_rollout() {
    let build = |record: &RolloutRecord, before: &Table| {
        let content = versions(&wanting(&to_version()), record);
        Table::build(&content.0, &Content::keys(), ("s", "z"), &Metrics::new(), before)
    };
    let rolling = |table: &Table| table.models["m"].rolling.clone().unwrap();
    let now = Moment::from_us(1);
    let counted =
        |table: &Table| rolling(table).counted(now).map(|c| (c.rollout, c.counts.look, c.counts.pairs.compared, c.counts.latency));
    let mut record = record(&to_version(), 0.5, 0.5);
    let first = build(&record, &Table::default());
    rolling(&first).compared(Pairs { compared: 3, disagreed: 1 });
    rolling(&first).observe(now, Side::Candidate, true);
    let latency = counted(&first).unwrap().3;
    assert_eq!(latency.candidate.long.late, 1);
    let second = build(&record, &first);
    assert_eq!(counted(&second), Some((7, 1, 3, latency)));
    record.progress.look = 2;
    let third = build(&record, &second);
    assert_eq!(counted(&third), Some((7, 2, 0, latency)));
    record.id = 8;
    assert_eq!(counted(&build(&record, &third)), Some((8, 2, 0, Default::default())));
    record.progress.end = Some(End::Promoted);
    assert_eq!(counted(&build(&record, &third)), None, "there is nothing to decide any more");
}

#[tokio::test]
async fn an_alias_means_its_version_and_a_model_without_a_rollout_has_nothing_of_one() {
    let aliases = [("stable", 1), ("canary", 2), ("gone", 3)].map(|(name, n)| (name.to_owned(), Version::try_from(n).unwrap())).into();
    let asked = ModelRecord { aliases, versions: ["1", "2"].map(|n| Version::parse(n).unwrap()).into(), ..model(true) };
    let (shard, _) = start(&versions(&asked, &record(&to_version(), 1.0, 1.0))).await;
    assert!(shard.core.table.load().models["m"].rolling.is_none(), "a record of what nobody wants any more");
    assert_eq!(ask_for(&shard, "stable", None).await.unwrap(), "a");
    assert_eq!(ask_for(&shard, "canary", None).await.unwrap(), "b");
    let said = |failure: Failure| (failure.wire().0, failure.to_string());
    let unknown = said(ask_for(&shard, "beta", None).await.unwrap_err());
    let text = "model `m`: version `beta` is neither a number nor an alias of this model (canary, gone, stable)";
    assert_eq!(unknown, (Code::InvalidArgument, text.to_owned()));
    assert_eq!(said(ask_for(&shard, "gone", None).await.unwrap_err()), (Code::NotFound, "model `m` has no version gone".to_owned()));
    assert!(said(ask_for(&shard, &"é".repeat(9_000), None).await.unwrap_err()).1.len() < 400);
    let oip = crate::oip::Oip(shard.clone());
    assert_eq!((oip.ready("m", "stable"), oip.ready("m", "gone").is_err()), (Ok(true), true));
}
