//! What a [`Pair`](super::Pair) says of time, from what is known of a variant on a device: how long a row takes, and how full the device may
//! be so that no more come late than may.

use crate::profile::{Forecast, waits};

/// Utilisation that is planned for: less is waste, more is in no forecast's power.
const UTILISATION: (f64, f64) = (0.3, 0.9);

/// What is asked of a variant on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    /// Most rows of one batch.
    pub rows_max: u32,
    /// Microseconds in which answers must come; none: whenever.
    pub target_us: Option<f64>,
    /// Share of answers that may come later, above 0.
    pub allowance: f64,
    /// Of the target's microseconds, those on the way there and back.
    pub net_us: f64,
    /// Runs at once on the device.
    pub instances: f64,
    /// Of such, those that a request of this model may go to, as far as its router looks at them: half of all. Under 1 counts as 1.
    pub servers: f64,
    /// Variance of arrivals in a tenth of a second over their mean.
    pub uneven: f64,
    /// Squared coefficient of variation of a run.
    pub noise: f64,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Rows of the largest batch that keeps the target behind another; 0: not even one row does, and the rest is that of one.
    pub rows: u32,
    /// Seconds of the whole device that a row takes in such batches.
    pub service_s: f64,
    /// Share of the device's time up to which it answers in time.
    pub utilisation_max: f64,
}

/// Of a variant as fast as `forecast` says, which is one held to the allowance ([`Forecast::held_to`]).
///
/// Those that come wait for each other the longer the fuller the device is (Kingman's formula, with the tail of an exponential wait): the
/// longest wait that counts, `ln(1 / allowance) (uneven + noise) s / (2 servers (1 - utilisation))` with the time `s` of a row, and a run
/// behind it fit into the target. That gives the utilisation.
pub fn estimate(forecast: &Forecast, asked: &Asked) -> Estimate {
    let useful = |target_us| forecast.rows_useful(asked.rows_max, target_us, asked.net_us);
    let rows = asked.target_us.map_or_else(|| forecast.rows_max(asked.rows_max), useful);
    let row_us = forecast.batch_us(rows.max(1)) / f64::from(rows.max(1));
    let utilisation = |target_us: f64| {
        let wait_us = target_us - asked.net_us - forecast.tail_us(rows.max(1));
        let waits_us = waits(asked.allowance) * (asked.uneven + asked.noise) * row_us / (2.0 * asked.servers.max(1.0));
        if wait_us > 0.0 { 1.0 - waits_us / wait_us } else { 0.0 }
    };
    Estimate {
        rows,
        service_s: row_us / 1e6 / asked.instances.max(1.0),
        utilisation_max: asked.target_us.map_or(UTILISATION.1, utilisation).clamp(UTILISATION.0, UTILISATION.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Latency;
    use proptest::prelude::*;

    const ASKED: Asked = Asked {
        rows_max: 1,
        target_us: Some(100_000.0),
        allowance: 0.01,
        net_us: 0.0,
        instances: 1.0,
        servers: 1.0,
        uneven: 1.0,
        noise: 0.1,
    };

    fn of(alpha_us: f64, beta_us: f64, asked: &Asked) -> Option<Estimate> {
        Some(estimate(&Latency { alpha_us, beta_us }.into(), asked)).filter(|estimate| estimate.rows > 0)
    }

    #[test]
    fn ten_milliseconds_in_a_hundred_fill_seven_tenths_of_one_server_and_more_of_many() {
        let one = of(10_000.0, 0.0, &ASKED).unwrap();
        assert!((0.70..0.73).contains(&one.utilisation_max) && one.rows == 1, "{one:?}");
        assert_eq!(one.service_s, 0.01);
        let many = of(10_000.0, 0.0, &Asked { servers: 4.0, instances: 2.0, ..ASKED }).unwrap();
        assert!(many.utilisation_max == 0.9 && many.service_s == 0.005, "{many:?}");
        let late = of(10_000.0, 0.0, &Asked { allowance: 0.05, ..ASKED }).unwrap();
        assert!(late.utilisation_max > one.utilisation_max && late.utilisation_max < 0.9, "{late:?}");
        assert_eq!(of(10_000.0, 0.0, &Asked { target_us: None, ..ASKED }).unwrap().utilisation_max, 0.9);
        let bursts = of(10_000.0, 0.0, &Asked { uneven: 16.0, ..ASKED }).unwrap();
        assert_eq!(bursts.utilisation_max, 0.3);
    }

    #[test]
    fn a_target_that_leaves_no_time_for_two_runs_cannot_be_met() {
        assert!(of(40_000.0, 0.0, &ASKED).is_some() && of(44_000.0, 0.0, &ASKED).is_none());
        assert_eq!(of(1_000.0, 10_000.0, &Asked { rows_max: 64, ..ASKED }).map(|e| e.rows), Some(33));
    }

    proptest! {
        #[test]
        fn a_longer_run_takes_more_and_is_never_planned_fuller(a in 100.0f64..40_000.0, more in 1.0f64..2.0, uneven in 0.5f64..16.0) {
            let asked = Asked { uneven, ..ASKED };
            if let (Some(short), Some(long)) = (of(a, 0.0, &asked), of(a * more, 0.0, &asked)) {
                prop_assert!(long.service_s >= short.service_s && long.utilisation_max <= short.utilisation_max);
            }
        }
    }
}
