//! Stopping a run from another thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What an engine gives so that its running call can be stopped.
pub trait Terminate: Send + Sync {
    /// Asks the running call to return soon. May come at any time between arming and disarming, more than once.
    fn terminate(&self);
}

/// Stops one run. Cheap to clone: the engine's thread passes it to `run`, any other sets it.
#[derive(Clone, Default)]
pub struct CancelFlag(Arc<Inner>);

#[derive(Default)]
struct Inner {
    set: AtomicBool,
    /// Held while terminating, so that after disarming no late call hits the engine's next run.
    running: Mutex<Option<Arc<dyn Terminate>>>,
}

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the run that holds this flag, now or when it starts. Cannot be undone: take a new flag for the next run.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::Release);
        if let Some(running) = &*self.0.running.lock().unwrap_or_else(PoisonError::into_inner) {
            running.terminate();
        }
    }

    /// Was it cancelled?
    pub fn is_cancelled(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Does a run hold this flag right now?
    pub fn is_armed(&self) -> bool {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// For engines: from now until the guard is dropped, [`cancel`](Self::cancel) calls `target`. `None` if it is
    /// already cancelled.
    pub fn arm(&self, target: Arc<dyn Terminate>) -> Option<Armed<'_>> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: a `cancel` that finds nothing running has set the flag before we look.
        if self.is_cancelled() {
            return None;
        }
        *running = Some(target);
        Some(Armed(self))
    }
}

impl fmt::Debug for CancelFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelFlag").field(&self.is_cancelled()).finish()
    }
}

/// A run that can be cancelled; dropping it ends that.
#[derive(Debug)]
pub struct Armed<'a>(&'a CancelFlag);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        *self.0.0.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
