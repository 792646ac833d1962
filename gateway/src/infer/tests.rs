use super::*;
use crate::config::{GatewayConfig, ModelControl};
use crate::testing::{Content, replica, version, worker};
use futures_util::future::BoxFuture;
use policy::{InputTensor, ReplicaState, Reply, Shape, Signature, TensorSpec, Version, VersionState, WorkerRecord};
use proto::call::{LoadReport, Offer, ReplicaStatistics, Replies, Upstream};
use registry::Embedded;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::sync::Notify;

/// What a fake worker does with every call.
#[derive(Clone)]
pub(crate) enum Behaviour {
    Answers,
    /// Answers with these numbers.
    Says(Vec<f32>),
    /// Answers once it is told to.
    Waits(Arc<Notify>),
    Fails(Failure),
    Hangs,
}

/// Workers by id, with what they do and the calls they saw.
#[derive(Default)]
pub(crate) struct Workers {
    behaviour: Mutex<HashMap<String, Behaviour>>,
    calls: Mutex<Vec<(String, Option<Duration>)>>,
    dropped: Notify,
}

impl Workers {
    /// Calls so far.
    pub(crate) fn asked(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Calls so far of one of them.
    pub(crate) fn asked_of(&self, id: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(of, _)| of == id).count()
    }

    /// What a worker does from now on.
    pub(crate) fn set(&self, id: &str, behaviour: Behaviour) {
        self.behaviour.lock().unwrap().insert(id.to_owned(), behaviour);
    }

    /// Resolves when a hanging call is dropped.
    pub(crate) async fn call_dropped(&self) {
        self.dropped.notified().await;
    }
}

struct Fake {
    id: String,
    workers: Arc<Workers>,
}

/// Tells that a hanging call was dropped.
struct OnDrop(Arc<Workers>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

impl Upstream for Fake {
    fn infer(&self, call: InferCall) -> Replies {
        self.workers.calls.lock().unwrap().push((self.id.clone(), call.remaining));
        let behaviour = self.workers.behaviour.lock().unwrap().get(&self.id).cloned().unwrap_or(Behaviour::Answers);
        let (id, workers) = (self.id.clone(), self.workers.clone());
        Replies::one(async move {
            match behaviour {
                Behaviour::Answers => {
                    let parameters = policy::Served::default().into_parameters();
                    let reply = Reply { model: id, version: "1".into(), parameters, ..Reply::default() };
                    Ok(InferReply { reply, raw: vec![], load: LoadReport { senders: 3.0, ..LoadReport::default() } })
                }
                Behaviour::Says(numbers) => {
                    let variant = call.variant.name.to_string();
                    let parameters = policy::Served { variant, ..policy::Served::default() }.into_parameters();
                    let shape = Shape::from_slice(&[1, numbers.len() as i64]);
                    let output = policy::OutputTensor { name: "y".into(), datatype: "FP32".into(), shape, ..Default::default() };
                    let reply = Reply {
                        model: id,
                        version: call.variant.version.to_string(),
                        parameters,
                        outputs: vec![output],
                        ..Reply::default()
                    };
                    let raw = numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
                    Ok(InferReply { reply, raw: vec![Chain::from(raw)], load: LoadReport::default() })
                }
                Behaviour::Waits(told) => {
                    told.notified().await;
                    let reply = Reply { model: id, version: "1".into(), ..Reply::default() };
                    Ok(InferReply { reply, raw: vec![], load: LoadReport::default() })
                }
                Behaviour::Fails(failure) => Err(failure),
                Behaviour::Hangs => {
                    let _told = OnDrop(workers);
                    std::future::pending().await
                }
            }
        })
    }

    fn reachable(&self) -> bool {
        true
    }

    fn statistics(&self) -> BoxFuture<'static, Result<Vec<ReplicaStatistics>, Failure>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn offer(&self, _: Offer) -> BoxFuture<'static, Result<Vec<Version>, Failure>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// A gateway over workers `a` and `b` that both run `m:1`.
pub(crate) async fn gateway(behaviours: [(&str, Behaviour); 2]) -> (Shard, Arc<Workers>) {
    gateway_on(Arc::new(Embedded::open(None).unwrap()), behaviours, 2).await
}

/// The same with a registry of the test's, for so many requests of a tenant at once.
pub(crate) async fn gateway_on(
    registry: Arc<dyn registry::Registry>,
    behaviours: [(&str, Behaviour); 2],
    requests_max: u32,
) -> (Shard, Arc<Workers>) {
    let workers = Arc::new(Workers::default());
    workers.behaviour.lock().unwrap().extend(behaviours.map(|(id, b)| (id.to_owned(), b)));
    let dialled = workers.clone();
    let config = GatewayConfig {
        keys: Content::keys(),
        site: "s".into(),
        zone: "z".into(),
        message_bytes_max: 1 << 20,
        in_flight_bytes_max: 1 << 20,
        tenant: policy::admit::Budget { requests_max, ..Default::default() },
        trust_tenant: false,
        allow_client_shm: false,
        model_control: ModelControl::None,
        snapshot: None,
        runtimes: 1,
        dial: Arc::new(move |w: &WorkerRecord| Arc::new(Fake { id: w.id.to_string(), workers: dialled.clone() }) as Arc<dyn Upstream>),
        telemetry: Arc::new(crate::settings::tests::Fake::default()),
    };
    let record = version_that_takes_numbers();
    let content = ["a", "b"].into_iter().fold(Content::default().version(&record), |content, id| {
        content.worker(&worker(id, 1)).replica(&replica(id, 1, 1, ReplicaState::Ready))
    });
    let core = Arc::new(Core::new(config, registry));
    core.install(content.table());
    let shard = Shard::new(core);
    tokio::spawn(shard.clone().keep_upstreams());
    while shard.upstream(&WorkerId::new("b").unwrap()).is_none() {
        tokio::task::yield_now().await;
    }
    (shard, workers)
}

/// `m:1` with a number in and a number out, up to four at a time.
pub(crate) fn version_that_takes_numbers() -> policy::VersionRecord {
    let spec = TensorSpec { name: "x".into(), datatype: DataType::Fp32, shape: vec![-1], optional: false, graph_shape: None };
    let signature = Signature { max_batch_size: 4, inputs: vec![spec.clone()], outputs: vec![spec] };
    policy::VersionRecord { signature, ..version(1, VersionState::Valid) }
}

/// A request of `tenant`.
pub(crate) fn of(tenant: &str) -> Context {
    Context { caller: Caller { tenant: Arc::from(tenant) }, trace: None, asked: Headers::default(), deadline: None, part: None }
}

pub(crate) async fn ask(shard: &Shard, timeout: Option<Duration>) -> Result<InferReply, Failure> {
    let input =
        InputTensor { name: "x".into(), datatype: "FP32".into(), shape: Shape::from_slice(&[1]), byte_length: 4, ..Default::default() };
    let envelope = Envelope { model: "m".into(), inputs: vec![input], ..Default::default() };
    let context = Context { deadline: timeout.map(|length| Instant::now() + length), ..of("t") };
    shard.answer(envelope, Tensors::Here(vec![Chain::from(vec![0; 4])]), context).await
}

fn seen(workers: &Workers) -> Vec<String> {
    workers.calls.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
}

#[tokio::test]
async fn i5_a_lost_connection_is_tried_once_on_another_worker() {
    let (shard, workers) = gateway([("a", Behaviour::Fails(Failure::ConnectionLost)), ("b", Behaviour::Answers)]).await;
    for _ in 0..50 {
        assert_eq!(ask(&shard, None).await.unwrap().reply.model, "b");
    }
    let calls = seen(&workers);
    assert!(calls.iter().any(|id| id == "a"), "the draw never fell on a");
    assert!(calls.len() <= 52, "at most one attempt more per failure: {}", calls.len());
}

#[tokio::test]
async fn i4_a_worker_that_failed_is_left_out_at_once() {
    let (shard, workers) = gateway([("a", Behaviour::Fails(Failure::ConnectionLost)), ("b", Behaviour::Answers)]).await;
    while !seen(&workers).contains(&"a".to_owned()) {
        ask(&shard, None).await.unwrap();
    }
    workers.calls.lock().unwrap().clear();
    for _ in 0..50 {
        ask(&shard, None).await.unwrap();
    }
    assert!(!seen(&workers).contains(&"a".to_owned()), "its records are still there, its doubt is known");
}

#[tokio::test]
async fn i5_what_may_have_run_is_not_tried_again() {
    let engine = Failure::Engine { reason: "x".into() };
    let (shard, workers) = gateway([("a", Behaviour::Fails(engine.clone())), ("b", Behaviour::Fails(engine.clone()))]).await;
    assert_eq!(ask(&shard, None).await.unwrap_err(), engine);
    assert_eq!(seen(&workers).len(), 1);
}

#[tokio::test]
async fn i5_two_lost_connections_are_one_clear_error() {
    let lost = Behaviour::Fails(Failure::ConnectionLost);
    let (shard, workers) = gateway([("a", lost.clone()), ("b", lost)]).await;
    assert_eq!(ask(&shard, None).await.unwrap_err(), Failure::ConnectionLost);
    assert_eq!(seen(&workers).len(), 2);
}

#[tokio::test]
async fn i7_at_its_deadline_a_call_is_answered_and_given_up() {
    let (shard, workers) = gateway([("a", Behaviour::Hangs), ("b", Behaviour::Hangs)]).await;
    let failure = ask(&shard, Some(Duration::from_millis(30))).await.unwrap_err();
    assert!(matches!(failure, Failure::DeadlineExceeded { .. }), "{failure}");
    workers.dropped.notified().await;
    let (_, remaining) = workers.calls.lock().unwrap().remove(0);
    assert!(remaining.unwrap() <= Duration::from_millis(30), "a child's deadline is never later than its parent's");
    assert!(matches!(ask(&shard, Some(Duration::ZERO)).await.unwrap_err(), Failure::DeadlineExceeded { .. }));
    assert!(workers.calls.lock().unwrap().is_empty(), "nothing is sent that is late already");
}

#[tokio::test]
async fn i7_who_got_no_answer_in_time_is_counted_where_it_was() {
    let lost = |shard: &Shard, stage, why| shard.core.metrics.lost_at(stage, why);
    let (shard, workers) = gateway([("a", Behaviour::Hangs), ("b", Behaviour::Hangs)]).await;
    ask(&shard, Some(Duration::from_millis(5))).await.unwrap_err();
    assert_eq!(lost(&shard, "worker", "expired"), 1);
    ask(&shard, Some(Duration::ZERO)).await.unwrap_err();
    assert_eq!(lost(&shard, "choose", "expired"), 1);
    workers.call_dropped().await;
    let full = shard.core.door.enter(shard.core.now(), &of("another"), 3 << 18).await.unwrap();
    ask(&shard, Some(Duration::from_millis(5))).await.unwrap_err();
    assert_eq!(lost(&shard, "door", "expired"), 1);
    drop(full);
    let asking = tokio::spawn({
        let shard = shard.clone();
        async move { ask(&shard, None).await }
    });
    while workers.asked() < 2 {
        tokio::task::yield_now().await;
    }
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert_eq!((lost(&shard, "worker", "cancelled"), lost(&shard, "door", "cancelled")), (1, 0));
    assert!(shard.core.metrics.render().contains("sluice_gateway_lost_total{stage=\"worker\",why=\"expired\"} 1"));
    for (failure, why) in [(Failure::DeadlineExceeded { late_us: 1 }, "expired"), (Failure::Hopeless { late_us: 1 }, "hopeless")] {
        let (shard, _) = gateway([("a", Behaviour::Fails(failure.clone())), ("b", Behaviour::Fails(failure))]).await;
        ask(&shard, None).await.unwrap_err();
        assert_eq!((lost(&shard, "queue", why), lost(&shard, "worker", why)), (1, 0));
    }
    let (shard, _) = gateway([("a", Behaviour::Answers), ("b", Behaviour::Answers)]).await;
    ask(&shard, Some(Duration::from_secs(60))).await.unwrap();
    assert!(!shard.core.metrics.render().contains("lost_total{"), "an answer is no loss");
}

#[tokio::test]
async fn a_tenant_that_holds_its_share_is_refused_and_no_other() {
    let (shard, workers) = gateway([("a", Behaviour::Hangs), ("b", Behaviour::Hangs)]).await;
    let held: Vec<_> = (0..2)
        .map(|_| {
            let shard = shard.clone();
            tokio::spawn(async move { ask(&shard, None).await })
        })
        .collect();
    while workers.asked() < 2 {
        tokio::task::yield_now().await;
    }
    let refused = ask(&shard, None).await.unwrap_err();
    assert!(matches!(&refused, Failure::Quota { tenant, .. } if tenant == "t"), "{refused}");
    assert!(shard.core.door.enter(shard.core.now(), &of("another"), 4).await.is_ok());
    held.iter().for_each(tokio::task::JoinHandle::abort);
    for held in held {
        let _ = held.await;
    }
    assert_eq!(shard.core.door.bytes(), 0, "what was given up is given back");
    assert!(shard.core.door.enter(shard.core.now(), &of("t"), 4).await.is_ok());
}

#[tokio::test]
async fn who_finds_three_quarters_of_the_bytes_worked_on_waits_for_its_turn() {
    let (shard, workers) = gateway([("a", Behaviour::Answers), ("b", Behaviour::Answers)]).await;
    let most = shard.core.door.enter(shard.core.now(), &of("another"), 3 << 18).await.unwrap();
    let mut asking = std::pin::pin!(ask(&shard, None));
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(asking.as_mut().poll(cx).is_pending())).await);
    assert_eq!((workers.asked(), shard.core.door.waiting()), (0, 1));
    drop(most);
    assert!(asking.await.is_ok());
}

#[tokio::test]
async fn what_a_reply_tells_and_how_long_it_took_is_kept_for_the_next_choice() {
    let (shard, _) = gateway([("a", Behaviour::Answers), ("b", Behaviour::Answers)]).await;
    ask(&shard, None).await.unwrap();
    let table = shard.core.table.load_full();
    let gauges: Vec<_> =
        table.resolve("m", "1").unwrap().replicas.iter().map(|r| (r.gauge.senders(), r.gauge.path().to_parts()[0])).collect();
    assert!(gauges.iter().any(|(senders, rtt_us)| *senders == 3.0 && *rtt_us > 0.0), "{gauges:?}");
}

#[tokio::test]
async fn a_request_above_the_largest_batch_is_refused_or_answered_in_parts() {
    for split in [false, true] {
        let (shard, workers) = gateway([("a", Behaviour::Answers), ("b", Behaviour::Answers)]).await;
        let mut record = version(1, VersionState::Valid);
        record.split = split;
        let spec = TensorSpec { name: "x".into(), datatype: DataType::Fp32, shape: vec![-1], optional: false, graph_shape: None };
        record.signature = Signature { max_batch_size: 4, inputs: vec![spec.clone()], outputs: vec![spec] };
        let content = Content::default().version(&record).worker(&worker("a", 1)).replica(&replica("a", 1, 1, ReplicaState::Ready));
        shard.core.install(content.table());
        let input = InputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: Shape::from_slice(&[10]),
            byte_length: 40,
            ..Default::default()
        };
        let envelope = Envelope { model: "m".into(), inputs: vec![input], ..Default::default() };
        let answer = shard.answer(envelope, Tensors::Here(vec![Chain::from(vec![0; 40])]), of("t")).await;
        match split {
            true => assert_eq!((answer.is_ok(), workers.asked()), (true, 3), "4, 4 and 2 rows"),
            false => assert!(matches!(answer, Err(Failure::BatchTooLarge { rows: 10, .. }))),
        }
    }
}
