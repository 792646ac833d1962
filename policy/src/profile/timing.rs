//! What a full measurement of a variant says, and whether it pays on the device class it was made on.

use serde::{Deserialize, Serialize};

/// Least gain over the reference for which a variant is worth a replica: under it, it is noise.
pub const GAIN_MIN: f64 = 1.05;

/// Batch sizes that are timed, as far as a model takes them.
pub const TIMED_ROWS: [u32; 3] = [1, 4, 16];

/// What was measured of one model beside others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timing {
    /// By rows of a batch.
    pub batches: Vec<BatchTime>,
    /// Milliseconds to load it.
    pub load_ms: u64,
}

/// How long batches of one size take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BatchTime {
    /// Rows of the batch.
    pub rows: u32,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// In microseconds.
    pub p90_us: f64,
    /// In microseconds.
    pub p99_us: f64,
    /// Runs measured.
    pub runs: u32,
}

impl BatchTime {
    /// From the times of runs; `None` without any.
    pub fn of(rows: u32, mut times_us: Vec<f64>) -> Option<Self> {
        times_us.sort_by(f64::total_cmp);
        let last = times_us.len().checked_sub(1)?;
        let at = |share: f64| times_us.get((last as f64 * share).round() as usize).copied();
        let runs = u32::try_from(times_us.len()).unwrap_or(u32::MAX);
        Some(Self { rows, p50_us: at(0.5)?, p90_us: at(0.9)?, p99_us: at(0.99)?, runs })
    }
}

/// Does a variant pay on a device class?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum SpeedVerdict {
    /// It is faster than the reference.
    Kept {
        /// How many times.
        speedup: f64,
    },
    /// It is not.
    Refused {
        /// How many times as fast as the reference it is.
        speedup: f64,
        /// In plain words, with the figure.
        reason: String,
    },
}

impl SpeedVerdict {
    /// Of a variant timed beside its reference: the mean gain over the batch sizes that both have. `None` where they share none.
    pub fn of(reference: &[BatchTime], variant: &[BatchTime]) -> Option<Self> {
        let gains = variant.iter().filter_map(|v| {
            let same = reference.iter().find(|r| r.rows == v.rows)?;
            (v.p50_us > 0.0 && same.p50_us > 0.0).then(|| (same.p50_us / v.p50_us).ln())
        });
        let gains: Vec<f64> = gains.collect();
        if gains.is_empty() {
            return None;
        }
        let speedup = (gains.iter().sum::<f64>() / gains.len() as f64).exp();
        Some(match speedup {
            gain if gain >= GAIN_MIN => Self::Kept { speedup },
            gain if gain < 1.0 => Self::Refused { speedup, reason: format!("slower than reference on this class ({gain:.2}x)") },
            gain => Self::Refused { speedup, reason: format!("no faster than reference on this class ({gain:.2}x)") },
        })
    }

    /// Of a variant on a device class that lacks something it needs, whatever its speed: its integers would overflow on the way.
    pub fn lacking(needs: &[String], class: &str) -> Option<Self> {
        let missing = needs.iter().find(|need| !class.contains(need.as_str()))?;
        Some(Self::Refused { speedup: 0.0, reason: format!("its integers overflow on this class, which has no {missing}") })
    }

    /// How many times as fast as the reference.
    pub fn speedup(&self) -> f64 {
        match self {
            Self::Kept { speedup } | Self::Refused { speedup, .. } => *speedup,
        }
    }

    /// Why it is not worth a replica, if it is not.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Kept { .. } => None,
            Self::Refused { reason, .. } => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(us: &[f64]) -> Vec<BatchTime> {
        us.iter().zip([1, 4]).filter_map(|(us, rows)| BatchTime::of(rows, vec![*us; 5])).collect()
    }

    #[test]
    fn a_variant_pays_when_it_is_faster_over_the_sizes_both_have() {
        let reference = times(&[100.0, 400.0]);
        assert_eq!(SpeedVerdict::of(&reference, &times(&[50.0, 200.0])), Some(SpeedVerdict::Kept { speedup: 2.0 }));
        let slower = SpeedVerdict::of(&reference, &times(&[200.0, 400.0])).unwrap();
        assert_eq!(slower.refusal(), Some("slower than reference on this class (0.71x)"));
        assert!(SpeedVerdict::of(&reference, &times(&[98.0, 400.0])).unwrap().refusal().is_some_and(|r| r.starts_with("no faster")));
        assert_eq!(SpeedVerdict::of(&reference, &[]), None);
    }

    #[test]
    fn a_class_without_what_a_variant_needs_refuses_it_untimed() {
        let needs = ["vnni".to_owned()];
        let refused = SpeedVerdict::lacking(&needs, "cpu:avx2:4c").unwrap();
        assert_eq!(refused.refusal(), Some("its integers overflow on this class, which has no vnni"));
        assert_eq!(SpeedVerdict::lacking(&needs, "cpu:avx512_vnni:4c"), None);
        assert_eq!(SpeedVerdict::lacking(&[], "cpu:avx2:4c"), None);
    }
}
