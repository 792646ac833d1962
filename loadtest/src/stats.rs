//! Figures over repeats.

use serde::Serialize;

/// A figure over repeats: its middle, its range, and a 95 % confidence interval of its mean (Student's t).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many repeats.
    pub repeats: usize,
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The mean.
    pub mean: f64,
    /// Low end of the interval; nothing with one repeat.
    pub low: Option<f64>,
    /// High end of it.
    pub high: Option<f64>,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// 97.5 % quantiles of Student's t by degrees of freedom, from 1.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
    2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

fn student_t(freedom: usize) -> f64 {
    // Beyond the table the first term of the expansion about the normal quantile is right to three decimals.
    T.get(freedom.saturating_sub(1)).copied().unwrap_or(1.96 + 2.372 / freedom as f64)
}

impl Spread {
    /// Of figures that may be of any sign; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (below, above) = (sorted.get(count.saturating_sub(1) / 2)?, sorted.get(count / 2)?);
        let n = count as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let half = (count > 1).then(|| {
            let variance = sorted.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
            student_t(count.saturating_sub(1)) * (variance / n).sqrt()
        });
        let (low, high) = (half.map(|h| mean - h), half.map(|h| mean + h));
        Some(Self { repeats: count, median: (below + above) / 2.0, mean, low, high, min, max })
    }

    /// Of ratios: mean and interval are taken of their logarithms, so that 2 and 1/2 weigh the same. Pairs without a ratio are
    /// left out.
    pub fn of_ratios(pairs: impl Iterator<Item = (f64, f64)>) -> Option<Self> {
        let ratios: Vec<f64> = pairs.map(|(a, b)| b / a).filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect();
        let logs = Self::of(&ratios.iter().map(|ratio| ratio.ln()).collect::<Vec<_>>())?;
        let plain = Self::of(&ratios)?;
        Some(Self { mean: logs.mean.exp(), low: logs.low.map(f64::exp), high: logs.high.map(f64::exp), ..plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_students() {
        let spread = Spread::of(&[9.0, 10.0, 11.0]).unwrap();
        assert_eq!((spread.median, spread.mean, spread.min, spread.max), (10.0, 10.0, 9.0, 11.0));
        assert!((spread.high.unwrap() - 10.0 - 4.303 / 3f64.sqrt()).abs() < 1e-3, "{spread:?}");
        assert_eq!(Spread::of(&[5.0]).unwrap().low, None);
        assert_eq!(Spread::of(&[1.0, 2.0, 3.0, 4.0]).unwrap().median, 2.5);
        assert!(Spread::of(&[]).is_none());
        assert!((student_t(30) - student_t(31)).abs() < 0.01 && (student_t(1_000) - 1.962).abs() < 1e-3);
    }

    #[test]
    fn a_ratio_and_its_reverse_cancel_out() {
        let spread = Spread::of_ratios([(1.0, 2.0), (2.0, 1.0), (0.0, 1.0)].into_iter()).unwrap();
        assert!((spread.mean - 1.0).abs() < 1e-12 && spread.repeats == 2, "{spread:?}");
    }
}
