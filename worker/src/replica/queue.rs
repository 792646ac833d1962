//! The queue of a replica, under its lock.

use super::running::Running;
use crate::lane::{Answer, Delivery};
use policy::batch::{Batch, Batcher, Ticket};
use policy::profile::{Drift, FORECAST_US_MAX, Forecast, Forecasts, Latency, Profiles};
use policy::statistics::Statistics;
use policy::{Backlog, Envelope, Failure, Moment};
use proto::chain::Chain;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What waits and what runs, and what was learned of it.
pub(super) struct Queue {
    pub(super) batcher: Batcher,
    pub(super) profiles: Profiles,
    /// What batches take as a rule.
    pub(super) drift: Drift,
    /// When it last learned.
    pub(super) observed: Moment,
    pub(super) jobs: HashMap<Ticket, Job>,
    /// Instances that wait for their turns.
    pub(super) at_gate: usize,
    /// In an engine now.
    pub(super) running: Running,
    /// Batches taken, and batches answered.
    pub(super) taken: u64,
    pub(super) answered: u64,
    /// What became of requests. Counted before their callers are told, so that a caller who asks finds itself counted.
    pub(super) statistics: Statistics,
    /// Set when the replica takes no more: instances finish the queue and end.
    pub(super) closed: bool,
    /// Set when an engine failed for good.
    pub(super) failed: Option<String>,
}

impl Queue {
    /// Nothing waits and nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.batcher.is_empty()
    }

    /// Takes the next batch out of what waits. What is refused teaches nothing, so a forecast that refuses would stand for ever: after a
    /// while without a run the next one is tried whatever it says.
    pub(super) fn take(&mut self, now: Moment, batch: &mut Batch) {
        match now.us_since(self.observed) > FORECAST_US_MAX && self.running.is_empty() {
            true => self.batcher.take(now, &Forecast::from(Latency::default()), batch),
            false => self.batcher.take(now, &self.profiles, batch),
        }
    }

    /// What waits, for one instance.
    pub(super) fn backlog(&self, now: Moment) -> Backlog {
        self.batcher.backlog(now, self.profiles.whole())
    }

    /// Longest run of `rows` that is not endless, in microseconds.
    pub(super) fn run_us_max(&self, rows: u32) -> u64 {
        self.profiles.whole().run_us_max(rows)
    }

    /// Takes no more, and what waits does so for an instance only.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.batcher.close();
    }

    /// Answers a request that has left the batcher without running.
    pub(super) fn refuse(&mut self, ticket: Ticket, failure: Failure) {
        if let Some(job) = self.jobs.remove(&ticket) {
            self.statistics.fail.add(1, job.age_ns());
            Delivery::from(None).give(job.answer, Err(failure));
        }
    }
}

/// A waiting request.
pub(super) struct Job {
    pub(super) envelope: Arc<Envelope>,
    pub(super) raw: Vec<Chain>,
    pub(super) rows: u32,
    pub(super) arrived: Instant,
    pub(super) answer: Answer,
    pub(super) trace: Option<proto::call::TraceContext>,
    /// Open while it waits.
    pub(super) queued: Option<tracing::Span>,
}

impl Job {
    /// Nanoseconds since it arrived.
    pub(super) fn age_ns(&self) -> u64 {
        ns(self.arrived.elapsed())
    }
}

/// Nanoseconds of a length.
pub(super) fn ns(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
