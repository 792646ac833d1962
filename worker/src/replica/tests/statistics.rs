//! What a replica counts.

use super::*;
use policy::batch::QueuePolicy;

#[tokio::test]
async fn each_request_is_charged_the_batch_it_rode_in_and_each_batch_counts_once() {
    let (engine, gate) = gated(|_| None);
    let replica = start(engine);
    assert_eq!(replica.statistics(), Statistics::default());
    let mut calls = vec![spawn(&replica, call(1.0, 1, None))];
    first_run(&gate).await;
    calls.extend([(2.0, 2), (3.0, 1), (4.0, 1)].map(|(value, rows)| spawn(&replica, call(value, rows, None))));
    queued(&replica, 3).await;
    drop(gate.go);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // At once: a caller that was answered has been counted.
    let all = replica.statistics();
    assert_eq!((all.inference_count, all.execution_count, all.fail.count), (5, 2, 0));
    let counts = [all.success, all.queue, all.compute_input, all.compute_infer, all.compute_output].map(|total| total.count);
    assert_eq!(counts, [4; 5]);
    assert_eq!(all.batches.keys().copied().collect::<Vec<_>>(), [1, 4]);
    let charged = |ns: fn(&policy::statistics::BatchTotals) -> policy::statistics::Total| {
        let (one, four) = (ns(&all.batches[&1]), ns(&all.batches[&4]));
        assert_eq!((one.count, four.count), (1, 1));
        one.ns + 3 * four.ns
    };
    assert_eq!(charged(|b| b.compute_input), all.compute_input.ns);
    assert_eq!(charged(|b| b.compute_infer), all.compute_infer.ns);
    assert_eq!(charged(|b| b.compute_output), all.compute_output.ns);
    let parts = [all.queue, all.compute_input, all.compute_infer, all.compute_output].map(|total| total.ns);
    assert!(all.success.ns.abs_diff(parts.iter().sum()) < 16, "the parts are the whole: {all:?}");
    assert!(all.last_inference_ms > 1_700_000_000_000, "a wall clock");
    let handle = crate::handle::WorkerHandle::default();
    handle.insert(variant(), replica);
    let text = crate::metrics::render(&handle);
    let labels = r#"{model="m",version="1",variant="fp32@ort"}"#;
    assert!(text.contains(&format!("sluice_worker_executions_total{labels} 2\n")), "{text}");
    assert!(text.contains(&format!("sluice_worker_slow_ratio{labels} ")) && text.contains("executions_over_p99_total"), "{text}");
}

#[tokio::test]
async fn all_that_was_taken_and_failed_counts_as_that() {
    let bad = |values: &[f32]| (values[0] < 0.0).then(|| EngineError::BadInput { what: "negative".into() });
    let (engine, gate) = gated(bad);
    let queue = QueuePolicy { allow_timeout_override: true, ..QueuePolicy::default() };
    let batching = Batching { queue, ..Batching::default() };
    let parts = Parts { batching, ..parts(Box::new(|_| ())) };
    let replica = Arc::new(Replica::start(parts, vec![engine], None).unwrap());
    let refused = spawn(&replica, call(-1.0, 1, None));
    first_run(&gate).await;
    let late = spawn(&replica, call(1.0, 1, Some(Duration::from_micros(900))));
    queued(&replica, 1).await;
    let mut hurried = call(2.0, 1, None);
    Arc::make_mut(&mut hurried.envelope).parameters.push(("timeout".into(), policy::Param::Int64(1_000)));
    let slow = spawn(&replica, hurried);
    queued(&replica, 2).await;
    let cancelled = spawn(&replica, call(3.0, 1, None));
    queued(&replica, 3).await;
    cancelled.abort();
    let _ = cancelled.await;
    assert_eq!(replica.statistics().fail.count, 1);
    let until = replica.shared.now().as_us() + 1_000;
    while replica.shared.now().as_us() < until {
        tokio::task::yield_now().await;
    }
    drop(gate.go);
    assert!(matches!(refused.await.unwrap(), Err(Failure::EngineInput { .. })));
    assert!(matches!(late.await.unwrap(), Err(Failure::DeadlineExceeded { .. })));
    assert!(matches!(slow.await.unwrap(), Err(Failure::QueueTimeout { .. })));
    let all = replica.statistics();
    assert_eq!((all.fail.count, all.success.count, all.execution_count), (4, 0, 0));
    assert!(all.fail.ns >= 1_900_000, "at least what the late and the slow one waited: {all:?}");
}

#[tokio::test]
async fn what_a_failing_replica_leaves_unanswered_counts_as_failed() {
    let panics: fn(&[f32]) -> Option<EngineError> = |_| panic!("on purpose");
    let fails: fn(&[f32]) -> Option<EngineError> = |_| Some(EngineError::Failed { reason: "broken".into() });
    for bad in [panics, fails] {
        let (engine, gate) = gated(bad);
        let replica = start(engine);
        let mut calls = vec![spawn(&replica, call(1.0, 1, None))];
        first_run(&gate).await;
        calls.extend([spawn(&replica, call(2.0, 1, None)), spawn(&replica, call(3.0, 1, None))]);
        queued(&replica, 2).await;
        drop(gate.go);
        for call in calls {
            assert!(call.await.unwrap().is_err());
        }
        replica.drain().await;
        assert_eq!(replica.statistics().fail.count, 3);
    }
}
