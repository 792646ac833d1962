//! The latency model of a replica: how long a batch takes, learned from every execution.

/// Linear batch latency `alpha_us · rows + beta_us`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// Per row.
    pub alpha_us: f64,
    /// Per batch.
    pub beta_us: f64,
}

impl Latency {
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

    /// Predicted microseconds of a batch of `rows`.
    pub fn batch_us(&self, rows: u32) -> f64 {
        self.alpha_us * f64::from(rows) + self.beta_us
    }
}

#[cfg(test)]
mod tests {
    use super::Latency;
    use proptest::prelude::*;

    #[test]
    fn a_straight_line_is_found_again() {
        let fit = Latency::fit(&[(1, 130.0), (2, 230.0), (4, 430.0)]);
        assert!((fit.alpha_us - 100.0).abs() < 1e-6 && (fit.beta_us - 30.0).abs() < 1e-6, "{fit:?}");
    }

    proptest! {
        #[test]
        fn a_prediction_is_never_negative(samples in prop::collection::vec((1u32..64, 0.0f64..1e7), 0..9), rows in 0u32..1000) {
            prop_assert!(Latency::fit(&samples).batch_us(rows) >= 0.0);
        }
    }
}
