//! What a decision needs to know of a replica's speed now.

use super::{Latency, tail};

/// Gain below which a model is not batched: the rows of a batch would only wait for each other. A CNN on a CPU gains under 1 %.
const GAIN_MIN: f64 = 0.05;

/// A full batch that is done in this many microseconds makes nobody wait, while each batch costs as much again around the run: waking,
/// assembling, taking apart.
const WAIT_US_MIN: f64 = 500.0;

/// A run may take this many times what 99 of 100 take, and at least [`RUN_US_MIN`], before it is taken for endless.
const RUN_FACTOR: f64 = 20.0;
const RUN_US_MIN: f64 = 10e6;

/// In so many microseconds without a run, what the replica was slower by is believed e times less.
const SLOW_BELIEVED_US: f64 = 3e6;

/// Expected times of one replica: its line, how far off the slowest hundredth of batches is, and how slow the device is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Mean time of a batch, by rows.
    pub latency: Latency,
    /// 99th percentile of a batch's time over its mean, 1.05 to 3.
    pub kappa: f64,
    /// Time of the last batches over what the line says, 0.5 to 20: throttling, noisy neighbours.
    pub slow: f64,
}

/// In so many mean waits all but the share `allowance` have had their turn, where waits are exponential: 4.6 for 99 of 100.
pub fn waits(allowance: f64) -> f64 {
    -allowance.clamp(1e-4, 0.5).ln()
}

impl From<Latency> for Forecast {
    /// Of a replica that has not run yet.
    fn from(latency: Latency) -> Self {
        Self { latency, kappa: tail::KAPPA_START, slow: 1.0 }
    }
}

impl Forecast {
    /// What is left of it after `quiet_us` microseconds without a run. One bad batch would else keep requests away for ever, since only
    /// runs show that it is over.
    #[must_use]
    pub fn aged(self, quiet_us: u64) -> Self {
        match self.slow > 1.0 {
            true => Self { slow: 1.0 + (self.slow - 1.0) * (-(quiet_us as f64) / SLOW_BELIEVED_US).exp(), ..self },
            false => self,
        }
    }

    /// The same with another share than a hundredth left beyond its tail: times beyond the mean are taken for exponential.
    #[must_use]
    pub fn held_to(self, allowance: f64) -> Self {
        Self { kappa: 1.0 + (self.kappa - 1.0) * waits(allowance) / waits(0.01), ..self }
    }

    /// Expected microseconds of a batch of `rows`.
    pub fn batch_us(&self, rows: u32) -> f64 {
        self.slow * self.latency.batch_us(rows)
    }

    /// Microseconds in which 99 of 100 batches of `rows` are done.
    pub fn tail_us(&self, rows: u32) -> f64 {
        self.kappa * self.batch_us(rows)
    }

    /// Microseconds after which a run of `rows` is taken for endless and stopped.
    pub fn run_us_max(&self, rows: u32) -> u64 {
        (RUN_FACTOR * self.tail_us(rows)).max(RUN_US_MIN) as u64
    }

    /// Most rows, up to `limit`, whose batch is done within `us` microseconds in 99 of 100 cases; 0: not even one.
    pub fn rows_within(&self, limit: u32, us: f64) -> u32 {
        let factor = self.kappa * self.slow;
        let for_rows = us - factor * self.latency.beta_us;
        let row_us = factor * self.latency.alpha_us;
        if for_rows < row_us {
            return 0;
        }
        // Without a cost per row the quotient is infinite or not a number: all of `limit` fit.
        let rows = for_rows / row_us;
        if rows < f64::from(limit) { rows as u32 } else { limit }
    }

    /// Most rows worth putting into one batch of at most `limit`: 1 where batching gains under 5 % and rows would wait for each other.
    pub fn rows_max(&self, limit: u32) -> u32 {
        let Latency { alpha_us, beta_us } = self.latency;
        let rows = f64::from(limit.max(1));
        let together_us = rows * (alpha_us + beta_us);
        let pays = self.batch_us(limit.max(1)) <= WAIT_US_MIN || beta_us * (rows - 1.0) >= GAIN_MIN * together_us;
        if pays { limit.max(1) } else { 1 }
    }

    /// Largest useful batch: a request waits at most for the batch that runs and rides in the next, so two of them and `net_us`
    /// on the way fit into a target of `slo_us`. 0: the target cannot be met here.
    pub fn rows_useful(&self, limit: u32, slo_us: f64, net_us: f64) -> u32 {
        self.rows_within(self.rows_max(limit), (slo_us - net_us) / 2.0)
    }
}
