//! Does the candidate disagree more often than is expected of it? Wald's sequential probability ratio test, from counts alone.

use serde::{Deserialize, Serialize};

/// No expected rate is nearer to 0 than this share of the margin, and no rate of a fault nearer to 1. A card that found no disagreement
/// looked at some hundred samples: taken at its word, a single pair would refute it.
const FLOOR_OF_MARGIN: f64 = 0.05;

/// Compared pairs of answers. Sums add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pairs {
    /// Pairs.
    pub compared: u64,
    /// Those of them that disagree.
    pub disagreed: u64,
}

impl Pairs {
    /// Counts one pair. A candidate that failed where the baseline answered disagrees; where the baseline failed nothing was compared.
    pub fn observe(&mut self, disagreed: bool) {
        self.compared = self.compared.saturating_add(1);
        self.disagreed = self.disagreed.saturating_add(u64::from(disagreed));
    }

    /// Adds what another counted.
    pub fn add(&mut self, other: Self) {
        self.compared = self.compared.saturating_add(other.compared);
        self.disagreed = self.disagreed.saturating_add(other.disagreed);
    }

    /// Share that disagrees, 0 to 1; 0 where nothing was compared.
    pub fn rate(&self) -> f64 {
        self.disagreed as f64 / self.compared.max(1) as f64
    }
}

/// What is said of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not enough was seen.
    #[default]
    Undecided,
    /// It disagrees as is expected of it.
    Holds,
    /// It disagrees more.
    Faulty,
}

/// The test of the expected rate against the rate of a fault (Wald, Sequential Tests of Statistical Hypotheses, 1945).
///
/// The state is [`Pairs`], and the log likelihood ratio is linear in them, so counts may be summed over gateways first and looked at as
/// seldom as one likes. Where the ratio passes a bound the *look* is over, and after [`Verdict::Holds`] the next one starts from zero
/// pairs: what held for a day does not hide a fault that begins now.
///
/// The bounds. Of a candidate at the expected rate or below, the likelihood ratio is a supermartingale from 1, and so ever reaches 1/a
/// with a chance of at most a, whenever it is looked at (Ville, Étude critique de la notion de collectif, 1939). Looks after looks would
/// add up, so look k gets a = `error_rate`·6/(π²k²), which is `error_rate` over all of them; the bound grows with 2·ln k only. The other
/// way nothing adds up: there is a further look only after one that held, so a candidate that is faulty from the start passes at all only
/// by passing the first, which the same inequality for the inverse ratio allows with a chance of `error_rate`.
///
/// Between the two rates nothing is promised: either verdict may come, and with time the worse one. Pairs are taken to be independent:
/// one request sent a thousand times counts as a thousand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disagreement {
    null: f64,
    fault: f64,
    error_rate: f64,
    /// What a pair adds to the log likelihood ratio: one that disagrees, one that agrees.
    added: (f64, f64),
}

impl Disagreement {
    /// Expects the rate `null`, 0 to 1; a fault is `margin` more, or as much more as there can be. `error_rate` is the chance of a wrong
    /// verdict, each way.
    pub fn new(null: f64, margin: f64, error_rate: f64) -> Self {
        let floor = margin * FLOOR_OF_MARGIN;
        let null = null.max(floor).min(1.0 - floor); // not `clamp`, which panics where the margin is not a number
        let fault = (null + margin).min(1.0 - floor);
        // With an expected rate of 1 the two are one, and nothing is ever decided: better than a verdict on nothing.
        let added = ((fault / null).ln(), ((1.0 - fault) / (1.0 - null)).ln());
        Self { null, fault, error_rate, added }
    }

    /// The rate that is expected, 0 to 1.
    pub fn null(&self) -> f64 {
        self.null
    }

    /// The rate that is a fault, 0 to 1.
    pub fn fault(&self) -> f64 {
        self.fault
    }

    /// Log likelihood ratio of a fault (natural logarithm).
    pub fn llr(&self, pairs: Pairs) -> f64 {
        let agreed = pairs.compared.saturating_sub(pairs.disagreed);
        pairs.disagreed as f64 * self.added.0 + agreed as f64 * self.added.1
    }

    /// The log likelihood ratios at which look `look`, from 1, ends: at or below the first it holds, at or above the second it is faulty.
    pub fn bounds(&self, look: u32) -> (f64, f64) {
        let look = f64::from(look.max(1));
        let spent = self.error_rate * 6.0 / (std::f64::consts::PI * look).powi(2);
        (self.error_rate.ln(), -spent.ln())
    }

    /// What the pairs of look `look`, from 1, say.
    pub fn verdict(&self, pairs: Pairs, look: u32) -> Verdict {
        let (low, high) = self.bounds(look);
        match self.llr(pairs) {
            llr if llr >= high => Verdict::Faulty,
            llr if llr <= low => Verdict::Holds,
            _ => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::Draws;
    use proptest::prelude::*;

    const NULL: f64 = 0.005;
    const MARGIN: f64 = 0.02;
    const ERROR: f64 = 0.01;

    fn test() -> Disagreement {
        Disagreement::new(NULL, MARGIN, ERROR)
    }

    /// Compares up to `pairs_max` pairs, of which pair n disagrees with a chance of `rate(n)`, and looks at them every `every`: looks that
    /// held, and the pair after which it was called faulty.
    fn compare(seed: u64, pairs_max: u64, every: u64, rate: impl Fn(u64) -> f64) -> (u32, Option<u64>) {
        let (test, mut draws, mut pairs, mut look) = (test(), Draws(seed), Pairs::default(), 1);
        for n in 1..=pairs_max {
            pairs.observe(draws.next() < rate(n));
            if n % every == 0 {
                match test.verdict(pairs, look) {
                    Verdict::Undecided => {}
                    Verdict::Holds => (pairs, look) = (Pairs::default(), look + 1),
                    Verdict::Faulty => return (look - 1, Some(n)),
                }
            }
        }
        (look - 1, None)
    }

    /// Of sorted numbers: the least, quartiles, the 95th percentile, the greatest.
    fn spread(mut numbers: Vec<u64>) -> String {
        numbers.sort_unstable();
        let at = |share: f64| numbers[((numbers.len() - 1) as f64 * share) as usize];
        format!("{} | {} {} {} | {} | {}", at(0.0), at(0.25), at(0.5), at(0.75), at(0.95), at(1.0))
    }

    #[test]
    fn a_fault_of_two_points_is_found_within_a_thousand_pairs() {
        for every in [1, 50] {
            let found: Vec<_> = (0..1_000).filter_map(|seed| compare(seed, 1_000, every, |_| NULL + MARGIN).1).collect();
            let report = format!("{} of 1000 runs, looked at every {every}; pairs: {}", found.len(), spread(found.clone()));
            println!("{report}");
            let hundred = (0..100).filter(|seed| compare(*seed, 1_000, every, |_| NULL + MARGIN).1.is_some()).count();
            assert!(hundred >= 95 && found.len() >= 950, "{report}; {hundred} of the first 100");
        }
    }

    #[test]
    fn a_good_candidate_is_not_called_faulty_however_long_it_runs() {
        for every in [1, 50] {
            let runs: Vec<_> = (0..1_000).map(|seed| compare(seed, 20_000, every, |_| NULL)).collect();
            let faulty = |runs: &[(u32, Option<u64>)]| runs.iter().filter(|(_, found)| found.is_some()).count();
            let looks = runs.iter().map(|(looks, _)| u64::from(*looks)).collect();
            let report =
                format!("{} of 1000 runs of 20000 pairs, looked at every {every}; looks that held: {}", faulty(&runs), spread(looks));
            println!("{report}");
            assert!(faulty(&runs) <= 10 && faulty(&runs[..100]) <= 1, "{report}; {} of the first 100", faulty(&runs[..100]));
        }
    }

    #[test]
    fn a_faulty_candidate_does_not_pass_its_first_look() {
        let passed = (0..1_000).filter(|seed| compare(*seed, 5_000, 1, |_| NULL + MARGIN).0 > 0).count();
        println!("{passed} of 1000 faulty candidates passed a look");
        assert!(passed <= 10, "{passed} of 1000");
    }

    #[test]
    fn what_held_for_long_does_not_hide_a_fault_that_begins() {
        let late = |n: u64| if n <= 20_000 { NULL } else { NULL + MARGIN };
        let found: Vec<_> = (0..100).filter_map(|seed| compare(seed, 21_500, 1, late).1?.checked_sub(20_000)).collect();
        let report = format!("{} of 100 within 1500 pairs of its beginning: {}", found.len(), spread(found.clone()));
        println!("{report}");
        assert!(found.len() >= 95, "{report}");
    }

    #[test]
    fn a_card_that_found_no_disagreement_is_not_refuted_by_one_pair() {
        let test = Disagreement::new(0.0, MARGIN, ERROR);
        let verdict = |compared, disagreed| test.verdict(Pairs { compared, disagreed }, 1);
        assert_eq!([verdict(1, 1), verdict(30, 1), verdict(2, 2)], [Verdict::Undecided, Verdict::Undecided, Verdict::Faulty]);
        assert_eq!(verdict(1_000, 5), Verdict::Holds, "half a per cent is well within the margin");
    }

    #[test]
    fn of_a_candidate_that_may_always_disagree_nothing_is_said() {
        let test = Disagreement::new(1.0, MARGIN, ERROR);
        for disagreed in [0, 1_000, 1_000_000] {
            assert_eq!(test.verdict(Pairs { compared: 1_000_000, disagreed }, 1), Verdict::Undecided);
        }
        let near = Disagreement::new(0.97, MARGIN, ERROR);
        let verdict = |disagreed| near.verdict(Pairs { compared: 2_000, disagreed }, 1);
        assert_eq!([verdict(1_940), verdict(1_980)], [Verdict::Holds, Verdict::Faulty]);
    }

    #[test]
    fn all_looks_together_spend_the_error_rate_and_no_more() {
        let spent: f64 = (1..100_000).map(|look| (-test().bounds(look).1).exp()).sum();
        assert!(spent <= ERROR && spent > 0.999 * ERROR, "{spent}");
        assert!(test().bounds(1_000).1 < 2.0 * (1_000.0_f64).ln() + test().bounds(1).1 + 1e-9, "and hardly slow it down");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// What the bounds rest on: one more pair does not raise the expected likelihood ratio of a good candidate, nor its inverse of a
        /// faulty one.
        #[test]
        fn the_ratio_is_a_supermartingale_on_either_side(null in 0.0..1.0_f64, margin in 0.001..0.5_f64, part in 0.0..=1.0_f64) {
            let test = Disagreement::new(null, margin, ERROR);
            let one = |disagreed| test.llr(Pairs { compared: 1, disagreed });
            let expected = |rate: f64, sign: f64| rate * (sign * one(1)).exp() + (1.0 - rate) * (sign * one(0)).exp();
            prop_assert!(expected(test.null() * part, 1.0) <= 1.0 + 1e-9);
            prop_assert!(expected(test.fault() + (1.0 - test.fault()) * part, -1.0) <= 1.0 + 1e-9);
            prop_assert!(one(1).is_finite() && one(0).is_finite() && test.null() <= test.fault() && test.fault() < 1.0);
            prop_assert!(null < margin * FLOOR_OF_MARGIN || null + margin > 0.97 || (test.null() - null).abs() < 1e-12);
        }

        #[test]
        fn the_verdict_is_that_of_the_sum_whoever_counted(seen in prop::collection::vec((0usize..4, prop::bool::weighted(0.05)), 0..200), look in 1u32..9) {
            let (mut whole, mut gateways) = (Pairs::default(), [Pairs::default(); 4]);
            for (gateway, disagreed) in &seen {
                whole.observe(*disagreed);
                gateways[*gateway].observe(*disagreed);
            }
            let mut sum = Pairs::default();
            gateways.iter().rev().for_each(|pairs| sum.add(*pairs));
            prop_assert_eq!(sum, whole);
            prop_assert_eq!(test().verdict(sum, look), test().verdict(whole, look));
            let one_by_one: f64 = seen.iter().map(|(_, d)| test().llr(Pairs { compared: 1, disagreed: u64::from(*d) })).sum();
            prop_assert!((test().llr(sum) - one_by_one).abs() < 1e-6);
        }
    }
}
