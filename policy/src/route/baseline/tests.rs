use super::super::tests::idle;
use super::super::{Distance, Standing};
use super::*;
use proptest::prelude::*;

fn all(replicas: usize) -> impl Iterator<Item = Baseline> {
    RoutePolicy::ALL.into_iter().filter_map(move |policy| Baseline::new(policy, replicas))
}

#[test]
fn names_are_read_back_and_an_unknown_one_lists_them() {
    for policy in RoutePolicy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert_eq!(RoutePolicy::default(), RoutePolicy::Finish);
    let error = "p3c".parse::<RoutePolicy>().unwrap_err().to_string();
    assert_eq!(
        error,
        "routing policy \"p3c\" is not one of finish, round-robin, weighted-round-robin, two-choices, least-request, peak-ewma, prequal"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_baseline_chooses_an_excluded_replica_or_misses_an_eligible_one(
        standings in prop::collection::vec(0usize..4, 0..8),
        draws in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0), 1..20),
    ) {
        let standings: Vec<_> = standings.iter().map(|s| [Standing::Good, Standing::Doubtful, Standing::Unreachable, Standing::Excluded][*s]).collect();
        let candidates: Vec<_> = standings.iter().map(|standing| Candidate { standing: *standing, ..idle() }).collect();
        let best = best_standing(&candidates);
        for mut baseline in all(candidates.len()) {
            for (step, (a, b)) in (0..).zip(&draws) {
                let chosen = baseline.choose(&candidates, Moment::from_us(step * 300_000), [*a, *b]);
                prop_assert_eq!(chosen.map(|i| standings[i]), best, "{:?}", baseline);
            }
        }
    }
}

/// How often each of three replicas with capacities 1, 2 and 5 is chosen in 800 requests.
fn shares(policy: RoutePolicy) -> [u32; 3] {
    let candidates = [10_000.0, 5_000.0, 2_000.0].map(|alpha_us| Candidate { alpha_us, distance: Distance::SameSite, ..idle() });
    let mut baseline = Baseline::new(policy, 3).unwrap();
    let mut counts = [0; 3];
    for _ in 0..800 {
        counts[baseline.choose(&candidates, Moment::default(), [0.5, 0.5]).unwrap()] += 1;
    }
    counts
}

#[test]
fn turns_are_equal_or_by_weight() {
    let equal = shares(RoutePolicy::RoundRobin);
    assert!(equal.iter().all(|n| (266..=267).contains(n)), "{equal:?}");
    let weighted = shares(RoutePolicy::WeightedRoundRobin);
    assert!(weighted.iter().zip([100, 200, 500]).all(|(n, wanted)| n.abs_diff(wanted) <= 2), "{weighted:?}");
}

#[test]
fn least_request_goes_by_capacity_over_active() {
    // 1 / (0 + 1) against 5 / (3 + 1) and 5 / (5 + 1).
    let at = |in_flight| [idle(), Candidate { alpha_us: 200.0, in_flight, ..idle() }];
    let mut baseline = Baseline::new(RoutePolicy::LeastRequest, 2).unwrap();
    assert_eq!(baseline.choose(&at(3), Moment::default(), [0.0, 0.0]), Some(1));
    assert_eq!(baseline.choose(&at(5), Moment::default(), [0.0, 0.0]), Some(0));
}

#[test]
fn a_peak_jumps_up_and_decays() {
    let mut ewma = Ewma::default();
    ewma.observe(Moment::from_us(0), 1_000);
    ewma.observe(Moment::from_us(1), 50_000);
    assert_eq!(ewma.at(Moment::from_us(1)), 50_000.0);
    let later = ewma.at(Moment::from_us(10_000_001));
    assert!((later / 50_000.0 - (-1.0f64).exp()).abs() < 1e-6, "{later}");
    let mut baseline = Baseline::new(RoutePolicy::PeakEwma, 2).unwrap();
    baseline.answered(0, Moment::from_us(0), 1_000_000);
    assert_eq!(baseline.choose(&[idle(), idle()], Moment::from_us(5), [0.1, 0.9]), Some(1));
}

#[test]
fn prequal_takes_the_fastest_that_is_not_hot_and_forgets_old_probes() {
    let now = Moment::default();
    let mut pool: Vec<_> =
        (0..10).map(|index| Probe { index, in_flight: index as f64, latency_us: 100.0 - index as f64, asked: now }).collect();
    assert_eq!(take(&mut pool, |_| true), Some(7), "8 and 9 are hot");
    assert_eq!(pool.len(), 9, "the probe is used up");
    probe(&mut pool, &[idle()], || 0..1, Moment::from_us(PROBE_AGE_US_MAX + 1), [0.0, 0.0]);
    assert!(pool.len() == 3 && pool.iter().all(|p| p.index == 0));
    (0..9).for_each(|_| probe(&mut pool, &[idle()], || 0..1, Moment::from_us(PROBE_AGE_US_MAX + 1), [0.0, 0.0]));
    assert_eq!(pool.len(), POOL_MAX);
}

#[test]
fn envoys_rule_keeps_what_fits_and_sends_the_rest_where_room_is() {
    let zones = [(0.5, 0.25), (0.25, 0.5), (0.25, 0.25)].map(|(gateways, replicas)| ZoneShare { gateways, replicas });
    assert_eq!([0, 1, 2].map(|to| envoy_zone_share(&zones, 0, to)), [0.5, 0.5, 0.0]);
    assert_eq!([0, 1, 2].map(|to| envoy_zone_share(&zones, 1, to)), [0.0, 1.0, 0.0]);
    assert_eq!(envoy_zone_share(&zones, 7, 0), 0.0);
}
