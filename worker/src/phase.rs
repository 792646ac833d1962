//! How far loads are: told by the tasks and threads that do them, published by the manager.

use policy::VariantId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Least time between two words on bytes that come in: each becomes a write to the registry.
const FETCHED_EVERY: Duration = Duration::from_secs(1);

/// What a load is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Comparing the files that are here with what they should be.
    Checking,
    /// Getting them from another worker.
    Fetching {
        /// So many bytes are here.
        bytes: u64,
        /// Of so many.
        of: u64,
    },
    /// Finding out in a child whether they can be served, where that is not known yet.
    Validating,
    /// Loading one engine.
    Loading {
        /// Which, from 1.
        engine: usize,
        /// Of so many.
        of: usize,
    },
    /// Running it for the first times.
    WarmingUp,
    /// Measuring how long it takes.
    Calibrating,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checking => write!(f, "checking its files"),
            Self::Fetching { bytes, of } => write!(f, "fetching, {:.1} of {:.1} MB are here", *bytes as f64 / 1e6, *of as f64 / 1e6),
            Self::Validating => write!(f, "validating"),
            Self::Loading { engine, of } => write!(f, "loading engine {engine} of {of}"),
            Self::WarmingUp => write!(f, "warming up"),
            Self::Calibrating => write!(f, "calibrating"),
        }
    }
}

/// By variant, which load of it is where. Written by loads, read and cleared by the manager.
pub(crate) type Phases = Arc<watch::Sender<BTreeMap<VariantId, (u64, Phase)>>>;

/// Where one load says how far it is. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Teller {
    /// None where nobody wants to know.
    to: Option<(Phases, VariantId, u64)>,
    /// When bytes were told last.
    fetched: Arc<Mutex<Option<Instant>>>,
}

impl Teller {
    /// Of load `attempt` of `variant`.
    pub(crate) fn new(phases: Phases, variant: VariantId, attempt: u64) -> Self {
        Self { to: Some((phases, variant, attempt)), fetched: Arc::default() }
    }

    /// Tells nobody.
    pub(crate) fn silent() -> Self {
        Self { to: None, fetched: Arc::default() }
    }

    /// It is at `phase` now.
    pub(crate) fn say(&self, phase: Phase) {
        let Some((phases, variant, attempt)) = &self.to else { return };
        phases.send_if_modified(|all| all.insert(variant.clone(), (*attempt, phase)) != Some((*attempt, phase)));
    }

    /// Bytes have come in: told at most once a second.
    pub(crate) fn fetched(&self, bytes: u64, of: u64) {
        self.fetched_at(Instant::now(), bytes, of);
    }

    fn fetched_at(&self, now: Instant, bytes: u64, of: u64) {
        let mut last = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= FETCHED_EVERY) {
            *last = Some(now);
            drop(last);
            self.say(Phase::Fetching { bytes, of });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_once_a_second_and_phases_at_once() {
        let phases = Phases::default();
        let mut heard = phases.subscribe();
        let variant = VariantId::parse("m:1:fp32@ort").unwrap();
        let teller = Teller::new(phases, variant.clone(), 7);
        let start = Instant::now();
        let mut told = Vec::new();
        for ms in (0..2_500).step_by(10) {
            teller.fetched_at(start + Duration::from_millis(ms), ms * 1_000, 2_500_000);
            if heard.has_changed().unwrap() {
                told.push(heard.borrow_and_update()[&variant].1.to_string());
            }
        }
        assert_eq!(told, [0.0, 1.0, 2.0].map(|mb| format!("fetching, {mb:.1} of 2.5 MB are here")));
        for (phase, is_news) in [(Phase::Validating, true), (Phase::Validating, false), (Phase::WarmingUp, true)] {
            teller.say(phase);
            assert_eq!(heard.has_changed().unwrap(), is_news, "{phase}");
            assert_eq!(heard.borrow_and_update()[&variant], (7, phase));
        }
    }
}
