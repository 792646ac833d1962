//! How much is asked of a model: what gateways count, and what is planned for.
//!
//! Each gateway counts what is *offered*, what it refuses too, in bins of a second ([`Offered`]). What it tells ([`Demand`]) adds up over
//! gateways. The rate planned for ([`planned`]) follows that with hysteresis, and stands in the plan's own records: nothing is remembered
//! here.

use crate::Moment;
use serde::{Deserialize, Serialize};

/// Seconds in which a rise is followed ...
const FAST_S: f64 = 5.0;
/// ... and over which it is remembered after it has gone.
const SLOW_S: f64 = 60.0;
/// Bins for the unevenness of arrivals, in microseconds.
const FINE_US: u64 = 100_000;
/// What is planned for beyond what is seen.
const MARGIN: f64 = 1.05;
/// A rise beyond this share of what is planned for is planned for.
pub const RISE: f64 = 1.1;
/// A fall below this share of it is.
pub const FALL: f64 = 0.8;
/// Unevenness that is believed: variance over mean of arrivals in a tenth of a second, 1 for a Poisson process.
const UNEVEN: (f64, f64) = (0.5, 16.0);
/// Seconds without a request after which a gateway calls a model quiet: this share of the model's `idle_s`, within bounds. Sooner would be
/// told more often, later would keep replicas for longer.
const QUIET_SHARE: u32 = 4;
const QUIET_S: (u32, u32) = (1, 30);
/// Rows a second below which nothing is asked.
const RATE_MIN: f64 = 1e-3;

/// What is asked of one model, in rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Rows a second, over the last seconds.
    pub fast: f64,
    /// Rows a second, over the last minute.
    pub slow: f64,
    /// Variance of the rows of a second around what was expected of it, over the last minute.
    pub variance: f64,
    /// Variance of arrivals in a tenth of a second over their mean.
    pub uneven: f64,
    /// Nobody has asked for a while, or waits for it ([`quiet_after_us`]): the rates are what is left of before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
}

/// What one gateway counts of one model.
#[derive(Debug, Clone, Default)]
pub struct Offered {
    /// Second and tenth of a second that are being counted; none before the first request.
    second: Option<u64>,
    fine: u64,
    /// When it was asked last.
    last: Option<Moment>,
    /// Requests that wait for its first replica.
    waiting: u32,
    rows: f64,
    requests: f64,
    fast: Mean,
    slow: Mean,
    square: Mean,
    fine_mean: Mean,
    fine_square: Mean,
}

/// A mean that forgets, right from its first value on.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: f64, keep: f64) {
        self.sum = keep * self.sum + (1.0 - keep) * value;
        self.weight = keep * self.weight + (1.0 - keep);
    }

    /// The same for `n` zeros.
    fn skip(&mut self, n: u64, keep: f64) {
        let keep = keep.powf(n as f64);
        self.sum *= keep;
        self.weight = keep * self.weight + (1.0 - keep);
    }

    fn value(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }
}

impl Offered {
    /// A request of `rows` rows came.
    pub fn arrive(&mut self, now: Moment, rows: u32) {
        self.advance(now);
        self.last = Some(now);
        self.rows += f64::from(rows.max(1));
        self.requests += 1.0;
    }

    /// A request waits for a replica. It is counted when it arrives at one.
    pub fn wait(&mut self) {
        self.waiting = self.waiting.saturating_add(1);
    }

    /// A request waits no more, whatever came of it.
    pub fn wait_no_more(&mut self, now: Moment) {
        self.waiting = self.waiting.saturating_sub(1);
        self.last = Some(now);
    }

    /// Has it been asked within so many microseconds, or does anybody wait?
    pub fn is_asked_within(&self, now: Moment, length_us: u64) -> bool {
        self.waiting > 0 || self.last.is_some_and(|last| now.us_since(last) < length_us)
    }

    /// What it comes to until now: whole seconds only.
    pub fn demand(&mut self, now: Moment) -> Demand {
        self.advance(now);
        let (slow, mean) = (self.slow.value(), self.fine_mean.value());
        let uneven = if mean > 0.0 { (self.fine_square.value() - mean * mean) / mean } else { 1.0 };
        Demand { fast: self.fast.value(), slow, variance: self.square.value(), uneven: uneven.clamp(UNEVEN.0, UNEVEN.1), quiet: false }
    }

    /// Closes the bins that are over.
    fn advance(&mut self, now: Moment) {
        let (second, fine) = (now.as_us() / 1_000_000, now.as_us() / FINE_US);
        let Some(counted) = self.second else {
            (self.second, self.fine) = (Some(second), fine);
            return;
        };
        let keep = |s: f64| (-1.0 / s).exp();
        if fine > self.fine {
            let keep = keep(SLOW_S * 1e6 / FINE_US as f64);
            self.fine_mean.add(self.requests, keep);
            self.fine_square.add(self.requests * self.requests, keep);
            let empty = fine.saturating_sub(self.fine).saturating_sub(1);
            self.fine_mean.skip(empty, keep);
            self.fine_square.skip(empty, keep);
            (self.fine, self.requests) = (fine, 0.0);
        }
        if second > counted {
            // Around what was expected: around the mean of a minute, a rise would count as noise long after it was followed.
            let off = if self.fast.weight > 0.0 { self.rows - self.fast.value() } else { 0.0 };
            self.square.add(off * off, keep(SLOW_S));
            self.fast.add(self.rows, keep(FAST_S));
            self.slow.add(self.rows, keep(SLOW_S));
            let empty = second.saturating_sub(counted).saturating_sub(1);
            self.fast.skip(empty, keep(FAST_S));
            self.slow.skip(empty, keep(SLOW_S));
            self.square.skip(empty, keep(SLOW_S));
            (self.second, self.rows) = (Some(second), 0.0);
        }
    }
}

impl Demand {
    /// What two gateways see together; each unevenness counts by its share.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (mine, others) = (self.slow.max(RATE_MIN), other.slow.max(RATE_MIN));
        Self {
            fast: self.fast + other.fast,
            slow: self.slow + other.slow,
            variance: self.variance + other.variance,
            uneven: (self.uneven * mine + other.uneven * others) / (mine + others),
            quiet: self.quiet && other.quiet,
        }
    }

    /// Is it made of numbers that can be?
    pub fn is_plausible(&self) -> bool {
        [self.fast, self.slow, self.variance, self.uneven].iter().all(|n| (0.0..1e12).contains(n))
    }

    /// Rows a second to be ready for.
    pub fn rate(&self) -> f64 {
        let rate = self.fast.max(self.slow);
        if rate < RATE_MIN { 0.0 } else { MARGIN * (rate + self.variance.sqrt()) }
    }

    /// Is it so far from what was told last that the controller should hear of it?
    pub fn is_news(&self, told: &Self) -> bool {
        let (now, before) = (self.rate(), told.rate());
        now > RISE * before || now < FALL * before || self.quiet != told.quiet
    }
}

/// Microseconds without a request after which a gateway tells that nobody asks for a model with this `idle_s`.
pub fn quiet_after_us(idle_s: u32) -> u64 {
    u64::from(idle_s.div_ceil(QUIET_SHARE).clamp(QUIET_S.0, QUIET_S.1)).saturating_mul(1_000_000)
}

/// Rows a second to plan for: `before` while `wanted` is near it, so that noise plans nothing anew.
pub fn planned(before: f64, wanted: f64) -> f64 {
    let near = before > 0.0 && (FALL * before..=RISE * before).contains(&wanted);
    if near { before } else { wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::seeded::Stream;

    /// `rate` requests a second at random moments, from one second to another.
    fn poisson(offered: &mut Offered, stream: &mut Stream, rate: f64, from_s: f64, to_s: f64) {
        let mut at = from_s;
        loop {
            at -= (1.0 - stream.unit()).ln() / rate;
            if at >= to_s {
                return;
            }
            offered.arrive(Moment::from_us((at * 1e6) as u64), 1);
        }
    }

    #[test]
    fn the_rate_of_a_steady_stream_is_met_with_a_little_more() {
        let (mut offered, mut stream) = (Offered::default(), Stream::new(1));
        poisson(&mut offered, &mut stream, 100.0, 0.0, 120.0);
        let demand = offered.demand(Moment::from_us(120_000_000));
        assert!((85.0..115.0).contains(&demand.fast) && (95.0..105.0).contains(&demand.slow), "{demand:?}");
        assert!((60.0..150.0).contains(&demand.variance) && (0.8..1.25).contains(&demand.uneven), "{demand:?}");
        assert!((105.0..130.0).contains(&demand.rate()), "{demand:?}");
    }

    #[test]
    fn a_rise_is_seen_in_seconds_and_a_fall_in_a_minute() {
        let (mut offered, mut stream) = (Offered::default(), Stream::new(2));
        poisson(&mut offered, &mut stream, 20.0, 0.0, 60.0);
        poisson(&mut offered, &mut stream, 200.0, 60.0, 70.0);
        let up = offered.demand(Moment::from_us(70_000_000)).rate();
        assert!(up > 170.0, "{up}");
        let soon = offered.demand(Moment::from_us(80_000_000)).rate();
        let late = offered.demand(Moment::from_us(300_000_000)).rate();
        assert!(soon > 30.0 && late < 20.0, "{soon} {late}");
    }

    #[test]
    fn bursts_are_told_from_a_steady_stream() {
        let mut offered = Offered::default();
        for second in 0..120u64 {
            (0..50).for_each(|_| offered.arrive(Moment::from_us(second * 1_000_000), 1));
        }
        assert!(offered.demand(Moment::from_us(120_000_000)).uneven > 10.0);
    }

    #[test]
    fn the_first_second_counts_whole() {
        let mut offered = Offered::default();
        (0..50).for_each(|_| offered.arrive(Moment::from_us(500_000), 2));
        let demand = offered.demand(Moment::from_us(1_000_000));
        assert_eq!((demand.fast, demand.slow), (100.0, 100.0));
    }

    #[test]
    fn what_is_planned_for_follows_only_what_is_far_from_it() {
        assert_eq!((planned(100.0, 109.0), planned(100.0, 81.0)), (100.0, 100.0));
        assert_eq!((planned(100.0, 111.0), planned(100.0, 79.0), planned(0.0, 1.0)), (111.0, 79.0, 1.0));
    }

    #[test]
    fn quiet_comes_a_quarter_of_the_idle_time_after_the_last_request() {
        assert_eq!([1, 4, 40, 3_600].map(quiet_after_us), [1, 1, 10, 30].map(|s| s * 1_000_000));
        let mut offered = Offered::default();
        let at = Moment::from_us;
        assert!(!offered.is_asked_within(at(5), 10), "nobody ever asked");
        offered.arrive(at(5), 1);
        assert!(offered.is_asked_within(at(14), 10) && !offered.is_asked_within(at(15), 10));
        offered.wait();
        assert!(offered.is_asked_within(at(99), 10), "somebody waits");
        offered.wait_no_more(at(99));
        assert!(offered.is_asked_within(at(108), 10) && !offered.is_asked_within(at(109), 10));
    }

    #[test]
    fn gateways_add_up() {
        let one = Demand { fast: 10.0, slow: 10.0, variance: 10.0, uneven: 1.0, quiet: true };
        let both = one.and(Demand { fast: 30.0, slow: 30.0, variance: 30.0, uneven: 3.0, quiet: false });
        assert_eq!(both, Demand { fast: 40.0, slow: 40.0, variance: 40.0, uneven: 2.5, quiet: false });
        assert!(both.is_news(&one) && !both.is_news(&both) && both.is_plausible());
        assert!(Demand { quiet: true, ..both }.is_news(&both), "that nobody asks any more is told, whatever is left of the rate");
        assert!(!Demand { fast: f64::NAN, ..both }.is_plausible());
    }
}
