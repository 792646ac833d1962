//! A guarded rollout: a candidate takes over from a baseline step by step, and only while it holds.
//!
//! A share of requests goes to the candidate (`weights`). Another share is answered by one of the two while the other gets a copy
//! (`shadow`), and the two answers are compared. Gateways count ([`Counts`]), one controller adds and decides ([`Progress::decide`]).
//!
//! What it promises, each named by a test:
//! * A candidate that disagrees no more than expected is called faulty with at most `error_rate`, however long the rollout.
//! * One that is faulty from the start of a look passes that look with at most `error_rate`.
//! * Everything is decided from sums, so it does not matter which gateway saw what, nor in which order.
//! * A step is left only after `step_s` seconds in which a controller watched, and never while the evidence leans to a fault.
//!
//! Not here: who the two sides are and what of them is loaded (`crate::plan`), who writes the records. A rollout that is changed is a new
//! one, with a new [`Progress`].

mod aliases;
mod burn;
mod compare;
mod disagreement;
mod progress;
#[cfg(test)]
mod tests;

pub use aliases::{AliasError, check_alias, resolve_version};
pub use burn::{Answers, Burn, Burning, Latency, Windows};
pub use compare::{Answer, Likeness, compare};
pub use disagreement::{Disagreement, Pairs, Verdict};
pub use progress::{Action, Counts, End, Evidence, Guard, Progress};

use crate::card::Metric;
use crate::{VariantName, Version};
use serde::{Deserialize, Serialize};

/// Most steps: one evidence is kept for each, in one registry value.
const STEPS_MAX: usize = 16;

/// What is to take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Candidate {
    /// Another version of the model.
    Version(Version),
    /// Another variant of the version that is served.
    Variant(VariantName),
}

/// A rollout as an operator wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// What is to take over.
    pub candidate: Candidate,
    /// Share of requests that the candidate answers, 0 to 1, by step. After the last step it answers all.
    #[serde(default = "weights")]
    pub weights: Vec<f64>,
    /// Share of requests of which the side that does not answer gets a copy, 0 to 1. 0: nothing is compared, latency alone decides.
    #[serde(default = "shadow")]
    pub shadow: f64,
    /// Share of compared pairs that a good candidate disagrees on, 0 to 1. None: what its card says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_rate: Option<f64>,
    /// Disagreeing on this share more than expected is a fault, 0 to 1.
    #[serde(default = "margin")]
    pub margin: f64,
    /// Chance of a wrong verdict, each way, 0 to 0.5.
    #[serde(default = "error_rate")]
    pub error_rate: f64,
    /// How two answers are compared. None: by what the candidate's card was measured by, else by what the floor asks for, else by what the
    /// outputs look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Least cosine of two answers that agree, above 0 to 1, where answers are compared by it.
    #[serde(default = "cosine_min")]
    pub cosine_min: f64,
    /// Fewest compared pairs in a step. Where nothing is mirrored, fewest answers of the candidate in the last `step_s` seconds.
    #[serde(default = "pairs_min")]
    pub pairs_min: u64,
    /// Least length of a step, in seconds. Also the long window of latency.
    #[serde(default = "step_s")]
    pub step_s: u32,
}

fn weights() -> Vec<f64> {
    vec![0.01, 0.1, 0.5, 1.0]
}

/// Half a thousand pairs, which a verdict takes, are 5,000 requests.
fn shadow() -> f64 {
    0.1
}

fn margin() -> f64 {
    0.02
}

fn error_rate() -> f64 {
    0.01
}

/// Embeddings that are nearer than this find the same neighbours but for a few.
fn cosine_min() -> f64 {
    0.99
}

/// About what the test itself needs to see that a candidate holds.
fn pairs_min() -> u64 {
    500
}

fn step_s() -> u32 {
    300
}

impl Rollout {
    /// What is wrong with it, each with the field's name. Empty: nothing.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: &dyn Fn() -> String| {
            if !ok {
                problems.push(problem());
            }
        };
        let share = |value: &f64| (0.0..=1.0).contains(value); // false for NaN, as is every comparison below
        let ascending = self.weights.windows(2).all(|pair| matches!(pair, [low, high] if low < high));
        let visible = self.shadow > 0.0 || self.weights.first().is_none_or(|first| *first > 0.0);
        let null = self.null_rate.unwrap_or_default();
        let steps = self.weights.len();
        check((1..=STEPS_MAX).contains(&steps), &|| format!("weights: expected 1 to {STEPS_MAX} steps, got {steps}"));
        check(self.weights.iter().all(share), &|| format!("weights: expected shares from 0 to 1, got {:?}", self.weights));
        check(ascending, &|| format!("weights: each must be greater than the one before, got {:?}", self.weights));
        check(visible, &|| "weights: in a step of 0 nothing is seen of the candidate unless `shadow` is over 0".to_owned());
        check(share(&self.shadow), &|| format!("shadow: expected a share from 0 to 1, got {}", self.shadow));
        check(share(&null), &|| format!("null_rate: expected a share from 0 to 1, got {null}"));
        check(self.margin > 0.0 && self.margin < 1.0, &|| format!("margin: expected a share between 0 and 1, got {}", self.margin));
        check(null + self.margin < 1.0, &|| format!("margin: null_rate {null} and margin {} leave nothing that is a fault", self.margin));
        check(self.error_rate > 0.0 && self.error_rate < 0.5, &|| {
            format!("error_rate: expected a chance between 0 and 0.5, got {}", self.error_rate)
        });
        check(self.cosine_min > 0.0 && self.cosine_min <= 1.0, &|| {
            format!("cosine_min: expected a cosine above 0, at most 1, got {}", self.cosine_min)
        });
        check(self.step_s > 0, &|| "step_s: expected at least 1 second".to_owned());
        let told = self.shadow <= 0.0 || self.null_rate.is_some() || matches!(self.candidate, Candidate::Variant(_));
        check(told, &|| "null_rate: a version has no card that says how often it may disagree, so it must be given".to_owned());
        problems
    }

    /// Is it what `other` is? Numbers may have been written and read as text in between, which costs them their last digit.
    pub fn is(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9;
        let numbers = |r: &Self| [r.shadow, r.null_rate.unwrap_or(-1.0), r.margin, r.error_rate, r.cosine_min];
        let whole = |r: &Self| (r.metric, r.pairs_min, r.step_s, r.weights.len());
        let mut pairs =
            numbers(self).into_iter().zip(numbers(other)).chain(self.weights.iter().copied().zip(other.weights.iter().copied()));
        self.candidate == other.candidate && whole(self) == whole(other) && pairs.all(|(a, b)| near(a, b))
    }

    /// Share of compared pairs that a good candidate disagrees on, 0 to 1. `accuracy` is what its card says of it, 0 to 1; where nothing
    /// is said, no disagreement is expected.
    pub fn null(&self, accuracy: Option<f64>) -> f64 {
        self.null_rate.unwrap_or_else(|| 1.0 - accuracy.unwrap_or(1.0))
    }
}

/// Who of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What was served before.
    Baseline,
    /// What is to take over.
    Candidate,
}

impl Side {
    /// Who gets the copy when this one answers.
    pub fn other(self) -> Self {
        match self {
            Self::Baseline => Self::Candidate,
            Self::Candidate => Self::Baseline,
        }
    }
}

/// Who answers a request, for a `draw` from 0 up to, not including, 1.
pub fn split(draw: f64, weight: f64) -> Side {
    if draw < weight { Side::Candidate } else { Side::Baseline }
}

/// Does [`Side::other`] get a copy? The `draw`, from 0 up to, not including, 1, must be another than that of [`split`]: with the same one
/// only requests that the candidate answers would be copied. Whoever answers, the other is compared with it: if copies went to the
/// candidate alone, there would be nothing to compare at a weight of 1.
pub fn mirrors(draw: f64, shadow: f64) -> bool {
    draw < shadow
}
