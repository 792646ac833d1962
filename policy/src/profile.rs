//! The latency model of a replica: how long a batch takes, learned from every execution.
//!
//! [`Latency`] is a line through what was measured, [`Profile`] keeps one up to date with how far the device is from it, [`Profiles`] one
//! for each size of a row, and [`Forecast`] is what a decision needs of that. [`Drift`] sums up what batches take for longer, to be held
//! against what was measured before.

mod drift;
mod forecast;
mod online;
mod sizes;
mod tail;
mod timing;

pub use drift::{Drift, HOLDS, Measured, is_worth_measuring, no_longer_holds};
pub use forecast::{Forecast, waits};
pub use online::Profile;
pub use sizes::{Coverage, Forecasts, Profiles};
pub use timing::{BatchTime, GAIN_MIN, SpeedVerdict, TIMED_ROWS, Timing};

/// How long a forecast is believed without a run that confirms it, in microseconds. What is refused teaches nothing, so a forecast that
/// refuses everything would stand for ever: after this long an idle replica is tried whatever it says.
pub const FORECAST_US_MAX: u64 = 1_000_000;

/// Longest run that is believed, in microseconds: an hour.
const US_MAX: f64 = 3.6e9;

/// Shortest run that is believed, in microseconds: a nanosecond.
const US_MIN: f64 = 1e-3;

/// Linear batch latency `alpha_us · rows + beta_us`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// Per row.
    pub alpha_us: f64,
    /// Per batch.
    pub beta_us: f64,
}

impl Latency {
    /// What a replica is believed to take where nothing believable was measured: 10 ms a row.
    pub const UNKNOWN: Self = Self { alpha_us: 10_000.0, beta_us: 0.0 };

    /// Least squares through measured `(rows, microseconds)`, both coefficients kept at or above zero.
    /// With a single batch size everything is charged to the rows.
    pub fn fit(samples: &[(u32, f64)]) -> Self {
        let n = samples.len() as f64;
        if samples.is_empty() {
            return Self::default();
        }
        let mean_rows = samples.iter().map(|(r, _)| f64::from(*r)).sum::<f64>() / n;
        let mean_us = samples.iter().map(|(_, us)| us).sum::<f64>() / n;
        let spread: f64 = samples.iter().map(|(r, _)| (f64::from(*r) - mean_rows).powi(2)).sum();
        let through_origin = Self { alpha_us: (mean_us / mean_rows.max(1.0)).max(0.0), beta_us: 0.0 };
        if spread <= f64::EPSILON {
            return through_origin;
        }
        let alpha = samples.iter().map(|(r, us)| (f64::from(*r) - mean_rows) * (us - mean_us)).sum::<f64>() / spread;
        let beta = mean_us - alpha * mean_rows;
        match (alpha < 0.0, beta < 0.0) {
            (true, _) => Self { alpha_us: 0.0, beta_us: mean_us.max(0.0) },
            (false, true) => through_origin,
            (false, false) => Self { alpha_us: alpha, beta_us: beta },
        }
    }

    /// Can it be the latency of something: finite, nothing below zero, not zero for all sizes, and at most an hour a row or
    /// batch? A caller that gets one from outside (a record, a file) warns when not.
    pub fn is_plausible(&self) -> bool {
        let fine = |us: f64| (0.0..=US_MAX).contains(&us);
        fine(self.alpha_us) && fine(self.beta_us) && self.alpha_us + self.beta_us >= US_MIN
    }

    /// What decisions go by: itself, or [`Self::UNKNOWN`] where it cannot be.
    #[must_use]
    pub fn believed(self) -> Self {
        if self.is_plausible() { self } else { Self::UNKNOWN }
    }

    /// The same with everything taking `times` as long.
    #[must_use]
    pub fn scaled(self, times: f64) -> Self {
        Self { alpha_us: times * self.alpha_us, beta_us: times * self.beta_us }
    }

    /// Predicted microseconds of a batch of `rows`.
    pub fn batch_us(&self, rows: u32) -> f64 {
        self.alpha_us * f64::from(rows) + self.beta_us
    }
}

#[cfg(test)]
pub(crate) mod tests;
