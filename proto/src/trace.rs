//! W3C trace context between processes: read from a request, continued by our spans, passed on.

use crate::call::TraceContext;
use crate::metadata;
use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Target of the spans that are exported; nothing else is, and no log shows them.
pub const TARGET: &str = "sluice::trace";

/// The context a request came with.
pub fn of(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = metadata::text(headers, metadata::TRACEPARENT)?;
    parse(parent)?;
    let state = metadata::text(headers, metadata::TRACESTATE).unwrap_or_default();
    Some(TraceContext { parent: parent.to_owned(), state: state.to_owned() })
}

/// A context that nobody records, for a request that is not sampled. `trace` and `parent` are random.
pub fn not_sampled(trace: u128, parent: u64) -> TraceContext {
    let (trace, parent) = (trace.max(1), parent.max(1)); // zero is no id
    TraceContext { parent: format!("00-{trace:032x}-{parent:016x}-00"), state: String::new() }
}

/// Is a request with this context recorded? One without any is.
pub fn is_sampled(trace: Option<&TraceContext>) -> bool {
    let flags = trace.and_then(|t| t.parent.get(53..55)).and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_none_or(|flags| TraceFlags::new(flags).is_sampled())
}

/// The span that `make` makes; none, at no cost, for a request that is not recorded. Every exported span is made by this.
pub fn span(trace: Option<&TraceContext>, make: impl FnOnce() -> tracing::Span) -> tracing::Span {
    if is_sampled(trace) { make() } else { tracing::Span::none() }
}

/// Makes `span` a child of the caller's span. Nothing happens when no exporter is configured.
pub fn continue_from(span: &tracing::Span, trace: Option<&TraceContext>) {
    if span.is_disabled() {
        return;
    }
    if let Some(context) = trace.and_then(|t| parse(&t.parent).map(|c| (c, &t.state))).map(|((id, parent, flags), state)| {
        let state = state.parse::<TraceState>().unwrap_or_default();
        SpanContext::new(id, parent, flags, true, state)
    }) {
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
    }
}

/// What to pass on from inside `span`: the span itself when it is exported, else what came in.
pub fn pass_on(span: &tracing::Span, incoming: Option<&TraceContext>) -> Option<TraceContext> {
    if !span.is_disabled() {
        let context = span.context();
        let ours = context.span().span_context().clone();
        if ours.is_valid() {
            let parent = format!("00-{}-{}-{:02x}", ours.trace_id(), ours.span_id(), ours.trace_flags().to_u8());
            return Some(TraceContext { parent, state: ours.trace_state().header() });
        }
    }
    incoming.cloned()
}

/// `version-traceid-parentid-flags`, as W3C Trace Context writes it. All-zero ids are invalid.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.split('-');
    let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |t: &str, len: usize| t.len() == len && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !known || !hex(id, 32) || !hex(parent, 16) || !hex(flags, 2) {
        return None;
    }
    let (id, parent) = (TraceId::from_hex(id).ok()?, SpanId::from_hex(parent).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    (id != TraceId::INVALID && parent != SpanId::INVALID).then_some((id, parent, flags))
}

#[cfg(test)]
mod tests;
