//! Which variant of which model goes on which device, so that the offered load is answered in time with as much accuracy as the fleet
//! allows: a mixed-integer program, solved by a greedy search that goes by the prices of its linear part.
//!
//! With `f` rows a second of each pair of a variant and a device, `x` whether it is placed there, `u1` and `u2` rows of a model that
//! nobody answers, and `y` loads:
//!
//! ```text
//! max  sum weight·accuracy·f - sum weight·(2·u1 + 5·u2) - sum load_cost·y - idle_cost·sum x
//! s.t. sum f + u1 + u2 = rate, u1 <= .2 rate    of each model: the first fifth costs less, so that no model starves for another
//!      sum f·service_s / utilisation_max <= 1   of each device
//!      f > 0 only where x = 1
//!      sum bytes·x <= bytes                     of each device
//!      replicas_min distinct nodes, in distinct zones where there are two
//!      sum y <= loads_max, and so many a device at once
//! ```
//!
//! [`solve`] starts from what is placed, so that it changes little and is never worse than staying. It asks `more` between two programs
//! whether to go on: whoever has a clock decides how long it takes. The same problem and the same answers of `more` give the same
//! [`Solution`].
//!
//! Replicas that are missing for redundancy are placed beyond the bounds on loads.
//!
//! Not here: how a pair's numbers follow from a profile ([`estimate`]), where the rest comes from, in which order a plan is carried out
//! (`plan`).

mod bound;
pub mod estimate;
mod flow;
mod search;
pub mod seeded;
#[cfg(test)]
mod tests;

pub use bound::bound;
pub use search::{GAIN_MIN, solve};

use serde::Serialize;

/// What a row costs that nobody answers, in accuracies of an answered one: of the first [`SHORT_SHARE`] of a model's rows ...
pub const SHORT_PRICE: f64 = 2.0;
/// ... and of the rest.
pub const STARVED_PRICE: f64 = 5.0;
/// Share of a model's rows that is cheaper to leave out.
pub const SHORT_SHARE: f64 = 0.2;
/// What a load costs, as a share of all rows offered, and as much again for each 10^9 bytes.
pub const LOAD_COST: f64 = 1e-4;
/// What a replica costs, as a share of all rows offered: those that do nothing go.
pub const IDLE_COST: f64 = 1e-5;

/// What is to be placed where.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Problem {
    /// The devices.
    pub devices: Vec<Device>,
    /// The models.
    pub models: Vec<Model>,
    /// Every way to serve a model: pairs that are not here cannot be.
    pub pairs: Vec<Pair>,
    /// Most loads of one plan.
    pub loads_max: usize,
}

/// A device of the fleet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Device {
    /// The machine it is in: two replicas on one are lost together.
    pub node: usize,
    /// The failure domain of that.
    pub zone: usize,
    /// Bytes that replicas may take.
    pub bytes: u64,
    /// Most loads of one plan here.
    pub loads_max: usize,
    /// Most seconds that the loads of one plan may take here, one after the other.
    pub load_s_max: f64,
    /// Devices of one kind have equal pairs; for the bound.
    pub kind: usize,
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Model {
    /// Rows a second to be answered.
    pub rate: f64,
    /// Importance against others.
    pub weight: f64,
    /// Distinct nodes it must be on.
    pub replicas_min: usize,
}

/// A variant of a model on a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pair {
    /// Position of the model.
    pub model: usize,
    /// Position of the device.
    pub device: usize,
    /// Which of the model's variants.
    pub variant: usize,
    /// Relative to the reference, 0 to 1.
    pub accuracy: f64,
    /// Seconds of the whole device that a row takes.
    pub service_s: f64,
    /// Share of the device's time up to which it answers in time.
    pub utilisation_max: f64,
    /// Bytes it holds there.
    pub bytes: u64,
    /// Seconds until it is warm.
    pub load_s: f64,
    /// It is there now.
    pub placed: bool,
    /// It stays, or is put there, whatever that costs: pinned, or too young to go.
    pub fixed: bool,
    /// Of equals the lower one is taken.
    pub tie: u64,
}

/// A plan, and what it is worth.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Solution {
    /// Of each pair, whether it is placed.
    pub placed: Vec<bool>,
    /// Of each pair, rows a second.
    pub flow: Vec<f64>,
    /// Of each model, rows a second that nobody answers.
    pub unserved: Vec<f64>,
    /// Value of the whole.
    pub objective: f64,
    /// Of each model, what a further row a second is worth; below zero where it would be left out.
    pub row_prices: Vec<f64>,
    /// Of each device, what a further second of it per second is worth.
    pub time_prices: Vec<f64>,
    /// Linear programs solved.
    pub programs: usize,
}

impl Problem {
    /// All rows a second.
    pub fn rate(&self) -> f64 {
        self.models.iter().map(|model| model.rate).sum()
    }

    /// Value of answering everything at full accuracy: what no plan exceeds.
    pub fn worth(&self) -> f64 {
        self.models.iter().map(|model| model.rate * model.weight).sum()
    }

    fn load_cost(&self, pair: &Pair, rate: f64) -> f64 {
        if pair.placed { 0.0 } else { (1.0 + pair.bytes as f64 / 1e9) * rate * LOAD_COST }
    }

    /// What a set of placed pairs costs, whatever flows.
    fn fixed_cost(&self, placed: &[bool], rate: f64) -> f64 {
        let there = self.pairs.iter().zip(placed).filter(|(_, placed)| **placed);
        there.map(|(pair, _)| self.load_cost(pair, rate) + rate * IDLE_COST).sum()
    }
}

impl Pair {
    /// Share of the device's allowance that a row a second takes.
    pub fn share(&self) -> f64 {
        self.service_s / self.utilisation_max
    }
}
