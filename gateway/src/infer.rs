//! One request's way through the gateway: check, choose, send, perhaps once more, answer.

use crate::adapt::Wishes;
use crate::shard::{Core, Shard};
use crate::table::{ModelVersion, Replica};
use policy::check::check_request;
use policy::route::{Candidate, Standing, choose};
use policy::{DataType, Envelope, Failure, Moment, Param, Retry, WorkerId};
use proto::call::{Caller, InferCall, InferReply, TraceContext};
use proto::chain::Chain;
use proto::trace;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tracing::Instrument as _;

/// After a failure that may last, a replica is doubtful for this long.
const DOUBT: Duration = Duration::from_secs(1);
/// Attempts per request: one, and one on another worker.
const ATTEMPTS_MAX: usize = 2;
/// Told to a client who finds no replica: about a reconnect.
const NO_REPLICA_RETRY_MS: u32 = 200;

/// What came with a request besides its message.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) caller: Caller,
    pub(crate) trace: Option<TraceContext>,
    /// When nobody waits any more.
    pub(crate) deadline: Option<Instant>,
}

impl Context {
    /// The outcome of `work`, which is dropped when the deadline passes before that.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        match self.deadline {
            None => Ok(work.await),
            Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.map_err(|_| late(deadline)),
        }
    }
}

impl Shard {
    /// Answers a request read from the wire.
    pub(crate) async fn answer(&self, envelope: Envelope, raw: Vec<Chain>, context: Context) -> Result<InferReply, Failure> {
        let trace = self.core.settings.trace_context(&envelope.model, context.trace);
        let span = trace::span(
            trace.as_ref(),
            || tracing::info_span!(target: trace::TARGET, "receive", model = %envelope.model, tenant = %context.caller.tenant),
        );
        trace::continue_from(&span, trace.as_ref());
        let context = Context { trace, ..context };
        let started = Instant::now();
        let table = self.core.table.load_full();
        let result = match table.resolve(&envelope.model, &envelope.version) {
            Ok(version) => {
                let result = self.answer_version(version, envelope, raw, context).instrument(span).await;
                let metrics = &version.metrics;
                metrics.observe(started.elapsed());
                if result.is_ok() {
                    metrics.success.inc()
                } else {
                    metrics.failure.inc()
                };
                result
            }
            Err(failure) => Err(failure),
        };
        result.inspect_err(|failure| self.core.metrics.refused(failure.wire().0))
    }

    async fn answer_version(
        &self,
        version: &Arc<ModelVersion>,
        mut envelope: Envelope,
        mut raw: Vec<Chain>,
        context: Context,
    ) -> Result<InferReply, Failure> {
        let wishes = Wishes::take(&self.core, &context, version, &mut envelope, &mut raw).await?;
        let checked = check_request(version.signature(), &envelope)?;
        check_bytes_inputs(&envelope, &raw)?;
        let pin = pinned(version, &envelope)?;
        let request = Request { envelope: Arc::new(envelope), raw, rows: checked.rows, context, pin };
        let mut reply = self.answer_checked(version, &request).await?;
        wishes.fulfil(version, &mut reply)?;
        Ok(reply)
    }

    /// Sends a request to a replica, and to one on another worker when that may help.
    async fn answer_checked(&self, version: &Arc<ModelVersion>, request: &Request) -> Result<InferReply, Failure> {
        let mut tried: SmallVec<[WorkerId; ATTEMPTS_MAX]> = SmallVec::new();
        let mut last = None;
        while tried.len() < ATTEMPTS_MAX {
            let Some(replica) = self.choose(version, request, &tried) else { break };
            if !tried.is_empty() {
                self.core.metrics.retries.inc();
            }
            match self.send(replica, request).await {
                Err(failure) if failure.wire().2 == Retry::OtherWorker => {
                    replica.gauge.doubt(self.core.now().after(DOUBT));
                    tracing::debug!(worker = %replica.worker, %failure, "attempt failed");
                    tried.push(replica.worker.clone());
                    last = Some(failure);
                }
                result => return result,
            }
        }
        Err(last.unwrap_or(Failure::NoReplica { model: request.envelope.model.clone(), retry_ms: NO_REPLICA_RETRY_MS }))
    }

    /// One policy call on what is known now.
    fn choose<'v>(&self, version: &'v ModelVersion, request: &Request, tried: &[WorkerId]) -> Option<&'v Replica> {
        let span = trace::span(request.context.trace.as_ref(), || tracing::info_span!(target: trace::TARGET, "choose"));
        let _span = span.entered();
        let now = self.core.now();
        let candidate = |replica: &Replica| {
            let (backlog_us, reported) = replica.gauge.reported();
            let pinned_away = request.pin.as_ref().is_some_and(|pin| replica.variant.name.as_str() != pin);
            let excluded = pinned_away || tried.contains(&replica.worker) || self.upstream(&replica.worker).is_none();
            let standing = match (excluded, replica.gauge.is_doubtful(now)) {
                (true, _) => Standing::Excluded,
                (false, true) => Standing::Doubtful,
                (false, false) => Standing::Good,
            };
            Candidate {
                latency: replica.latency,
                instances: replica.instances,
                backlog_us,
                reported,
                rows_in_flight: replica.gauge.rows_in_flight.load(Ordering::Relaxed),
                distance_us: replica.distance_us,
                standing,
            }
        };
        let candidates: SmallVec<[Candidate; 16]> = version.replicas.iter().map(candidate).collect();
        let index = choose(&candidates, now, request.rows, [fastrand::f64(), fastrand::f64()])?;
        version.replicas.get(index)
    }

    async fn send(&self, replica: &Replica, request: &Request) -> Result<InferReply, Failure> {
        let span = trace::span(
            request.context.trace.as_ref(),
            || tracing::info_span!(target: trace::TARGET, "send", worker = %replica.worker, variant = %replica.variant.name),
        );
        let remaining = request.remaining()?;
        let upstream = self.upstream(&replica.worker).ok_or(Failure::ConnectionLost)?;
        let _rows = InFlight::enter(&replica.gauge.rows_in_flight, request.rows);
        let call = InferCall {
            envelope: request.envelope.clone(),
            raw: request.raw.clone(),
            rows: request.rows,
            variant: replica.variant.clone(),
            remaining,
            caller: request.context.caller.clone(),
            trace: trace::pass_on(&span, request.context.trace.as_ref()),
        };
        let mut replies = upstream.infer(call);
        let answer = async move { replies.next().await.unwrap_or(Err(Failure::BadReply { what: "no reply".to_owned() })) };
        // At the deadline the replies are dropped, which cancels the call.
        let result = request.context.in_time(answer.instrument(span)).await.flatten();
        if let Ok(reply) = &result {
            replica.gauge.report(self.core.now(), reply.load.backlog_us);
        }
        result
    }
}

/// A checked request.
struct Request {
    envelope: Arc<Envelope>,
    raw: Vec<Chain>,
    rows: u32,
    context: Context,
    /// The only variant that may answer.
    pin: Option<String>,
}

impl Request {
    /// Time left; an error when there is none.
    fn remaining(&self) -> Result<Option<Duration>, Failure> {
        let Some(deadline) = self.context.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late(deadline)) } else { Ok(Some(left)) }
    }
}

fn late(deadline: Instant) -> Failure {
    let late = Moment::default().after(Instant::now().saturating_duration_since(deadline));
    Failure::DeadlineExceeded { late_us: late.as_us() }
}

/// Rows sent and not answered; taken back on drop, whatever ended the attempt.
struct InFlight<'g>(&'g AtomicU32, u32);

impl<'g> InFlight<'g> {
    fn enter(counter: &'g AtomicU32, rows: u32) -> Self {
        counter.fetch_add(rows, Ordering::Relaxed);
        Self(counter, rows)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// The insides of BYTES inputs, which the envelope does not show.
fn check_bytes_inputs(envelope: &Envelope, raw: &[Chain]) -> Result<(), Failure> {
    for (input, chain) in envelope.inputs.iter().zip(raw) {
        if input.datatype == DataType::Bytes.as_str() {
            let count = input.shape.iter().fold(1u64, |n, d| n.saturating_mul(d.unsigned_abs()));
            policy::bytes_tensor::check(count, chain.slices().map(|s| s.as_ref()))
                .map_err(|what| Failure::BytesTensor { input: input.name.clone(), what })?;
        }
    }
    Ok(())
}

/// The variant the request pins, if any; an error when no ready replica runs it.
fn pinned(version: &ModelVersion, envelope: &Envelope) -> Result<Option<String>, Failure> {
    let Some(value) = envelope.parameter("sluice_variant") else { return Ok(None) };
    let Param::String(variant) = value else {
        return Err(Failure::Parameter { name: "sluice_variant".to_owned(), what: "expected a string such as fp32@ort".to_owned() });
    };
    if version.replicas.iter().any(|r| r.variant.name.as_str() == variant) {
        return Ok(Some(variant.clone()));
    }
    Err(Failure::UnknownVariant { model: envelope.model.clone(), variant: variant.chars().take(128).collect() })
}

impl Core {
    /// Is this process giving up its work?
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}

#[cfg(test)]
pub(crate) mod tests;
