//! Requests of different lengths that share a batch.

use super::*;
use policy::{PadInput, PadOutput, Padding};

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, -1, 2], optional: false, graph_shape: None }
}

/// A request of `rows` rows of `length` pairs that all hold `value`.
fn request(value: f32, rows: usize, length: usize) -> InferCall {
    let bytes = value.to_le_bytes().repeat(rows * length * 2);
    let shape = Shape::from_slice(&[rows as i64, length as i64, 2]);
    let input = InputTensor { name: "x".into(), datatype: "FP32".into(), shape, byte_length: bytes.len() as u64, ..Default::default() };
    let envelope = Arc::new(Envelope { model: "m".into(), inputs: vec![input], ..Default::default() });
    InferCall { envelope, raw: Tensors::Here(vec![Chain::from(bytes)]), ..call(0.0, 1, None) }
}

/// What an engine that gives back what it takes saw: shapes and values of its runs.
type Seen = mpsc::Receiver<(Vec<i64>, Vec<f32>)>;

/// A replica of a model that gives back what it takes, `longer` pairs more than it should.
fn start(padding: Option<Padding>, longer: usize) -> (Arc<Replica>, Seen, mpsc::SyncSender<()>) {
    let (tell, seen) = mpsc::sync_channel(64);
    let (go, wait) = mpsc::sync_channel::<()>(1);
    let compute = move |inputs: &[crate::engine::TensorView<'_>], _: &CancelFlag| {
        let floats = inputs[0].data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        tell.send((inputs[0].shape.to_vec(), floats)).unwrap();
        let _ = wait.recv();
        let (mut shape, mut data) = (inputs[0].shape.to_vec(), inputs[0].data.to_vec());
        shape[1] += longer as i64;
        data.resize(shape.iter().product::<i64>() as usize * 4, 0);
        Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape, data: data.into() }])
    };
    let graph = EngineSignature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Default::default() };
    let signature = Signature { max_batch_size: 8, inputs: vec![spec("x")], outputs: vec![spec("y")] };
    let parts = Parts { signature, padding, limits: Limits { rows_max: 8, ..LIMITS }, ..parts(Box::new(|_| ())) };
    let engine = Box::new(FakeEngine::new(graph, Box::new(compute)));
    (Arc::new(Replica::start(parts, vec![engine], None).unwrap()), seen, go)
}

fn padding() -> Padding {
    let inputs = vec![PadInput { name: "x".into(), dim: 1, value: -1.0 }];
    Padding { inputs, outputs: vec![PadOutput { name: "y".into(), dim: 1 }] }
}

/// Three requests that wait while another runs: rows and lengths, and what each got.
async fn three(replica: &Arc<Replica>, go: mpsc::SyncSender<()>) -> Vec<(Vec<i64>, Vec<f32>)> {
    let first = spawn(replica, request(9.0, 1, 1));
    while replica.shared.lock().running.is_empty() {
        tokio::task::yield_now().await;
    }
    let mut calls = Vec::new();
    for (i, (value, rows, length)) in [(1.0, 1, 19), (2.0, 2, 21), (3.0, 1, 30)].into_iter().enumerate() {
        calls.push(spawn(replica, request(value, rows, length)));
        queued(replica, i + 1).await;
    }
    drop(go);
    first.await.unwrap().unwrap();
    let mut out = Vec::new();
    for call in calls {
        let reply = call.await.unwrap().unwrap();
        out.push((reply.reply.outputs[0].shape.to_vec(), values(&reply)));
    }
    out
}

#[tokio::test]
async fn i5_lengths_of_one_bucket_ride_together_and_each_gets_its_own_length_back() {
    let (replica, seen, go) = start(Some(padding()), 0);
    let got = three(&replica, go).await;
    let expected = [(1.0f32, 1i64, 19i64), (2.0, 2, 21), (3.0, 1, 30)];
    for ((shape, values), (value, rows, length)) in got.into_iter().zip(expected) {
        assert_eq!(shape, [rows, length, 2]);
        assert_eq!(values, vec![value; (rows * length * 2) as usize]);
    }
    let mut runs: Vec<_> = seen.try_iter().skip(1).collect();
    runs.sort_by_key(|(shape, _)| shape[1]);
    let [(together, values), (alone, _)] = runs.as_slice() else { panic!("{runs:?}") };
    assert_eq!((together.as_slice(), alone.as_slice()), (&[3, 21, 2][..], &[1, 30, 2][..]), "30 is too far from 19");
    let (own, filled) = values[..21 * 2].split_at(19 * 2);
    assert!(own.iter().all(|v| *v == 1.0) && filled.iter().all(|v| *v == -1.0), "{values:?}");
}

#[tokio::test]
async fn without_a_word_about_it_lengths_run_apart() {
    let (replica, seen, go) = start(None, 0);
    three(&replica, go).await;
    assert_eq!(seen.try_iter().count(), 4);
}

#[tokio::test]
async fn i5_an_output_of_another_length_than_was_said_is_nobodys_and_each_runs_alone() {
    let (replica, seen, go) = start(Some(padding()), 1);
    let got = three(&replica, go).await;
    assert_eq!(got.iter().map(|(shape, _)| shape[1]).collect::<Vec<_>>(), [20, 22, 31], "as the model gives it");
    assert_eq!(seen.try_iter().count(), 5, "the first, two together in vain, three alone");
}
