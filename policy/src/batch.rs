//! The queue of one replica: which requests ride together in the next engine call.
//!
//! Without rules of the model ([`Batching`]) it is work-conserving and earliest deadline first: an idle instance never
//! waits for company. What has expired leaves the queue without reaching an engine (I7). With rules, priority levels come
//! first, 1 before 2, then deadlines, then arrival; who waited longer than its queue allows is refused, or goes behind the
//! others of its level.
//!
//! An instance waits for company only while everything that waits fits into one batch: otherwise whoever comes next could
//! only overtake. So nobody waits longer than the model's delay beside an idle instance.
//!
//! Instances are the only ones who look: a request whose time is up is told so at the latest when an instance next takes,
//! and while one is idle that is at once.

mod asked;
mod batching;

pub use asked::Asked;
pub use batching::{Batching, QueuePolicy, TimeoutAction};

use crate::profile::Latency;
use crate::{Failure, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// A waiting request's name, and its place in the queue: by level, then who has not timed out, then by deadline, then by
/// arrival. One number, since the queue compares little else: 27 bits of level, 1 of having timed out, 52 of microseconds,
/// 48 of arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u128);

impl Ticket {
    const LEVEL_MAX: u32 = (1 << 27) - 1;
    const ORDER_MAX: u64 = (1 << 52) - 1;
    const NUMBER_MAX: u64 = (1 << 48) - 1;
    const BEHIND: u128 = 1 << 100;

    fn new(level: u32, order: Moment, number: u64) -> Self {
        let order = order.as_us().min(Self::ORDER_MAX);
        Self(u128::from(level) << 101 | u128::from(order) << 48 | u128::from(number & Self::NUMBER_MAX))
    }

    fn level(self) -> u32 {
        (self.0 >> 101) as u32
    }

    /// The place it has once it has waited too long.
    fn behind(self) -> Self {
        Self(self.0 | Self::BEHIND)
    }

    /// The place it was given when it arrived, which is what its caller knows it by.
    fn given(self) -> Self {
        Self(self.0 & !Self::BEHIND)
    }
}

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
    /// Level asked for, 1 the highest; 0, or one that the model does not have, is the model's default.
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
    /// How many wait on each level, if `ruled`; otherwise there is only one.
    levels: BTreeMap<u32, usize>,
    bytes: u64,
    rows: u64,
    next: u64,
    limits: Limits,
    batching: Batching,
    /// The largest of the preferred sizes; a full batch when there are none.
    preferred_max: u32,
    /// The order of the queue is not just that of deadlines.
    ruled: bool,
}

/// Told to a caller who finds the queue full: by then a few batches are gone.
const RETRY_MS: u32 = 50;

/// The end of time.
const NEVER: Moment = Moment::from_us(u64::MAX);

fn later(moment: Moment, us: u64) -> Moment {
    Moment::from_us(moment.as_us().saturating_add(us))
}

impl Batcher {
    /// An empty queue. Preferred sizes over the limit of rows, and levels over 2^27, are as if they were not there.
    pub fn new(limits: Limits, mut batching: Batching) -> Self {
        batching.preferred_rows.retain(|rows| *rows <= limits.rows_max);
        batching.priority_levels = batching.priority_levels.min(Ticket::LEVEL_MAX);
        let times_out = std::iter::once(&batching.queue).chain(batching.queue_by_priority.values()).any(QueuePolicy::times_out);
        Self {
            queue: BTreeMap::new(),
            expiries: BTreeSet::new(),
            levels: BTreeMap::new(),
            bytes: 0,
            rows: 0,
            next: 0,
            limits,
            preferred_max: batching.preferred_rows.iter().copied().max().unwrap_or(limits.rows_max),
            ruled: times_out || batching.preserve_ordering || batching.priority_levels > 1,
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
    }

    /// Forms the next batch for an idle instance of a replica as fast as `latency`. `batch` is emptied first; its room is
    /// reused.
    pub fn take(&mut self, now: Moment, latency: Latency, batch: &mut Batch) {
        batch.run.clear();
        batch.late.clear();
        batch.timed_out.clear();
        self.expire(now, batch);
        batch.wake = self.form(now, latency, &mut batch.run);
        for ticket in &mut batch.run {
            self.remove(*ticket);
            *ticket = ticket.given();
        }
        if self.batching.max_delay_us > 0 && batch.wake.is_none() && !self.queue.is_empty() {
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

    /// Puts into `run` what leaves now. Nothing does when the head is better off waiting for company: then the moment until
    /// which it is.
    fn form(&self, now: Moment, latency: Latency, run: &mut Vec<Ticket>) -> Option<Moment> {
        let group = self.queue.first_key_value()?.1.group;
        let (mut rows, mut oldest, mut preferred) = (0u32, now, None);
        for (place, waiting) in &self.queue {
            if waiting.group != group {
                if self.batching.preserve_ordering {
                    break;
                }
                continue;
            }
            let with = rows.saturating_add(waiting.rows);
            if with > self.preferred_max && !run.is_empty() {
                preferred.get_or_insert(run.len());
                if with > self.limits.rows_max {
                    break; // no overtaking: a later, smaller request must not starve an earlier, larger one
                }
            }
            rows = with;
            run.push(*place);
            oldest = oldest.min(waiting.arrived);
            if self.batching.preferred_rows.contains(&rows) {
                preferred = Some(run.len());
            }
            if rows >= self.limits.rows_max {
                break;
            }
        }
        let delay_us = self.batching.max_delay_us;
        if delay_us > 0 && now.us_since(oldest) >= delay_us {
            return None;
        }
        if let Some(len) = preferred {
            run.truncate(len);
            return None;
        }
        if delay_us == 0 || rows >= self.preferred_max || run.len() < self.queue.len() {
            return None;
        }
        let until = self.patience(later(oldest, delay_us), latency).filter(|until| *until > now)?;
        run.clear();
        Some(until)
    }

    /// Until when all that waits may wait for company: `until`, but only to the last moment at which a full batch still ends
    /// before every deadline. `None` where somebody would time out by then: it would be refused beside an idle instance.
    fn patience(&self, until: Moment, latency: Latency) -> Option<Moment> {
        let run_us = latency.batch_us(self.limits.rows_max).ceil() as u64;
        let deadline = self.queue.values().map(|w| w.deadline).min().unwrap_or(NEVER);
        let until = until.min(Moment::from_us(deadline.as_us().saturating_sub(run_us)));
        self.queue.values().all(|w| w.times_out() > until).then_some(until)
    }

    /// Waiting requests.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Microseconds until an instance is free for a request that arrived now: what waits, over `instances`.
    pub fn backlog_us(&self, latency: Latency, instances: u32) -> u64 {
        let full = u64::from(self.limits.rows_max.max(1));
        let batches = self.rows.div_ceil(full).min(self.queue.len() as u64);
        let us = latency.alpha_us * self.rows as f64 + latency.beta_us * batches as f64;
        (us / f64::from(instances.max(1))) as u64
    }

    fn insert(&mut self, place: Ticket, waiting: Waiting) {
        self.bytes = self.bytes.saturating_add(waiting.bytes);
        self.rows = self.rows.saturating_add(u64::from(waiting.rows));
        if self.ruled {
            self.expiries.insert((waiting.expires(), place));
            let level = self.levels.entry(place.level()).or_default();
            *level = level.saturating_add(1);
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
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
