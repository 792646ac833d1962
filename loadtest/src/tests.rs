use crate::test_server::{Behaviour, serve};
use crate::{Arrivals, Ask, Load, LoadError, Mix, Pace, Protocol, Target, hdr_log, measure, run, svg};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Rest];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn constant(target: Target, rate: f64, duration: Duration) -> Load {
    Load::new(target, Ask::of("m"), Pace::Open(Arrivals::Constant { rate }), duration)
}

fn warmed(mut load: Load, warm_up: Duration) -> Load {
    load.script.warm_up = warm_up;
    load
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_200_ms_shows_in_the_99th_percentile() {
    for protocol in BOTH {
        let behaviour = Arc::new(Behaviour { stall: Some((100, ms(200))), ..Default::default() });
        let target = serve(protocol, behaviour).await;
        // 500 a second for 2 s: 100 of 1,000 requests are due while the server stands still.
        let load = Load { connections: 8, ..constant(target, 500.0, ms(2_000)) };
        let report = run(&load).await.unwrap();
        assert_eq!((report.offered, report.answered), (1_000, 1_000), "{report}");
        assert!(report.latency_us.value_at_quantile(0.99) > 150_000, "{report}");
        // REST has too few connections for those that wait, and says so.
        assert_eq!(report.client_limits().iter().any(|l| l.contains("--connections")), protocol == Protocol::Rest, "{report}");
    }
}

#[tokio::test]
async fn a_closed_loop_keeps_so_many_under_way_and_no_more() {
    for (protocol, threads) in [(Protocol::Grpc, 1), (Protocol::Rest, 1), (Protocol::Grpc, 2)] {
        let behaviour = Arc::new(Behaviour { takes: ms(20), ..Default::default() });
        let target = serve(protocol, behaviour.clone()).await;
        let load = Load::new(target, Ask::of("m"), Pace::Closed { concurrency: 7 }, ms(400));
        let report = run(&Load { threads, ..warmed(load, ms(60)) }).await.unwrap();
        assert_eq!(behaviour.in_flight_max.load(Ordering::SeqCst), 7, "{report}");
        assert!((7..=147).contains(&report.answered) && report.errors.is_empty(), "7 callers, 20 ms each, 400 ms: {report}");
        assert!(!report.client_limits().iter().any(|l| l.contains("--connections")), "{report}");
    }
}

#[tokio::test]
async fn what_is_refused_late_or_in_the_warm_up_is_told_apart() {
    for protocol in BOTH {
        let behaviour = Arc::new(Behaviour { refuse_every: Some(4), takes: ms(30), ..Default::default() });
        let target = serve(protocol, behaviour.clone()).await;
        let asks = vec![
            Ask { tenant: "a".to_owned(), deadline_ms: Some(5_000.0), ..Ask::of("m") },
            Ask { tenant: "b".to_owned(), deadline_ms: Some(10.0), share: 3.0, ..Ask::of("m") },
        ];
        let mut load = warmed(constant(target, 200.0, ms(600)), ms(200));
        load.script.mix = Mix { asks };
        let report = run(&load).await.unwrap();
        assert_eq!((behaviour.begun.load(Ordering::SeqCst), report.offered), (160, 120), "{report}");
        assert_eq!(report.errors.len(), 1, "{report}");
        let (error, count) = report.errors.iter().next().unwrap();
        assert!(error.contains("3 ") && (error.starts_with("Unavailable: ") || error.starts_with("HTTP 503: ")), "{error}");
        assert_eq!(report.answered + count, 120);
        let [(first, a), (_, b)] = &report.asks[..] else { panic!() };
        assert_eq!(first, "m (tenant a) within 5000 ms");
        assert_eq!((a.in_time, b.in_time, report.in_time), (a.answered, 0, a.answered), "{report}");
        assert!(a.offered + b.offered == 120 && b.offered > a.offered, "{report}");
        let seen = behaviour.seen.lock().unwrap();
        assert!(seen.contains(&("a".to_owned(), "5000000u".to_owned())) && seen.contains(&("b".to_owned(), "10000u".to_owned())));
    }
}

#[tokio::test]
async fn a_server_that_closes_each_connection_costs_no_request() {
    let behaviour = Arc::new(Behaviour { close: true, ..Default::default() });
    let target = serve(Protocol::Rest, behaviour).await;
    let report = run(&constant(target, 200.0, ms(500))).await.unwrap();
    assert_eq!((report.answered, report.errors.len()), (100, 0), "{report}");
}

#[tokio::test]
async fn more_than_the_limit_is_not_sent_and_counts_as_an_error() {
    let behaviour = Arc::new(Behaviour { takes: ms(500), ..Default::default() });
    let target = serve(Protocol::Grpc, behaviour.clone()).await;
    let report = run(&Load { in_flight_max: 10, ..constant(target, 100.0, ms(300)) }).await.unwrap();
    assert_eq!((report.offered, report.answered, behaviour.begun.load(Ordering::SeqCst)), (30, 10, 10), "{report}");
    assert_eq!(report.errors.get("not sent: 10 requests wait for their answers already"), Some(&20), "{report}");
}

#[tokio::test]
async fn two_targets_take_turns_and_are_compared_by_pairs() {
    let slow = Arc::new(Behaviour { takes: ms(30), ..Default::default() });
    let fast = Arc::new(Behaviour { takes: ms(10), ..Default::default() });
    let closed = |target| Load::new(target, Ask::of("m"), Pace::Closed { concurrency: 2 }, ms(300));
    let loads = vec![closed(serve(Protocol::Grpc, slow.clone()).await), closed(serve(Protocol::Rest, fast.clone()).await)];
    let mut turns = Vec::new();
    let measurement = measure(loads, 3, |repeat, turn| turns.push((repeat, turn))).await.unwrap();
    assert_eq!(turns, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)], "A B A B A B");
    let json = measurement.json();
    let ratio = |name: &str, of: &str| json["second_over_first"][name][of].as_f64().unwrap();
    assert!(ratio("answered_per_second", "median") > 1.2 && ratio("latency_us_p50", "median") < 0.8, "{measurement}");
    assert!(ratio("latency_us_p50", "low") <= ratio("latency_us_p50", "mean") && ratio("latency_us_p50", "repeats") == 3.0);
    assert_eq!(json["targets"][1]["repeats"].as_array().unwrap().len(), 3);

    let picture = svg(&measurement);
    assert!(picture.matches("<polyline").count() == 10 && !picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    let log = String::from_utf8(hdr_log(&measurement, SystemTime::now()).unwrap()).unwrap();
    assert_eq!(log.matches("Tag=second,").count(), 9, "three repeats of three intervals: {log}");
}

#[tokio::test]
async fn the_log_is_read_back_by_the_library_that_others_use() {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let target = serve(Protocol::Grpc, Arc::default()).await;
    let measurement = measure(vec![constant(target, 100.0, ms(300))], 1, |_, _| {}).await.unwrap();
    let log = hdr_log(&measurement, SystemTime::now()).unwrap();
    let mut count = 0;
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(interval.encoded_histogram()).unwrap();
            let histogram: hdrhistogram::Histogram<u64> =
                hdrhistogram::serialization::Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            count += histogram.len();
        }
    }
    assert_eq!(count, measurement.targets[0].reports[0].answered);
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_before_anything_is() {
    let closed_port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for protocol in BOTH {
        let nobody = Target { url: closed_port.clone(), protocol };
        let error = run(&constant(nobody, 1.0, ms(10))).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("nothing answers at {closed_port}: ")) && error.contains("refused"), "{error}");
        let target = serve(protocol, Arc::default()).await;
        let mut unknown = constant(target.clone(), 1.0, ms(10));
        unknown.script.mix = Ask::of("other").into();
        let error = run(&unknown).await.unwrap_err().to_string();
        assert!(error.starts_with("model other at ") && error.contains("unknown model"), "{error}");
        let wrong = Load { threads: 300, connections: 0, size: 0, in_flight_max: 0, ..constant(target, 0.0, ms(0)) };
        let Err(LoadError::Settings(problems)) = run(&wrong).await else { panic!() };
        assert_eq!(problems.len(), 6, "{problems:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_in_the_middle_is_counted_and_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority: http::uri::Authority = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop((stream, listener));
    });
    for protocol in BOTH {
        let client = crate::client::Client::new(authority.clone(), protocol, 1, false);
        let request = http::Request::post("http://h/").body(http_body_util::Full::default()).unwrap();
        let error = client.ask(request).await.unwrap_err();
        assert!(error.starts_with("connection: "), "{error}");
    }
}

#[tokio::test]
async fn an_answer_is_read_for_who_gave_it_where_that_is_asked_for() {
    for reads_answers in [true, false] {
        let behaviour = Arc::new(Behaviour { told: Some(("int8@ort", 0.97)), ..Default::default() });
        let target = serve(Protocol::Grpc, behaviour.clone()).await;
        let mut load = constant(target, 100.0, ms(200));
        load.script.mix = Ask { variant: "int8@ort".to_owned(), ..Ask::of("m") }.into();
        let report = run(&Load { reads_answers, ..load }).await.unwrap();
        let (_, ask) = &report.asks[0];
        let expected = crate::VariantRecord { answered: 20, in_time: 20, accuracy: 0.97 };
        assert_eq!(ask.variants.get("int8@ort"), reads_answers.then_some(&expected), "{report}");
        assert_eq!(behaviour.seen.lock().unwrap()[0].0, "int8@ort");
    }
}
