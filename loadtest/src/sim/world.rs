//! The event loop: who does what at which moment, and what came of each request.

use super::fleet::Fleet;
use super::gateway::Gateway;
use super::worker::{Effect, Run, Worker};
use super::{Job, Word, later};
use crate::record::{Done, Recorder, Window};
use crate::report::{Devices, Place, Report};
use crate::schedule::Due;
use crate::script::Script;
use fastrand::Rng;
use policy::{Failure, Moment};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

pub(super) struct World<'s> {
    script: &'s Script,
    /// Of each kind of the mix, which of the fleet's models it asks.
    models: Vec<usize>,
    one_way_us: u64,
    push_us: u64,
    gateways: Vec<Gateway>,
    workers: Vec<Worker>,
    /// Which gateway a request comes to, and what the router draws.
    random: Rng,
    dues: Box<dyn Iterator<Item = Due> + Send>,
    events: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
    /// Requests that are due or under way.
    open: u64,
    recorder: Recorder,
    devices: Devices,
    /// Its room is reused.
    effects: Vec<Effect>,
}

enum Event {
    Due(Due),
    AtWorker(usize, Job),
    Ends(usize, usize),
    Wakes(usize),
    /// An answer or a refusal, and what the worker tells with it.
    AtGateway(usize, Job, Result<(), Failure>, Word),
    /// A word without an answer.
    Told(usize, usize, Word),
    Push,
}

struct Scheduled {
    at: Moment,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl<'s> World<'s> {
    pub(super) fn new(fleet: &Fleet, script: &'s Script) -> Self {
        // Not the schedule's own streams, which begin with the seed and its complement.
        let mut random = Rng::with_seed(script.seed.wrapping_add(0x5EED).rotate_left(32));
        let workers = fleet.workers.iter().flat_map(|worker| (0..worker.count).map(move |_| worker));
        let workers: Vec<Worker> = workers.map(|worker| Worker::new(fleet, worker, random.fork())).collect();
        let position = |name: &str| fleet.models.iter().position(|model| model.name == name).unwrap_or_default();
        let instances = fleet.workers.iter().map(|worker| u64::from(worker.count).saturating_mul(u64::from(worker.instances)));
        Self {
            script,
            models: script.mix.asks.iter().map(|ask| position(&ask.model)).collect(),
            one_way_us: fleet.one_way_us as u64,
            push_us: (fleet.push_ms * 1e3) as u64,
            gateways: (0..fleet.gateways as usize).map(|number| Gateway::new(fleet, number)).collect(),
            workers,
            random,
            dues: script.schedule(),
            events: BinaryHeap::new(),
            number: 0,
            open: 0,
            recorder: Recorder::new(Window::new(script.warm_up, script.duration), script.mix.asks.len()),
            devices: Devices { instances: instances.fold(0, u64::saturating_add), ..Devices::default() },
            effects: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Report {
        self.next_due();
        if self.push_us > 0 {
            self.at(later(Moment::default(), self.push_us), Event::Push);
        }
        while let Some(Reverse(Scheduled { at: now, event, .. })) = self.events.pop() {
            self.happen(now, event);
        }
        debug_assert_eq!(self.open, 0, "every request has ended");
        Report::new(self.script, self.recorder, Place::Simulation(self.devices))
    }

    fn at(&mut self, at: Moment, event: Event) {
        self.number = self.number.wrapping_add(1);
        self.events.push(Reverse(Scheduled { at, number: self.number, event }));
    }

    fn next_due(&mut self) {
        if let Some(due) = self.dues.next() {
            self.open = self.open.saturating_add(1);
            self.at(Moment::default().after(due.at), Event::Due(due));
        }
    }

    fn happen(&mut self, now: Moment, event: Event) {
        match event {
            Event::Due(due) => {
                self.next_due();
                self.route(now, due);
            }
            Event::AtWorker(worker, job) => self.arrive(now, worker, job),
            Event::Ends(worker, instance) => self.finish(now, worker, instance),
            Event::Wakes(worker) => self.work(now, worker),
            Event::AtGateway(worker, job, outcome, word) => {
                if let Some(gateway) = self.gateways.get_mut(job.gateway) {
                    gateway.hear(now, worker, word);
                    gateway.end(now, worker, &job, &outcome);
                }
                let outcome = outcome.map_err(|failure| reason(&failure, "a worker"));
                self.end(now, &job, outcome);
            }
            Event::Told(worker, gateway, word) => {
                if let Some(gateway) = self.gateways.get_mut(gateway) {
                    gateway.hear(now, worker, word);
                }
            }
            Event::Push => self.push(now),
        }
    }

    fn route(&mut self, now: Moment, due: Due) {
        let gateway = self.random.usize(0..self.gateways.len().max(1));
        let draws = [self.random.f64(), self.random.f64()];
        let (Some(ask), Some(model)) = (self.script.mix.asks.get(due.ask), self.models.get(due.ask)) else { return };
        let mut job = Job {
            ask: due.ask,
            model: *model,
            rows: ask.rows.get(),
            priority: ask.priority.unwrap_or_default(),
            due: now,
            deadline: ask.deadline().map(|length| now.after(length)),
            gateway,
            predicted_us: 0,
        };
        let Some(gateway) = self.gateways.get_mut(gateway) else { return };
        match gateway.choose(now, &job, draws) {
            Ok((worker, predicted_us)) => {
                job.predicted_us = predicted_us;
                self.at(later(now, self.one_way_us), Event::AtWorker(worker, job));
            }
            Err(failure) => self.end(now, &job, Err(reason(&failure, "the gateway"))),
        }
    }

    fn arrive(&mut self, now: Moment, index: usize, job: Job) {
        let Some(worker) = self.workers.get_mut(index) else { return };
        let leaves_by = job.deadline.map(|deadline| Moment::from_us(deadline.as_us().saturating_sub(self.one_way_us)));
        match worker.arrive(now, job, leaves_by) {
            Ok(()) => self.work(now, index),
            Err(failure) => self.reply(now, index, job, Err(failure)),
        }
    }

    fn finish(&mut self, now: Moment, index: usize, instance: usize) {
        let Some(run) = self.workers.get_mut(index).and_then(|worker| worker.finish(now, instance)) else { return };
        self.account(now, &run);
        run.jobs.into_iter().for_each(|job| self.reply(now, index, job, Ok(())));
        self.work(now, index);
    }

    /// Idle instances of a worker take what they can.
    fn work(&mut self, now: Moment, index: usize) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(worker) = self.workers.get_mut(index) {
            worker.start(now, &mut effects);
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Ends(instance, at) => self.at(at, Event::Ends(index, instance)),
                Effect::Wakes(at) => self.at(at, Event::Wakes(index)),
                Effect::Refused(job, failure) => self.reply(now, index, job, Err(failure)),
            }
        }
        self.effects = effects;
    }

    fn reply(&mut self, now: Moment, index: usize, job: Job, outcome: Result<(), Failure>) {
        let Some(worker) = self.workers.get_mut(index) else { return };
        let word = worker.word(now, job.gateway, true);
        self.at(later(now, self.one_way_us), Event::AtGateway(index, job, outcome, word));
    }

    /// Every worker tells every gateway of itself, as long as there is something to do.
    fn push(&mut self, now: Moment) {
        if self.open == 0 {
            return;
        }
        for worker in 0..self.workers.len() {
            for gateway in 0..self.gateways.len() {
                let Some(word) = self.workers.get_mut(worker).map(|worker| worker.word(now, gateway, false)) else { continue };
                self.at(later(now, self.one_way_us), Event::Told(worker, gateway, word));
            }
        }
        self.at(later(now, self.push_us), Event::Push);
    }

    /// Charges the requests of a batch, of those that are counted, with their rows' share of it.
    fn account(&mut self, now: Moment, run: &Run) {
        let (us, from) = (now.us_since(run.started) as f64, Moment::default().after(self.script.warm_up));
        let devices = &mut self.devices;
        for job in run.jobs.iter().filter(|job| job.due >= from) {
            let share = f64::from(job.rows) / f64::from(run.rows.max(1));
            let is_late = job.deadline.is_some_and(|deadline| later(now, self.one_way_us) >= deadline);
            devices.busy_us += us * share;
            devices.late_us += if is_late { us * share } else { 0.0 };
            devices.ran = devices.ran.saturating_add(1);
            devices.started_late = devices.started_late.saturating_add(u64::from(job.deadline.is_some_and(|d| run.started >= d)));
            devices.batches += share;
            devices.rows = devices.rows.saturating_add(u64::from(job.rows));
        }
    }

    fn end(&mut self, now: Moment, job: &Job, outcome: Result<(), String>) {
        self.open = self.open.saturating_sub(1);
        let moment = |moment: Moment| Duration::from_micros(moment.as_us());
        let deadline = job.deadline.map(|deadline| Duration::from_micros(deadline.us_since(job.due)));
        self.recorder.add(&Done {
            ask: job.ask,
            due: moment(job.due),
            sent: moment(job.due),
            done: moment(now),
            deadline,
            outcome,
            told: None,
        });
    }
}

/// A failure as a client sees it, without the numbers, so that equal ones are counted together.
fn reason(failure: &Failure, by: &str) -> String {
    let why = match failure {
        Failure::Busy { .. } => "all replicas are too busy to be in time",
        Failure::Hopeless { .. } => "it could not be in time",
        Failure::DeadlineExceeded { .. } => "its deadline passed",
        Failure::QueueFull { .. } => "the queue is full",
        Failure::QueueTimeout { .. } => "it waited longer than its queue allows",
        _ => "no replica",
    };
    format!("{:?}: refused by {by}, {why}", failure.wire().0)
}
