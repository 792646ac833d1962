//! Copies of requests for the side of a rollout that does not answer them. A copy is sent when its request has been answered, so it does
//! not hold that up, and its answer is compared and goes nowhere. Where the gateway is busy there are none.

use crate::infer::Context;
use crate::rollout::{Part, Rolling, Watch};
use crate::shard::{Core, Shard};
use crate::table::Model;
use bytes::Bytes;
use policy::rollout::{Answer, Candidate, Likeness, Pairs, Side, compare, mirrors};
use policy::{Code, DataType, Envelope, Failure, Param, Phase, Reply, Served, SharedMemory};
use proto::call::{InferReply, Tensors};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most copies at once: each takes a place in a replica's queue.
const COPIES_MAX: u64 = 32;
/// Most bytes of copies and of the answers they wait to be compared with, beside the gateway's budget.
const BYTES_MAX: u64 = 16 << 20;
/// Longest wait for the answer to a copy, whatever its request allowed.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Answers up to this are compared on the network's own thread: a pass over so few bytes takes less than a change of threads.
const INLINE_BYTES: u64 = 64 << 10;

/// Copies under way.
#[derive(Default)]
pub(crate) struct Copies {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// A place among them, given back on drop.
struct Room {
    core: Arc<Core>,
    bytes: u64,
}

impl Room {
    fn take(core: &Arc<Core>, bytes: u64) -> Option<Self> {
        let before = core.copies.count.fetch_add(1, Ordering::Relaxed);
        let mut room = Self { core: core.clone(), bytes: 0 };
        (before < COPIES_MAX && room.grow(bytes)).then_some(room)
    }

    /// False where there is no room for so many bytes more.
    fn grow(&mut self, bytes: u64) -> bool {
        let before = self.core.copies.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_add(bytes);
        before.saturating_add(bytes) <= BYTES_MAX
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.core.copies.count.fetch_sub(1, Ordering::Relaxed);
        self.core.copies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request as it came, to be sent once more.
pub(crate) struct Shadow {
    rolling: Arc<Rolling>,
    envelope: Envelope,
    raw: Tensors,
    context: Context,
    /// The time its caller allowed.
    timeout: Option<Duration>,
    room: Room,
}

impl Shadow {
    /// It is not sent.
    pub(crate) fn skip(self) {
        self.rolling.skipped();
    }
}

impl Shard {
    /// A copy of the request, if it is drawn for one and there is room.
    pub(crate) fn take_copy(&self, rolling: &Arc<Rolling>, envelope: &Envelope, raw: &Tensors, context: &Context) -> Option<Shadow> {
        if rolling.phase != Phase::Runs || !mirrors(fastrand::f64(), rolling.record.shadow) {
            return None;
        }
        // What lies in a client's memory may be something else by the time the copy is read.
        let shared = |parameters| SharedMemory::is_named_in(parameters);
        let shared = envelope.inputs.iter().any(|i| shared(&i.parameters)) || envelope.outputs.iter().any(|o| shared(&o.parameters));
        let busy = || self.core.is_draining() || self.core.door.waiting() > 0;
        let here = matches!(raw, Tensors::Here(_)) && !shared && !busy();
        let Some(room) = here.then(|| Room::take(&self.core, raw.len())).flatten() else {
            rolling.skipped();
            return None;
        };
        let timeout = context.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let (envelope, raw, context) = (envelope.clone(), raw.clone(), Context { trace: None, ..context.clone() });
        Some(Shadow { rolling: rolling.clone(), envelope, raw, context, timeout, room })
    }

    /// Sends the copy of a request that `answered` has answered with `plain`, or has failed to, and goes on; the outcome is counted.
    pub(crate) fn send_copy(&self, model: &Model, mut copy: Shadow, answered: Side, plain: Result<Option<InferReply>, Failure>) {
        let rolling = copy.rolling.clone();
        let first = match plain {
            Ok(Some(reply)) => Some(reply),
            // Only of the candidate it matters that it fails where the other answers.
            Err(failure) if answered == Side::Candidate && is_fault(&failure) => None,
            Ok(None) | Err(_) => return copy.skip(),
        };
        let Some(version) = model.of_side(&rolling, answered.other()).cloned() else { return copy.skip() };
        let of_variants = matches!(rolling.record.rollout.candidate, Candidate::Variant(_));
        let by_reference = |reply: &InferReply| is_by(&reply.reply, version.record.reference.as_str());
        let comparable = !of_variants || answered == Side::Candidate || first.as_ref().is_some_and(by_reference);
        if !comparable || !copy.room.grow(first.as_ref().map_or(0, length)) {
            return copy.skip();
        }
        let shard = self.clone();
        tokio::spawn(async move {
            let Shadow { envelope, raw, context, timeout, mut room, .. } = copy;
            let end = tokio::time::Instant::now() + timeout.unwrap_or(WAIT_MAX).min(WAIT_MAX);
            let part = Part { rolling: rolling.clone(), side: answered.other(), is_copy: true };
            let context = Context { part: Some(part), deadline: timeout.map(|_| end.into_std()), ..context };
            let watch = Watch::begin(&shard, &rolling, answered.other(), &version);
            let work = Box::pin(shard.answer_plain(&version, envelope, raw, context));
            let second = tokio::time::timeout_at(end, work).await.unwrap_or(Err(Failure::DeadlineExceeded { late_us: 0 }));
            let second = second.map(|(reply, _)| reply);
            watch.ended(&second);
            let batched = version.signature().max_batch_size > 0;
            let pairs = match (first, second) {
                (Some(first), Ok(second)) if room.grow(length(&second)) => {
                    let (baseline, candidate) = if answered == Side::Baseline { (first, second) } else { (second, first) };
                    judge(rolling.likeness, batched, baseline, candidate).await
                }
                (None, Ok(_)) => Some(Pairs { compared: 1, disagreed: 1 }),
                (Some(_), Err(failure)) if answered == Side::Baseline && is_fault(&failure) => Some(Pairs { compared: 1, disagreed: 1 }),
                _ => None,
            };
            match pairs {
                Some(pairs) => rolling.compared(pairs),
                None => rolling.skipped(),
            }
        });
    }
}

/// Is it what an engine made of the request, and not that it came too late or not at all?
fn is_fault(failure: &Failure) -> bool {
    matches!(failure.wire().0, Code::Internal | Code::InvalidArgument | Code::Unknown)
}

fn is_by(reply: &Reply, variant: &str) -> bool {
    reply.parameters.iter().any(|(name, value)| name == Served::VARIANT && matches!(value, Param::String(by) if by == variant))
}

fn length(reply: &InferReply) -> u64 {
    reply.raw.iter().fold(0, |sum, chain| sum.saturating_add(chain.len() as u64))
}

async fn judge(likeness: Likeness, batched: bool, baseline: InferReply, candidate: InferReply) -> Option<Pairs> {
    let large = length(&baseline).saturating_add(length(&candidate)) > INLINE_BYTES;
    let work = move || {
        let joined = |reply: InferReply| (reply.reply, reply.raw.into_iter().map(|chain| chain.into_bytes()).collect::<Vec<_>>());
        let (baseline, candidate) = (joined(baseline), joined(candidate));
        compare(likeness, batched, &answers(&baseline), &answers(&candidate))
    };
    if large { tokio::task::spawn_blocking(work).await.ok() } else { Some(work()) }
}

fn answers((reply, raw): &(Reply, Vec<Bytes>)) -> Vec<Answer<'_>> {
    let outputs = reply.outputs.iter().zip(raw).map(|(output, bytes)| {
        let datatype = DataType::parse(&output.datatype).unwrap_or(DataType::Bytes);
        Answer { name: &output.name, datatype, shape: &output.shape, bytes }
    });
    outputs.collect()
}
