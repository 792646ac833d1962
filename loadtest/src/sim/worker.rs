//! A simulated worker: a real queue and a real latency model over engine threads that only take time.

use super::fleet::{Fleet, FleetWorker};
use super::{Job, Word, later};
use fastrand::Rng;
use policy::batch::{Batch, Batcher, Limits, Pending, Ticket};
use policy::profile::{FORECAST_US_MAX, Forecast, Latency, Profile};
use policy::route::Arrivals;
use policy::{Backlog, Failure, Moment};
use std::collections::BTreeMap;

/// Waiting requests of one worker; a worker that is asked for more refuses.
const QUEUE_LEN_MAX: usize = 1_024;

pub(super) struct Worker {
    /// What a batch takes, before its noise.
    truth: Latency,
    slow: f64,
    noise: f64,
    random: Rng,
    batcher: Batcher,
    profile: Profile,
    /// When it last learned.
    observed: Moment,
    waiting: BTreeMap<Ticket, Job>,
    /// One an instance.
    running: Vec<Option<Run>>,
    arrivals: Arrivals,
    /// The pending wake of an instance that waits for company.
    wakes: Option<Moment>,
    /// Its room is reused.
    batch: Batch,
}

/// A batch in an engine.
pub(super) struct Run {
    pub(super) jobs: Vec<Job>,
    pub(super) started: Moment,
    pub(super) rows: u32,
}

/// What happens next.
pub(super) enum Effect {
    /// An instance is done then.
    Ends(usize, Moment),
    /// An idle instance looks again then.
    Wakes(Moment),
    /// A request left the queue unanswered.
    Refused(Job, Failure),
}

impl Worker {
    pub(super) fn new(fleet: &Fleet, worker: &FleetWorker, random: Rng) -> Self {
        let limits = Limits { rows_max: fleet.rows_max(worker), queue_len_max: QUEUE_LEN_MAX, queue_bytes_max: u64::MAX };
        Self {
            truth: worker.latency(),
            slow: worker.slow,
            noise: fleet.service_noise,
            random,
            batcher: Batcher::with_policy(limits, fleet.batching(), fleet.batch),
            profile: Profile::new(worker.latency()),
            observed: Moment::default(),
            waiting: BTreeMap::new(),
            running: (0..worker.instances).map(|_| None).collect(),
            arrivals: Arrivals::default(),
            wakes: None,
            batch: Batch::default(),
        }
    }

    /// A request comes; `deadline` is when its answer must leave.
    pub(super) fn arrive(&mut self, now: Moment, job: Job, deadline: Option<Moment>) -> Result<(), Failure> {
        self.arrivals.count(now, job.gateway as u64);
        let Job { rows, model, priority, .. } = job;
        let ticket = self.batcher.arrive(now, Pending { rows, bytes: 0, deadline, group: model as u64, priority, timeout_us: None })?;
        self.waiting.insert(ticket, job);
        Ok(())
    }

    /// Idle instances take what they can.
    pub(super) fn start(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.wakes.is_some_and(|at| at <= now) {
            self.wakes = None;
        }
        while let Some(instance) = self.running.iter().position(Option::is_none) {
            let mut batch = std::mem::take(&mut self.batch);
            self.batcher.take(now, &self.forecast(now), &mut batch);
            self.refuse(&batch, effects);
            let jobs: Vec<Job> = batch.run.iter().filter_map(|ticket| self.waiting.remove(ticket)).collect();
            let wake = batch.wake;
            self.batch = batch;
            if jobs.is_empty() {
                return self.wake(now, wake, effects);
            }
            let rows = jobs.iter().map(|job| job.rows).fold(0, u32::saturating_add);
            let us = self.slow * self.truth.batch_us(rows) * noise(&mut self.random, self.noise);
            if let Some(slot) = self.running.get_mut(instance) {
                *slot = Some(Run { jobs, started: now, rows });
                effects.push(Effect::Ends(instance, later(now, us.round().max(1.0) as u64)));
            }
        }
    }

    fn wake(&mut self, now: Moment, wake: Option<Moment>, effects: &mut Vec<Effect>) {
        let Some(at) = wake.map(|at| at.max(later(now, 1))) else { return };
        if self.wakes.is_none_or(|pending| at < pending) {
            self.wakes = Some(at);
            effects.push(Effect::Wakes(at));
        }
    }

    fn refuse(&mut self, batch: &Batch, effects: &mut Vec<Effect>) {
        let late = batch.late.iter().map(|(ticket, late_us)| (ticket, Failure::DeadlineExceeded { late_us: *late_us }));
        let hopeless = batch.hopeless.iter().map(|(ticket, late_us)| (ticket, Failure::Hopeless { late_us: *late_us }));
        let timed_out = batch
            .timed_out
            .iter()
            .map(|(ticket, waited_us, allowed_us)| (ticket, Failure::QueueTimeout { waited_us: *waited_us, allowed_us: *allowed_us }));
        for (ticket, failure) in late.chain(hopeless).chain(timed_out) {
            effects.extend(self.waiting.remove(ticket).map(|job| Effect::Refused(job, failure)));
        }
    }

    /// The batch of an instance is done.
    pub(super) fn finish(&mut self, now: Moment, instance: usize) -> Option<Run> {
        let run = self.running.get_mut(instance)?.take()?;
        self.profile.observe(run.rows, now.us_since(run.started) as f64);
        self.observed = now;
        Some(run)
    }

    /// What it tells `gateway`.
    pub(super) fn word(&mut self, now: Moment, gateway: usize, with_forecast: bool) -> Word {
        let forecast = self.profile.forecast();
        let instances = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        let rest = |run: &Run| (forecast.batch_us(run.rows) - now.us_since(run.started) as f64).max(0.0);
        let running_us = self.running.iter().flatten().map(rest).sum::<f64>() / f64::from(instances.max(1));
        let waiting = self.batcher.backlog(now, forecast).shared(1, instances);
        Word {
            backlog: waiting.and(Backlog::whole(running_us as u64)),
            forecast: with_forecast.then_some(forecast),
            senders: self.arrivals.senders(now, gateway as u64),
        }
    }

    /// What is refused teaches nothing, so a forecast that refuses would stand for ever: after a while without a run the next one is
    /// tried whatever it says.
    fn forecast(&self, now: Moment) -> Forecast {
        match now.us_since(self.observed) > FORECAST_US_MAX && self.running.iter().all(Option::is_none) {
            true => Forecast::from(Latency::default()),
            false => self.profile.forecast(),
        }
    }
}

/// The noise on a batch's time: a log-normal factor of mean 1 (Box and Muller).
pub fn noise(random: &mut Rng, sigma: f64) -> f64 {
    if sigma == 0.0 {
        return 1.0;
    }
    let normal = (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}
