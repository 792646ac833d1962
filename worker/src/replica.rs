//! Runs [`policy::batch::Batcher`] against real time and the engine threads of one replica.
//!
//! A request waits in the batcher; an idle instance takes a batch, runs it, and answers each request through its oneshot.
//! Nothing here decides what rides together: that is the batcher's part.

use crate::engine::{CancelFlag, Engine, EngineError};
use crate::memory::Reservation;
use policy::batch::{Batch, Batcher, Limits, Pending, Ticket};
use policy::profile::Latency;
use policy::{Envelope, Failure, Moment, Signature, VariantId, WorkerId};
use proto::call::{InferCall, InferReply};
use proto::chain::Chain;
use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

mod assemble;
mod split;

pub(crate) use assemble::Assembler;

/// A variant loaded on a device, with its queue and its instances.
pub(crate) struct Replica {
    shared: Arc<Shared>,
}

/// What a replica is made of.
pub(crate) struct Parts {
    pub(crate) variant: VariantId,
    pub(crate) worker: WorkerId,
    pub(crate) signature: Signature,
    pub(crate) latency: Latency,
    pub(crate) limits: Limits,
    /// What it may take; given back when its last engine is gone.
    pub(crate) _memory: Option<Reservation>,
    /// Called once, from an engine thread, when an engine fails in a way that ends the replica.
    pub(crate) on_failed: Box<dyn Fn(String) + Send + Sync>,
}

struct Shared {
    parts: Parts,
    instances: u32,
    origin: Instant,
    queue: Mutex<Queue>,
    /// The model was seen to mix rows: its requests run alone from then on.
    mixes_rows: AtomicBool,
    work: Condvar,
    idle: tokio::sync::Notify,
}

struct Queue {
    batcher: Batcher,
    jobs: HashMap<Ticket, Job>,
    /// Requests in an engine now.
    running: usize,
    /// Set when the replica takes no more: instances finish the queue and end.
    closed: bool,
    /// Set when an engine failed for good.
    failed: Option<String>,
}

impl Queue {
    /// Nothing waits and nothing runs.
    fn is_idle(&self) -> bool {
        self.running == 0 && self.batcher.is_empty()
    }
}

/// A waiting request.
struct Job {
    envelope: Arc<Envelope>,
    raw: Vec<Chain>,
    rows: u32,
    arrived: Instant,
    answer: oneshot::Sender<Result<InferReply, Failure>>,
    trace: Option<proto::call::TraceContext>,
    /// Open while it waits.
    queued: Option<tracing::Span>,
}

/// A span of this replica's work, under the caller's.
macro_rules! span {
    ($name:literal, $trace:expr, $variant:expr) => {{
        let span = tracing::info_span!(target: proto::trace::TARGET, $name, variant = %$variant);
        proto::trace::continue_from(&span, $trace.as_ref());
        span
    }};
}

impl Replica {
    /// Starts one thread per engine. All engines run the same variant.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(parts: Parts, engines: Vec<Box<dyn Engine>>) -> std::io::Result<Self> {
        let queue = Queue { batcher: Batcher::new(parts.limits), jobs: HashMap::new(), running: 0, closed: false, failed: None };
        let shared = Arc::new(Shared {
            instances: u32::try_from(engines.len()).unwrap_or(u32::MAX),
            parts,
            origin: Instant::now(),
            queue: Mutex::new(queue),
            mixes_rows: AtomicBool::new(false),
            work: Condvar::new(),
            idle: tokio::sync::Notify::new(),
        });
        let replica = Self { shared };
        for (i, engine) in engines.into_iter().enumerate() {
            let shared = replica.shared.clone();
            std::thread::Builder::new().name(format!("sluice-engine-{i}")).spawn(move || shared.run_instance(engine))?;
        }
        Ok(replica)
    }

    /// What it takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        &self.shared.parts.signature
    }

    /// Queues `call` and waits for its answer. Dropping the future takes the request out of the queue (I7).
    pub(crate) async fn infer(&self, call: InferCall) -> Result<InferReply, Failure> {
        debug_assert!(policy::check::check_request(&self.shared.parts.signature, &call.envelope).is_ok());
        let (ticket, answer) = self.shared.enqueue(call)?;
        let mut place = Place { shared: &self.shared, ticket: Some(ticket) };
        let answer = answer.await;
        place.ticket = None;
        answer.unwrap_or_else(|_| Err(self.shared.gone()))
    }

    /// Takes no more requests; resolves when all it has are answered.
    pub(crate) async fn drain(&self) {
        loop {
            let idle = self.shared.idle.notified();
            {
                let mut queue = self.shared.lock();
                queue.closed = true;
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
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

/// A request's place in the queue, given up when its caller goes.
struct Place<'s> {
    shared: &'s Shared,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut queue = self.shared.lock();
            if queue.batcher.cancel(ticket) {
                queue.jobs.remove(&ticket);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.origin.elapsed())
    }

    fn gone(&self) -> Failure {
        let VariantId { model, version, .. } = &self.parts.variant;
        let reason = self.lock().failed.clone().unwrap_or_else(|| "the replica is being taken away".to_owned());
        Failure::NotReady { model: model.to_string(), version: version.to_string(), reason }
    }

    fn enqueue(&self, call: InferCall) -> Result<(Ticket, oneshot::Receiver<Result<InferReply, Failure>>), Failure> {
        let (answer, receiver) = oneshot::channel();
        let now = self.now();
        let pending = Pending {
            rows: call.rows,
            bytes: call.raw.iter().map(|c| c.len() as u64).sum(),
            deadline: call.remaining.map(|length| now.after(length)),
            group: group(&self.parts.signature, &call.envelope),
        };
        let queued = Some(span!("queue", call.trace, self.parts.variant));
        let InferCall { envelope, raw, rows, trace, .. } = call;
        let job = Job { envelope, raw, rows, arrived: Instant::now(), answer, trace, queued };
        let mut queue = self.lock();
        if queue.closed || queue.failed.is_some() {
            drop(queue);
            return Err(self.gone());
        }
        let ticket = queue.batcher.arrive(now, pending)?;
        queue.jobs.insert(ticket, job);
        drop(queue);
        self.work.notify_one();
        Ok((ticket, receiver))
    }

    /// The life of an instance: take a batch, run it, answer, until the replica closes or the engine fails.
    fn run_instance(&self, mut engine: Box<dyn Engine>) {
        let _fault = EndsReplica(self);
        let (mut assembler, mut batch, mut jobs) = (Assembler::default(), Batch::default(), Vec::new());
        while self.next_batch(&mut batch, &mut jobs) {
            let count = jobs.len();
            let failed = self.run_batch(engine.as_mut(), &mut assembler, &mut jobs);
            let mut queue = self.lock();
            queue.running = queue.running.saturating_sub(count);
            if let Some(error) = failed {
                drop(queue);
                return self.fail(error.to_string());
            }
            if queue.is_idle() {
                self.idle.notify_waiters();
            }
        }
    }

    /// Ends the replica: whoever waits is told, and whoever owns it, once.
    fn fail(&self, reason: String) {
        let mut queue = self.lock();
        let first = queue.failed.is_none();
        queue.failed.get_or_insert_with(|| reason.clone());
        queue.jobs.clear(); // their callers learn it from the closed oneshots
        drop(queue);
        self.work.notify_all();
        self.idle.notify_waiters();
        if first {
            (self.parts.on_failed)(reason);
        }
    }

    /// Waits for work; false when there will be none.
    fn next_batch(&self, batch: &mut Batch, jobs: &mut Vec<Job>) -> bool {
        let mut queue = self.lock();
        loop {
            if queue.failed.is_some() {
                return false;
            }
            queue.batcher.take(self.now(), batch);
            for (ticket, late_us) in &batch.late {
                if let Some(job) = queue.jobs.remove(ticket) {
                    let _ = job.answer.send(Err(Failure::DeadlineExceeded { late_us: *late_us }));
                }
            }
            // A request cancelled between two locks has no job any more.
            jobs.extend(batch.run.iter().filter_map(|ticket| queue.jobs.remove(ticket)));
            if !jobs.is_empty() {
                queue.running = queue.running.saturating_add(jobs.len());
                return true;
            }
            if queue.is_idle() {
                self.idle.notify_waiters(); // what was left may have been late or cancelled, and then no run tells it
            }
            if queue.closed && queue.batcher.is_empty() {
                return false;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs `jobs` together and answers each. When the engine refuses them together, each runs alone, so that one bad
    /// request does not take its batch-mates along. An error is returned when the engine must go.
    fn run_batch(&self, engine: &mut dyn Engine, assembler: &mut Assembler, jobs: &mut Vec<Job>) -> Option<EngineError> {
        if jobs.len() > 1 && self.mixes_rows.load(Ordering::Relaxed) {
            return self.run_each(engine, assembler, jobs);
        }
        match self.run_together(engine, assembler, jobs) {
            Ok(()) => None,
            Err(error) if !error.keeps_engine() => {
                let failure = Failure::Engine { reason: error.to_string() };
                jobs.drain(..).for_each(|job| drop(job.answer.send(Err(failure.clone()))));
                Some(error)
            }
            Err(error) if jobs.len() == 1 => {
                let failure = match error {
                    EngineError::OutOfMemory { .. } | EngineError::Cancelled => Failure::Engine { reason: error.to_string() },
                    _ => Failure::EngineInput { what: error.to_string() },
                };
                jobs.drain(..).for_each(|job| drop(job.answer.send(Err(failure.clone()))));
                None
            }
            Err(_) => self.run_each(engine, assembler, jobs),
        }
    }

    fn run_each(&self, engine: &mut dyn Engine, assembler: &mut Assembler, jobs: &mut Vec<Job>) -> Option<EngineError> {
        let mut alone = Vec::with_capacity(1);
        for job in std::mem::take(jobs) {
            alone.push(job);
            if let Some(error) = self.run_batch(engine, assembler, &mut alone) {
                return Some(error);
            }
        }
        None
    }

    fn run_together(&self, engine: &mut dyn Engine, assembler: &mut Assembler, jobs: &mut Vec<Job>) -> Result<(), EngineError> {
        let started = Instant::now();
        let runs: Vec<_> = jobs
            .iter_mut()
            .map(|job| {
                drop(job.queued.take());
                span!("run", job.trace, self.parts.variant)
            })
            .collect();
        let requests: Vec<(&Envelope, &[Chain])> = jobs.iter().map(|job| (&*job.envelope, job.raw.as_slice())).collect();
        let inputs = assembler.assemble(&self.parts.signature, &requests)?;
        let outputs = engine.run(&inputs.views(), &CancelFlag::default())?;
        drop(runs);
        let compute_us = Moment::default().after(started.elapsed()).as_us();
        let rows: Vec<u32> = jobs.iter().map(|job| job.rows).collect();
        let parts = split::split(self.parts.signature.max_batch_size > 0, &outputs, &rows);
        let mut parts = parts.inspect_err(|error| self.notice_mixed_rows(error))?.into_iter();
        let backlog_us = self.lock().batcher.backlog_us(self.parts.latency, self.instances);
        for job in jobs.drain(..) {
            let queue_us = Moment::default().after(started.saturating_duration_since(job.arrived)).as_us();
            let served = policy::Served {
                variant: self.parts.variant.name.to_string(),
                worker: self.parts.worker.to_string(),
                queue_us,
                compute_us,
            };
            let load = proto::call::LoadReport { backlog_us };
            let reply = parts.next().unwrap_or_default().into_reply(&self.parts.variant, &job.envelope, served, load);
            let _ = job.answer.send(Ok(reply));
        }
        Ok(())
    }
}

impl Shared {
    fn notice_mixed_rows(&self, error: &EngineError) {
        if !self.mixes_rows.swap(true, Ordering::Relaxed) {
            tracing::warn!(variant = %self.parts.variant, %error, "rows cannot be told apart, requests run one by one from now on");
        }
    }
}

/// Ends the replica when its instance's thread unwinds: a fault of ours must not leave callers waiting for ever.
struct EndsReplica<'s>(&'s Shared);

impl Drop for EndsReplica<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("an engine thread panicked".to_owned());
        }
    }
}

/// Requests of equal non-batch dimensions share a group.
fn group(signature: &Signature, envelope: &Envelope) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    let skip = usize::from(signature.max_batch_size > 0);
    for spec in &signature.inputs {
        let input = envelope.inputs.iter().find(|i| i.name == spec.name);
        input.map(|i| i.shape.get(skip..)).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
