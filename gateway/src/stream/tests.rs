use super::*;
use crate::infer::tests::{Behaviour, gateway};
use http_body_util::{BodyExt as _, Full};
use proto::inference::{ModelInferRequest, ModelStreamInferResponse, model_infer_request::InferInputTensor};
use std::sync::Arc;
use tokio::sync::Notify;

/// A message as it lies in the body of a call.
fn framed(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
}

fn request(id: &str) -> ModelInferRequest {
    let input = InferInputTensor { name: "x".into(), datatype: "FP32".into(), shape: vec![1], ..Default::default() };
    let raw = vec![Bytes::from_static(&[0; 4])];
    ModelInferRequest { model_name: "m".into(), id: id.into(), inputs: vec![input], raw_input_contents: raw, ..Default::default() }
}

/// Sends `body` as one stream to `front`, beside `read`, which gets the answer; what that gives.
async fn streamed<T>(front: &Front, body: Vec<u8>, read: impl AsyncFnOnce(ReplyBody) -> T) -> T {
    let reader = MessageReader::new(Full::new(Bytes::from(body)), Encoding::Identity, 1 << 20);
    let (sender, answer) = StreamSender::new(4, Encoding::Identity);
    let work = async {
        let trailers = front.work(reader, &HeaderMap::new(), &sender).await;
        sender.finish(trailers).await;
    };
    tokio::join!(work, read(answer)).1
}

#[tokio::test]
async fn i5_what_came_before_a_frame_that_cannot_be_read_is_still_answered() {
    let told = Arc::new(Notify::new());
    let (shard, _) = gateway([("a", Behaviour::Waits(told.clone())), ("b", Behaviour::Waits(told.clone()))]).await;
    let core = shard.core.clone();
    let front = Front { shard, router: axum::Router::new() };
    let body = [framed(&request("first")), vec![0, 0xff, 0xff, 0xff, 0xff]].concat();
    let read = async |mut answer: ReplyBody| {
        // The frame is read and refused while the first request is still with its worker.
        while !core.metrics.render().contains("RESOURCE_EXHAUSTED") {
            tokio::task::yield_now().await;
        }
        told.notify_one();
        let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        let first = <ModelStreamInferResponse as prost::Message>::decode(first.slice(5..)).unwrap();
        let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
        (first, trailers)
    };
    let (first, trailers) = streamed(&front, body, read).await;
    assert_eq!((first.error_message.as_str(), first.infer_response.unwrap().id.as_str()), ("", "first"));
    assert_eq!(trailers.get("grpc-status").unwrap(), "8");
}

#[tokio::test]
async fn each_request_of_a_stream_is_routed_on_its_own() {
    let (shard, _) = gateway([("a", Behaviour::Answers), ("b", Behaviour::Answers)]).await;
    let front = Front { shard, router: axum::Router::new() };
    let body: Vec<u8> = (0..50).flat_map(|number| framed(&request(&number.to_string()))).collect();
    let read = async |mut answer: ReplyBody| {
        let mut workers = Vec::new();
        while let Ok(data) = answer.frame().await.unwrap().unwrap().into_data() {
            let reply = <ModelStreamInferResponse as prost::Message>::decode(data.slice(5..)).unwrap();
            workers.push(reply.infer_response.unwrap().model_name); // these workers say who they are there
        }
        workers
    };
    let mut workers = streamed(&front, body, read).await;
    let of_a = workers.iter().filter(|worker| *worker == "a").count();
    assert!((5..45).contains(&of_a), "{of_a} of 50 at a");
    workers.retain(|worker| worker != "a" && worker != "b");
    assert!(workers.is_empty(), "{workers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_ends_and_not_as_one_that_went_well() {
    let (shard, _) = gateway([("a", Behaviour::Answers), ("b", Behaviour::Answers)]).await;
    let front = Front { shard, router: axum::Router::new() };
    let body: Vec<u8> = (0..20).flat_map(|i| framed(&request(&i.to_string()))).collect();
    let reader = MessageReader::new(Full::new(Bytes::from(body)), Encoding::Identity, 1 << 20);
    let (sender, _unread) = StreamSender::new(4, Encoding::Identity);
    let work = tokio::time::timeout(std::time::Duration::from_secs(120), front.work(reader, &HeaderMap::new(), &sender)).await;
    assert_eq!(work.expect("an end").get("grpc-status").unwrap(), "1", "answers are missing");
}
