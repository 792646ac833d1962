//! One request's way through the gateway: check, choose, send, perhaps once more, answer.

use crate::adapt::Wishes;
use crate::asked::{Asked, Headers};
use crate::metrics::Stage;
use crate::rollout::Part;
use crate::shard::{Core, Shard};
use crate::split;
use crate::table::{ModelVersion, Replica};
use policy::check::{Checked, check_request};
use policy::profile::FORECAST_US_MAX;
use policy::route::{self, Candidate, Choice, Refusal, Standing, choose};
use policy::{DataType, Envelope, Failure, Moment, Param, Retry, Served, WorkerId};
use proto::call::{Caller, InferCall, InferReply, Tensors, TraceContext};
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
    /// Headers that say what is asked.
    pub(crate) asked: Headers,
    /// When nobody waits any more.
    pub(crate) deadline: Option<Instant>,
    /// The side of a rollout that is to answer, where one runs.
    pub(crate) part: Option<Part>,
}

impl Context {
    /// Is it a copy, whose answer nobody gets?
    fn is_copy(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.is_copy)
    }

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
    pub(crate) async fn answer(&self, envelope: Envelope, raw: Tensors, context: Context) -> Result<InferReply, Failure> {
        let trace = self.core.settings.trace_context(&envelope.model, context.trace);
        let span = trace::span(
            trace.as_ref(),
            || tracing::info_span!(target: trace::TARGET, "receive", model = %envelope.model, tenant = %context.caller.tenant),
        );
        trace::continue_from(&span, trace.as_ref());
        let context = Context { trace, ..context };
        let started = Instant::now();
        let at = self.core.metrics.at(Stage::Door);
        let admitted = self.core.door.enter(self.core.now(), &context, raw.len()).await;
        at.ended(&admitted);
        let _place = admitted.inspect_err(|failure| self.core.metrics.refused(failure.wire().0))?;
        let table = self.core.table.load_full();
        let result = match table.find(&envelope.model) {
            Ok(model) => match model.rolling.as_ref().filter(|rolling| rolling.splits(&envelope, &context)) {
                None => match model.resolve(&envelope.model, &envelope.version) {
                    Ok(version) => {
                        let result = self.answer_version(version, envelope, raw, context).instrument(span).await;
                        version.metrics.answered(started.elapsed(), result.is_ok());
                        result
                    }
                    Err(failure) => Err(failure),
                },
                // Boxed: a request that nothing is to take over from does not pay for it.
                Some(rolling) => Box::pin(self.answer_rolling(model, rolling, envelope, raw, context)).instrument(span).await,
            },
            Err(failure) => Err(failure),
        };
        result.inspect_err(|failure| self.core.metrics.refused(failure.wire().0))
    }

    async fn answer_version(
        &self,
        version: &Arc<ModelVersion>,
        envelope: Envelope,
        raw: Tensors,
        context: Context,
    ) -> Result<InferReply, Failure> {
        let (mut reply, wishes) = self.answer_plain(version, envelope, raw, context).await?;
        wishes.fulfil(version, &mut reply)?;
        Ok(reply)
    }

    /// The model's own answer, and what is left to be made of it.
    pub(crate) async fn answer_plain(
        &self,
        version: &Arc<ModelVersion>,
        mut envelope: Envelope,
        mut raw: Tensors,
        context: Context,
    ) -> Result<(InferReply, Wishes), Failure> {
        let wishes = Wishes::take(&self.core, &context, version, &mut envelope, &mut raw).await?;
        let mut checked = check_request(version.signature(), &envelope);
        let mut woken = None;
        if !version.is_ready()
            && let Some(rows) = rows_to_be_run(&checked, version)
        {
            if let Tensors::Here(raw) = &raw {
                check_bytes_inputs(&envelope, raw)?;
            }
            // Boxed: who finds a model awake must not carry what it takes.
            let found = Box::pin(self.awake(version, &envelope, (rows, raw.len()), &context)).await?;
            checked = check_request(found.signature(), &envelope);
            woken = Some(found);
        }
        let version = woken.as_ref().unwrap_or(version);
        let reply = match checked {
            Ok(checked) => self.answer_one(version, envelope, raw, checked.rows, context).await?,
            Err(Failure::BatchTooLarge { .. }) if version.record.split => {
                Box::pin(self.answer_split(version, envelope, raw, context)).await?
            }
            Err(failure) => return Err(failure),
        };
        Ok((reply, wishes))
    }

    /// Answers a request above the largest batch in parts, which are all sent at once.
    async fn answer_split(
        &self,
        version: &Arc<ModelVersion>,
        envelope: Envelope,
        raw: Tensors,
        context: Context,
    ) -> Result<InferReply, Failure> {
        let raw = context.in_time(raw.collect()).await??;
        let answer = |(part, raw): (Envelope, Vec<Chain>)| {
            let context = context.clone();
            async move {
                let rows = check_request(version.signature(), &part)?.rows;
                let reply = self.answer_one(version, part, Tensors::Here(raw), rows, context).await?;
                Ok::<_, Failure>((i64::from(rows), reply))
            }
        };
        let parts = split::parts(version.signature(), &envelope, raw)?;
        split::joined(futures_util::future::try_join_all(parts.into_iter().map(answer)).await?)
    }

    /// Answers a request of `rows` rows whose envelope is right.
    async fn answer_one(
        &self,
        version: &Arc<ModelVersion>,
        envelope: Envelope,
        raw: Tensors,
        rows: u32,
        context: Context,
    ) -> Result<InferReply, Failure> {
        if let Tensors::Here(raw) = &raw {
            check_bytes_inputs(&envelope, raw)?;
        }
        if !context.is_copy() {
            version.is_asked(self.core.now(), rows);
        }
        let asked = Asked::of(version, &envelope, &context.asked, &context.caller.tenant)?;
        context.part.as_ref().map_or(Ok(()), |part| part.can_answer(version, &asked, &envelope))?;
        let request = Request { envelope: Arc::new(envelope), raw, rows, context, asked };
        self.answer_checked(version, &request).await
    }

    /// Sends a request to a replica, and to one on another worker when that may help.
    async fn answer_checked(&self, version: &Arc<ModelVersion>, request: &Request) -> Result<InferReply, Failure> {
        let mut tried: SmallVec<[WorkerId; ATTEMPTS_MAX]> = SmallVec::new();
        let mut last = None;
        while tried.len() < ATTEMPTS_MAX {
            let chosen = match self.choose(version, request, &tried) {
                Ok(chosen) => chosen,
                Err(failure) => {
                    self.core.metrics.lost(Stage::Choose, &failure);
                    return Err(last.unwrap_or(failure));
                }
            };
            let replica = chosen.replica;
            if !tried.is_empty() {
                self.core.metrics.retries.inc();
            }
            let sent = Instant::now();
            let result = self.send(&chosen, request).await;
            if let Ok(reply) = &result {
                replica.gauge.report(self.core.now(), &reply.load);
                // What came while it was sent came at its sender's pace.
                if let (Tensors::Here(_), Some(worked_us)) = (&request.raw, Served::total_us(&reply.reply.parameters)) {
                    replica.gauge.travelled(sent.elapsed().as_secs_f64() * 1e6 - worked_us as f64, request.raw.len());
                }
            }
            if let (Some(remaining_us), Ok(_) | Err(Failure::DeadlineExceeded { .. })) = (chosen.remaining_us, &result) {
                let actual_us = Moment::default().after(sent.elapsed()).as_us();
                version.learned().headroom.record(chosen.predicted_us, actual_us, remaining_us);
            }
            match result {
                Ok(mut reply) => {
                    reply.reply.parameters.push((Served::ACCURACY.to_owned(), Param::Double(replica.accuracy)));
                    return Ok(reply);
                }
                Err(failure) if failure.wire().2 == Retry::OtherWorker => {
                    replica.gauge.doubt(self.core.now().after(DOUBT));
                    tracing::debug!(worker = %replica.worker, %failure, "attempt failed");
                    if !request.can_be_sent() {
                        return Err(failure);
                    }
                    tried.push(replica.worker.clone());
                    last = Some(failure);
                }
                result => return result,
            }
        }
        Err(last.unwrap_or(Failure::NoReplica { model: request.envelope.model.clone(), retry_ms: NO_REPLICA_RETRY_MS }))
    }

    /// One policy call on what is known now.
    fn choose<'v>(&self, version: &'v ModelVersion, request: &Request, tried: &[WorkerId]) -> Result<Chosen<'v>, Failure> {
        let span = trace::span(request.context.trace.as_ref(), || tracing::info_span!(target: trace::TARGET, "choose"));
        let _span = span.entered();
        let (now, remaining) = (self.core.now(), request.remaining()?);
        let remaining_us = remaining.map(|length| Moment::default().after(length).as_us());
        let rows_max = version.signature().max_batch_size.max(1);
        let slo_us = request.asked.latency_us;
        let candidate = |replica: &Replica| {
            let gauge = &replica.gauge;
            let ((backlog, reported), path) = (gauge.reported(), gauge.path());
            let forecast = gauge.forecast(replica.latency).aged(now.us_since(gauge.heard())).held_to(version.allowance);
            let (rows_since_report, beside_us) = gauge.since_report();
            let allowed = request.asked.allows(replica) && request.context.part.as_ref().is_none_or(|part| part.allows(replica));
            let standing = match (!allowed || tried.contains(&replica.worker), self.upstream(&replica.worker).is_none()) {
                (true, _) => Standing::Excluded,
                (false, true) => Standing::Unreachable,
                (false, false) if gauge.is_doubtful(now) => Standing::Doubtful,
                (false, false) => Standing::Good,
            };
            Candidate {
                alpha_us: forecast.latency.alpha_us,
                beta_us: forecast.latency.beta_us,
                kappa: forecast.kappa,
                slow: forecast.slow,
                rows_max: forecast.rows_max(rows_max),
                rows_useful: slo_us.map_or_else(|| forecast.rows_max(rows_max), |slo_us| forecast.rows_useful(rows_max, slo_us, 0.0)),
                instances: replica.instances,
                backlog_us: backlog.before_us(remaining_us),
                reported,
                rows_since_report,
                beside_us: beside_us as f64,
                accuracy: replica.tier,
                planned: replica.planned,
                wait_us_max: replica.wait_us_max,
                spare: gauge.spare(),
                senders: gauge.senders(),
                in_flight: gauge.in_flight.load(Ordering::Relaxed),
                rtt_us: path.rtt_us(),
                bytes_per_us: path.bytes_per_us(),
                distance: replica.distance,
                age_us: gauge.age_us(now),
                standing,
            }
        };
        let candidates: SmallVec<[Candidate; 8]> = version.replicas.iter().map(candidate).collect();
        let mut learned = version.learned();
        let asked = route::Request {
            now,
            rows: request.rows,
            bytes: request.raw.len(),
            remaining_us,
            slo_us,
            tier: learned.tier,
            may_cross: learned.spill.may_cross(),
        };
        let choice = choose(&candidates, &asked, &learned.headroom, [fastrand::f64(), fastrand::f64()]);
        let choice = choice
            .or_else(|refusal| untried(version, &candidates, &asked, refusal))
            .map_err(|refusal| refused(refusal, &request.envelope.model))?;
        let replica = version.replicas.get(choice.index).ok_or_else(|| refused(Refusal::NoReplica, &request.envelope.model))?;
        if !request.context.is_copy() {
            learned.spill.record(choice.spilled);
            learned.tier = replica.tier;
        }
        let work_us = candidates.get(choice.index).map_or(0.0, |candidate| candidate.work_us(request.rows)) as u64;
        Ok(Chosen { replica, work_us, predicted_us: choice.predicted_us, remaining_us: asked.remaining_us })
    }

    async fn send(&self, chosen: &Chosen<'_>, request: &Request) -> Result<InferReply, Failure> {
        let replica = chosen.replica;
        let span = trace::span(
            request.context.trace.as_ref(),
            || tracing::info_span!(target: trace::TARGET, "send", worker = %replica.worker, variant = %replica.variant.name),
        );
        let remaining = request.remaining()?;
        let upstream = self.upstream(&replica.worker).ok_or(Failure::ConnectionLost)?;
        replica.gauge.sent(request.rows, chosen.work_us);
        let _in_flight = InFlight::enter(&replica.gauge.in_flight);
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
        let at = self.core.metrics.at(Stage::Worker);
        // At the deadline the replies are dropped, which cancels the call.
        let told = request.context.in_time(answer.instrument(span)).await;
        at.ended(&told);
        if let Ok(Err(failure)) = &told {
            self.core.metrics.lost(Stage::Queue, failure);
        }
        told.flatten()
    }
}

/// A checked request.
struct Request {
    envelope: Arc<Envelope>,
    raw: Tensors,
    rows: u32,
    context: Context,
    asked: Asked,
}

impl Request {
    /// Not of a long one that was being sent while it came: its beginning is forgotten.
    fn can_be_sent(&self) -> bool {
        !matches!(&self.raw, Tensors::Coming(inflow) if !inflow.is_whole())
    }

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

/// A replica, and what it was chosen for.
struct Chosen<'v> {
    replica: &'v Replica,
    /// Microseconds that its device will be busy with it, over its instances.
    work_us: u64,
    predicted_us: u64,
    /// Time left when it was chosen.
    remaining_us: Option<u64>,
}

/// A forecast that refuses everything would stand for ever, since only answers bring another: an idle replica that has said nothing for
/// a while is tried whatever was forecast.
fn untried(version: &ModelVersion, candidates: &[Candidate], request: &route::Request, refusal: Refusal) -> Result<Choice, Refusal> {
    let silent = |(c, r): (&Candidate, &Replica)| {
        c.standing == Standing::Good && c.in_flight == 0 && request.now.us_since(r.gauge.heard()) > FORECAST_US_MAX
    };
    match candidates.iter().zip(&version.replicas).position(silent) {
        Some(index) => Ok(Choice { index, predicted_us: request.remaining_us.unwrap_or_default(), spilled: false }),
        None => Err(refusal),
    }
}

fn refused(refusal: Refusal, model: &str) -> Failure {
    match refusal {
        Refusal::NoReplica => Failure::NoReplica { model: model.to_owned(), retry_ms: NO_REPLICA_RETRY_MS },
        Refusal::Hopeless { idle_us, allowed_us } => Failure::Hopeless { late_us: idle_us.saturating_sub(allowed_us) },
        Refusal::Busy { retry_us } => {
            let retry_ms = u32::try_from(retry_us.div_ceil(1_000)).unwrap_or(u32::MAX);
            Failure::Busy { model: model.to_owned(), retry_ms }
        }
    }
}

/// A request sent and not answered; taken back on drop, whatever ended the attempt.
struct InFlight<'g>(&'g AtomicU32);

impl<'g> InFlight<'g> {
    fn enter(counter: &'g AtomicU32) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rows of a request that would be run if there were a replica.
fn rows_to_be_run(checked: &Result<Checked, Failure>, version: &ModelVersion) -> Option<u32> {
    match checked {
        Ok(checked) => Some(checked.rows),
        Err(Failure::BatchTooLarge { rows, .. }) if version.record.split => Some(u32::try_from(*rows).unwrap_or(u32::MAX)),
        Err(_) => None,
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

impl Core {
    /// Is this process giving up its work?
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}

#[cfg(test)]
pub(crate) mod tests;
