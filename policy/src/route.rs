//! Which replica takes a request: two candidates drawn by capacity, the earlier predicted finish wins.

use crate::Moment;
use crate::profile::Latency;

/// What a gateway knows of a replica at the moment of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Calibrated latency.
    pub latency: Latency,
    /// Engine threads.
    pub instances: u32,
    /// The worker's own forecast of its backlog, in microseconds.
    pub backlog_us: u64,
    /// When the forecast came.
    pub reported: Moment,
    /// Rows this gateway has sent and not seen answered.
    pub rows_in_flight: u32,
    /// Added for distance: 0 in the same zone.
    pub distance_us: u64,
    /// Can it be drawn at all?
    pub standing: Standing,
}

/// Whether a replica takes part in a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Good,
    /// Only when no good one is left: it failed a moment ago.
    Doubtful,
    /// No: this request has been there already.
    Excluded,
}

impl Candidate {
    /// Predicted microseconds until a request of `rows` sent at `now` is answered.
    pub fn finish_us(&self, now: Moment, rows: u32) -> f64 {
        let instances = f64::from(self.instances.max(1));
        let backlog = self.backlog_us.saturating_sub(now.us_since(self.reported)) as f64;
        let own = if self.rows_in_flight == 0 { 0.0 } else { self.latency.batch_us(self.rows_in_flight) / instances };
        backlog + own + self.latency.batch_us(rows.max(1)) + self.distance_us as f64
    }

    /// Rows per microsecond it can take, for drawing. Never zero, so that every replica can be drawn.
    fn capacity(&self) -> f64 {
        f64::from(self.instances.max(1)) / self.latency.batch_us(1).max(1.0)
    }
}

/// Index of the replica that takes a request of `rows` at `now`; `None` when every one is excluded.
/// `draws` are two random numbers in 0..1.
pub fn choose(candidates: &[Candidate], now: Moment, rows: u32, draws: [f64; 2]) -> Option<usize> {
    let standing = if candidates.iter().any(|c| c.standing == Standing::Good) { Standing::Good } else { Standing::Doubtful };
    let [first, second] = draws.map(|d| draw(candidates, standing, d));
    let ((a, one), (b, two)) = (first?, second?);
    Some(if two.finish_us(now, rows) < one.finish_us(now, rows) { b } else { a })
}

/// The candidate of that standing in whose share of the total capacity `draw` falls.
fn draw(candidates: &[Candidate], standing: Standing, draw: f64) -> Option<(usize, &Candidate)> {
    let eligible = || candidates.iter().enumerate().filter(|(_, c)| c.standing == standing);
    let mut left = draw.clamp(0.0, 1.0) * eligible().map(|(_, c)| c.capacity()).sum::<f64>();
    for (i, candidate) in eligible() {
        left -= candidate.capacity();
        if left < 0.0 {
            return Some((i, candidate));
        }
    }
    eligible().next_back() // rounding left a remainder, or draw was 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(alpha_us: f64, rows_in_flight: u32, standing: Standing) -> Candidate {
        let latency = Latency { alpha_us, beta_us: 0.0 };
        Candidate { latency, instances: 1, backlog_us: 0, reported: Moment::default(), rows_in_flight, distance_us: 0, standing }
    }

    #[test]
    fn the_earlier_finish_of_the_two_wins() {
        let pair = [candidate(1000.0, 5, Standing::Good), candidate(1000.0, 1, Standing::Good)];
        assert_eq!(choose(&pair, Moment::default(), 1, [0.1, 0.9]), Some(1));
        assert_eq!(choose(&pair, Moment::default(), 1, [0.9, 0.1]), Some(1));
    }

    #[test]
    fn a_forecast_ages() {
        let mut busy = candidate(1000.0, 0, Standing::Good);
        busy.backlog_us = 5_000;
        assert!(busy.finish_us(Moment::from_us(0), 1) > busy.finish_us(Moment::from_us(4_000), 1));
        assert!(busy.finish_us(Moment::from_us(9_000), 1) >= 1000.0);
    }

    proptest! {
        #[test]
        fn a_doubtful_replica_is_chosen_only_when_no_good_one_is_left(standings in prop::collection::vec(0u8..3, 0..7), a in 0.0f64..1.0, b in 0.0f64..1.0) {
            let standings: Vec<_> = standings.iter().map(|s| [Standing::Good, Standing::Doubtful, Standing::Excluded][*s as usize]).collect();
            let candidates: Vec<_> = standings.iter().map(|s| candidate(10.0, 0, *s)).collect();
            match choose(&candidates, Moment::default(), 1, [a, b]) {
                Some(i) if standings[i] == Standing::Doubtful => prop_assert!(!standings.contains(&Standing::Good)),
                Some(i) => prop_assert_eq!(standings[i], Standing::Good),
                None => prop_assert!(standings.iter().all(|s| *s == Standing::Excluded)),
            }
        }

        #[test]
        fn draws_follow_capacity(fast_share in 0.0f64..0.85) {
            // 10 us against 100 us: the fast one owns ten elevenths of the range.
            let pair = [candidate(10.0, 0, Standing::Good), candidate(100.0, 0, Standing::Good)];
            prop_assert_eq!(choose(&pair, Moment::default(), 1, [fast_share, fast_share]), Some(0));
        }
    }
}
