//! What a model's configuration says about its queue, with real threads and real time.

use super::*;
use policy::Param;
use policy::batch::{QueuePolicy, TimeoutAction};

const LONG: u64 = 3_600_000_000;

fn start_with(batching: Batching, rows_max: u32, engines: Vec<Box<dyn Engine>>) -> Arc<Replica> {
    let parts = Parts { batching, limits: Limits { rows_max, ..LIMITS }, ..parts(Box::new(|_| ())) };
    Arc::new(Replica::start(parts, engines, None).unwrap())
}

fn with(mut call: InferCall, name: &str, value: Param) -> InferCall {
    Arc::make_mut(&mut call.envelope).parameters.push((name.into(), value));
    call
}

/// An engine that tells the first value of every run.
fn telling() -> (Box<dyn Engine>, Gate, mpsc::Receiver<f32>) {
    let (told_tx, told) = mpsc::sync_channel(64);
    let (engine, gate) = gated(move |values| {
        told_tx.send(values[0]).unwrap();
        None
    });
    (engine, gate, told)
}

#[tokio::test]
async fn an_idle_instance_waits_for_company_until_a_preferred_size_is_there() {
    let (engine, gate) = gated(|_| None);
    drop(gate.go);
    let rules = Batching { max_delay_us: LONG, preferred_rows: vec![3], ..Batching::default() };
    let replica = start_with(rules, 4, vec![engine]);
    let first = spawn(&replica, call(1.0, 1, None));
    let second = spawn(&replica, call(2.0, 2, None));
    for call in [first, second] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(gate.runs.try_iter().collect::<Vec<_>>(), [3], "they rode together");
}

#[tokio::test]
async fn the_wait_for_company_ends_by_itself() {
    let (engine, gate) = gated(|_| None);
    drop(gate.go);
    let replica = start_with(Batching { max_delay_us: 20_000, ..Batching::default() }, 4, vec![engine]);
    let reply = tokio::time::timeout(Duration::from_secs(10), infer(&replica, call(1.0, 1, None))).await.unwrap().unwrap();
    let waited = reply.reply.parameters.iter().find(|(name, _)| name == policy::Served::QUEUE_US);
    assert!(matches!(waited, Some((_, Param::Int64(20_000..)))), "{waited:?}");
}

#[tokio::test]
async fn a_drain_ends_the_wait_for_company() {
    let (engine, gate) = gated(|_| None);
    drop(gate.go);
    let replica = start_with(Batching { max_delay_us: LONG, ..Batching::default() }, 4, vec![engine]);
    let waiting = spawn(&replica, call(1.0, 1, None));
    queued(&replica, 1).await;
    tokio::time::timeout(Duration::from_secs(10), replica.drain()).await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_batch_leaves_behind_is_run_by_another_instance_when_its_delay_is_over() {
    let (one, gate) = gated(|_| None);
    let (two, other_gate) = gated(|_| None);
    let replica = start_with(Batching { max_delay_us: 20_000, ..Batching::default() }, 4, vec![one, two]);
    // A full batch and one more.
    let calls: Vec<_> = [4, 1].map(|rows| spawn(&replica, call(1.0, rows, None))).into();
    let mut rows = [first_run(&gate).await, first_run(&other_gate).await];
    rows.sort_unstable();
    assert_eq!(rows, [1, 4], "neither has been let go yet");
    drop((gate.go, other_gate.go));
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_of_higher_priority_runs_first() {
    let (engine, gate, told) = telling();
    let replica = start_with(Batching { priority_levels: 2, default_priority: 2, ..Batching::default() }, 1, vec![engine]);
    let mut calls = vec![spawn(&replica, call(0.0, 1, None))];
    first_run(&gate).await;
    let waiting =
        [call(1.0, 1, None), with(call(2.0, 1, None), "priority", Param::Uint64(1)), with(call(3.0, 1, None), "priority", Param::Int64(1))];
    for (i, call) in waiting.into_iter().enumerate() {
        calls.push(spawn(&replica, call));
        queued(&replica, i + 1).await;
    }
    drop(gate.go);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0.0, 2.0, 3.0, 1.0]);
}

#[tokio::test]
async fn who_waits_longer_than_its_queue_allows_is_refused_without_running() {
    let (engine, gate, told) = telling();
    let policy =
        QueuePolicy { timeout_action: TimeoutAction::Reject, default_timeout_us: LONG, allow_timeout_override: true, queue_len_max: 0 };
    let replica = start_with(Batching { queue: policy, ..Batching::default() }, 1, vec![engine]);
    let running = spawn(&replica, call(0.0, 1, None));
    first_run(&gate).await;
    let hurried = spawn(&replica, with(call(1.0, 1, None), "timeout", Param::Int64(1_000)));
    queued(&replica, 1).await;
    let patient = spawn(&replica, call(2.0, 1, None));
    queued(&replica, 2).await;
    let until = replica.shared.now().as_us() + 1_000;
    while replica.shared.now().as_us() < until {
        tokio::task::yield_now().await;
    }
    drop(gate.go);
    assert!(matches!(hurried.await.unwrap(), Err(Failure::QueueTimeout { waited_us: 1_000.., allowed_us: 1_000 })));
    running.await.unwrap().unwrap();
    patient.await.unwrap().unwrap();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0.0, 2.0]);
}

#[tokio::test]
async fn a_malformed_priority_or_timeout_is_refused_at_the_door() {
    let (engine, _gate) = gated(|_| None);
    let replica = start(engine);
    for (name, value) in [("priority", Param::Bool(true)), ("priority", Param::Int64(-1)), ("timeout", Param::String("1".into()))] {
        let refused = infer(&replica, with(call(1.0, 1, None), name, value)).await;
        assert!(matches!(refused, Err(Failure::Parameter { name: named, .. }) if named == name));
    }
}

#[tokio::test]
async fn a_model_that_keeps_its_order_answers_in_it_from_several_instances() {
    let (one, gate) = gated(|_| None);
    let (two, other_gate) = gated(|_| None);
    let replica = start_with(Batching { preserve_ordering: true, ..Batching::default() }, 4, vec![one, two]);
    let first = spawn(&replica, call(1.0, 1, None));
    let (slow, fast) = loop {
        match (gate.runs.try_recv(), other_gate.runs.try_recv()) {
            (Ok(_), _) => break (gate, other_gate),
            (_, Ok(_)) => break (other_gate, gate),
            _ => tokio::task::yield_now().await,
        }
    };
    let mut second = spawn(&replica, call(2.0, 1, None));
    first_run(&fast).await;
    drop(fast.go);
    // Its run is over in no time; what it waits for is the first's answer.
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_err(), "the second was answered before the first");
    assert!(!first.is_finished());
    drop(slow.go);
    for call in [first, second] {
        call.await.unwrap().unwrap();
    }
    assert!(slow.runs.try_recv().is_err());
}
