//! What is asked and when: the part of a load that a server and a simulated fleet have in common.

use crate::mix::{Ask, Mix};
use crate::schedule::{Due, Pace, schedule};
use std::time::Duration;

/// What is asked, when, and which part of it is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// What is asked.
    pub mix: Mix,
    /// When.
    pub pace: Pace,
    /// Time that is sent but not counted, from the start.
    pub warm_up: Duration,
    /// Time that is counted, behind it.
    pub duration: Duration,
    /// The same seed gives the same schedule.
    pub seed: u64,
}

impl Script {
    /// `ask` at `pace` for `duration`, all of it counted.
    pub fn new(ask: Ask, pace: Pace, duration: Duration) -> Self {
        Self { mix: ask.into(), pace, warm_up: Duration::ZERO, duration, seed: 1 }
    }

    /// What is due, in an open loop.
    pub fn schedule(&self) -> Box<dyn Iterator<Item = Due> + Send> {
        schedule(&self.pace, &self.mix, self.seed, self.length())
    }

    /// The same, for a repeat counted from 0: with a schedule of its own.
    pub(crate) fn repeat(&self, repeat: usize) -> Self {
        Self { seed: self.seed.wrapping_add(repeat as u64), ..self.clone() }
    }

    /// Warm-up and measured time.
    pub(crate) fn length(&self) -> Duration {
        self.warm_up.saturating_add(self.duration)
    }

    /// What cannot be, all of it.
    pub fn check(&self, problems: &mut Vec<String>) {
        self.mix.check(problems);
        let mut check = |good: bool, text: String| {
            if !good {
                problems.push(text);
            }
        };
        const DAY: Duration = Duration::from_secs(86_400);
        check(!self.duration.is_zero() && self.duration <= DAY, format!("duration {:?} must be above 0 and at most a day", self.duration));
        check(self.warm_up <= DAY, format!("warm-up {:?} must be at most a day", self.warm_up));
        match &self.pace {
            Pace::Open(arrivals) => arrivals.check(problems),
            Pace::Closed { .. } => {}
            Pace::Replay(dues) => check(
                dues.last().is_some_and(|last| last.at >= self.warm_up),
                format!("the trace ends within the warm-up of {:?}", self.warm_up),
            ),
        }
    }
}
