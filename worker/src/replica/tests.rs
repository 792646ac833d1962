use super::*;
use crate::engine::fake::FakeEngine;
use crate::engine::{CancelFlag, EngineSignature, TensorOut};
use policy::{DataType, InputTensor, RequestedOutput, Shape, TensorSpec, Version};
use proto::call::Caller;
use proto::call::{InferReply, Tensors};
use std::sync::atomic::Ordering;
use std::sync::mpsc;

mod device;
mod inline;
mod lengths;
mod rules;
mod shapes;
mod statistics;

const LIMITS: Limits = Limits { rows_max: 4, queue_len_max: 8, queue_bytes_max: 1 << 20 };

fn signature() -> Signature {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 2], optional: false, graph_shape: None };
    Signature { max_batch_size: 4, inputs: vec![spec("x")], outputs: vec![spec("y")] }
}

fn variant() -> VariantId {
    VariantId::parse("m:1:fp32@ort").unwrap()
}

fn parts(on_failed: Box<dyn Fn(String) + Send + Sync>) -> Parts {
    let worker = WorkerId::new("w").unwrap();
    Parts {
        variant: variant(),
        worker,
        signature: signature(),
        latency: Latency { alpha_us: 10.0, beta_us: 5.0 },
        limits: LIMITS,
        batching: Batching::default(),
        padding: None,
        load: 1,
        inline_us_max: INLINE_US_MAX,
        generation: 0,
        gate: crate::gate::Gate::of_runs(64),
        intra_threads: 1,
        runner: None,
        _memory: None,
        on_failed,
    }
}

/// A request of `rows` rows that all hold `value`.
fn call(value: f32, rows: u32, remaining: Option<Duration>) -> InferCall {
    let bytes = value.to_le_bytes().repeat(rows as usize * 2);
    let shape = Shape::from_slice(&[i64::from(rows), 2]);
    let input = InputTensor { name: "x".into(), datatype: "FP32".into(), shape, byte_length: bytes.len() as u64, ..Default::default() };
    InferCall {
        envelope: Arc::new(Envelope { model: "m".into(), id: format!("{value}"), inputs: vec![input], ..Default::default() }),
        raw: Tensors::Here(vec![Chain::from(bytes)]),
        rows,
        variant: variant(),
        remaining,
        caller: Caller { tenant: Arc::from("t") },
        trace: None,
    }
}

fn values(reply: &InferReply) -> Vec<f32> {
    reply.raw[0].clone().into_bytes().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// An engine that doubles, tells the rows of every run, and waits for a word before each.
struct Gate {
    runs: mpsc::Receiver<i64>,
    go: mpsc::SyncSender<()>,
}

fn gated(fail: impl Fn(&[f32]) -> Option<EngineError> + Send + 'static) -> (Box<dyn Engine>, Gate) {
    let (runs_tx, runs) = mpsc::sync_channel(64);
    let (go, go_rx) = mpsc::sync_channel(64);
    let signature = EngineSignature { inputs: signature().inputs, outputs: signature().outputs, ..Default::default() };
    let engine = FakeEngine::new(
        signature,
        Box::new(move |inputs, _| {
            let view = inputs[0];
            runs_tx.send(view.shape[0]).unwrap();
            let _ = go_rx.recv(); // a dropped gate lets everything through
            let values: Vec<f32> = view.data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            if let Some(error) = fail(&values) {
                return Err(error);
            }
            let data: Vec<u8> = values.iter().flat_map(|v| (v * 2.0).to_le_bytes()).collect();
            Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: view.shape.to_vec(), data: data.into() }])
        }),
    );
    (Box::new(engine), Gate { runs, go })
}

/// Rows of the next run, once it has begun.
async fn first_run(gate: &Gate) -> i64 {
    loop {
        match gate.runs.try_recv() {
            Ok(rows) => return rows,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn start(engine: Box<dyn Engine>) -> Arc<Replica> {
    Arc::new(Replica::start(parts(Box::new(|_| ())), vec![engine], None).unwrap())
}

async fn infer(replica: &Replica, call: InferCall) -> Result<InferReply, Failure> {
    replica.infer(call, &Lane::start()).await
}

fn spawn(replica: &Arc<Replica>, call: InferCall) -> tokio::task::JoinHandle<Result<InferReply, Failure>> {
    let replica = replica.clone();
    tokio::spawn(async move { infer(&replica, call).await })
}

/// Waits until `count` requests are queued.
async fn queued(replica: &Replica, count: usize) {
    while replica.shared.lock().batcher.len() != count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn i5_each_caller_of_a_batch_gets_its_own_rows() {
    let (engine, gate) = gated(|_| None);
    let replica = start(engine);
    let first = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let others: Vec<_> = [(2.0, 2), (3.0, 1), (4.0, 1)].map(|(value, rows)| spawn(&replica, call(value, rows, None))).into();
    queued(&replica, 3).await;
    drop(gate.go);
    assert_eq!(values(&first.await.unwrap().unwrap()), [2.0; 2]);
    for (other, (value, rows)) in others.into_iter().zip([(2.0, 2), (3.0, 1), (4.0f32, 1usize)]) {
        let reply = other.await.unwrap().unwrap();
        assert_eq!(values(&reply), vec![value * 2.0; rows * 2]);
        assert_eq!(reply.reply.outputs[0].shape.as_slice(), [rows as i64, 2]);
        assert_eq!(reply.reply.id, format!("{value}"));
    }
    assert_eq!(gate.runs.recv().unwrap(), 4, "what waited rode together");
}

#[tokio::test]
async fn i7_expired_and_cancelled_requests_never_reach_the_engine() {
    let (engine, gate) = gated(|_| None);
    let replica = start(engine);
    let running = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let expired = spawn(&replica, call(2.0, 1, Some(Duration::from_micros(1))));
    let cancelled = spawn(&replica, call(3.0, 1, None));
    let fine = spawn(&replica, call(4.0, 1, None));
    loop {
        let len = replica.shared.lock().batcher.len();
        if len >= 2 && expired.is_finished() || len == 3 {
            break;
        }
        tokio::task::yield_now().await;
    }
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    drop(gate.go);
    running.await.unwrap().unwrap();
    assert!(matches!(expired.await.unwrap(), Err(Failure::DeadlineExceeded { .. })));
    assert_eq!(values(&fine.await.unwrap().unwrap()), [8.0; 2]);
    assert_eq!(gate.runs.recv().unwrap(), 1, "only the fine one rode");
    assert!(gate.runs.try_recv().is_err());
}

#[tokio::test]
async fn one_bad_request_does_not_take_its_batch_mates_along() {
    let bad = |values: &[f32]| values.contains(&-1.0).then(|| EngineError::BadInput { what: "no minus one".into() });
    let (engine, gate) = gated(bad);
    let replica = start(engine);
    let first = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let good = spawn(&replica, call(2.0, 1, None));
    queued(&replica, 1).await;
    let bad = spawn(&replica, call(-1.0, 1, None));
    queued(&replica, 2).await;
    drop(gate.go);
    first.await.unwrap().unwrap();
    assert_eq!(values(&good.await.unwrap().unwrap()), [4.0; 2]);
    assert!(matches!(bad.await.unwrap(), Err(Failure::EngineInput { .. })));
}

#[tokio::test]
async fn i5_a_request_that_was_checked_by_another_loads_signature_never_reaches_the_engine() {
    let (engine, gate) = gated(|_| None);
    let replica = start(engine);
    let mut stale = call(1.0, 1, None);
    let envelope = Arc::make_mut(&mut stale.envelope);
    envelope.inputs[0].shape = Shape::from_slice(&[2, 1]);
    assert!(matches!(infer(&replica, stale).await, Err(Failure::ShapeMismatch { .. })));
    let lying = InferCall { rows: 4, ..call(1.0, 1, None) };
    drop(gate.go);
    assert_eq!(values(&infer(&replica, lying).await.unwrap()), [2.0, 2.0]);
    assert_eq!(gate.runs.try_iter().collect::<Vec<_>>(), [1], "one run, of the rows that are there");
}

#[tokio::test]
async fn a_failed_engine_ends_the_replica_and_answers_everyone() {
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    let (engine, gate) = gated(|_| Some(EngineError::Failed { reason: "broken".into() }));
    let parts = parts(Box::new(move |reason| tell.try_send(reason).unwrap()));
    let replica = Arc::new(Replica::start(parts, vec![engine], None).unwrap());
    let running = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let waiting = spawn(&replica, call(2.0, 1, None));
    queued(&replica, 1).await;
    drop(gate.go);
    assert!(matches!(running.await.unwrap(), Err(Failure::Engine { .. })));
    // It never ran, so it may be tried on another worker.
    assert!(matches!(waiting.await.unwrap(), Err(Failure::NotReady { .. })));
    assert!(matches!(infer(&replica, call(3.0, 1, None)).await, Err(Failure::NotReady { .. })));
    replica.drain().await;
    assert!(told.recv().await.is_some_and(|reason| reason.contains("broken")), "its owner is told");
    drop(replica);
    assert_eq!(told.recv().await, None, "once");
}

#[tokio::test]
async fn a_drain_answers_what_is_there_and_takes_no_more() {
    let (engine, gate) = gated(|_| None);
    let replica = start(engine);
    let running = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let waiting = spawn(&replica, call(2.0, 1, None));
    queued(&replica, 1).await;
    let drained = {
        let replica = replica.clone();
        tokio::spawn(async move { replica.drain().await })
    };
    while !replica.shared.lock().closed {
        tokio::task::yield_now().await;
    }
    assert!(matches!(infer(&replica, call(3.0, 1, None)).await, Err(Failure::NotReady { .. })));
    assert!(!drained.is_finished());
    drop(gate.go);
    running.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    drained.await.unwrap();
}

#[tokio::test]
async fn only_the_outputs_asked_for_come_back() {
    let (engine, gate) = gated(|_| None);
    drop(gate.go);
    let replica = start(engine);
    let mut asked = call(1.0, 1, None);
    Arc::make_mut(&mut asked.envelope).outputs.push(RequestedOutput { name: "y".into(), ..Default::default() });
    assert_eq!(infer(&replica, asked).await.unwrap().reply.outputs.len(), 1);
    assert_eq!(infer(&replica, call(1.0, 1, None)).await.unwrap().reply.version, Version::parse("1").unwrap().to_string());
}

#[test]
fn i5_an_output_without_a_row_per_input_row_is_nobodys_answer() {
    let output = TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: vec![1, 2], data: vec![0; 8].into() };
    assert!(matches!(split::split(&signature(), std::slice::from_ref(&output), &[1, 1], None), Err(EngineError::NotComputed { .. })));
    assert!(split::split(&signature(), &[output], &[2], None).is_ok(), "alone there is no doubt whose it is");
}

/// An engine whose output has as many rows as it likes: seven of the first value.
fn detector() -> (Box<dyn Engine>, mpsc::Receiver<i64>) {
    let (runs_tx, runs) = mpsc::sync_channel(64);
    let signature = EngineSignature { inputs: signature().inputs, outputs: signature().outputs, ..Default::default() };
    let compute = move |inputs: &[crate::engine::TensorView<'_>], _: &CancelFlag| {
        runs_tx.send(inputs[0].shape[0]).unwrap();
        let data = inputs[0].data[..8].repeat(7);
        Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: vec![7, 2], data: data.into() }])
    };
    (Box::new(FakeEngine::new(signature, Box::new(compute))), runs)
}

#[tokio::test]
async fn i5_a_model_that_mixes_rows_runs_its_requests_one_by_one_and_stays() {
    let (engine, runs) = detector();
    let replica = start(engine);
    let calls: Vec<_> = (0..8u8).map(|i| spawn(&replica, call(f32::from(i), 1, None))).collect();
    for (i, call) in calls.into_iter().enumerate() {
        let reply = call.await.unwrap().unwrap();
        assert_eq!((reply.reply.outputs[0].shape.as_slice(), values(&reply)), (&[7i64, 2][..], vec![i as f32; 14]));
    }
    let together = runs.try_iter().filter(|rows| *rows > 1).count();
    assert!(together <= 1, "once it is known nothing rides together: {together}");
}

#[tokio::test]
async fn a_drain_ends_when_what_was_left_was_late() {
    let (engine, gate) = gated(|_| None);
    let replica = start(engine);
    let running = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let late = spawn(&replica, call(2.0, 1, Some(Duration::from_millis(5))));
    queued(&replica, 1).await;
    let drained = {
        let replica = replica.clone();
        tokio::spawn(async move { replica.drain().await })
    };
    while !replica.shared.lock().closed || replica.shared.now().as_us() < 5_000 {
        tokio::task::yield_now().await;
    }
    // The deadline must have passed before the engine is free.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(6) {
        tokio::task::yield_now().await;
    }
    drop(gate.go);
    running.await.unwrap().unwrap();
    assert!(matches!(late.await.unwrap(), Err(Failure::DeadlineExceeded { .. })));
    tokio::time::timeout(Duration::from_secs(5), drained).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_in_an_engine_thread_is_an_answer_for_everyone() {
    let (engine, gate) = gated(|values| if values[0] < 0.0 { panic!("on purpose") } else { None });
    let (told_tx, told) = mpsc::sync_channel(4);
    let told_once = Box::new(move |reason| told_tx.send(reason).unwrap());
    let replica = Arc::new(Replica::start(parts(told_once), vec![engine], None).unwrap());
    let running = spawn(&replica, call(-1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let waiting = spawn(&replica, call(2.0, 1, None));
    queued(&replica, 1).await;
    drop(gate.go);
    for call in [running, waiting] {
        assert!(matches!(call.await.unwrap(), Err(Failure::NotReady { .. })));
    }
    let reason = tokio::task::spawn_blocking(move || told.recv()).await.unwrap();
    assert!(reason.unwrap().contains("panicked"));
}

#[test]
fn strings_are_split_at_their_own_lengths() {
    let element = |text: &[u8]| [&(text.len() as u32).to_le_bytes()[..], text].concat();
    let data = [element(b"a"), element(b""), element(b"long"), element(b"z")].concat();
    let output = TensorOut { name: "y".into(), datatype: DataType::Bytes, shape: vec![2, 2], data: data.clone().into() };
    let parts = split::split(&signature(), &[output], &[1, 1], None).unwrap();
    let replies: Vec<_> = parts.into_iter().map(|p| p.into_reply(&variant(), &Envelope::default(), Default::default())).collect();
    assert_eq!(replies[0].raw[0].clone().into_bytes(), [element(b"a"), element(b"")].concat());
    assert_eq!(replies[1].raw[0].clone().into_bytes(), [element(b"long"), element(b"z")].concat());
}

/// An engine whose runs end only when they are stopped; tells when one begins and how it ended.
fn endless() -> (Box<dyn Engine>, mpsc::Receiver<&'static str>) {
    let (tell, told) = mpsc::sync_channel(64);
    let signature = EngineSignature { inputs: signature().inputs, outputs: signature().outputs, ..Default::default() };
    let compute = move |_: &[crate::engine::TensorView<'_>], cancel: &CancelFlag| {
        tell.send("began").unwrap();
        while !cancel.is_cancelled() {
            std::thread::yield_now();
        }
        tell.send("stopped").unwrap();
        Err(EngineError::Cancelled)
    };
    (Box::new(FakeEngine::new(signature, Box::new(compute))), told)
}

/// Waits until the engine says so.
async fn heard(told: &mpsc::Receiver<&'static str>, word: &str) {
    while told.try_recv() != Ok(word) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn i7_a_run_is_stopped_when_the_last_of_its_callers_has_gone() {
    let (engine, told) = endless();
    let replica = start(engine);
    let first = spawn(&replica, call(1.0, 1, None));
    heard(&told, "began").await;
    let pair = [spawn(&replica, call(2.0, 1, None)), spawn(&replica, call(3.0, 1, None))];
    queued(&replica, 2).await;
    first.abort();
    heard(&told, "stopped").await;
    heard(&told, "began").await; // the pair, together
    let [one, other] = pair;
    one.abort();
    assert!(one.await.unwrap_err().is_cancelled());
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(told.try_recv().is_err(), "somebody waits still");
    other.abort();
    heard(&told, "stopped").await;
    replica.drain().await;
    let counted = replica.statistics();
    assert_eq!((counted.fail.count, counted.success.count), (3, 0));
}

/// Two seconds after a run on the test models should have ended at the latest.
const OVERDUE: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_run_that_does_not_end_is_stopped_and_its_callers_are_told() {
    let (engine, told) = endless();
    let replica = start(engine);
    let waiting = spawn(&replica, call(1.0, 1, None));
    heard(&told, "began").await;
    let now = replica.shared.now();
    replica.watch_at(now.after(Duration::from_secs(9)));
    assert!(told.try_recv().is_err(), "ten seconds are allowed");
    replica.watch_at(now.after(OVERDUE));
    heard(&told, "stopped").await;
    let Err(Failure::Engine { reason }) = waiting.await.unwrap() else { panic!("an answer") };
    assert!(reason.contains("did not end"), "{reason}");
    let next = spawn(&replica, call(2.0, 1, None));
    heard(&told, "began").await; // the engine is as usable as before
    next.abort();
    heard(&told, "stopped").await;
}

#[tokio::test]
async fn a_run_that_cannot_be_stopped_ends_the_replica() {
    let (engine, gate) = gated(|_| None);
    let (tell, mut failed) = tokio::sync::mpsc::channel(4);
    let parts = parts(Box::new(move |reason| tell.try_send(reason).unwrap()));
    let replica = Arc::new(Replica::start(parts, vec![engine], None).unwrap());
    let running = spawn(&replica, call(1.0, 1, None));
    assert_eq!(first_run(&gate).await, 1);
    let waiting = spawn(&replica, call(2.0, 1, None));
    queued(&replica, 1).await;
    let now = replica.shared.now().after(OVERDUE);
    replica.watch_at(now);
    assert!(failed.try_recv().is_err(), "it has been asked to stop, and may take its time");
    replica.watch_at(now.after(Duration::from_secs(5)));
    assert!(failed.recv().await.unwrap().contains("did not end"));
    assert!(matches!(waiting.await.unwrap(), Err(Failure::NotReady { .. })));
    drop(gate.go);
    assert!(running.await.is_ok(), "it gets what its run gives");
}
