//! What came of a simulated run, second by second and model by model.

use serde::Serialize;

/// Requests of a second, counted by when they were due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Asked.
    pub offered: u64,
    /// Answered.
    pub answered: u64,
    /// Of those, before their deadline.
    pub in_time: u64,
    /// Sum of the accuracies of the answers in time.
    pub accuracy: f64,
    /// Sent to a variant below the floor, or of unknown accuracy where there is a floor.
    pub below_floor: u64,
}

/// A plan that was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Epoch {
    /// Seconds from the start.
    pub at_s: f64,
    /// Rows a second that gateways count.
    pub rate: f64,
    /// Rows a second planned for.
    pub planned: f64,
    /// Rows a second that the plan leaves unanswered.
    pub unserved: f64,
    /// Accuracy of the rows that it answers, in the mean.
    pub accuracy: f64,
    /// Replicas that are wanted.
    pub placements: usize,
    /// Loads begun since the plan before.
    pub loads: usize,
    /// Linear programs solved.
    pub programs: usize,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Of each second, of each model.
    pub seconds: Vec<Vec<Tally>>,
    /// The plans, in order.
    pub epochs: Vec<Epoch>,
    /// All loads.
    pub loads: usize,
    /// Batches that ran.
    pub executions: u64,
    /// Of those, done within what 99 of 100 were predicted to take.
    pub in_tail: u64,
    /// Largest share of a device's bytes ever held.
    pub bytes_share_max: f64,
    /// Times a model lost its last routable replica.
    pub lost_models: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.offered = self.offered.saturating_add(other.offered);
        self.answered = self.answered.saturating_add(other.answered);
        self.in_time = self.in_time.saturating_add(other.in_time);
        self.below_floor = self.below_floor.saturating_add(other.below_floor);
        self.accuracy += other.accuracy;
    }

    /// In time, in per cent of the offered.
    pub fn in_time_percent(&self) -> f64 {
        100.0 * self.in_time as f64 / self.offered.max(1) as f64
    }

    /// Effective accuracy, in per cent: an answer counts by its accuracy if it is in time, and nothing else counts.
    pub fn accuracy_percent(&self) -> f64 {
        100.0 * self.accuracy / self.offered.max(1) as f64
    }
}

impl Outcome {
    /// All models from one second to before another.
    pub fn between(&self, from_s: usize, to_s: usize) -> Tally {
        self.sum(from_s, to_s, |_| true)
    }

    /// One model over all the time from a second on.
    pub fn of_model(&self, model: usize, from_s: usize) -> Tally {
        self.sum(from_s, usize::MAX, |other| other == model)
    }

    fn sum(&self, from_s: usize, to_s: usize, which: impl Fn(usize) -> bool) -> Tally {
        let mut sum = Tally::default();
        let seconds = self.seconds.iter().skip(from_s).take(to_s.saturating_sub(from_s));
        seconds.flat_map(|second| second.iter().enumerate()).filter(|(model, _)| which(*model)).for_each(|(_, tally)| sum.add(tally));
        sum
    }

    pub(super) fn at(&mut self, second: usize, model: usize) -> Option<&mut Tally> {
        self.seconds.get_mut(second)?.get_mut(model)
    }
}
