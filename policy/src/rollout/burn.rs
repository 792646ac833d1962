//! How fast the candidate uses up what the latency objective allows, and whether that is the candidate's doing.

use super::Side;
use crate::Moment;
use serde::{Deserialize, Serialize};

/// Parts of the long window. It slides by one of them.
const PARTS: usize = 24;
/// The last two of them, the running one included, are the short window: a twelfth, as 5 minutes are of an hour.
const SHORT: u64 = 2;
/// So many times the allowance is too fast (The Site Reliability Workbook, chapter 5: 2 % of a month's allowance within one hour, seen in
/// the last hour and in the last 5 minutes). Here a step stands for the hour.
const FAST: f64 = 14.4;
/// Fewest answers in the long window to judge by. Late ones come in bunches, so a few prove nothing, whatever their share.
const ANSWERS_MIN: u64 = 100;
/// Answers of one side in one window. Sums add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answers {
    /// All.
    pub total: u64,
    /// Those after the latency target, and those that failed.
    pub late: u64,
}

impl Answers {
    /// Adds what another counted.
    pub fn add(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        self.late = self.late.saturating_add(other.late);
    }

    /// Share that is late, 0 to 1; 0 where there are none.
    pub fn late_share(&self) -> f64 {
        self.late as f64 / self.total.max(1) as f64
    }

    /// Is the rate behind it over `rate`, but for a chance of `error_rate`? By Chernoff's bound: so many late ones or more come with a
    /// chance of at most exp(-n·KL(share, rate)).
    fn exceeds(&self, rate: f64, error_rate: f64) -> bool {
        let share = self.late_share();
        if self.total < ANSWERS_MIN || share <= rate || rate <= 0.0 {
            return false;
        }
        let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
        let divergence = part(share, rate) + part(1.0 - share, 1.0 - rate);
        self.total as f64 * divergence >= -error_rate.ln()
    }
}

/// Answers of one side in both windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Windows {
    /// In the last twelfth of `step_s`.
    pub short: Answers,
    /// In the last `step_s` seconds.
    pub long: Answers,
}

/// Answers of both sides in both windows. Sums add, over gateways that count at about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Of the candidate, copies included.
    pub candidate: Windows,
    /// Of the baseline, copies included.
    pub baseline: Windows,
}

/// What is said of the candidate's latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burning {
    /// Within the objective, or no worse than the baseline, or too few answers to say.
    No,
    /// More is late than the objective allows and than of the baseline: no reason to stop, but none to go on.
    Over,
    /// So much is late, now and for a while, that it must stop.
    Fast,
}

impl Latency {
    /// Adds what another counted.
    pub fn add(&mut self, other: &Self) {
        self.candidate.short.add(other.candidate.short);
        self.candidate.long.add(other.candidate.long);
        self.baseline.short.add(other.baseline.short);
        self.baseline.long.add(other.baseline.long);
    }

    /// Judges the candidate, where `allowance` of its answers may be late (0 to 1, neither) and `error_rate` is the chance to blame it
    /// wrongly for [`Burning::Over`].
    ///
    /// The baseline is what the candidate would do if nothing were wrong with it: where the baseline is late too, only what the candidate
    /// adds is blamed on it. At an allowance of 3.6 % and more, 14.4 times as much is hardly possible or not at all; halfway between
    /// the allowance and everything is then too fast.
    pub fn judge(&self, allowance: f64, error_rate: f64) -> Burning {
        let excess = (FAST * allowance).min((1.0 + allowance) / 2.0) - allowance;
        let unavoidable = |baseline: Answers| baseline.late_share().max(allowance);
        let fast = |candidate: Answers, baseline: Answers| candidate.late_share() > unavoidable(baseline) + excess;
        if !self.candidate.long.exceeds(unavoidable(self.baseline.long), error_rate) {
            Burning::No
        } else if fast(self.candidate.long, self.baseline.long) && fast(self.candidate.short, self.baseline.short) {
            Burning::Fast
        } else {
            Burning::Over
        }
    }
}

/// One part of the long window.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Which, counted from the origin of time. A part that is too old is void.
    number: u64,
    candidate: Answers,
    baseline: Answers,
}

/// Counts the answers of one gateway in fixed room, without allocation.
#[derive(Debug, Clone)]
pub struct Burn {
    part_us: u64,
    parts: [Part; PARTS],
}

impl Burn {
    /// Windows for steps of `step_s` seconds.
    pub fn new(step_s: u32) -> Self {
        let part_us = u64::from(step_s.max(1)).saturating_mul(1_000_000).div_ceil(PARTS as u64);
        Self { part_us, parts: [Part::default(); PARTS] }
    }

    /// An answer of `side` came, `late` or not. One that failed is late: a candidate that fails fast is not a fast one.
    pub fn observe(&mut self, now: Moment, side: Side, late: bool) {
        let number = self.number(now);
        let Some(part) = self.parts.get_mut((number % PARTS as u64) as usize) else { return };
        if part.number < number {
            *part = Part { number, ..Part::default() };
        }
        let answers = match side {
            Side::Baseline => &mut part.baseline,
            Side::Candidate => &mut part.candidate,
        };
        answers.add(Answers { total: 1, late: u64::from(late) });
    }

    /// What the windows hold that end at `now`. They slide by a twenty-fourth of `step_s` and are shorter by up to that.
    pub fn counts(&self, now: Moment) -> Latency {
        let newest = self.number(now);
        let mut latency = Latency::default();
        for part in &self.parts {
            let age = newest.saturating_sub(part.number);
            let Latency { candidate, baseline } = &mut latency;
            for (windows, answers) in [(candidate, part.candidate), (baseline, part.baseline)] {
                if age < SHORT {
                    windows.short.add(answers);
                }
                if age < PARTS as u64 {
                    windows.long.add(answers);
                }
            }
        }
        latency
    }

    fn number(&self, now: Moment) -> u64 {
        now.as_us() / self.part_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slo;
    use proptest::prelude::*;

    const STEP_S: u32 = 240; // parts of 10 s, a short window of 20 s

    fn at_s(seconds: u64) -> Moment {
        Moment::from_us(seconds * 1_000_000)
    }

    fn windows(short: (u64, u64), long: (u64, u64)) -> Windows {
        let answers = |(total, late)| Answers { total, late };
        Windows { short: answers(short), long: answers(long) }
    }

    fn judge(candidate: Windows, baseline: Windows, allowance: f64) -> Burning {
        Latency { candidate, baseline }.judge(allowance, 0.01)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn windows_hold_what_came_in_them(gaps in prop::collection::vec((0u64..40, any::<bool>(), any::<bool>()), 1..200), quiet in 0u64..400) {
            let (mut burn, mut now, mut all) = (Burn::new(STEP_S), 0, Vec::new());
            for (gap, candidate, late) in gaps {
                now += gap;
                let side = if candidate { Side::Candidate } else { Side::Baseline };
                burn.observe(at_s(now), side, late);
                all.push((now, side, late));
            }
            now += quiet;
            let count = |side, parts: u64| {
                let within = all.iter().filter(|(at, s, _)| *s == side && now / 10 - at / 10 < parts);
                within.fold((0, 0), |(total, n), (_, _, late)| (total + 1, n + u64::from(*late)))
            };
            let of = |side| windows(count(side, 2), count(side, 24));
            prop_assert_eq!(burn.counts(at_s(now)), Latency { candidate: of(Side::Candidate), baseline: of(Side::Baseline) });
        }

        #[test]
        fn a_candidate_that_is_always_late_is_stopped_whatever_the_percentile(percentile in 10.0..99.99_f64, total in ANSWERS_MIN..10_000) {
            let allowance = Slo { percentile: Some(percentile), ..Slo::default() }.allowance();
            let always = windows((total / 12, total / 12), (total, total));
            let allowed = (total as f64 * allowance) as u64;
            prop_assert_eq!(judge(always, windows((total / 12, allowed / 12), (total, allowed)), allowance), Burning::Fast);
            prop_assert_eq!(judge(always, always, allowance), Burning::No, "the baseline is as well");
        }

        #[test]
        fn no_more_late_than_the_baseline_or_allowed_is_no_fault(total in 1u64..10_000, late in 0.0..=1.0_f64, allowance in 0.0001..0.9_f64) {
            let of = |share: f64| windows((total, (total as f64 * share) as u64), (total, (total as f64 * share) as u64));
            prop_assert_eq!(judge(of(late), of(late), allowance), Burning::No);
            prop_assert_eq!(judge(of(allowance * late), of(0.0), allowance), Burning::No);
        }
    }

    #[test]
    fn both_windows_must_burn() {
        let good = windows((1_000, 10), (10_000, 100));
        let over = |short, long| judge(windows((1_000, short), (10_000, long)), good, 0.01);
        assert_eq!([over(145, 1_450), over(143, 1_450), over(145, 1_430)], [Burning::Fast, Burning::Over, Burning::Over]);
        assert_eq!([over(10, 150), over(900, 90)], [Burning::Over, Burning::No], "it is over by now, or it has only begun");
    }

    #[test]
    fn only_what_the_candidate_adds_is_blamed_on_it() {
        let overload = windows((1_000, 300), (10_000, 3_000));
        let share = |late: u64| judge(windows((1_000, late / 10), (10_000, late)), overload, 0.01);
        assert_eq!([share(3_050), share(3_500), share(4_500)], [Burning::No, Burning::Over, Burning::Fast]);
    }

    #[test]
    fn a_few_answers_prove_nothing() {
        let all = |total| judge(windows((total, total), (total, total)), Windows::default(), 0.01);
        assert_eq!([all(99), all(100)], [Burning::No, Burning::Fast]);
        assert_eq!(judge(windows((200, 3), (200, 3)), Windows::default(), 0.01), Burning::No, "three where two are allowed");
    }

    #[test]
    fn an_allowance_follows_from_either_spelling_of_a_percentile() {
        let of = |percentile| (Slo { percentile, ..Slo::default() }.allowance() * 1e6).round();
        assert_eq!([of(Some(99.0)), of(Some(0.99)), of(None), of(Some(100.0)), of(Some(f64::NAN))], [1e4; 5]);
        assert_eq!([of(Some(99.9)), of(Some(0.5))], [1e3, 5e5]);
    }
}
