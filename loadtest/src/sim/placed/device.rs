//! A simulated device: replicas with a queue and a profile each, over engine threads that they share.

use super::layout::{Layout, Way};
use super::{Job, Word};
use crate::sim::{later, noise};
use fastrand::Rng;
use policy::batch::{Batch, Batcher, Batching, Limits, Pending, Ticket};
use policy::profile::{FORECAST_US_MAX, Forecast, Latency, Profile};
use policy::route::Arrivals;
use policy::{Backlog, Failure, Moment};
use std::collections::BTreeMap;

/// Waiting requests of one replica.
const QUEUE_LEN_MAX: usize = 1_024;

pub(super) struct Device {
    /// By way.
    replicas: BTreeMap<usize, Replica>,
    /// One an instance.
    running: Vec<Option<Run>>,
    arrivals: Arrivals,
    noise: f64,
    random: Rng,
    /// Its room is reused.
    batch: Batch,
}

struct Replica {
    truth: Latency,
    batcher: Batcher,
    profile: Profile,
    /// When it last learned.
    observed: Moment,
    waiting: BTreeMap<Ticket, Job>,
}

/// A batch in an engine.
pub(super) struct Run {
    pub(super) way: usize,
    pub(super) jobs: Vec<Job>,
    pub(super) started: Moment,
    rows: u32,
    /// Microseconds in which it should be done in 99 of 100 cases.
    tail_us: f64,
}

/// What happens next.
pub(super) enum Effect {
    /// An instance is done then.
    Ends(usize, Moment),
    /// A request left a queue unanswered.
    Refused(Job, Failure),
}

/// A batch that is done, and whether it was as predicted.
pub(super) struct Ended {
    pub(super) run: Run,
    pub(super) in_tail: bool,
}

impl Device {
    pub(super) fn new(instances: u32, noise: f64, random: Rng) -> Self {
        let running = (0..instances).map(|_| None).collect();
        Self { replicas: BTreeMap::new(), running, arrivals: Arrivals::default(), noise, random, batch: Batch::default() }
    }

    /// A replica is warm.
    pub(super) fn open(&mut self, layout: &Layout, number: usize, way: &Way) {
        let rows_max = layout.models.get(way.model).map_or(1, |model| model.rows_max);
        let limits = Limits { rows_max, queue_len_max: QUEUE_LEN_MAX, queue_bytes_max: u64::MAX };
        let replica = Replica {
            truth: way.latency,
            batcher: Batcher::new(limits, Batching::default()),
            profile: Profile::new(way.latency),
            observed: Moment::default(),
            waiting: BTreeMap::new(),
        };
        self.replicas.insert(number, replica);
    }

    /// A replica that has nothing to do is gone.
    pub(super) fn close(&mut self, way: usize) {
        let gone = self.replicas.remove(&way);
        debug_assert!(gone.is_none_or(|replica| replica.waiting.is_empty()), "it was drained");
    }

    /// A request comes; `deadline` is when its answer must leave.
    pub(super) fn arrive(&mut self, now: Moment, job: Job, deadline: Option<Moment>) -> Result<(), Failure> {
        self.arrivals.count(now, job.gateway as u64);
        let Some(replica) = self.replicas.get_mut(&job.way) else {
            return Err(Failure::NoReplica { model: String::new(), retry_ms: 0 });
        };
        let pending = Pending { rows: job.rows, bytes: 0, deadline, group: 0, priority: 0, timeout_us: None };
        let ticket = replica.batcher.arrive(now, pending)?;
        replica.waiting.insert(ticket, job);
        Ok(())
    }

    /// Idle instances take what they can, of the replica whose first request has the earliest deadline.
    pub(super) fn start(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        while let Some(instance) = self.running.iter().position(Option::is_none) {
            let idle = self.running.iter().all(Option::is_none);
            let first = self.replicas.iter_mut().filter_map(|(way, replica)| Some((replica.batcher.head()?, *way, replica)));
            let Some((_, way, replica)) = first.min_by_key(|(head, way, _)| (*head, *way)) else { return };
            let forecast = replica.forecast(now, idle);
            replica.batcher.take(now, &forecast, &mut self.batch);
            refuse(&self.batch, &mut replica.waiting, effects);
            let jobs: Vec<Job> = self.batch.run.iter().filter_map(|ticket| replica.waiting.remove(ticket)).collect();
            if jobs.is_empty() {
                continue; // all that could be first was given up
            }
            let rows = jobs.iter().map(|job| job.rows).fold(0, u32::saturating_add);
            let us = (replica.truth.batch_us(rows) * noise(&mut self.random, self.noise)).round().max(1.0);
            let tail_us = replica.profile.forecast().tail_us(rows);
            if let Some(slot) = self.running.get_mut(instance) {
                *slot = Some(Run { way, jobs, started: now, rows, tail_us });
                effects.push(Effect::Ends(instance, later(now, us as u64)));
            }
        }
    }

    /// The batch of an instance is done.
    pub(super) fn finish(&mut self, now: Moment, instance: usize) -> Option<Ended> {
        let run = self.running.get_mut(instance)?.take()?;
        let us = now.us_since(run.started) as f64;
        if let Some(replica) = self.replicas.get_mut(&run.way) {
            replica.profile.observe(run.rows, us);
            replica.observed = now;
        }
        Some(Ended { in_tail: us <= run.tail_us, run })
    }

    /// What it tells `gateway`: of all that waits and runs here, and of the replica of `way`.
    pub(super) fn word(&mut self, now: Moment, gateway: usize, way: Option<usize>) -> Word {
        let instances = u32::try_from(self.running.len()).unwrap_or(u32::MAX).max(1);
        let waiting = self.replicas.values().filter(|replica| !replica.batcher.is_empty());
        let waiting = waiting.map(|replica| replica.batcher.backlog(now, replica.profile.forecast()));
        let waiting = waiting.fold(Backlog::default(), Backlog::and).shared(1, instances);
        let rest = |run: &Run| {
            let expected_us = self.replicas.get(&run.way).map_or(0.0, |replica| replica.profile.forecast().batch_us(run.rows));
            (expected_us - now.us_since(run.started) as f64).max(0.0)
        };
        let running_us = self.running.iter().flatten().map(rest).sum::<f64>() / f64::from(instances);
        let forecast = way.and_then(|way| Some((way, self.replicas.get(&way)?.profile.forecast())));
        let senders = self.arrivals.senders(now, gateway as u64);
        Word { backlog: waiting.and(Backlog::whole(running_us as u64)), forecast, senders }
    }
}

impl Replica {
    /// What is refused teaches nothing, so after a while without a run the next one is tried whatever the forecast says.
    fn forecast(&self, now: Moment, idle: bool) -> Forecast {
        match idle && self.profile.forecast().slow > 1.0 && now.us_since(self.observed) > FORECAST_US_MAX {
            true => Forecast::from(Latency::default()),
            false => self.profile.forecast(),
        }
    }
}

fn refuse(batch: &Batch, waiting: &mut BTreeMap<Ticket, Job>, effects: &mut Vec<Effect>) {
    let late = batch.late.iter().map(|(ticket, late_us)| (ticket, Failure::DeadlineExceeded { late_us: *late_us }));
    let hopeless = batch.hopeless.iter().map(|(ticket, late_us)| (ticket, Failure::Hopeless { late_us: *late_us }));
    for (ticket, failure) in late.chain(hopeless) {
        effects.extend(waiting.remove(ticket).map(|job| Effect::Refused(job, failure)));
    }
}
