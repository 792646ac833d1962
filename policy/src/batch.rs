//! The queue of one replica: which requests ride together in the next engine call.
//!
//! Without rules of the model ([`Batching`]) it is work-conserving and earliest deadline first: an idle instance never
//! waits for company (`earliest`). What has expired leaves the queue without reaching an engine, and so does what could not be in
//! time any more (I7). Priorities share the device 8 : 2 : 1 by rows.
//!
//! With rules, priority levels come first, 1 before 2, then deadlines, then arrival; who waited longer than its queue allows is
//! refused, or goes behind the others of its level. An instance waits for company only while everything that waits fits into one
//! batch: otherwise whoever comes next could only overtake. So nobody waits longer than the model's delay beside an idle instance.
//!
//! Instances are the only ones who look: a request whose time is up is told so at the latest when an instance next takes,
//! and while one is idle that is at once.

mod asked;
mod baseline;
mod batching;
mod earliest;
mod lanes;
mod ticket;
mod triton;

pub use asked::Asked;
pub use baseline::{BatchPolicy, UnknownBatchPolicy};
pub use batching::{Batching, QueuePolicy, TimeoutAction};
pub use ticket::Ticket;

use crate::profile::{Forecast, Forecasts};
use crate::{Backlog, Failure, Moment};
use earliest::When;
use lanes::{LEVELS, Lane, Lanes};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// What the queue must know of a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Rows it brings.
    pub rows: u32,
    /// Bytes of its inputs.
    pub bytes: u64,
    /// After this moment nobody wants the answer.
    pub deadline: Option<Moment>,
    /// Requests share a batch only within a group: equal non-batch dimensions, types and outputs.
    pub group: u64,
    /// Level asked for, 1 the highest; 0, or one that the model does not have, is the model's default. A model without levels of
    /// its own has three, and the second is the default.
    pub priority: u32,
    /// Longest wait asked for, in microseconds; counts only where the queue's policy lets it, and only to shorten.
    pub timeout_us: Option<u64>,
}

/// What it knows of one that waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    rows: u32,
    bytes: u64,
    group: u64,
    arrived: Moment,
    /// [`NEVER`] when there is none.
    deadline: Moment,
    /// Longest wait; `u64::MAX` when there is no limit, and for who has timed out already.
    allowed_us: u64,
}

impl Waiting {
    fn row_bytes(&self) -> u64 {
        self.bytes.checked_div(u64::from(self.rows)).unwrap_or(self.bytes)
    }

    fn times_out(&self) -> Moment {
        later(self.arrived, self.allowed_us)
    }

    /// When its time is up, one way or the other.
    fn expires(&self) -> Moment {
        self.deadline.min(self.times_out())
    }
}

/// Bounds of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most rows of one engine call; 1 for a model without a batch dimension.
    pub rows_max: u32,
    /// Most waiting requests, so that what waits can still be answered in time. A level whose policy has a bound of its own
    /// goes by that instead.
    pub queue_len_max: usize,
    /// Most waiting bytes, so that a queue of large tensors does not fill the memory.
    pub queue_bytes_max: u64,
}

/// What an idle instance does next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Runs now, together, in this order.
    pub run: Vec<Ticket>,
    /// Leaves the queue unanswered, with microseconds past its deadline.
    pub late: Vec<(Ticket, u64)>,
    /// Leaves the queue unanswered though its deadline is not over, with microseconds by which it would be late. Nothing does
    /// where the model has rules.
    pub hopeless: Vec<(Ticket, u64)>,
    /// Leaves the queue unanswered, with microseconds it waited and those its queue allows.
    pub timed_out: Vec<(Ticket, u64, u64)>,
    /// When an idle instance must ask again if nothing happens before: this one if nothing runs now, else another.
    pub wake: Option<Moment>,
}

/// Requests waiting for an instance of one replica.
#[derive(Debug)]
pub struct Batcher {
    queue: BTreeMap<Ticket, Waiting>,
    /// When each one's time is up, if `ruled`; otherwise the queue itself is in that order.
    expiries: BTreeSet<(Moment, Ticket)>,
    /// How many wait on each level, if `ruled`; otherwise all share one bound.
    levels: BTreeMap<u32, usize>,
    /// What waits by level and group, where there are no rules.
    lanes: Lanes,
    bytes: u64,
    rows: u64,
    /// Rows by their deadlines, in steps of [`DUE_US`], where deadlines say who goes first.
    due: BTreeMap<u64, u64>,
    next: u64,
    limits: Limits,
    batching: Batching,
    policy: BatchPolicy,
    /// What a policy other than ours remembers.
    memory: baseline::Memory,
    /// An idle instance may be told to wait for company.
    waits: bool,
    /// The largest of the preferred sizes; a full batch when there are none.
    preferred_max: u32,
    /// The rules set another order than that of deadlines, or a longest wait.
    ruled: bool,
}

/// Told to a caller who finds the queue full: by then a few batches are gone.
const RETRY_MS: u32 = 50;

/// Deadlines within so many microseconds are one where it is counted what is due when.
const DUE_US: u64 = 2_500;

/// The end of time.
const NEVER: Moment = Moment::from_us(u64::MAX);

fn later(moment: Moment, us: u64) -> Moment {
    Moment::from_us(moment.as_us().saturating_add(us))
}

impl Batcher {
    /// An empty queue that goes by the model's rules, or by ours where there are none. Preferred sizes over the limit of rows, and
    /// levels over 2^27, are as if they were not there.
    pub fn new(limits: Limits, batching: Batching) -> Self {
        Self::with_policy(limits, batching, BatchPolicy::default())
    }

    /// The same with another policy, to compare. Whatever the rules say about order, timeouts and room holds with each.
    pub fn with_policy(limits: Limits, mut batching: Batching, policy: BatchPolicy) -> Self {
        if policy == BatchPolicy::Linger {
            batching.preferred_rows.clear();
            batching.max_delay_us = if batching.max_delay_us == 0 { baseline::LINGER_US } else { batching.max_delay_us };
        }
        batching.preferred_rows.retain(|rows| *rows <= limits.rows_max);
        batching.priority_levels = batching.priority_levels.min(Ticket::LEVEL_MAX);
        let times_out = std::iter::once(&batching.queue).chain(batching.queue_by_priority.values()).any(QueuePolicy::times_out);
        let ruled = times_out || batching.preserve_ordering || batching.priority_levels > 1;
        let has_rules = ruled || batching.max_delay_us > 0 || !batching.preferred_rows.is_empty();
        Self {
            queue: BTreeMap::new(),
            expiries: BTreeSet::new(),
            levels: BTreeMap::new(),
            lanes: Lanes::default(),
            bytes: 0,
            rows: 0,
            due: BTreeMap::new(),
            next: 0,
            limits,
            preferred_max: batching.preferred_rows.iter().copied().max().unwrap_or(limits.rows_max),
            ruled,
            policy: if policy == BatchPolicy::Sluice && has_rules { BatchPolicy::Triton } else { policy },
            memory: baseline::Memory::default(),
            waits: batching.max_delay_us > 0 || policy.defers(),
            batching,
        }
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// [`Failure::DeadlineExceeded`] when it is late already, [`Failure::QueueFull`] when there is no room.
    pub fn arrive(&mut self, now: Moment, pending: Pending) -> Result<Ticket, Failure> {
        if let Some(deadline) = pending.deadline.filter(|d| *d <= now) {
            return Err(Failure::DeadlineExceeded { late_us: now.us_since(deadline) });
        }
        let level = self.batching.level(pending.priority);
        let policy = self.batching.policy(level);
        let (queued, room) = match usize::try_from(policy.queue_len_max).unwrap_or(usize::MAX) {
            0 => (self.queue.len(), self.limits.queue_len_max),
            own if self.ruled => (self.levels.get(&level).copied().unwrap_or_default(), own),
            own => (self.queue.len(), own),
        };
        let bytes = self.bytes.saturating_add(pending.bytes);
        // One request of any legal size is taken when nothing waits: a byte budget must not make it impossible.
        if queued >= room || (bytes > self.limits.queue_bytes_max && !self.queue.is_empty()) {
            return Err(Failure::QueueFull { queued, retry_ms: RETRY_MS });
        }
        let deadline = pending.deadline.unwrap_or(NEVER);
        let order = if self.batching.preserve_ordering { NEVER } else { deadline };
        let level = if self.policy == BatchPolicy::Sluice { lanes::level(pending.priority) } else { level };
        let ticket = Ticket::new(level, order, self.next);
        let Pending { rows, bytes, group, .. } = pending;
        let allowed_us = policy.allowed_us(pending.timeout_us).unwrap_or(u64::MAX);
        self.next = self.next.wrapping_add(1);
        self.insert(ticket, Waiting { rows, bytes, group, arrived: now, deadline, allowed_us });
        Ok(ticket)
    }

    /// Takes out a request nobody waits for any more. False when it already runs or is answered.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        self.remove(ticket).or_else(|| self.remove(ticket.behind())).is_some()
    }

    /// Nobody comes any more: what waits no longer waits for company.
    pub fn close(&mut self) {
        self.batching.max_delay_us = 0;
        self.waits = false;
    }

    /// Forms the next batch for an idle instance of a replica as fast as `forecasts` say. `batch` is emptied first; its room is
    /// reused.
    pub fn take(&mut self, now: Moment, forecasts: &impl Forecasts, batch: &mut Batch) {
        batch.run.clear();
        batch.late.clear();
        batch.hopeless.clear();
        batch.timed_out.clear();
        if self.policy != BatchPolicy::Sluice {
            self.expire(now, batch);
        }
        batch.wake = match self.policy {
            BatchPolicy::Sluice => {
                self.form_by_deadline(&When { moment: now, forecasts, limit: self.limits.rows_max }, batch);
                None
            }
            BatchPolicy::Triton | BatchPolicy::Linger => self.form_by_rules(now, forecasts.whole(), &mut batch.run),
            _ => self.form_as_others(now, forecasts.whole(), &mut batch.run),
        };
        for ticket in &mut batch.run {
            self.remove(*ticket);
            *ticket = ticket.given();
        }
        if self.waits && batch.wake.is_none() && !self.queue.is_empty() {
            batch.wake = Some(now); // nobody looked yet how long what stays may wait
        }
    }

    /// Moves out, or behind, whose time is up.
    fn expire(&mut self, now: Moment, batch: &mut Batch) {
        while let Some(place) = self.first_expired(now) {
            let Some(waiting) = self.remove(place) else { return };
            if waiting.deadline <= now {
                batch.late.push((place.given(), now.us_since(waiting.deadline)));
            } else if self.batching.policy(place.level()).timeout_action == TimeoutAction::Delay {
                self.insert(place.behind(), Waiting { allowed_us: u64::MAX, ..waiting });
            } else {
                batch.timed_out.push((place.given(), now.us_since(waiting.arrived), waiting.allowed_us));
            }
        }
    }

    fn first_expired(&self, now: Moment) -> Option<Ticket> {
        let (expiry, place) = match self.ruled {
            true => *self.expiries.first()?,
            false => self.queue.first_key_value().map(|(place, head)| (head.deadline, *place))?,
        };
        (expiry <= now).then_some(place)
    }

    /// Deadline and arrival of who goes first, so that a device can tell which of its queues is next. One without a deadline has the end
    /// of time.
    pub fn head(&self) -> Option<(Moment, Moment)> {
        self.queue.first_key_value().map(|(_, head)| (head.deadline, head.arrived))
    }

    /// Waiting requests.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The earliest moment at which somebody's time is up. `None` when nobody's ever is.
    pub fn deadline(&self) -> Option<Moment> {
        let first = match (self.ruled, self.policy) {
            (true, _) => self.expiries.first().map(|(expiry, _)| *expiry),
            (false, BatchPolicy::Sluice) => {
                let firsts = LEVELS.filter_map(|level| self.queue.range(Ticket::range(level, Moment::default())).next());
                firsts.map(|(_, waiting)| waiting.deadline).min()
            }
            (false, _) => self.queue.first_key_value().map(|(_, head)| head.deadline),
        };
        first.filter(|moment| *moment < NEVER)
    }

    /// Microseconds of one instance that what waits takes. What runs is not in it.
    pub fn backlog(&self, now: Moment, forecast: Forecast) -> Backlog {
        let rows_max = match self.policy {
            BatchPolicy::Sluice => forecast.rows_max(self.limits.rows_max),
            _ => self.limits.rows_max.max(1),
        };
        let us = self.work_us(forecast, rows_max);
        if self.policy != BatchPolicy::Sluice || self.rows == 0 {
            return Backlog::whole(us as u64);
        }
        let mut due = self.due.iter().peekable();
        let mut rows = 0u64;
        Backlog::by_deadline(us as u64, |within_us| {
            let until = Self::due_at(later(now, within_us));
            while let Some((_, more)) = due.next_if(|(at, _)| **at < until) {
                rows = rows.saturating_add(*more);
            }
            (us * rows as f64 / self.rows as f64) as u64
        })
    }

    /// Which entry of `due` counts a deadline.
    fn due_at(deadline: Moment) -> u64 {
        deadline.as_us() / DUE_US
    }

    /// Microseconds that all that waits takes one instance, in batches of at most `rows_max`.
    fn work_us(&self, forecast: Forecast, rows_max: u32) -> f64 {
        let batches = match self.policy {
            BatchPolicy::Sluice => self.lanes.batches(rows_max),
            _ => self.rows.div_ceil(u64::from(rows_max)).min(self.queue.len() as u64),
        };
        forecast.slow * (forecast.latency.alpha_us * self.rows as f64 + forecast.latency.beta_us * batches as f64)
    }

    fn insert(&mut self, place: Ticket, waiting: Waiting) {
        self.bytes = self.bytes.saturating_add(waiting.bytes);
        self.rows = self.rows.saturating_add(u64::from(waiting.rows));
        if self.ruled {
            self.expiries.insert((waiting.expires(), place));
            let level = self.levels.entry(place.level()).or_default();
            *level = level.saturating_add(1);
        }
        if self.policy == BatchPolicy::Sluice {
            self.lanes.enter(Lane::of(place, &waiting), waiting.rows);
            let due = self.due.entry(Self::due_at(waiting.deadline)).or_default();
            *due = due.saturating_add(u64::from(waiting.rows));
        }
        self.queue.insert(place, waiting);
    }

    fn remove(&mut self, place: Ticket) -> Option<Waiting> {
        let waiting = self.queue.remove(&place)?;
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        self.rows = self.rows.saturating_sub(u64::from(waiting.rows));
        if self.ruled {
            self.expiries.remove(&(waiting.expires(), place));
            if let Some(level) = self.levels.get_mut(&place.level()) {
                *level = level.saturating_sub(1);
            }
        }
        if self.policy == BatchPolicy::Sluice {
            self.lanes.leave(Lane::of(place, &waiting), waiting.rows);
            if let Entry::Occupied(mut due) = self.due.entry(Self::due_at(waiting.deadline)) {
                *due.get_mut() = due.get().saturating_sub(u64::from(waiting.rows));
                if *due.get() == 0 {
                    due.remove();
                }
            }
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
