//! The latency model of one replica, kept up to date by every batch it runs.

use super::tail::Tail;
use super::{Forecast, Latency, US_MAX, US_MIN};

/// Weight of a batch after each later one: the line remembers about 50.
const FORGETTING: f64 = 0.98;
/// Batches that each size measured at load counts for: five runs, of which the least was kept.
const PRIOR_WEIGHT: f64 = 2.0;
/// Sizes measured at load.
const PRIOR_ROWS: [u32; 3] = [1, 2, 4];
/// Pull towards the prior's proportion of row and batch cost, as a share of the data's weight: it decides only where the sizes
/// that ran cannot tell the two apart.
const PULL: f64 = 1e-3;
/// Share of the old slow ratio that stays with each batch.
const SLOW_KEPT: f64 = 0.7;
const SLOW_MIN: f64 = 0.5;
const SLOW_MAX: f64 = 20.0;

/// The line by least squares with forgetting, the slow ratio on top of it, and the tail around both.
///
/// What is measured is never trusted further than it can be true. A run of no rows, or of a time that is not a number, not above
/// zero or over an hour, is ignored; one that took over 20 times what was expected counts as 20 times, so that a machine that was
/// asleep does not set the line. A prior that is not [plausible](Latency::is_plausible) is replaced by 10 ms a row, and the first
/// batch that runs overrules it.
#[derive(Debug, Clone)]
pub struct Profile {
    prior: Latency,
    latency: Latency,
    sums: Sums,
    slow: f64,
    tail: Tail,
}

/// Forgetful sums over batches of `x` rows and `y` microseconds. Each counts by the inverse square of what the prior says it takes:
/// noise is a share of the time, and long batches must not drown short ones.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    one: f64,
    x: f64,
    xx: f64,
    y: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, rows: f64, us: f64) {
        self.one += weight;
        self.x += weight * rows;
        self.xx += weight * rows * rows;
        self.y += weight * us;
        self.xy += weight * rows * us;
    }

    fn forget(&mut self) {
        for sum in [&mut self.one, &mut self.x, &mut self.xx, &mut self.y, &mut self.xy] {
            *sum *= FORGETTING;
        }
    }

    /// The line of least squares with neither coefficient below zero.
    fn line(&self, prior: Latency) -> Latency {
        let scale = self.y / (prior.beta_us * self.one + prior.alpha_us * self.x);
        let pull = PULL * self.one;
        let (one, xx) = (self.one + pull, self.xx + pull);
        let (y, xy) = (self.y + pull * scale * prior.beta_us, self.xy + pull * scale * prior.alpha_us);
        let spread = one * xx - self.x * self.x;
        let (alpha_us, beta_us) = ((one * xy - self.x * y) / spread, (xx * y - self.x * xy) / spread);
        match (alpha_us < 0.0, beta_us < 0.0) {
            (true, _) => Latency { alpha_us: 0.0, beta_us: y / one },
            (false, true) => Latency { alpha_us: xy / xx, beta_us: 0.0 },
            (false, false) => Latency { alpha_us, beta_us },
        }
    }
}

impl Profile {
    /// Starts from what was measured at load.
    pub fn new(prior: Latency) -> Self {
        let mut sums = Sums::default();
        if prior.is_plausible() {
            for rows in PRIOR_ROWS {
                let us = prior.batch_us(rows);
                sums.add(PRIOR_WEIGHT / (us * us), f64::from(rows), us);
            }
        }
        let prior = prior.believed();
        Self { prior, latency: prior, sums, slow: 1.0, tail: Tail::default() }
    }

    /// Learns that a batch of `rows` took `us` microseconds.
    pub fn observe(&mut self, rows: u32, us: f64) {
        if rows == 0 || !(us > 0.0 && us <= US_MAX) {
            return;
        }
        let expected_us = self.latency.batch_us(rows).max(US_MIN);
        let unknown = self.sums.one == 0.0;
        let us = if unknown { us } else { us.min(SLOW_MAX * expected_us) };
        if !unknown {
            self.tail.observe(us / (self.slow * expected_us));
            self.slow = (SLOW_KEPT * self.slow + (1.0 - SLOW_KEPT) * us / expected_us).clamp(SLOW_MIN, SLOW_MAX);
        }
        let prior_us = self.prior.batch_us(rows);
        self.sums.forget();
        self.sums.add(1.0 / (prior_us * prior_us), f64::from(rows), us);
        self.latency = self.sums.line(self.prior);
    }

    /// What to expect now.
    pub fn forecast(&self) -> Forecast {
        Forecast { latency: self.latency, kappa: self.tail.kappa(), slow: self.slow }
    }
}
