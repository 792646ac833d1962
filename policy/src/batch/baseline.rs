//! How others form batches, to compare with: the simulator and the benches choose one by name.
//!
//! All refuse only what has expired (I7). Where one adapts to measured times, it goes by the forecast, which does.

use super::{Batcher, Moment, NEVER, Ticket, Waiting, later};
use crate::profile::Forecast;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Linger of a model whose rules name no delay, in microseconds.
pub(super) const LINGER_US: u64 = 2_000;
/// Share of the time given to the head that Clipper and BentoML plan with.
const CLIPPER_SHARE: f64 = 0.92;
const BENTOML_SHARE: f64 = 0.95;
/// How far Clipper's batches shrink when one is too slow; they grow by one row.
const CLIPPER_BACK_OFF: f64 = 0.9;
/// How often BentoML looks again, in microseconds.
const BENTOML_TICK_US: u64 = 1_000;
/// Share of the old mean wait that stays with each batch of BentoML's.
const BENTOML_KEPT: f64 = 0.95;

/// How batches are formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchPolicy {
    /// Ours: by deadline, never waiting for company; by the model's rules where it has any.
    #[default]
    Sluice,
    /// Preferred sizes and a longest delay.
    Triton,
    /// A full batch, or the delay is over.
    Linger,
    /// At most so many rows, adapted by additive increase and multiplicative decrease.
    Clipper,
    /// Waits while the time lost by those who wait is less than what they usually wait.
    BentoMl,
    /// Waits to the last moment at which one more could still ride (Symphony).
    Deferred,
    /// The shape of which most rows wait.
    LargestFirst,
}

impl BatchPolicy {
    /// Every policy and its name.
    pub const ALL: [(Self, &str); 7] = [
        (Self::Sluice, "sluice"),
        (Self::Triton, "triton"),
        (Self::Linger, "linger"),
        (Self::Clipper, "clipper"),
        (Self::BentoMl, "bentoml"),
        (Self::Deferred, "deferred"),
        (Self::LargestFirst, "largest-first"),
    ];

    /// May leave requests waiting beside an idle instance whatever the rules say.
    pub(super) fn defers(self) -> bool {
        matches!(self, Self::BentoMl | Self::Deferred)
    }
}

impl fmt::Display for BatchPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(policy, _)| policy == self).map_or("", |(_, name)| name))
    }
}

/// A name that is not one of [`BatchPolicy::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("batch policy `{0}` is not one of {names}", names = BatchPolicy::ALL.map(|(_, name)| name).join(", "))]
pub struct UnknownBatchPolicy(pub String);

impl FromStr for BatchPolicy {
    type Err = UnknownBatchPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownBatchPolicy> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(policy, _)| *policy).ok_or_else(|| UnknownBatchPolicy(text.to_owned()))
    }
}

/// What a baseline remembers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// Clipper's most rows.
    rows_max: f64,
    /// How long the heads of BentoML's batches waited, in microseconds.
    wait_us: f64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { rows_max: 1.0, wait_us: 0.0 }
    }
}

impl Batcher {
    /// Puts into `run` what leaves now, or tells until when it is better to wait.
    pub(super) fn form_as_others(&mut self, now: Moment, forecast: Forecast, run: &mut Vec<Ticket>) -> Option<Moment> {
        let (first, head) = self.queue.first_key_value().map(|(place, head)| (*place, *head))?;
        if let Some(until) = self.deferred_until(now, forecast, &head) {
            return Some(until);
        }
        let slack_us = head.deadline.us_since(now) as f64;
        let (group, rows_max) = match self.policy {
            BatchPolicy::Clipper => (head.group, self.memory.rows_max as u32),
            BatchPolicy::Deferred => (head.group, forecast.rows_within(self.limits.rows_max, slack_us)),
            BatchPolicy::LargestFirst => (self.largest_group().unwrap_or(head.group), self.limits.rows_max),
            _ => (head.group, self.limits.rows_max),
        };
        let mut rows = 0u32;
        for (place, waiting) in self.queue.range(first..).filter(|(_, waiting)| waiting.group == group) {
            let with = rows.saturating_add(waiting.rows);
            if with > rows_max && !run.is_empty() {
                break;
            }
            rows = with;
            run.push(*place);
        }
        self.remember(now, forecast, &head, rows);
        None
    }

    fn deferred_until(&self, now: Moment, forecast: Forecast, head: &Waiting) -> Option<Moment> {
        let full = self.rows >= u64::from(self.limits.rows_max);
        if !self.waits || full {
            return None;
        }
        match self.policy {
            BatchPolicy::BentoMl => {
                let newest_us = self.queue.values().map(|waiting| now.us_since(waiting.arrived)).min().unwrap_or_default();
                let more_us = newest_us.saturating_add(BENTOML_TICK_US) as f64 + forecast.latency.alpha_us;
                let waits = self.queue.len() as f64 * more_us <= BENTOML_SHARE * self.memory.wait_us;
                waits.then(|| later(now, BENTOML_TICK_US))
            }
            BatchPolicy::Deferred if head.deadline != NEVER => {
                let one_more = u32::try_from(self.rows).unwrap_or(u32::MAX).saturating_add(1);
                let run_us = forecast.tail_us(one_more).ceil() as u64;
                Some(Moment::from_us(head.deadline.as_us().saturating_sub(run_us))).filter(|until| *until > now)
            }
            _ => None,
        }
    }

    fn largest_group(&self) -> Option<u64> {
        let mut rows: BTreeMap<u64, u64> = BTreeMap::new();
        for waiting in self.queue.values() {
            let sum = rows.entry(waiting.group).or_default();
            *sum = sum.saturating_add(u64::from(waiting.rows));
        }
        rows.into_iter().max_by_key(|(_, rows)| *rows).map(|(group, _)| group)
    }

    fn remember(&mut self, now: Moment, forecast: Forecast, head: &Waiting, rows: u32) {
        let waited_us = now.us_since(head.arrived) as f64;
        let Memory { rows_max, wait_us } = &mut self.memory;
        *wait_us = BENTOML_KEPT * *wait_us + (1.0 - BENTOML_KEPT) * waited_us;
        let budget_us = head.deadline.us_since(head.arrived) as f64;
        if forecast.batch_us(rows) > CLIPPER_SHARE * budget_us {
            *rows_max = (*rows_max * CLIPPER_BACK_OFF).max(1.0);
        } else if f64::from(rows) >= rows_max.floor() {
            *rows_max = (*rows_max + 1.0).min(f64::from(self.limits.rows_max.max(1)));
        }
    }
}
