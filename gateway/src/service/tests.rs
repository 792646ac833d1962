use super::*;
use crate::infer::tests::{Behaviour, gateway};
use policy::{InputTensor, Shape};
use proto::call::Caller;
use proto::inflow::{Feeder, Inflow, Layout};
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

fn request() -> (Envelope, Feeder, Inflow) {
    let input =
        InputTensor { name: "x".into(), datatype: "FP32".into(), shape: Shape::from_slice(&[1]), byte_length: 4, ..Default::default() };
    let (feeder, inflow) = inflow(Layout::new([4]));
    (Envelope { model: "m".into(), inputs: vec![input], ..Default::default() }, feeder, inflow)
}

fn context() -> Context {
    Context { caller: Caller { tenant: Arc::from("t") }, trace: None, asked: Headers::default(), deadline: None, part: None }
}

fn grpc_status(response: &Response<ReplyBody>) -> Option<&str> {
    response.headers().get("grpc-status").and_then(|v| v.to_str().ok())
}

#[tokio::test]
async fn a_worker_is_asked_while_the_tensors_still_come_and_loses_the_call_when_they_stop() {
    let (shard, workers) = gateway([("a", Behaviour::Hangs), ("b", Behaviour::Hangs)]).await;
    let front = Front { shard, router: axum::Router::new() };
    let (envelope, _feeder, inflow) = request();
    let (stop, stopped) = oneshot::channel::<()>();
    let coming = async {
        let _ = stopped.await;
        Err(Failure::Cancelled)
    };
    let answer = front.infer_coming(coming, envelope, Tensors::Coming(inflow), context(), Encoding::Identity);
    let watch = async {
        while workers.asked() == 0 {
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
        workers.call_dropped().await;
    };
    let (answer, ()) = tokio::join!(answer, watch);
    assert_eq!(grpc_status(&answer), Some("1"));
}

#[tokio::test]
async fn a_refusal_waits_until_the_client_has_sent_everything() {
    let failing = || Behaviour::Fails(Failure::Draining { retry_ms: 0 });
    let (shard, _) = gateway([("a", failing()), ("b", failing())]).await;
    let front = Front { shard, router: axum::Router::new() };
    let (envelope, _feeder, inflow) = request();
    let sent = Arc::new(Notify::new());
    let coming = async {
        sent.notified().await;
        Ok(())
    };
    let mut answer = pin!(front.infer_coming(coming, envelope, Tensors::Coming(inflow), context(), Encoding::Identity));
    for _ in 0..100 {
        assert!(futures_util::FutureExt::now_or_never(answer.as_mut()).is_none());
        tokio::task::yield_now().await;
    }
    sent.notify_one();
    assert_eq!(grpc_status(&answer.await), Some("14"));
}
