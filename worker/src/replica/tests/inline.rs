//! Tiny models on the network's own thread, and answers of engine threads that come back together.

use super::*;
use futures_util::future::join_all;
use std::thread::ThreadId;

/// An engine that doubles, tells on which thread and how many rows, and takes at least `length`.
fn telling(length: Duration, tell: mpsc::SyncSender<(ThreadId, i64)>) -> Box<dyn Engine> {
    let signature = EngineSignature { inputs: signature().inputs, outputs: signature().outputs, ..Default::default() };
    let compute = move |inputs: &[crate::engine::TensorView<'_>], _: &CancelFlag| {
        let (view, started) = (inputs[0], Instant::now());
        tell.send((std::thread::current().id(), view.shape[0])).unwrap();
        while started.elapsed() < length {
            std::hint::spin_loop();
        }
        let values = view.data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(values.clone().all(|v| v != 13.0), "an unlucky number");
        let data: Vec<u8> = values.flat_map(|v| (v * 2.0).to_le_bytes()).collect();
        Ok(vec![TensorOut { name: "y".into(), datatype: DataType::Fp32, shape: view.shape.to_vec(), data: data.into() }])
    };
    Box::new(FakeEngine::new(signature, Box::new(compute)))
}

/// `length` is how long the engine on the network's thread takes at least. Where that is nothing, how long is too long does not matter,
/// and there is no engine thread, which would take its share if it came to look late.
fn start(length: Duration, on_failed: Box<dyn Fn(String) + Send + Sync>) -> (Replica, mpsc::Receiver<(ThreadId, i64)>) {
    let always = length.is_zero();
    let inline_us_max = if always { u32::MAX } else { INLINE_US_MAX };
    let (tell, told) = mpsc::sync_channel(64);
    let engine = |length| telling(length, tell.clone());
    let parts = Parts { inline_us_max, ..parts(on_failed) };
    let threads = (!always).then(|| engine(Duration::ZERO));
    (Replica::start(parts, threads.into_iter().collect(), Some(engine(length))).unwrap(), told)
}

#[tokio::test]
async fn requests_that_are_there_together_ride_together_on_the_thread_that_read_them() {
    let (replica, told) = start(Duration::ZERO, Box::new(|_| ()));
    let lane = Lane::start();
    let calls = [1.0, 2.0, 3.0].map(|value| replica.infer(call(value, 1, None), &lane));
    let replies = join_all(calls).await;
    let values: Vec<_> = replies.into_iter().map(|reply| values(&reply.unwrap())[0]).collect();
    assert_eq!(values, [2.0, 4.0, 6.0], "each its own");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [(std::thread::current().id(), 3)]);
    // More than a batch takes is several, one after the other.
    join_all((0..7).map(|_| replica.infer(call(1.0, 1, None), &lane))).await;
    assert_eq!(told.try_iter().map(|(_, rows)| rows).collect::<Vec<_>>(), [4, 3]);
}

#[tokio::test]
async fn a_model_that_grows_slow_leaves_the_networks_thread() {
    let (replica, told) = start(Duration::from_millis(2), Box::new(|_| ()));
    let lane = Lane::start();
    for _ in 0..8 {
        replica.infer(call(1.0, 1, None), &lane).await.unwrap();
    }
    let here = std::thread::current().id();
    let threads: Vec<_> = told.try_iter().map(|(thread, _)| thread).collect();
    // A slow run may be an accident, two are not. Runs elsewhere are short here, so it may come back.
    assert!(threads.contains(&here), "{threads:?}");
    assert!(threads.windows(3).all(|three| three.iter().any(|thread| *thread != here)), "{threads:?}");
}

#[tokio::test]
async fn a_panic_on_the_networks_thread_ends_the_replica_and_nothing_else() {
    let (failed, reasons) = mpsc::sync_channel(64);
    let (replica, _told) = start(Duration::ZERO, Box::new(move |reason| failed.send(reason).unwrap()));
    let lane = Lane::start();
    assert!(matches!(replica.infer(call(13.0, 1, None), &lane).await, Err(Failure::NotReady { .. })));
    assert!(reasons.recv().unwrap().contains("panicked"));
    let (other, _told) = start(Duration::ZERO, Box::new(|_| ()));
    assert!(other.infer(call(1.0, 1, None), &lane).await.is_ok(), "the lane lives on");
}

#[tokio::test]
async fn i7_a_request_that_was_given_up_before_its_turn_does_not_run() {
    let (replica, told) = start(Duration::ZERO, Box::new(|_| ()));
    let lane = Lane::start();
    let given_up = futures_util::FutureExt::now_or_never(replica.infer(call(1.0, 1, None), &lane));
    assert!(given_up.is_none());
    replica.infer(call(2.0, 1, None), &lane).await.unwrap();
    assert_eq!(told.try_iter().map(|(_, rows)| rows).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn answers_of_an_engine_thread_come_back_to_the_runtime_that_waits() {
    let (tell, _told) = mpsc::sync_channel(64);
    let replica = Arc::new(Replica::start(parts(Box::new(|_| ())), vec![telling(Duration::ZERO, tell)], None).unwrap());
    let on = |replica: Arc<Replica>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let lane = Lane::start();
            join_all((0..4).map(|_| replica.infer(call(1.0, 1, None), &lane))).await.iter().filter(|reply| reply.is_ok()).count()
        })
    };
    let threads: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn({
                let replica = replica.clone();
                move || on(replica)
            })
        })
        .collect();
    let answered: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(answered.iter().all(|count| *count == 4), "{answered:?}");
}
