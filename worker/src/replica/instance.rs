//! One engine thread of a replica: takes a batch, runs it, answers, until the replica closes or its engine fails.

use super::assemble::Assembler;
use super::padded::Padded;
use super::{Job, Queue, Shared, ns, span, split};
use crate::cores;
use crate::engine::{CancelFlag, Engine, EngineError};
use crate::gate::{Answer, Permit};
use crate::lane::{Delivery, Mailbox};
use policy::batch::Batch;
use policy::profile::Forecasts as _;
use policy::statistics::Total;
use policy::{Envelope, Failure, Moment};
use proto::call::{InferReply, LoadReport};
use proto::chain::Chain;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// An engine and what its thread needs to run batches with it.
pub(super) struct Instance {
    /// Before `shared`, which holds what the engine may take: fields are dropped in this order.
    engine: Box<dyn Engine>,
    shared: Arc<Shared>,
    assembler: Assembler,
    /// Place of its batch among all that were taken.
    turn: u64,
    /// Requests of its batch that are not answered yet.
    unanswered: usize,
    /// Stops its run.
    cancel: CancelFlag,
    /// Which of its replica's instances it is.
    at: usize,
    /// Its threads of the device, from before it takes a batch until it looks for the next: what else comes then is weighed against who
    /// waits. On a network's thread it has none.
    permit: Option<Permit>,
}

/// When the parts of a run ended.
struct Times {
    started: Instant,
    assembled: Instant,
    ran: Instant,
}

impl Instance {
    pub(super) fn new(shared: Arc<Shared>, mut engine: Box<dyn Engine>, at: usize) -> Self {
        let assembler = Assembler::new(engine.arena());
        Self { engine, shared, assembler, turn: 0, unanswered: 0, cancel: CancelFlag::new(), at, permit: None }
    }

    /// Its life on a thread of its own.
    pub(super) fn run(mut self) {
        cores::bind(self.engine.cores());
        let (mut batch, mut jobs) = (Batch::default(), Vec::new());
        while self.next_batch(&mut batch, &mut jobs) {
            if !self.run_taken(&mut jobs, None) {
                return;
            }
        }
    }

    /// Runs one batch of what waits, on the runtime `here`. None when the engine failed; else whether more waits.
    pub(super) fn run_one(&mut self, batch: &mut Batch, jobs: &mut Vec<Job>, here: &Arc<Mailbox>) -> Option<bool> {
        let shared = self.shared.clone();
        let mut queue = shared.lock();
        if queue.failed.is_some() {
            return None;
        }
        if self.take(&mut queue, shared.now(), batch, jobs) {
            drop(queue);
            if !self.run_taken(jobs, Some(here)) {
                return None;
            }
            queue = shared.lock();
        } else if queue.is_idle() {
            shared.idle.notify_waiters();
        }
        Some(!queue.batcher.is_empty())
    }

    /// Runs and answers what was taken; false when the engine failed, and with it the replica.
    fn run_taken(&mut self, jobs: &mut Vec<Job>, here: Option<&Arc<Mailbox>>) -> bool {
        let failed = self.run_batch(jobs, here);
        let mut queue = self.shared.lock();
        queue.running.end(self.turn);
        queue.answered = queue.answered.wrapping_add(1);
        if let Some(error) = failed {
            drop(queue);
            self.fail(error.to_string());
            return false;
        }
        if queue.is_idle() {
            self.shared.idle.notify_waiters();
        }
        if self.shared.parts.batching.preserve_ordering {
            self.shared.turns.notify_all();
        }
        true
    }

    /// Ends the replica.
    pub(super) fn fail(&self, reason: String) {
        self.shared.fail(reason, self.unanswered);
    }

    /// Takes a batch out of the queue into `jobs`, and refuses whose time is up; false when there is nothing to run now.
    fn take(&mut self, queue: &mut Queue, now: Moment, batch: &mut Batch, jobs: &mut Vec<Job>) -> bool {
        queue.take(now, batch);
        for (ticket, late_us) in &batch.late {
            queue.refuse(*ticket, Failure::DeadlineExceeded { late_us: *late_us });
        }
        for (ticket, late_us) in &batch.hopeless {
            queue.refuse(*ticket, Failure::Hopeless { late_us: *late_us });
        }
        for (ticket, waited_us, allowed_us) in &batch.timed_out {
            queue.refuse(*ticket, Failure::QueueTimeout { waited_us: *waited_us, allowed_us: *allowed_us });
        }
        self.shared.tell(queue);
        let (mut waiting, mut rows) = (SmallVec::new(), 0u32);
        for ticket in &batch.run {
            // A request cancelled between two locks has no job any more.
            if let Some(job) = queue.jobs.remove(ticket) {
                rows = rows.saturating_add(job.rows);
                jobs.push(job);
                waiting.push(*ticket);
            }
        }
        if jobs.is_empty() {
            return false;
        }
        self.turn = queue.taken;
        let limit = now.after(Duration::from_micros(queue.run_us_max(rows)));
        self.cancel = queue.running.begin(self.turn, waiting, limit);
        if let Some(permit) = &self.permit {
            permit.begin(now.after(Duration::from_micros(queue.profiles.whole().batch_us(rows) as u64)));
        }
        self.unanswered = jobs.len();
        queue.taken = queue.taken.wrapping_add(1);
        true
    }

    /// Waits for work, and for the device; false when there will be none.
    fn next_batch(&mut self, batch: &mut Batch, jobs: &mut Vec<Job>) -> bool {
        let shared = self.shared.clone();
        let mut queue = shared.lock();
        loop {
            if queue.failed.is_some() {
                return false;
            }
            let mut look_again = None;
            if !queue.batcher.is_empty() {
                queue = self.await_device(&shared, queue);
                if self.permit.is_none() || queue.failed.is_some() {
                    continue;
                }
                let now = shared.now();
                if self.take(&mut queue, now, batch, jobs) {
                    drop(queue);
                    if batch.wake.is_some() {
                        shared.work.notify_one(); // another instance looks how long what stays may wait
                    }
                    return true;
                }
                look_again = batch.wake.map(|wake| Duration::from_micros(wake.us_since(now)));
            }
            self.permit = None;
            if queue.is_idle() {
                shared.idle.notify_waiters(); // what was left may have been late or cancelled, and then no run tells it
            }
            if queue.closed && queue.batcher.is_empty() {
                return false;
            }
            queue = match look_again {
                None => shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(length) => shared.work.wait_timeout(queue, length).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Waits until this instance may run; it may not when nothing is left to run. The queue is free meanwhile, and the batch is taken
    /// after that, from all that has come.
    fn await_device<'s>(&mut self, shared: &'s Shared, mut queue: MutexGuard<'s, Queue>) -> MutexGuard<'s, Queue> {
        match shared.seat.ask(self.at, self.permit.take(), queue.batcher.deadline()) {
            Answer::Go(permit) => self.permit = Some(permit),
            Answer::Wait(turn) => {
                queue.at_gate = queue.at_gate.saturating_add(1);
                drop(queue);
                self.permit = turn.wait();
                queue = shared.lock();
                queue.at_gate = queue.at_gate.saturating_sub(1);
            }
        }
        queue
    }

    /// Runs `jobs` together and answers each. When the engine refuses them together, each runs alone, so that one bad
    /// request does not take its batch-mates along. An error is returned when the engine must go.
    fn run_batch(&mut self, jobs: &mut Vec<Job>, here: Option<&Arc<Mailbox>>) -> Option<EngineError> {
        if jobs.len() > 1 && self.shared.mixes_rows.load(Ordering::Relaxed) {
            return self.run_each(jobs, here);
        }
        match self.run_together(jobs, here) {
            Ok(()) => None,
            Err(error) if !error.keeps_engine() => {
                let failure = match &error {
                    // As when a worker dies: it may not be this request's doing, and another worker gets to try.
                    EngineError::Gone { reason } => self.shared.not_ready(reason.clone()),
                    _ => Failure::Engine { reason: error.to_string() },
                };
                self.refuse(jobs, &failure, here);
                Some(error)
            }
            Err(EngineError::Cancelled) => {
                let endless = self.shared.lock().running.is_endless(self.turn);
                let failure = match endless {
                    true => Failure::Engine { reason: "the run did not end and was stopped".to_owned() },
                    false => Failure::Cancelled, // their callers have gone
                };
                self.refuse(jobs, &failure, here);
                None
            }
            Err(error) if jobs.len() == 1 => {
                let failure = match error {
                    EngineError::OutOfMemory { .. } => Failure::Engine { reason: error.to_string() },
                    _ => Failure::EngineInput { what: error.to_string() },
                };
                self.refuse(jobs, &failure, here);
                None
            }
            Err(_) => self.run_each(jobs, here),
        }
    }

    fn run_each(&mut self, jobs: &mut Vec<Job>, here: Option<&Arc<Mailbox>>) -> Option<EngineError> {
        let mut alone = Vec::with_capacity(1);
        for job in std::mem::take(jobs) {
            alone.push(job);
            if let Some(error) = self.run_batch(&mut alone, here) {
                return Some(error);
            }
        }
        None
    }

    fn run_together(&mut self, jobs: &mut Vec<Job>, here: Option<&Arc<Mailbox>>) -> Result<(), EngineError> {
        let parts = &self.shared.parts;
        let started = Instant::now();
        let runs: Vec<_> = jobs
            .iter_mut()
            .map(|job| {
                drop(job.queued.take());
                span!("run", job.trace, parts.variant)
            })
            .collect();
        let requests: Vec<(&Envelope, &[Chain])> = jobs.iter().map(|job| (&*job.envelope, job.raw.as_slice())).collect();
        let padded = Padded::of(parts.padding.as_ref(), requests.iter().map(|(envelope, _)| *envelope));
        let inputs = self.assembler.assemble(&parts.signature, &requests, padded.as_ref())?;
        let assembled = Instant::now();
        let outputs = self.engine.run(&inputs.views(), &self.cancel)?;
        let ran = Instant::now();
        drop(runs);
        let rows: Vec<u32> = jobs.iter().map(|job| job.rows).collect();
        let split = split::split(&parts.signature, &outputs, &rows, padded.as_ref());
        if let (Err(error), true) = (&split, rows.len() > 1) {
            self.shared.notice_mixed_rows(error);
        }
        let reply = |(job, part): (&Job, split::Part)| {
            let served = policy::Served {
                variant: parts.variant.name.to_string(),
                worker: parts.worker.to_string(),
                queue_us: us(started.saturating_duration_since(job.arrived)),
                compute_us: us(ran.saturating_duration_since(started)),
            };
            part.into_reply(&parts.variant, &job.envelope, served)
        };
        let replies: Vec<InferReply> = jobs.iter().zip(split?).map(reply).collect();
        self.answer(jobs, replies, &Times { started, assembled, ran }, here);
        Ok(())
    }

    /// Counts `jobs` and gives each its reply.
    fn answer(&mut self, jobs: &mut Vec<Job>, replies: Vec<InferReply>, times: &Times, here: Option<&Arc<Mailbox>>) {
        self.await_turn(jobs.len());
        let load = self.count(jobs, times);
        self.unanswered = self.unanswered.saturating_sub(jobs.len());
        self.shared.observe_run(times.ran.saturating_duration_since(times.started));
        let mut delivery = Delivery::from(here);
        for (job, reply) in jobs.drain(..).zip(replies) {
            delivery.give(job.answer, Ok(InferReply { load, ..reply }));
        }
    }

    /// Counts `jobs` and tells each why it has no reply.
    fn refuse(&mut self, jobs: &mut Vec<Job>, failure: &Failure, here: Option<&Arc<Mailbox>>) {
        self.await_turn(jobs.len());
        let mut fail = Total::default();
        jobs.iter().for_each(|job| fail.add(1, job.age_ns()));
        self.shared.lock().statistics.fail.merge(fail);
        self.unanswered = self.unanswered.saturating_sub(jobs.len());
        let mut delivery = Delivery::from(here);
        jobs.drain(..).for_each(|job| delivery.give(job.answer, Err(failure.clone())));
    }

    /// Where the model keeps its order, waits until all that was taken before is answered; `answers` are about to be given.
    fn await_turn(&mut self, answers: usize) {
        let is_last = answers >= self.unanswered;
        if let Some(permit) = self.permit.as_ref().filter(|_| is_last) {
            permit.end();
        }
        if self.shared.parts.batching.preserve_ordering {
            let early = |queue: &mut Queue| queue.answered != self.turn && queue.failed.is_none();
            let mut queue = self.shared.lock();
            if is_last && early(&mut queue) {
                self.permit = None; // others can use its threads meanwhile
            }
            drop(self.shared.turns.wait_while(queue, early));
        }
    }

    /// Adds a run that gives every one of `jobs` a reply; tells what waits then. Each request is charged all of the time of the
    /// batch it rode in, as Triton does.
    fn count(&self, jobs: &[Job], Times { started, assembled, ran }: &Times) -> LoadReport {
        let (done, wall) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let between = |from: &Instant, to: &Instant| ns(to.saturating_duration_since(*from));
        let (input, infer, output) = (between(started, assembled), between(assembled, ran), between(ran, &done));
        let (mut success, mut waited, mut rows, mut bytes) = (Total::default(), Total::default(), 0u32, 0u64);
        for job in jobs {
            bytes = job.raw.iter().fold(bytes, |sum, chain| sum.saturating_add(chain.len() as u64));
            success.add(1, between(&job.arrived, &done));
            waited.add(1, between(&job.arrived, started));
            rows = rows.saturating_add(job.rows);
        }
        let row_bytes = bytes.checked_div(u64::from(rows)).unwrap_or(bytes);
        let started_ms = wall.saturating_sub(done.saturating_duration_since(*started)).as_millis();
        let mut queue = self.shared.lock();
        let all = &mut queue.statistics;
        all.last_inference_ms = all.last_inference_ms.max(u64::try_from(started_ms).unwrap_or(u64::MAX));
        all.inference_count = all.inference_count.saturating_add(u64::from(rows));
        all.execution_count = all.execution_count.saturating_add(1);
        all.success.merge(success);
        all.queue.merge(waited);
        all.compute_input.add(success.count, input);
        all.compute_infer.add(success.count, infer);
        all.compute_output.add(success.count, output);
        let batch = all.batches.entry(rows).or_default();
        batch.compute_input.add(1, input);
        batch.compute_infer.add(1, infer);
        batch.compute_output.add(1, output);
        let took_us = input.saturating_add(infer) as f64 / 1e3;
        queue.profiles.observe(rows, row_bytes, took_us);
        queue.observed = self.shared.now();
        let (forecast, now, queued) = (queue.profiles.whole(), queue.observed, queue.backlog(queue.observed));
        if self.shared.seat.is_alone() {
            queue.drift.observe(now, rows, took_us, &forecast);
        }
        drop(queue);
        LoadReport { backlog: self.shared.seat.backlog(now, queued, self.shared.instances), forecast: Some(forecast), senders: 0.0 }
    }
}

/// Ends the replica when the thread unwinds: a fault of ours must not leave callers waiting for ever.
impl Drop for Instance {
    fn drop(&mut self) {
        self.permit = None; // before the engine, which takes its time to go
        if std::thread::panicking() {
            self.fail("an engine thread panicked".to_owned());
        }
    }
}

fn us(length: Duration) -> u64 {
    Moment::default().after(length).as_us()
}
