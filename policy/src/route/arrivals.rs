//! Who sends how much of what arrives at a replica: a gateway knows its own requests only.

use crate::Moment;

/// Half of the time over which arrivals are counted, in microseconds.
const HALF_WINDOW_US: u64 = 500_000;
/// Senders told apart; any more are counted together.
const SENDERS_MAX: usize = 64;

/// Arrivals of the last second by sender, in two halves.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Sender, and what came from it in this half and the one before.
    counts: Vec<(u64, u32, u32)>,
    /// Number of this half.
    half: u64,
}

impl Arrivals {
    /// A request of `sender` comes; all arrivals over those of `sender`, at least 1.
    pub fn count(&mut self, now: Moment, sender: u64) -> f64 {
        self.turn(now);
        let known = self.counts.iter().position(|(known, ..)| *known == sender);
        let place = known.or_else(|| {
            let room = self.counts.len() < SENDERS_MAX;
            room.then(|| self.counts.push((sender, 0, 0)));
            self.counts.len().checked_sub(1)
        });
        if let Some((_, this, _)) = place.and_then(|place| self.counts.get_mut(place)) {
            *this = this.saturating_add(1);
        }
        self.senders(now, sender)
    }

    /// All arrivals over those of `sender`, at least 1.
    pub fn senders(&mut self, now: Moment, sender: u64) -> f64 {
        self.turn(now);
        let (mut all, mut own) = (0u32, 0u32);
        for (known, this, before) in &self.counts {
            let count = this.saturating_add(*before);
            all = all.saturating_add(count);
            own = own.saturating_add(if *known == sender { count } else { 0 });
        }
        (f64::from(all) / f64::from(own.max(1))).max(1.0)
    }

    fn turn(&mut self, now: Moment) {
        let half = now.as_us() / HALF_WINDOW_US;
        let passed = half.saturating_sub(self.half);
        if passed == 0 {
            return;
        }
        for (_, this, before) in &mut self.counts {
            *before = if passed == 1 { *this } else { 0 };
            *this = 0;
        }
        self.counts.retain(|(_, _, before)| *before > 0);
        self.half = half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_the_last_second() {
        let mut arrivals = Arrivals::default();
        let at = Moment::from_us;
        for i in 0..900 {
            arrivals.count(at(i * 1_000), u64::from(i % 3 == 0));
        }
        assert!((arrivals.senders(at(900_000), 1) - 3.0).abs() < 0.01);
        assert!((arrivals.senders(at(900_000), 0) - 1.5).abs() < 0.01);
        assert!((arrivals.senders(at(900_000), 7) - 900.0).abs() < 0.01, "one that has sent nothing yet");
        assert!((arrivals.senders(at(3_000_000), 1) - 1.0).abs() < 0.01, "nothing came of late");
    }

    #[test]
    fn made_up_senders_do_not_fill_the_memory() {
        let mut arrivals = Arrivals::default();
        for sender in 0..100_000 {
            arrivals.count(Moment::from_us(sender), sender);
        }
        assert!(arrivals.counts.len() <= SENDERS_MAX);
    }
}
