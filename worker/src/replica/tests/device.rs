//! Several replicas on one device: whose turn it is, what they tell of each other, and that nobody takes threads along.

use super::*;
use crate::runner::{Isolation, Loader};
use crate::testing::{model, no_openvino, runtime};
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU32;

/// A deadline long after everything here is over.
const LONG: Duration = Duration::from_secs(60);
/// How long a test waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn cores(n: usize) -> Arc<crate::gate::Gate> {
    crate::gate::Gate::of_cores(NonZeroUsize::new(n).unwrap())
}

/// A replica on the device of `gate` with an instance of `intra_threads` for each of `engines`.
fn start_at(gate: &Arc<crate::gate::Gate>, intra_threads: u32, engines: Vec<Box<dyn Engine>>) -> Arc<Replica> {
    let limits = Limits { queue_len_max: 64, ..LIMITS };
    let parts = Parts { gate: gate.clone(), intra_threads, limits, ..parts(Box::new(|_| ())) };
    Arc::new(Replica::start(parts, engines, None).unwrap())
}

/// A request that fills a batch.
fn full(value: f32, remaining: Option<Duration>) -> InferCall {
    call(value, LIMITS.rows_max, remaining)
}

/// What becomes true, before a test that waits for it would hang.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn waits_at_gate(replica: &Replica, instances: usize) {
    until("an instance waits at the gate", || replica.shared.lock().at_gate == instances).await;
}

async fn begins(engine: &Gate) {
    until("its engine runs", || engine.runs.try_recv().is_ok()).await;
}

async fn holds(replica: &Replica, requests: usize) {
    until("so many are queued", || replica.shared.lock().batcher.len() == requests).await;
}

async fn answered(call: tokio::task::JoinHandle<Result<InferReply, Failure>>) -> Result<InferReply, Failure> {
    tokio::time::timeout(PATIENCE, call).await.expect("no answer").unwrap()
}

/// An engine that says on a list which values it ran.
fn listing(list: &Arc<Mutex<Vec<f32>>>) -> (Box<dyn Engine>, Gate) {
    let list = list.clone();
    gated(move |values| {
        list.lock().unwrap().push(values[0]);
        None
    })
}

#[tokio::test]
async fn runs_at_once_never_take_more_threads_than_the_device_has() {
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let engine = |threads: u32| -> Box<dyn Engine> {
        let (now, most) = (now.clone(), most.clone());
        let signature = EngineSignature { inputs: signature().inputs, outputs: signature().outputs, ..Default::default() };
        let compute = move |inputs: &[crate::engine::TensorView<'_>], _: &CancelFlag| {
            let (view, started) = (inputs[0], Instant::now());
            most.fetch_max(now.fetch_add(threads, Ordering::SeqCst) + threads, Ordering::SeqCst);
            while started.elapsed() < Duration::from_micros(500) {
                std::thread::yield_now();
            }
            now.fetch_sub(threads, Ordering::SeqCst);
            Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: view.shape.to_vec(), data: view.data.to_vec().into() }])
        };
        Box::new(FakeEngine::new(signature, Box::new(compute)))
    };
    let gate = cores(3);
    // The last wants more than there is.
    let replicas = [(1, 3), (2, 1), (5, 1)].map(|(threads, n)| start_at(&gate, threads, (0..n).map(|_| engine(threads.min(3))).collect()));
    let calls: Vec<_> = (0..20).flat_map(|_| replicas.iter().map(|replica| spawn(replica, full(1.0, None))).collect::<Vec<_>>()).collect();
    for call in calls {
        answered(call).await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3, "never more, and all of them at times");
}

#[tokio::test]
async fn the_earliest_deadline_on_the_device_goes_first_whichever_replica_it_waits_for() {
    let check = |mine: [Option<Duration>; 2], other: Option<Duration>, expected: [f32; 4]| async move {
        let (gate, list) = (cores(1), Arc::default());
        let (engine, busy) = listing(&list);
        let (other_engine, free) = listing(&list);
        let (replica, beside) = (start_at(&gate, 1, vec![engine]), start_at(&gate, 1, vec![other_engine]));
        let mut calls = vec![spawn(&replica, full(0.0, None))];
        begins(&busy).await;
        calls.push(spawn(&replica, full(1.0, mine[0])));
        calls.push(spawn(&replica, full(2.0, mine[1])));
        holds(&replica, 2).await;
        calls.push(spawn(&beside, full(3.0, other)));
        waits_at_gate(&beside, 1).await;
        drop((busy.go, free.go));
        for call in calls {
            answered(call).await.unwrap();
        }
        assert_eq!(*list.lock().unwrap(), expected, "{mine:?} {other:?}");
    };
    check([Some(LONG); 2], Some(LONG / 2), [0.0, 3.0, 1.0, 2.0]).await;
    check([None, None], Some(LONG), [0.0, 3.0, 1.0, 2.0]).await;
    check([Some(LONG); 2], None, [0.0, 1.0, 2.0, 3.0]).await; // the device goes from one run to the next of the same
    check([Some(LONG / 4), Some(LONG)], Some(LONG / 2), [0.0, 1.0, 3.0, 2.0]).await;
    check([None, None], None, [0.0, 3.0, 1.0, 2.0]).await; // they take turns
}

#[tokio::test]
async fn a_request_that_comes_while_its_replica_waits_counts_and_rides_along() {
    let (gate, list) = (cores(1), Arc::default());
    let ((engine, busy), (second, go), (third, free)) = (listing(&list), listing(&list), listing(&list));
    let [replica, lax, late] = [engine, second, third].map(|engine| start_at(&gate, 1, vec![engine]));
    let first = spawn(&replica, call(0.0, 1, None));
    begins(&busy).await;
    let other = spawn(&lax, call(1.0, 1, Some(LONG / 2)));
    waits_at_gate(&lax, 1).await;
    let early = spawn(&late, call(2.0, 1, Some(LONG)));
    waits_at_gate(&late, 1).await;
    let urgent = spawn(&late, call(3.0, 1, Some(LONG / 4)));
    holds(&late, 2).await;
    drop((busy.go, go.go, free.go));
    for call in [first, other, early, urgent] {
        answered(call).await.unwrap();
    }
    assert_eq!(*list.lock().unwrap(), [0.0, 3.0, 1.0]);
    assert_eq!(free.runs.try_iter().collect::<Vec<_>>(), [2], "its batch was formed when its turn had come");
}

#[tokio::test]
async fn a_reply_of_an_idle_replica_tells_the_backlog_of_the_other() {
    let gate = cores(2);
    let (engine, busy) = gated(|_| None);
    let (other, free) = gated(|_| None);
    drop(free.go);
    let second = Latency { alpha_us: 1e6, beta_us: 0.0 };
    let slow = Parts { gate: gate.clone(), latency: second, ..parts(Box::new(|_| ())) };
    let slow = Arc::new(Replica::start(slow, vec![engine], None).unwrap());
    let idle = start_at(&gate, 1, vec![other]);
    let told = || async { answered(spawn(&idle, full(1.0, None))).await.unwrap().load.backlog.all_us() };
    let running = spawn(&slow, full(1.0, None));
    begins(&busy).await;
    let running_only = told().await;
    assert!((1_000_000..=2_000_000).contains(&running_only), "the rest of four seconds over two cores: {running_only}");
    let waiting = [(); 3].map(|()| spawn(&slow, full(2.0, None)));
    holds(&slow, 3).await;
    let all = told().await;
    assert!((7_000_000..=8_000_000).contains(&all), "twelve more: {all}");
    let [given_up, ..] = &waiting;
    given_up.abort();
    holds(&slow, 2).await;
    assert!((5_000_000..=6_000_000).contains(&told().await));
    drop(busy.go);
    answered(running).await.unwrap();
    for call in waiting {
        let _ = call.await;
    }
    assert_eq!(told().await, 0);
}

#[tokio::test]
async fn a_replica_that_goes_while_it_waits_neither_blocks_nor_takes_threads_along() {
    let gate = cores(1);
    let (engine, busy) = gated(|_| None);
    let replica = start_at(&gate, 1, vec![engine]);
    let alive = Arc::new(());
    let going = |alive: Arc<()>| {
        let (engine, gate_of_it) = gated(move |_| {
            let _until_it_is_dropped = &alive;
            None
        });
        drop(gate_of_it.go);
        (start_at(&gate, 1, vec![engine]), gate_of_it.runs)
    };
    let running = spawn(&replica, full(1.0, None));
    begins(&busy).await;
    // Its caller goes: nothing is waited for.
    let (left, runs) = going(alive.clone());
    let waiting = spawn(&left, full(2.0, Some(LONG)));
    waits_at_gate(&left, 1).await;
    waiting.abort();
    waits_at_gate(&left, 0).await;
    // It is dropped: its thread ends though the device is busy.
    let waiting = spawn(&left, full(2.0, Some(LONG)));
    waits_at_gate(&left, 1).await;
    waiting.abort();
    drop((left, waiting));
    until("its engine is gone", || Arc::strong_count(&alive) == 1).await;
    // It fails while an instance waits.
    let (failing, _runs) = going(alive.clone());
    let waiting = spawn(&failing, full(2.0, Some(LONG)));
    waits_at_gate(&failing, 1).await;
    failing.shared.fail("on purpose".to_owned(), 0);
    assert!(answered(waiting).await.is_err());
    until("its engine is gone", || Arc::strong_count(&alive) == 1).await;
    // It is drained: what it has is answered in its turn.
    let (drained, _runs) = going(alive.clone());
    let waiting = spawn(&drained, full(2.0, None));
    waits_at_gate(&drained, 1).await;
    let drain = {
        let drained = drained.clone();
        tokio::spawn(async move { drained.drain().await })
    };
    until("it takes no more", || drained.shared.lock().closed).await;
    drop(busy.go);
    answered(running).await.unwrap();
    answered(waiting).await.unwrap();
    tokio::time::timeout(PATIENCE, drain).await.unwrap().unwrap();
    answered(spawn(&replica, full(3.0, None))).await.unwrap();
    assert_eq!(runs.try_iter().count(), 0, "nobody waited for what it had");
}

#[tokio::test]
async fn an_engine_that_fails_gives_its_threads_back() {
    for panics in [false, true] {
        let gate = cores(2);
        let (engine, busy) = gated(move |_| {
            assert!(!panics, "on purpose");
            Some(EngineError::Gone { reason: "on purpose".into() })
        });
        let (other, free) = gated(|_| None);
        drop(free.go);
        let (replica, beside) = (start_at(&gate, 2, vec![engine]), start_at(&gate, 1, vec![other]));
        let running = spawn(&replica, full(1.0, None));
        begins(&busy).await;
        let waiting = spawn(&beside, full(2.0, None));
        waits_at_gate(&beside, 1).await;
        drop(busy.go);
        assert!(answered(running).await.is_err());
        answered(waiting).await.unwrap();
    }
}

#[tokio::test]
async fn a_runner_that_dies_gives_the_threads_of_its_runs_back() {
    let Some(library) = runtime() else { return };
    let loader = Loader::new(library, no_openvino(), Isolation::Process, std::env::current_exe().unwrap());
    let spec = crate::engine::LoadSpec::cpu(model("bad/hang.onnx").unwrap(), NonZeroUsize::MIN);
    let loaded = loader.load("cpu", &spec).unwrap();
    let found = loaded.engine.signature().clone();
    let (gate, runner) = (cores(1), loaded.runner.unwrap());
    let signature = Signature { max_batch_size: 0, inputs: found.inputs, outputs: found.outputs };
    let parts = Parts { gate: gate.clone(), signature, runner: Some(runner.clone()), ..parts(Box::new(|_| ())) };
    let replica = Arc::new(Replica::start(parts, vec![loaded.engine], None).unwrap());
    let (other, free) = gated(|_| None);
    drop(free.go);
    let beside = start_at(&gate, 1, vec![other]);
    let mut endless = call(1.0, 2, None);
    Arc::make_mut(&mut endless.envelope).inputs[0].shape = Shape::from_slice(&[1, 4]);
    let running = spawn(&replica, InferCall { rows: 1, ..endless });
    until("it runs", || !replica.shared.lock().running.is_empty()).await;
    let waiting = spawn(&beside, full(2.0, None));
    waits_at_gate(&beside, 1).await;
    runner.kill();
    assert!(matches!(answered(running).await, Err(Failure::NotReady { .. })));
    answered(waiting).await.unwrap();
}

#[tokio::test]
async fn a_run_that_cannot_be_stopped_does_not_keep_its_threads() {
    let gate = cores(1);
    let (engine, stuck) = gated(|_| None);
    let (other, free) = gated(|_| None);
    drop(free.go);
    let (replica, beside) = (start_at(&gate, 1, vec![engine]), start_at(&gate, 1, vec![other]));
    let running = spawn(&replica, full(1.0, None));
    begins(&stuck).await;
    let waiting = spawn(&beside, full(2.0, None));
    waits_at_gate(&beside, 1).await;
    let now = replica.shared.now().after(OVERDUE);
    replica.watch_at(now);
    replica.watch_at(now.after(Duration::from_secs(5)));
    answered(waiting).await.unwrap();
    drop(stuck.go);
    assert!(answered(running).await.is_ok(), "it gets what its run gives");
    // What it gives back then is nobody's.
    let (engine, counted) = gated(|_| None);
    let third = start_at(&gate, 1, vec![engine]);
    let running = spawn(&third, full(3.0, None));
    begins(&counted).await;
    let waiting = spawn(&beside, full(4.0, None));
    waits_at_gate(&beside, 1).await;
    drop(counted.go);
    answered(running).await.unwrap();
    answered(waiting).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_to_answer_in_order_holds_no_threads() {
    let gate = cores(2);
    let ((one, first), (two, second), (other, free)) = (gated(|_| None), gated(|_| None), gated(|_| None));
    drop(free.go);
    let batching = Batching { preserve_ordering: true, ..Batching::default() };
    let ordered = Parts { gate: gate.clone(), batching, ..parts(Box::new(|_| ())) };
    let replica = Arc::new(Replica::start(ordered, vec![one, two], None).unwrap());
    let beside = start_at(&gate, 1, vec![other]);
    let mut engines = vec![first, second];
    let earlier = spawn(&replica, full(1.0, None));
    let begun = std::cell::Cell::new(None);
    until("one of them runs", || {
        begun.set(engines.iter().position(|engine| engine.runs.try_recv().is_ok()));
        begun.get().is_some()
    })
    .await;
    let slow = engines.remove(begun.get().unwrap());
    let later = spawn(&replica, full(2.0, None));
    let quick = engines.remove(0);
    begins(&quick).await;
    let waiting = spawn(&beside, full(3.0, None));
    waits_at_gate(&beside, 1).await;
    drop(quick.go);
    answered(waiting).await.unwrap();
    assert!(!later.is_finished(), "not before the first");
    drop(slow.go);
    for call in [earlier, later] {
        answered(call).await.unwrap();
    }
}
