//! Tiny models on the network's own threads: where a run takes less than handing it over would, batches run between two looks at the
//! sockets. A model leaves this path as soon as its runs take longer, or one slow model would stall its connections, and comes back
//! when they are short again.
//!
//! These runs do not wait at the device's gate: they are over before a thread that waits could be woken, and a network's thread must not
//! wait for a slow model's turn.

use super::instance::Instance;
use super::{Job, Shared};
use crate::engine::Engine;
use crate::lane::{Mailbox, Turn};
use policy::batch::Batch;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, TryLockError};

/// Longest run, in microseconds, for which it is worth it: about what two hand-overs between threads cost.
pub(crate) const INLINE_US_MAX: u32 = 50;

/// An engine that runs where requests come in.
pub(crate) struct Inline {
    shared: Arc<Shared>,
    running: Mutex<Running>,
}

struct Running {
    instance: Instance,
    batch: Batch,
    jobs: Vec<Job>,
}

impl Inline {
    pub(super) fn new(shared: Arc<Shared>, engine: Box<dyn Engine>) -> Self {
        let instance = Instance::new(shared.clone(), engine, usize::MAX);
        let running = Mutex::new(Running { instance, batch: Batch::default(), jobs: Vec::new() });
        Self { shared, running }
    }

    /// Are runs short enough?
    pub(super) fn is_on(&self) -> bool {
        self.shared.run_us.load(Ordering::Relaxed) < self.shared.parts.inline_us_max
    }
}

impl Turn for Inline {
    fn turn(&self, here: &Arc<Mailbox>) -> bool {
        let mut running = match self.running.try_lock() {
            Ok(running) => running,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.shared.work.notify_one(); // another runtime is at it
                return false;
            }
        };
        let Running { instance, batch, jobs } = &mut *running;
        // A fault of ours ends the replica, as on a thread of its own, and not the runtime's task.
        let run = std::panic::AssertUnwindSafe(|| instance.run_one(batch, &mut *jobs, here));
        let more = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            instance.fail("a run on a network thread panicked".to_owned());
            jobs.clear(); // their callers learn it from that
            None
        });
        if more == Some(true) && !self.is_on() {
            self.shared.work.notify_all();
            return false;
        }
        more.unwrap_or(false)
    }
}
