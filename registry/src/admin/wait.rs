//! Waiting until models are as wanted, or for the reason why not.

use policy::plan::{Progress, progress};
use policy::{Failure, ModelName};
use std::time::Duration;
use tokio::time::Instant;

use crate::admin::Records;
use crate::{Keys, Mirror, State};

/// How long a worker may take to offer a model that none offers yet: it looks through its directory, validates, and says so.
const UNKNOWN_WAIT: Duration = Duration::from_secs(3);

/// How far a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Not there yet; the text says what it waits for.
    Waiting(String),
    /// Routable as wanted; the text says what is missing beyond that, if anything.
    Ready(String),
    /// Gone, as wanted.
    Unloaded,
    /// It will not get there, or not in time; the text says why.
    Failed(String),
}

/// Follows models until each has an outcome other than waiting.
pub(super) struct Waiter {
    mirror: Mirror,
    keys: Keys,
    models: Vec<ModelName>,
    revision: i64,
    start: Instant,
    timeout: Duration,
    told: Vec<Option<Outcome>>,
}

impl Waiter {
    /// Follows `models`, whose wanted state was written at `revision`.
    pub(super) fn new(mirror: Mirror, keys: Keys, models: Vec<ModelName>, revision: i64, timeout: Duration) -> Self {
        let told = vec![None; models.len()];
        Self { mirror, keys, models, revision, start: Instant::now(), timeout, told }
    }

    /// The next outcomes that differ from those told before; `None` once every model has its last. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Vec<(ModelName, Outcome)>> {
        loop {
            let is_open = |o: &Option<Outcome>| matches!(o, None | Some(Outcome::Waiting(_)));
            if !self.told.iter().any(is_open) {
                return None;
            }
            let state = self.mirror.snapshot();
            let mut news = Vec::new();
            for (model, told) in self.models.iter().zip(&mut self.told).filter(|(_, told)| is_open(told)) {
                let now = outcome(&state, &self.keys, model, self.revision, self.start.elapsed(), self.timeout);
                if told.as_ref() != Some(&now) {
                    *told = Some(now.clone());
                    news.push((model.clone(), now));
                }
            }
            if !news.is_empty() {
                return Some(news);
            }
            let elapsed = self.start.elapsed();
            let next = if elapsed < UNKNOWN_WAIT.min(self.timeout) { UNKNOWN_WAIT.min(self.timeout) } else { self.timeout };
            tokio::select! {
                () = self.mirror.changed() => {}
                () = tokio::time::sleep_until(self.start + next) => {}
            }
        }
    }
}

fn outcome(state: &State, keys: &Keys, model: &ModelName, revision: i64, elapsed: Duration, timeout: Duration) -> Outcome {
    let waiting = match judge(state, keys, model, revision) {
        Progress::Ready(note) => return Outcome::Ready(note),
        Progress::Unloaded => return Outcome::Unloaded,
        Progress::Failed(reason) => return Outcome::Failed(reason),
        Progress::Unknown(reason) if elapsed >= UNKNOWN_WAIT => return Outcome::Failed(reason),
        Progress::Unknown(reason) | Progress::Waiting(reason) => reason,
    };
    if elapsed < timeout {
        Outcome::Waiting(waiting)
    } else {
        Outcome::Failed(format!("not ready after {} ms: {waiting}", timeout.as_millis()))
    }
}

fn judge(state: &State, keys: &Keys, model: &ModelName, revision: i64) -> Progress {
    if !state.synced || state.revision < revision {
        return Progress::Waiting("waits for the registry".to_owned());
    }
    let records = Records::read(state, keys);
    let Some((record, _)) = records.models.get(model) else {
        return Progress::Failed("somebody deleted its record".to_owned());
    };
    match progress(record, &records.observed, records.decided(model)) {
        Progress::Waiting(reason) if records.leader.is_none() => Progress::Waiting(format!("{reason}; no controller leads")),
        other => other,
    }
}

/// Waits until a model, whose wanted state was written at `revision`, is routable if wanted and gone if not. Gives what is
/// missing beyond that, empty for nothing.
///
/// # Errors
/// Why it will not be, or what it was waiting for when `timeout` was over.
pub async fn wait_routable(mirror: &Mirror, keys: &Keys, model: &ModelName, revision: i64, timeout: Duration) -> Result<String, Failure> {
    let mut waiter = Waiter::new(mirror.clone(), keys.clone(), vec![model.clone()], revision, timeout);
    let mut last = Outcome::Unloaded;
    while let Some(news) = waiter.next().await {
        last = news.into_iter().next_back().map_or(last, |(_, outcome)| outcome);
    }
    match last {
        Outcome::Ready(note) => Ok(note),
        Outcome::Unloaded => Ok(String::new()),
        Outcome::Failed(reason) | Outcome::Waiting(reason) => Err(Failure::LoadFailed { model: model.to_string(), reason }),
    }
}
