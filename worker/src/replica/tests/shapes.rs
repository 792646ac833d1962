//! What a configuration may change between a client and the graph: shapes, order, which outputs, which inputs.

use super::*;
use crate::engine::TensorView;

fn spec(name: &str, client: &[i64], graph: Option<&[i64]>) -> TensorSpec {
    let (shape, graph_shape) = (client.to_vec(), graph.map(<[i64]>::to_vec));
    TensorSpec { name: name.into(), datatype: DataType::Fp32, shape, optional: false, graph_shape }
}

fn start_with(signature: Signature, engine: Box<dyn Engine>) -> Arc<Replica> {
    Arc::new(Replica::start(Parts { signature, ..parts(Box::new(|_| ())) }, vec![engine], None).unwrap())
}

fn input(name: &str, shape: &[i64], values: &[f32]) -> (InputTensor, Chain) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = Shape::from_slice(shape);
    let tensor = InputTensor { name: name.into(), datatype: "FP32".into(), shape, byte_length: bytes.len() as u64, ..Default::default() };
    (tensor, Chain::from(bytes))
}

fn call_of(inputs: Vec<(InputTensor, Chain)>) -> InferCall {
    let (tensors, raw) = inputs.into_iter().unzip();
    let raw = Tensors::Here(raw);
    InferCall { envelope: Arc::new(Envelope { model: "m".into(), inputs: tensors, ..Default::default() }), raw, ..call(0.0, 1, None) }
}

#[tokio::test]
async fn the_graph_and_the_client_each_see_the_shape_they_know() {
    let graph =
        EngineSignature { inputs: vec![spec("x", &[-1, 2, 1], None)], outputs: vec![spec("y", &[-1, 1, 2], None)], ..Default::default() };
    let (seen_tx, seen) = mpsc::sync_channel(64);
    let (go, go_rx) = mpsc::sync_channel::<()>(1);
    let compute = move |inputs: &[TensorView<'_>], _: &CancelFlag| {
        seen_tx.send(inputs[0].shape.to_vec()).unwrap();
        let _ = go_rx.recv();
        let data = bytes::Bytes::copy_from_slice(inputs[0].data);
        Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: vec![inputs[0].shape[0], 1, 2], data }])
    };
    let inputs = vec![spec("x", &[-1, 2], Some(&[-1, 2, 1]))];
    let signature = Signature { max_batch_size: 4, inputs, outputs: vec![spec("y", &[-1, 2, 1, 1], Some(&[-1, 1, 2]))] };
    let replica = start_with(signature, Box::new(FakeEngine::new(graph, Box::new(compute))));
    let mut calls = vec![spawn(&replica, call(1.0, 1, None))];
    while replica.shared.lock().running.is_empty() {
        tokio::task::yield_now().await;
    }
    calls.extend([spawn(&replica, call(2.0, 2, None)), spawn(&replica, call(3.0, 1, None))]);
    queued(&replica, 2).await;
    drop(go);
    for (call, (value, rows)) in calls.into_iter().zip([(1.0, 1), (2.0, 2), (3.0f32, 1usize)]) {
        let reply = call.await.unwrap().unwrap();
        assert_eq!(reply.reply.outputs[0].shape.as_slice(), [rows as i64, 2, 1, 1]);
        assert_eq!(values(&reply), vec![value; rows * 2]);
    }
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [[1, 2, 1], [3, 2, 1]]);
}

#[tokio::test]
async fn an_output_that_does_not_fit_its_reshape_is_an_error_and_the_replica_stays() {
    let (engine, gate) = gated(|_| None);
    drop(gate.go);
    let signature = Signature { outputs: vec![spec("y", &[-1, 3], Some(&[-1, 3, 1]))], ..signature() };
    let replica = start_with(signature, engine);
    let Err(Failure::EngineInput { what }) = infer(&replica, call(1.0, 1, None)).await else { panic!("expected a refusal") };
    assert!(what.contains("output `y` has shape [1,2], which is not [-1,3,1] and cannot become [-1,3]"), "{what}");
    assert!(!replica.shared.mixes_rows.load(Ordering::Relaxed) && replica.shared.lock().failed.is_none());
}

#[tokio::test]
async fn inputs_may_be_listed_in_another_order_and_outputs_left_out() {
    let side = |name: &str| spec(name, &[-1, 16], None);
    let signature = Signature { max_batch_size: 4, inputs: vec![side("INPUT1"), side("INPUT0")], outputs: vec![side("OUTPUT1")] };
    let replica = start_with(signature, Box::new(FakeEngine::add_sub()));
    let reply = infer(&replica, call_of(vec![input("INPUT1", &[1, 16], &[1.0; 16]), input("INPUT0", &[1, 16], &[5.0; 16])])).await.unwrap();
    assert_eq!(reply.reply.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["OUTPUT1"]);
    assert_eq!(values(&reply), [4.0; 16]);
    let both =
        Signature { outputs: vec![side("OUTPUT1"), side("OUTPUT0")], inputs: vec![side("INPUT0"), side("INPUT1")], max_batch_size: 4 };
    let replica = start_with(both, Box::new(FakeEngine::add_sub()));
    let reply = infer(&replica, call_of(vec![input("INPUT0", &[1, 16], &[5.0; 16]), input("INPUT1", &[1, 16], &[1.0; 16])])).await.unwrap();
    assert_eq!(reply.reply.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["OUTPUT1", "OUTPUT0"]);
}

#[tokio::test]
async fn who_leaves_an_optional_input_out_does_not_ride_with_who_gives_it() {
    let extra = TensorSpec { optional: true, ..spec("extra", &[-1, 2], None) };
    let inputs = vec![spec("x", &[-1, 2], None), extra];
    let (seen_tx, seen) = mpsc::sync_channel(64);
    let (go, go_rx) = mpsc::sync_channel::<()>(1);
    let compute = move |inputs: &[TensorView<'_>], _: &CancelFlag| {
        seen_tx.send((inputs.len(), inputs[0].shape[0])).unwrap();
        let _ = go_rx.recv();
        let data = bytes::Bytes::copy_from_slice(inputs[0].data);
        Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: inputs[0].shape.to_vec(), data }])
    };
    let graph = EngineSignature { inputs: inputs.clone(), outputs: signature().outputs, ..Default::default() };
    let replica = start_with(Signature { inputs, ..signature() }, Box::new(FakeEngine::new(graph, Box::new(compute))));
    let with = || call_of(vec![input("x", &[1, 2], &[1.0; 2]), input("extra", &[1, 2], &[2.0; 2])]);
    let mut calls = vec![spawn(&replica, call(0.0, 1, None))];
    while replica.shared.lock().running.is_empty() {
        tokio::task::yield_now().await;
    }
    for (i, call) in [with(), call(1.0, 1, None), with(), call(1.0, 1, None)].into_iter().enumerate() {
        calls.push(spawn(&replica, call));
        queued(&replica, i + 1).await;
    }
    drop(go);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [(1, 1), (2, 2), (1, 2)]);
}
