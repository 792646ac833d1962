use super::*;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::layer::SubscriberExt as _;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn context(parent: &str) -> TraceContext {
    TraceContext { parent: parent.to_owned(), state: String::new() }
}

/// What is exported by a request's way through a gateway, and by a worker that knows only what the gateway passed on.
fn exported(trace: Option<&TraceContext>) -> (Vec<SpanData>, Vec<SpanData>) {
    let run = |work: &dyn Fn()| {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        exporter.get_finished_spans().unwrap()
    };
    let passed = std::cell::RefCell::new(None);
    let gateway = run(&|| {
        let receive = span(trace, || tracing::info_span!(target: TARGET, "receive"));
        continue_from(&receive, trace);
        let _inside = receive.enter();
        let send = span(trace, || tracing::info_span!(target: TARGET, "send"));
        passed.replace(pass_on(&send, trace));
    });
    let passed = passed.into_inner();
    let worker = run(&|| {
        let queue = tracing::info_span!(target: TARGET, "queue");
        continue_from(&queue, passed.as_ref());
    });
    (gateway, worker)
}

fn names(spans: &[SpanData]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_ref()).collect()
}

#[test]
fn a_request_that_is_not_sampled_exports_nothing_anywhere_and_the_next_begins_a_trace() {
    let (gateway, worker) = exported(Some(&not_sampled(7, 7)));
    assert_eq!((names(&gateway), names(&worker)), (vec![], vec![]));

    let (gateway, worker) = exported(None);
    assert_eq!((names(&gateway), names(&worker)), (vec!["send", "receive"], vec!["queue"]));
    assert_eq!(gateway[1].parent_span_id, SpanId::INVALID, "receive is the root");
    assert_eq!(worker[0].parent_span_id, gateway[0].span_context.span_id(), "the worker goes on under send");
}

#[test]
fn the_flag_of_the_caller_decides_and_its_trace_goes_on() {
    let (gateway, worker) = exported(Some(&context(NOT_SAMPLED)));
    assert_eq!((names(&gateway), names(&worker)), (vec![], vec![]));

    let (gateway, worker) = exported(Some(&context(SAMPLED)));
    assert_eq!((gateway.len(), worker.len()), (2, 1));
    let id = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap();
    assert!(gateway.iter().chain(&worker).all(|span| span.span_context.trace_id() == id));
}

#[test]
fn what_is_passed_on_for_a_request_that_is_not_sampled_says_so() {
    let made = not_sampled(0, 0);
    for trace in [made, not_sampled(u128::MAX, u64::MAX), context(NOT_SAMPLED)] {
        assert!(!is_sampled(Some(&trace)));
        span(Some(&trace), || unreachable!("no span is made"));
        let passed = pass_on(&tracing::Span::none(), Some(&trace)).unwrap();
        assert!(parse(&passed.parent).is_some_and(|(.., flags)| !flags.is_sampled()), "{passed:?}");
    }
    assert!(is_sampled(Some(&context(SAMPLED))) && is_sampled(None));
}

#[test]
fn only_a_well_formed_traceparent_is_passed_on() {
    assert!(parse(SAMPLED).is_some());
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
    ] {
        assert!(parse(bad).is_none(), "{bad}");
    }
}
