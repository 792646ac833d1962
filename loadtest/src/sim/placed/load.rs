//! Loads that change: stretches of time, each with a rate of its own for each model.

use super::fleet::PlacedFleet;
use crate::mix::{Ask, Mix};
use crate::schedule::{Arrivals, Due, Pace, Phase};
use crate::script::Script;
use std::time::Duration;

/// Seconds for which a burst lasts in the mean, and a calm.
const DWELL_S: f64 = 0.1;

/// A stretch of time with one rate a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// How long.
    pub seconds: f64,
    /// Requests a second of all models, in their shares.
    pub rate: f64,
    /// Models that are asked more than their share, by position, and how many times.
    pub crowd: Vec<(usize, f64)>,
}

/// What is due over `stretches`, each request within its model's target. `bursty`: half and one and a half of the rate in turn, each model
/// by itself, for a tenth of a second in the mean. What is counted by others than [`super::Outcome`] begins after `warm_up`.
pub fn script(fleet: &PlacedFleet, stretches: &[Stretch], bursty: bool, warm_up: Duration, seed: u64) -> Script {
    let shares: f64 = fleet.models.iter().map(|model| model.share).sum();
    let mut dues = Vec::new();
    let mut from_s = 0.0;
    for (number, stretch) in (1u64..).zip(stretches) {
        for (position, model) in fleet.models.iter().enumerate() {
            let more = stretch.crowd.iter().find(|(crowded, _)| *crowded == position).map_or(1.0, |(_, more)| *more);
            let rate = stretch.rate * more * model.share / shares;
            let [calm, burst] = [0.5, 1.5].map(|factor| Phase { rate: factor * rate, dwell_s: DWELL_S });
            let arrivals = if bursty { Arrivals::Bursts { calm, burst } } else { Arrivals::Poisson { rate } };
            if rate <= 0.0 {
                continue;
            }
            let own = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(number << 20).wrapping_add(position as u64);
            let moments = arrivals.moments(own).take_while(|at| *at < stretch.seconds);
            let due = |at: f64| Some(Due { at: Duration::try_from_secs_f64(from_s + at).ok()?, ask: position });
            dues.extend(moments.filter_map(due));
        }
        from_s += stretch.seconds;
    }
    dues.sort_by_key(|due| (due.at, due.ask));
    let ask = |model: &super::PlacedModel| Ask { deadline_ms: Some(model.slo_ms), share: model.share, ..Ask::of(&model.name) };
    Script {
        mix: Mix { asks: fleet.models.iter().map(ask).collect() },
        pace: Pace::Replay(dues.into()),
        warm_up,
        duration: Duration::try_from_secs_f64(from_s).unwrap_or_default().saturating_sub(warm_up),
        seed,
    }
}
