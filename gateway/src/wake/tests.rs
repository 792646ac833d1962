use super::*;
use crate::demand;
use crate::infer::tests::{Behaviour, Workers, ask, gateway_on, of, version_that_takes_numbers};
use crate::oip::Oip;
use crate::testing::{Content, model, replica, worker};
use futures_util::FutureExt as _;
use policy::{Code, DemandRecord, IdleRecord, ModelRecord, PlanRecord, ReplicaState, Rest};
use proto::call::{InferReply, Tensors};
use proto::chain::Chain;
use registry::{Embedded, Registry, decode};

/// `m` with an `idle_s` of 4, after a plan that says `idle` and cannot place it for `reason`.
fn content(idle: IdleRecord, reason: Option<&str>) -> Content {
    let unplaced: Vec<_> = reason.iter().map(|reason| serde_json::json!({"version": 1, "reason": reason})).collect();
    let plan = serde_json::json!({"model": "m", "epoch": 1, "revision": 1, "unplaced": unplaced, "idle": idle});
    let plan: PlanRecord = serde_json::from_value(plan).unwrap();
    ["a", "b"]
        .into_iter()
        .fold(Content::default(), |content, id| content.worker(&worker(id, 1)))
        .version(&version_that_takes_numbers())
        .put(Content::keys().model("m"), &ModelRecord { idle_s: Some(4), ..model(true) })
        .put(Content::keys().plan("m"), &plan)
}

fn resting(rest: Rest, load_ms: Option<u64>) -> Content {
    content(IdleRecord { since_s: None, rest: Some(rest), load_ms }, None)
}

/// A gateway whose model `m` is asleep.
async fn asleep(load_ms: Option<u64>) -> (Shard, Arc<Workers>, Arc<dyn Registry>) {
    let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
    let (shard, workers) = gateway_on(registry.clone(), [("a", Behaviour::Answers), ("b", Behaviour::Answers)], 2_000).await;
    shard.core.install(resting(Rest::Asleep, load_ms).table());
    (shard, workers, registry)
}

type Asking = tokio::task::JoinHandle<Result<InferReply, Failure>>;

/// Asks until `count` requests wait.
async fn waiting(shard: &Shard, count: usize, timeout: Option<Duration>) -> Vec<Asking> {
    let ask = |_| {
        let shard = shard.clone();
        tokio::spawn(async move { ask(&shard, timeout).await })
    };
    let asking = (0..count).map(ask).collect();
    while shard.core.sleepers.requests() < count {
        tokio::task::yield_now().await;
    }
    asking
}

#[tokio::test]
async fn two_hundred_requests_at_once_wake_a_model_once_and_are_all_answered() {
    let (shard, workers, registry) = asleep(Some(500)).await;
    tokio::spawn(demand::tell(shard.core.clone(), registry.clone()));
    tokio::task::yield_now().await;
    let asking = waiting(&shard, 200, Some(Duration::from_secs(60))).await;
    let began = Instant::now();
    let told = loop {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody was told");
        let mut told = registry.list(&Content::keys().demand("")).await.unwrap().entries;
        match told.pop() {
            Some(told) => break told,
            None => tokio::task::yield_now().await,
        }
    };
    let record: DemandRecord = decode(&told, policy::SCHEMA).unwrap();
    assert!(record.models.iter().all(|(model, demand)| model.as_str() == "m" && !demand.quiet) && record.models.len() == 1, "{record:?}");
    shard.core.install(resting(Rest::Waking, Some(500)).table());
    tokio::task::yield_now().await;
    assert_eq!((shard.core.sleepers.requests(), workers.asked()), (200, 0));
    shard.core.install(resting(Rest::Waking, Some(500)).replica(&replica("a", 1, 1, ReplicaState::Ready)).table());
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap().reply.model, "a");
    }
    assert_eq!((workers.asked(), shard.core.sleepers.requests()), (200, 0));
    shard.core.sleepers.bell.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await; // it looks again, and there is no news
    }
    let now = registry.list(&Content::keys().demand("")).await.unwrap().entries;
    assert!(now.len() == 1 && now[0].revision == told.created, "the cluster was told once");
}

#[tokio::test]
async fn a_request_that_is_given_up_waits_no_more() {
    let (shard, ..) = asleep(None).await;
    let asking = waiting(&shard, 2, Some(Duration::from_secs(60))).await;
    asking.iter().for_each(Asking::abort);
    for asking in asking {
        assert!(asking.await.unwrap_err().is_cancelled());
    }
    let table = shard.core.table.load_full();
    let version = table.resolve("m", "").unwrap();
    let late = shard.core.now().after(Duration::from_secs(9));
    assert!(!version.offered.lock().unwrap().is_asked_within(late, quiet_after_us(4)), "nor keeps it awake");
    assert_eq!((shard.core.sleepers.requests(), shard.core.sleepers.lock().bytes, shard.core.door.bytes()), (0, 0, 0));
    assert_eq!(shard.core.metrics.lost_at("wake", "cancelled"), 2);
}

#[tokio::test]
async fn who_cannot_wait_as_long_as_the_load_takes_is_told_so_at_once_and_wakes_it_all_the_same() {
    let (shard, workers, _registry) = asleep(Some(50_000)).await;
    let began = Instant::now();
    let failure = ask(&shard, Some(Duration::from_secs(20))).await.unwrap_err();
    assert_eq!(failure, Failure::Asleep { model: "m".into(), retry_ms: 50_000 });
    assert_eq!((failure.wire().0, failure.retry_ms()), (Code::Unavailable, Some(50_000)));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(shard.core.sleepers.rung().now_or_never().is_some(), "the cluster is to be told now");
    let table = shard.core.table.load_full();
    let offered = table.resolve("m", "").unwrap().offered.clone();
    assert!(offered.lock().unwrap().is_asked_within(shard.core.now(), quiet_after_us(4)));
    assert_eq!(workers.asked(), 0);
    let failure = ask(&shard, Some(Duration::from_millis(20))).await.unwrap_err();
    assert!(matches!(failure, Failure::Asleep { .. }), "{failure}");
    shard.core.install(resting(Rest::Asleep, None).table());
    let failure = ask(&shard, Some(Duration::from_millis(20))).await.unwrap_err();
    assert!(matches!(failure, Failure::DeadlineExceeded { .. }), "where nobody knows how long, it waits: {failure}");
}

#[tokio::test]
async fn a_load_that_fails_is_the_answer_of_all_who_wait() {
    for (failed, reason) in [(true, "no such operator"), (false, "needs 9 GB, no device it may use has more than 1 GB free")] {
        let (shard, ..) = asleep(Some(500)).await;
        let asking = waiting(&shard, 3, Some(Duration::from_secs(60))).await;
        let now = content(IdleRecord::default(), Some(reason));
        let replica = replica("a", 1, 1, ReplicaState::Failed(reason.into()));
        shard.core.install(if failed { now.replica(&replica).table() } else { now.table() });
        for asking in asking {
            let failure = asking.await.unwrap().unwrap_err();
            assert!(failure.to_string().contains(reason), "{failure}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_deadline_waits_a_minute() {
    let (shard, ..) = asleep(Some(7)).await;
    let began = tokio::time::Instant::now();
    let failure = ask(&shard, None).await.unwrap_err();
    assert_eq!((failure, began.elapsed().as_secs()), (Failure::Asleep { model: "m".into(), retry_ms: 7 }, 60));
}

#[tokio::test]
async fn those_who_wait_are_bounded_in_number_and_bytes() {
    let (shard, ..) = asleep(None).await;
    let table = shard.core.table.load_full();
    let version = table.resolve("m", "").unwrap();
    let enter = |bytes| Sleeper::enter(&shard.core, version, bytes);
    assert!(enter((1 << 18) + 1).is_none(), "a quarter of what the gateway may hold");
    let held: Vec<_> = (0..WAITING_MAX).map_while(|_| enter(8)).collect();
    assert_eq!(held.len(), WAITING_MAX);
    assert!(enter(8).is_none());
    let failure = ask(&shard, Some(Duration::from_secs(60))).await.unwrap_err();
    assert!(matches!(failure, Failure::Asleep { .. }), "{failure}");
    drop(held);
    assert!(enter(8).is_some());
}

#[tokio::test]
async fn a_request_that_could_never_be_run_wakes_nothing() {
    let (shard, ..) = asleep(None).await;
    let envelope = Envelope { model: "m".into(), ..Default::default() };
    let answer = shard.answer(envelope, Tensors::Here(vec![Chain::from(vec![0; 4])]), of("t")).await;
    assert!(matches!(answer, Err(Failure::InputCount { .. })), "{:?}", answer.err());
    let table = shard.core.table.load_full();
    let version = table.resolve("m", "").unwrap();
    assert!(!version.offered.lock().unwrap().is_asked_within(shard.core.now(), u64::MAX));
}

#[tokio::test]
async fn a_model_that_is_asleep_is_ready_and_tells_what_it_takes() {
    use proto::inference::grpc_inference_service_server::GrpcInferenceService as _;
    use proto::inference::{ModelMetadataRequest, RepositoryIndexRequest};
    let (shard, ..) = asleep(None).await;
    let oip = Oip(shard.clone());
    assert_eq!([oip.ready("m", ""), oip.ready("m", "1")], [Ok(true), Ok(true)]);
    assert!(shard.core.is_ready());
    let request = ModelMetadataRequest { name: "m".into(), version: String::new() };
    let metadata = oip.model_metadata(tonic::Request::new(request)).await.unwrap().into_inner();
    assert_eq!((metadata.versions, metadata.inputs.len()), (vec!["1".to_owned()], 1));
    let index = oip.repository_index(tonic::Request::new(RepositoryIndexRequest::default())).await.unwrap().into_inner();
    let [only] = index.models.as_slice() else { panic!("{index:?}") };
    assert_eq!((only.state.as_str(), only.reason.as_str()), ("READY", "asleep: the next request loads it"));
    // What its model does not want is not woken, nor what nobody wants at all.
    let unwanted = ModelRecord { idle_s: Some(4), ..model(false) };
    shard.core.install(resting(Rest::Asleep, None).put(Content::keys().model("m"), &unwanted).table());
    assert_eq!(oip.ready("m", ""), Ok(false));
}

#[test]
fn what_is_left_of_a_load_counts_from_when_it_was_seen_to_begin() {
    let remaining = |content: &Content, before: &crate::table::Table| {
        let table = content.table_after(before);
        let version = table.resolve("m", "").unwrap();
        (version.resting.as_ref().unwrap().remaining_ms().unwrap(), table)
    };
    let (asleep, table) = remaining(&resting(Rest::Asleep, Some(60_000)), &crate::table::Table::default());
    assert_eq!(asleep, 60_000);
    let waking = resting(Rest::Waking, Some(60_000));
    let (_, table) = remaining(&waking, &table);
    let begun = table.resolve("m", "").unwrap().resting.as_ref().unwrap().waking_since;
    let (_, again) = remaining(&waking, &table);
    assert_eq!(again.resolve("m", "").unwrap().resting.as_ref().unwrap().waking_since, begun);
}
