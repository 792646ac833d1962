//! Runs [`policy::batch::Batcher`] against real time and the engine threads of one replica.
//!
//! A request waits in the batcher; an idle instance takes a batch, runs it, and answers each request through its oneshot.
//! Nothing here decides what rides together: that is the batcher's part.
//!
//! A model that keeps its order (`preserve_ordering`) may still have several instances: each runs what it took, then answers
//! when all that was taken before is answered. Refusals do not wait for that.

use crate::engine::{Engine, EngineError};
use crate::gate::{Gate, Seat};
use crate::lane::{Lane, Outcome};
use crate::memory::Reservation;
use crate::runner::Runner;
use policy::batch::{Asked, Batcher, Batching, Limits, Pending, Ticket};
use policy::check::check_request;
use policy::profile::{Coverage, Drift, Forecasts as _, Latency, Measured, Profiles};
use policy::route::Arrivals;
use policy::statistics::Statistics;
use policy::{Backlog, Envelope, Failure, Moment, Padding, Signature, VariantId, WorkerId};
use proto::call::{InferCall, ReplicaStatistics};
use proto::chain::Chain;
use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

mod assemble;
mod inline;
mod instance;
mod padded;
mod queue;
mod running;
mod split;

pub(crate) use inline::{INLINE_US_MAX, Inline};

use instance::Instance;
use queue::{Job, Queue, ns};
use running::Running;

/// A variant loaded on a device, with its queue and its instances.
pub(crate) struct Replica {
    shared: Arc<Shared>,
    /// For a model so small that its batches run on the network's threads.
    inline: Option<Arc<Inline>>,
}

/// What a replica is made of.
pub(crate) struct Parts {
    pub(crate) variant: VariantId,
    pub(crate) worker: WorkerId,
    pub(crate) signature: Signature,
    pub(crate) latency: Latency,
    pub(crate) limits: Limits,
    /// What the model's configuration says about its queue.
    pub(crate) batching: Batching,
    /// Which requests of different lengths may share a batch.
    pub(crate) padding: Option<Padding>,
    /// Tells this load from others in this process.
    pub(crate) load: u64,
    /// Longest run, in microseconds, that may take place on a network thread.
    pub(crate) inline_us_max: u32,
    /// Generation of its placement.
    pub(crate) generation: u64,
    /// Of its device.
    pub(crate) gate: Arc<Gate>,
    /// Threads that work on a run of one of its instances.
    pub(crate) intra_threads: u32,
    /// The process its engines are in, if not this one.
    pub(crate) runner: Option<Arc<Runner>>,
    /// What it may take; given back when its last engine is gone.
    pub(crate) _memory: Option<Reservation>,
    /// Called once, from an engine thread, when an engine fails in a way that ends the replica.
    pub(crate) on_failed: Box<dyn Fn(String) + Send + Sync>,
}

struct Shared {
    parts: Parts,
    instances: u32,
    /// Where its instances wait for their turns. Its lock may be taken under the queue's, never the other way round.
    seat: Arc<Seat>,
    queue: Mutex<Queue>,
    /// Who sends.
    arrivals: Mutex<Arrivals>,
    /// The model was seen to mix rows: its requests run alone from then on.
    mixes_rows: AtomicBool,
    /// Microseconds of a batch, the newest counting for a third.
    run_us: AtomicU32,
    work: Condvar,
    /// Told when a batch is answered, of a model that keeps its order.
    turns: Condvar,
    idle: tokio::sync::Notify,
}

/// A span of this replica's work, under the caller's.
macro_rules! span {
    ($name:literal, $trace:expr, $variant:expr) => {{
        let span = proto::trace::span($trace.as_ref(), || tracing::info_span!(target: proto::trace::TARGET, $name, variant = %$variant));
        proto::trace::continue_from(&span, $trace.as_ref());
        span
    }};
}
use span;

impl Replica {
    /// Starts one thread per engine. All engines run the same variant, `inline` too, which runs small batches on network threads.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(parts: Parts, engines: Vec<Box<dyn Engine>>, inline: Option<Box<dyn Engine>>) -> std::io::Result<Self> {
        let seat = Arc::new(Seat::new(parts.gate.clone(), engines.len(), parts.intra_threads));
        let queue = Queue {
            batcher: Batcher::new(parts.limits, parts.batching.clone()),
            profiles: Profiles::new(parts.latency),
            drift: Drift::new(parts.intra_threads),
            observed: moment(&seat, Instant::now()),
            jobs: HashMap::new(),
            at_gate: 0,
            running: Running::default(),
            taken: 0,
            answered: 0,
            statistics: Statistics::default(),
            closed: false,
            failed: None,
        };
        let shared = Arc::new(Shared {
            instances: u32::try_from(engines.len()).unwrap_or(u32::MAX),
            parts,
            seat,
            queue: Mutex::new(queue),
            arrivals: Mutex::default(),
            mixes_rows: AtomicBool::new(false),
            run_us: AtomicU32::new(0),
            work: Condvar::new(),
            turns: Condvar::new(),
            idle: tokio::sync::Notify::new(),
        });
        let inline = inline.map(|engine| Arc::new(Inline::new(shared.clone(), engine)));
        let replica = Self { shared, inline };
        for (i, engine) in engines.into_iter().enumerate() {
            let instance = Instance::new(replica.shared.clone(), engine, i);
            std::thread::Builder::new().name(format!("sluice-engine-{i}")).spawn(move || instance.run())?;
        }
        Ok(replica)
    }

    /// What it takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        &self.shared.parts.signature
    }

    /// What became of its requests since it was loaded. One that ran to its end was answered, whether or not its caller still waited;
    /// one that was cancelled before that has failed, as has one that found the queue full.
    pub(crate) fn statistics(&self) -> Statistics {
        self.shared.lock().statistics.clone()
    }

    /// The same, with what tells it from other loads.
    pub(crate) fn counted(&self) -> ReplicaStatistics {
        let Parts { variant, load, generation, .. } = &self.shared.parts;
        ReplicaStatistics { variant: variant.clone(), load: *load, generation: *generation, statistics: self.statistics() }
    }

    /// What its batches took of late, where that is known.
    pub(crate) fn measured(&self) -> Option<Measured> {
        let now = self.shared.now();
        self.shared.lock().drift.measured(now)
    }

    /// How well the predicted tail of its batches held since it was loaded, and how slow it is now beside its line.
    pub(crate) fn predicted(&self) -> (Coverage, f64) {
        let queue = self.shared.lock();
        (queue.profiles.coverage(), queue.profiles.whole().slow)
    }

    /// What it runs.
    pub(crate) fn variant(&self) -> &VariantId {
        &self.shared.parts.variant
    }

    /// A request of `sender` came over the network; what came of late from all over what came from it.
    pub(crate) fn arrives(&self, sender: u64) -> f64 {
        let now = self.shared.now();
        self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner).count(now, sender)
    }

    /// Queues `call` and waits for its answer. Dropping the future takes the request out of the queue, and stops a run that nobody else
    /// waits for (I7). The call is checked again
    /// here: whoever checked it may have gone by what another load of the model takes, and an engine must never see lengths that lie.
    /// `lane` is that of the runtime which waits.
    pub(crate) async fn infer(&self, mut call: InferCall, lane: &Lane) -> Outcome {
        call.rows = check_request(&self.shared.parts.signature, &call.envelope)?.rows;
        let raw = std::mem::take(&mut call.raw).collect().await?;
        let (ticket, answer) = self.shared.enqueue(call, raw, lane)?;
        match &self.inline {
            Some(inline) if inline.is_on() => lane.schedule(inline),
            _ => self.shared.work.notify_one(),
        }
        let mut place = Place { shared: &self.shared, ticket: Some(ticket) };
        let answer = answer.await;
        place.ticket = None;
        answer.unwrap_or_else(|_| Err(self.shared.gone()))
    }

    /// Stops runs that do not end; to be called now and then. Where that does not help, the process they are in is ended, and with it
    /// every replica there; in this process all that can be done is that nobody is sent here any more.
    pub(crate) fn watch(&self) {
        self.watch_at(self.shared.now());
    }

    fn watch_at(&self, now: Moment) {
        let overdue = self.shared.lock().running.overdue(now);
        for cancel in &overdue.stop {
            tracing::warn!(variant = %self.shared.parts.variant, "a run does not end and is stopped");
            cancel.cancel();
        }
        match &self.shared.parts.runner {
            Some(runner) if overdue.stuck => runner.kill(),
            None if overdue.stuck => {
                self.shared.fail("a run did not end when it was stopped".to_owned(), 0);
                self.shared.seat.revoke();
            }
            _ => {}
        }
    }

    /// Takes no more requests; resolves when all it has are answered.
    pub(crate) async fn drain(&self) {
        loop {
            let idle = self.shared.idle.notified();
            {
                let mut queue = self.shared.lock();
                queue.close();
                self.shared.work.notify_all();
                if queue.failed.is_some() || queue.is_idle() {
                    return;
                }
            }
            idle.await;
        }
    }
}

impl Drop for Replica {
    /// The instances finish what they have and end; their engines go with them.
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.close();
        self.shared.tell(&queue);
        drop(queue);
        self.shared.work.notify_all();
    }
}

/// A request's place in the queue or in a batch, given up when its caller goes.
struct Place<'s> {
    shared: &'s Shared,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut queue = self.shared.lock();
            if queue.batcher.cancel(ticket) {
                queue.refuse(ticket, Failure::Cancelled);
                self.shared.tell(&queue);
            } else if let Some(unwanted) = queue.running.abandon(ticket).cloned() {
                drop(queue); // stopping calls into the engine
                unwanted.cancel();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> Moment {
        moment(&self.seat, instant)
    }

    /// Says what waits now to whom it concerns on the device: to the gate if an instance is there, to the other replicas if there are any.
    fn tell(&self, queue: &Queue) {
        let gone = queue.failed.is_some();
        self.seat.queued(|| if gone { Backlog::default() } else { queue.backlog(self.now()) });
        match queue.at_gate {
            0 => {}
            _ if gone || queue.batcher.is_empty() => self.seat.leave(),
            _ => self.seat.hasten(queue.batcher.deadline()),
        }
    }

    fn gone(&self) -> Failure {
        let reason = self.lock().failed.clone();
        self.not_ready(reason.unwrap_or_else(|| "the replica is being taken away".to_owned()))
    }

    fn not_ready(&self, reason: String) -> Failure {
        let VariantId { model, version, .. } = &self.parts.variant;
        Failure::NotReady { model: model.to_string(), version: version.to_string(), reason }
    }

    fn enqueue(&self, call: InferCall, raw: Vec<Chain>, lane: &Lane) -> Result<(Ticket, oneshot::Receiver<Outcome>), Failure> {
        let Asked { priority, timeout_us } = Asked::of(&call.envelope)?;
        let (answer, receiver) = lane.answer();
        let arrived = Instant::now();
        let now = self.at(arrived);
        let pending = Pending {
            rows: call.rows,
            bytes: raw.iter().map(|c| c.len() as u64).sum(),
            deadline: call.remaining.map(|length| now.after(length)),
            group: group(&self.parts, &call.envelope),
            priority,
            timeout_us,
        };
        let queued = Some(span!("queue", call.trace, self.parts.variant));
        let InferCall { envelope, rows, trace, .. } = call;
        let job = Job { envelope, raw, rows, arrived, answer, trace, queued };
        let mut queue = self.lock();
        if queue.closed || queue.failed.is_some() {
            drop(queue);
            return Err(self.gone());
        }
        let ticket = queue.batcher.arrive(now, pending).inspect_err(|_| queue.statistics.fail.add(1, 0))?;
        queue.jobs.insert(ticket, job);
        self.tell(&queue);
        Ok((ticket, receiver))
    }

    /// Ends the replica: whoever waits is told, and whoever owns it, once. `lost` requests were in the engine and get no other
    /// answer.
    fn fail(&self, reason: String, lost: usize) {
        let mut guard = self.lock();
        let queue = &mut *guard;
        let first = queue.failed.is_none();
        queue.failed.get_or_insert_with(|| reason.clone());
        queue.statistics.fail.add(lost as u64, 0);
        for (_, job) in queue.jobs.drain() {
            queue.statistics.fail.add(1, job.age_ns()); // its caller learns it from the closed oneshot
        }
        self.tell(queue);
        drop(guard);
        self.work.notify_all();
        self.turns.notify_all();
        self.idle.notify_waiters();
        if first {
            (self.parts.on_failed)(reason);
        }
    }

    fn observe_run(&self, length: Duration) {
        // Two at once may lose one of their observations; the next ones tell the same. A run that another process interrupted says
        // little, so one counts as twice the bound at most, and it takes two to leave the network's thread.
        let most = INLINE_US_MAX.saturating_mul(2);
        let (before, us) = (self.run_us.load(Ordering::Relaxed), u32::try_from(length.as_micros()).unwrap_or(u32::MAX).min(most));
        self.run_us.store(before.saturating_sub(before.div_ceil(3)).saturating_add(us.div_ceil(3)), Ordering::Relaxed);
    }

    fn notice_mixed_rows(&self, error: &EngineError) {
        if !self.mixes_rows.swap(true, Ordering::Relaxed) {
            tracing::warn!(variant = %self.parts.variant, %error, "rows cannot be told apart, requests run one by one from now on");
        }
    }
}

/// Moments of all replicas on a device count from the same origin, so that their deadlines can be compared.
fn moment(seat: &Seat, instant: Instant) -> Moment {
    Moment::default().after(instant.saturating_duration_since(seat.origin()))
}

/// Requests of equal non-batch dimensions share a group, and those whose lengths may be filled up to the same.
fn group(Parts { signature, padding, .. }: &Parts, envelope: &Envelope) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    let skip = usize::from(signature.max_batch_size > 0);
    let bucket = padding.as_ref().and_then(|padding| padding.length(envelope)).map(Padding::bucket);
    for spec in &signature.inputs {
        let shape = envelope.inputs.iter().find(|i| i.name == spec.name).map(|input| &input.shape);
        let padded = bucket.and_then(|bucket| Some((bucket, padding.as_ref()?.input(&spec.name)?.dim)));
        match (shape, padded) {
            (Some(shape), Some((bucket, dim))) => {
                let dims = shape.iter().enumerate().skip(skip).map(|(i, size)| if i == dim { bucket as i64 } else { *size });
                dims.for_each(|size| size.hash(&mut hasher));
            }
            _ => shape.map(|shape| shape.get(skip..)).hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
