//! Requests for models that are asleep: the cluster is told at once, and they wait for the first replica, within their deadlines.

use crate::infer::Context;
use crate::metrics::Stage;
use crate::shard::{Core, Shard};
use crate::table::{ModelVersion, Resting};
use policy::demand::{Offered, quiet_after_us};
use policy::{Envelope, Failure};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Requests that wait at once. Each holds a connection and little else.
const WAITING_MAX: usize = 1_024;
/// Longest wait of a request without a deadline: most models load in seconds, and its caller may have gone unseen.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Told where nobody knows how long the load takes.
const RETRY_MS: u32 = 1_000;

/// Who waits, of all models together.
pub(crate) struct Sleepers {
    /// Somebody asks for a model of which the registry says that nobody does.
    bell: Notify,
    bytes_max: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    requests: usize,
    bytes: u64,
}

impl Sleepers {
    /// Nobody waits. Those who do will hold no more than `bytes_max` bytes of what the door has let in: others ask for what is awake.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bell: Notify::new(), bytes_max, waiting: Mutex::default() }
    }

    /// Resolves when the registry should be told. Cancel safe.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn requests(&self) -> usize {
        self.lock().requests
    }
}

/// A request that waits. It is gone on drop, whatever ended its wait.
struct Sleeper<'c> {
    core: &'c Core,
    offered: Arc<Mutex<Offered>>,
    bytes: u64,
}

impl<'c> Sleeper<'c> {
    /// None where too many wait.
    fn enter(core: &'c Core, version: &ModelVersion, bytes: u64) -> Option<Self> {
        let mut waiting = core.sleepers.lock();
        let held = waiting.bytes.saturating_add(bytes);
        if waiting.requests >= WAITING_MAX || held > core.sleepers.bytes_max {
            return None;
        }
        (waiting.requests, waiting.bytes) = (waiting.requests.saturating_add(1), held);
        drop(waiting);
        let offered = version.offered.clone();
        offered.lock().unwrap_or_else(PoisonError::into_inner).wait();
        Some(Self { core, offered, bytes })
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut waiting = self.core.sleepers.lock();
        (waiting.requests, waiting.bytes) = (waiting.requests.saturating_sub(1), waiting.bytes.saturating_sub(self.bytes));
        drop(waiting);
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).wait_no_more(self.core.now());
    }
}

impl Shard {
    /// Waits until the version that a request means has a replica, which is not always the version it meant when it came.
    ///
    /// # Errors
    /// [`Failure::Asleep`] with the rest of the load's time where that is known to be longer than the request's, where too many wait, and
    /// after [`WAIT_MAX`] without a deadline; [`Failure::DeadlineExceeded`]; and why there is no replica when the load has failed.
    pub(crate) async fn awake(
        &self,
        version: &Arc<ModelVersion>,
        envelope: &Envelope,
        (rows, bytes): (u32, u64),
        context: &Context,
    ) -> Result<Arc<ModelVersion>, Failure> {
        let core = &self.core;
        let at = core.metrics.at(Stage::Wake);
        let found = self.wake(version, envelope, (rows, bytes), context).await;
        at.ended(&found);
        found
    }

    async fn wake(
        &self,
        version: &Arc<ModelVersion>,
        envelope: &Envelope,
        (rows, bytes): (u32, u64),
        context: &Context,
    ) -> Result<Arc<ModelVersion>, Failure> {
        let core = &self.core;
        let mut changed = core.changed.subscribe();
        let resting = version.resting.as_ref();
        let was_told = resting.is_none_or(|resting| {
            let offered = version.offered.lock().unwrap_or_else(PoisonError::into_inner);
            offered.is_asked_within(core.now(), quiet_after_us(resting.idle_s))
        });
        let left = context.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let remaining = resting.and_then(Resting::remaining_ms).map(Duration::from_millis);
        let hopeless = left.zip(remaining).is_some_and(|(left, remaining)| left < remaining);
        let place = if hopeless { None } else { Sleeper::enter(core, version, bytes) };
        if place.is_none() {
            version.is_asked(core.now(), rows);
        }
        if !was_told {
            core.sleepers.bell.notify_one();
        }
        let refused = |version: &ModelVersion| {
            let remaining = version.resting.as_ref().and_then(Resting::remaining_ms).and_then(|ms| u32::try_from(ms).ok());
            Failure::Asleep { model: envelope.model.clone(), retry_ms: remaining.filter(|ms| *ms > 0).unwrap_or(RETRY_MS) }
        };
        let Some(_place) = place else { return Err(refused(version)) };
        let ready = async {
            loop {
                let table = core.table.load_full();
                let found = table.resolve(&envelope.model, &envelope.version)?;
                if found.is_ready() {
                    return Ok(found.clone());
                }
                if changed.changed().await.is_err() {
                    return Err(Failure::Draining { retry_ms: RETRY_MS });
                }
            }
        };
        match context.deadline {
            Some(_) => context.in_time(ready).await?,
            None => tokio::time::timeout(WAIT_MAX, ready).await.unwrap_or_else(|_| {
                let table = core.table.load_full();
                Err(table.resolve(&envelope.model, &envelope.version).map_or_else(|failure| failure, |now| refused(now)))
            }),
        }
    }
}

#[cfg(test)]
mod tests;
