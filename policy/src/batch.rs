//! The queue of one replica: which requests ride together in the next engine call.
//!
//! Work-conserving and earliest deadline first: an idle instance never waits for company, and what has expired leaves
//! the queue without reaching an engine (I7).

mod batching;

pub use batching::{Batching, QueuePolicy, TimeoutAction};

use crate::profile::Latency;
use crate::{Failure, Moment};
use std::collections::BTreeMap;

/// A place in the queue. Orders by deadline, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    deadline: Moment,
    number: u64,
}

/// What the queue must know of a waiting request.
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
}

/// Bounds of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most rows of one engine call; 1 for a model without a batch dimension.
    pub rows_max: u32,
    /// Most waiting requests, so that what waits can still be answered in time.
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
}

/// Requests waiting for an instance of one replica.
#[derive(Debug)]
pub struct Batcher {
    queue: BTreeMap<Ticket, Pending>,
    bytes: u64,
    rows: u64,
    next: u64,
    limits: Limits,
}

/// Told to a caller who finds the queue full: by then a few batches are gone.
const RETRY_MS: u32 = 50;

impl Batcher {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self { queue: BTreeMap::new(), bytes: 0, rows: 0, next: 0, limits }
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// [`Failure::DeadlineExceeded`] when it is late already, [`Failure::QueueFull`] when there is no room.
    pub fn arrive(&mut self, now: Moment, pending: Pending) -> Result<Ticket, Failure> {
        if let Some(deadline) = pending.deadline.filter(|d| *d <= now) {
            return Err(Failure::DeadlineExceeded { late_us: now.us_since(deadline) });
        }
        let bytes = self.bytes.saturating_add(pending.bytes);
        // One request of any legal size is taken when nothing waits: a byte budget must not make it impossible.
        if self.queue.len() >= self.limits.queue_len_max || (bytes > self.limits.queue_bytes_max && !self.queue.is_empty()) {
            return Err(Failure::QueueFull { queued: self.queue.len(), retry_ms: RETRY_MS });
        }
        let ticket = Ticket { deadline: pending.deadline.unwrap_or(Moment::from_us(u64::MAX)), number: self.next };
        self.next = self.next.wrapping_add(1);
        self.bytes = bytes;
        self.rows = self.rows.saturating_add(u64::from(pending.rows));
        self.queue.insert(ticket, pending);
        Ok(ticket)
    }

    /// Takes out a request nobody waits for any more. False when it already runs or is answered.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        self.remove(ticket).is_some()
    }

    /// Forms the next batch for an idle instance. `batch` is emptied first; its room is reused.
    pub fn take(&mut self, now: Moment, batch: &mut Batch) {
        batch.run.clear();
        batch.late.clear();
        while let Some((ticket, _)) = self.queue.first_key_value().filter(|(t, _)| t.deadline <= now) {
            let ticket = *ticket;
            batch.late.push((ticket, now.us_since(ticket.deadline)));
            self.remove(ticket);
        }
        let Some(group) = self.queue.first_key_value().map(|(_, head)| head.group) else { return };
        let mut rows: u32 = 0;
        for (ticket, pending) in self.queue.iter().filter(|(_, p)| p.group == group) {
            let with = rows.saturating_add(pending.rows);
            if with > self.limits.rows_max && !batch.run.is_empty() {
                break; // no overtaking: a later, smaller request must not starve an earlier, larger one
            }
            rows = with;
            batch.run.push(*ticket);
        }
        for i in 0..batch.run.len() {
            if let Some(ticket) = batch.run.get(i).copied() {
                self.remove(ticket);
            }
        }
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

    fn remove(&mut self, ticket: Ticket) -> Option<Pending> {
        let pending = self.queue.remove(&ticket)?;
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        self.rows = self.rows.saturating_sub(u64::from(pending.rows));
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { rows_max: 4, queue_len_max: 8, queue_bytes_max: 100 };

    fn pending(rows: u32, deadline_us: Option<u64>) -> Pending {
        Pending { rows, bytes: 1, deadline: deadline_us.map(Moment::from_us), group: 0 }
    }

    fn take(batcher: &mut Batcher, now_us: u64) -> Batch {
        let mut batch = Batch::default();
        batcher.take(Moment::from_us(now_us), &mut batch);
        batch
    }

    #[test]
    fn i7_expired_work_leaves_the_queue_without_running() {
        let mut batcher = Batcher::new(LIMITS);
        let late = batcher.arrive(Moment::from_us(0), pending(1, Some(500))).unwrap();
        let fine = batcher.arrive(Moment::from_us(0), pending(1, Some(501))).unwrap();
        let batch = take(&mut batcher, 500); // a deadline is exclusive: on it is too late
        assert_eq!(batch, Batch { run: vec![fine], late: vec![(late, 0)] });
        assert_eq!(batcher.arrive(Moment::from_us(9), pending(1, Some(2))), Err(Failure::DeadlineExceeded { late_us: 7 }));
    }

    #[test]
    fn i7_cancelled_work_leaves_the_queue() {
        let mut batcher = Batcher::new(LIMITS);
        let gone = batcher.arrive(Moment::from_us(0), pending(1, None)).unwrap();
        assert!(batcher.cancel(gone));
        assert!(!batcher.cancel(gone));
        assert_eq!(take(&mut batcher, 1), Batch::default());
    }

    #[test]
    fn the_earliest_deadline_rides_first_and_groups_do_not_mix() {
        let mut batcher = Batcher::new(LIMITS);
        let patient = batcher.arrive(Moment::from_us(0), pending(1, None)).unwrap();
        let urgent = batcher.arrive(Moment::from_us(0), pending(1, Some(10))).unwrap();
        let other = batcher.arrive(Moment::from_us(0), Pending { group: 7, ..pending(1, Some(20)) }).unwrap();
        assert_eq!(take(&mut batcher, 1).run, [urgent, patient]);
        assert_eq!(take(&mut batcher, 1).run, [other]);
    }

    #[test]
    fn a_full_queue_refuses_by_count_and_by_bytes() {
        let mut batcher = Batcher::new(LIMITS);
        let huge = Pending { bytes: 1_000, ..pending(1, None) };
        assert!(batcher.arrive(Moment::default(), huge).is_ok(), "one is always taken");
        assert!(matches!(batcher.arrive(Moment::default(), huge), Err(Failure::QueueFull { queued: 1, .. })));
        let mut batcher = Batcher::new(LIMITS);
        for _ in 0..LIMITS.queue_len_max {
            batcher.arrive(Moment::default(), pending(1, None)).unwrap();
        }
        assert!(matches!(batcher.arrive(Moment::default(), pending(1, None)), Err(Failure::QueueFull { queued: 8, .. })));
    }

    proptest! {
        /// Every request that came in leaves exactly once: run, late or cancelled (I5 inside a replica); no batch is over its rows.
        #[test]
        fn every_request_leaves_exactly_once(ops in prop::collection::vec((0u8..3, 1u32..6, prop::option::of(0u64..60), 0u64..3), 1..80)) {
            let mut batcher = Batcher::new(LIMITS);
            let mut inside: BTreeMap<Ticket, u32> = BTreeMap::new();
            for (step, (op, rows, deadline, group)) in ops.into_iter().enumerate() {
                let now = Moment::from_us(step as u64);
                match op {
                    0 => if let Ok(ticket) = batcher.arrive(now, Pending { group, ..pending(rows, deadline) }) {
                        prop_assert!(inside.insert(ticket, rows).is_none());
                    },
                    1 => if let Some(ticket) = inside.keys().next().copied() {
                        prop_assert!(batcher.cancel(ticket));
                        inside.remove(&ticket);
                    },
                    _ => {
                        let batch = take(&mut batcher, step as u64);
                        let sum: u32 = batch.run.iter().map(|t| inside.remove(t).unwrap()).sum();
                        prop_assert!(sum <= LIMITS.rows_max || batch.run.len() == 1);
                        for (ticket, _) in batch.late {
                            prop_assert!(inside.remove(&ticket).is_some());
                        }
                    }
                }
                prop_assert_eq!(batcher.len(), inside.len());
            }
        }
    }
}
