//! What a choice promises.

use super::*;
use proptest::prelude::*;

mod comparison;

const STANDINGS: [Standing; 4] = [Standing::Good, Standing::Doubtful, Standing::Unreachable, Standing::Excluded];
const DISTANCES: [Distance; 3] = [Distance::SameZone, Distance::SameSite, Distance::OtherSite];

/// Idle, near, of 1 ms a row.
pub(super) fn idle() -> Candidate {
    Candidate {
        alpha_us: 1_000.0,
        beta_us: 0.0,
        kappa: 1.0,
        slow: 1.0,
        rows_max: 1,
        rows_useful: 1,
        instances: 1,
        backlog_us: 0,
        reported: Moment::default(),
        rows_since_report: 0,
        beside_us: 0.0,
        planned: 0.0,
        spare: 1.0,
        wait_us_max: f64::INFINITY,
        accuracy: 1.0,
        senders: 1.0,
        in_flight: 0,
        rtt_us: 0.0,
        bytes_per_us: f64::INFINITY,
        distance: Distance::SameZone,
        age_us: SLOW_START_US,
        standing: Standing::Good,
    }
}

fn request(remaining_us: Option<u64>) -> Request {
    Request { now: Moment::default(), rows: 1, bytes: 0, remaining_us, slo_us: None, tier: f64::NAN, may_cross: true }
}

fn choose_at(candidates: &[Candidate], remaining_us: Option<u64>, draws: [f64; 2]) -> Result<usize, Refusal> {
    choose(candidates, &request(remaining_us), &Headroom::default(), draws).map(|choice| choice.index)
}

prop_compose! {
    fn any_candidate()(
        (alpha_us, beta_us, slow) in (0.0f64..5_000.0, 0.0f64..5_000.0, 0.5f64..20.0),
        (rows_max, instances, backlog_us) in (1u32..64, 1u32..4, 0u64..50_000),
        (rows_since_report, senders, in_flight) in (0u32..50, 0.0f64..10.0, 0u32..50),
        (rtt_us, distance, standing) in (0.0f64..30_000.0, 0usize..3, 0usize..4),
        age_us in 0u64..20_000_000,
    ) -> Candidate {
        Candidate {
            alpha_us, beta_us, slow, rows_max, rows_useful: rows_max, instances, backlog_us, rows_since_report, senders, in_flight, rtt_us,
            age_us, kappa: 1.2, distance: DISTANCES[distance], standing: STANDINGS[standing], ..idle()
        }
    }
}

/// Numbers no profile should have.
fn absurd() -> impl Strategy<Value = f64> {
    prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, f64::MIN_POSITIVE, f64::MAX, 1.0])
}

/// May the request go there, by standing and zone? Written down again, from the rules and not from the code.
fn is_open(candidates: &[Candidate], index: usize, may_cross: bool) -> bool {
    let count = |f: &dyn Fn(&Candidate) -> bool| candidates.iter().filter(|c| f(c)).count();
    let wanted = if count(&|c| c.standing == Standing::Good) > 0 { Standing::Good } else { Standing::Doubtful };
    let here = count(&|c| c.distance != Distance::OtherSite && c.standing != Standing::Excluded);
    let healthy = count(&|c| c.distance != Distance::OtherSite && c.standing == Standing::Good);
    let zones_count = here > 0 && healthy * 2 >= here;
    candidates[index].standing == wanted && (may_cross || !zones_count || candidates[index].distance != Distance::OtherSite)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn an_excluded_replica_is_never_chosen_and_a_doubtful_one_only_when_no_good_one_is_left(
        candidates in prop::collection::vec(any_candidate(), 0..12),
        remaining_us in prop::option::of(1u64..500_000),
        may_cross: bool,
        draws: [f64; 2],
    ) {
        let request = Request { remaining_us, may_cross, ..request(None) };
        match choose(&candidates, &request, &Headroom::default(), draws.map(f64::abs).map(f64::fract)) {
            Ok(choice) => {
                let standing = candidates[choice.index].standing;
                let good_left = candidates.iter().any(|c| c.standing == Standing::Good);
                prop_assert!(standing == Standing::Good || (standing == Standing::Doubtful && !good_left));
                prop_assert!(is_open(&candidates, choice.index, may_cross));
            }
            Err(Refusal::NoReplica) => {
                prop_assert!(candidates.iter().all(|c| matches!(c.standing, Standing::Excluded | Standing::Unreachable)));
            }
            Err(_) => prop_assert!(remaining_us.is_some(), "without a deadline only queues refuse"),
        }
    }

    #[test]
    fn a_request_is_refused_exactly_when_nobody_can_finish_in_time(
        candidates in prop::collection::vec(any_candidate(), 1..12),
        remaining_us in 1u64..200_000,
        may_cross: bool,
        draws in (0.0f64..1.0, 0.0f64..1.0),
    ) {
        let request = Request { remaining_us: Some(remaining_us), may_cross, ..request(None) };
        let allowed = 0.8 * remaining_us as f64;
        let open: Vec<_> = (0..candidates.len()).filter(|i| is_open(&candidates, *i, may_cross)).collect();
        let finish = |i: &usize| candidates[*i].finish_us(&request);
        let can = open.iter().any(|i| finish(i) <= allowed);
        match choose(&candidates, &request, &Headroom::default(), [draws.0, draws.1]) {
            Ok(choice) => prop_assert!(can && finish(&choice.index) <= allowed && choice.predicted_us as f64 <= allowed),
            Err(Refusal::NoReplica) => prop_assert!(open.is_empty()),
            Err(Refusal::Hopeless { .. }) => prop_assert!(open.iter().all(|i| candidates[*i].idle_us(&request) > allowed)),
            Err(Refusal::Busy { retry_us }) => {
                prop_assert!(!can);
                let first = open.iter().map(finish).fold(f64::INFINITY, f64::min);
                prop_assert!((first - allowed - retry_us as f64).abs() <= 1.0, "retry after {} us", retry_us);
            }
        }
    }

    #[test]
    fn absurd_numbers_neither_panic_nor_win(a in absurd(), b in absurd(), slow in absurd(), rtt in absurd(), draws in (0.0f64..1.0, 0.0f64..1.0)) {
        let strange = Candidate { alpha_us: a, beta_us: b, slow, rtt_us: rtt, kappa: b, senders: a, bytes_per_us: rtt, ..idle() };
        let pair = [strange, idle()];
        let finish = strange.finish_us(&request(None));
        prop_assert!(finish >= 0.0, "{}", finish);
        let chosen = choose_at(&pair, Some(2_000), [draws.0, draws.1]);
        prop_assert!(chosen == Ok(1) || (chosen == Ok(0) && finish <= 1_600.0), "{:?}", chosen);
        if (a + b).is_nan() {
            prop_assert_eq!(choose_at(&pair, None, [draws.0, draws.1]), Ok(1));
        }
    }

    #[test]
    fn no_more_leaves_the_site_than_the_budget_allows(
        backlogs in prop::collection::vec((0u64..200_000, prop::option::of(1_000u64..100_000), 0.0f64..1.0, 0.0f64..1.0), 1..200),
    ) {
        let mut spill = Spill::default();
        let mut left = Vec::new();
        for (backlog_us, remaining_us, a, b) in backlogs {
            let far = Candidate { distance: Distance::OtherSite, rtt_us: 500.0, ..idle() };
            let candidates = [Candidate { backlog_us, ..idle() }, far, far, far];
            let request = Request { remaining_us, may_cross: spill.may_cross(), ..request(None) };
            let chosen = choose(&candidates, &request, &Headroom::default(), [a, b]);
            let crossed = chosen.is_ok_and(|choice| candidates[choice.index].distance == Distance::OtherSite);
            prop_assert_eq!(chosen.is_ok_and(|choice| choice.spilled), crossed);
            if chosen.is_ok() {
                spill.record(crossed);
                left.push(crossed);
            }
        }
        for from in 0..left.len() {
            let mut crossed = 0;
            for (length, one) in (1..).zip(&left[from..]) {
                crossed += usize::from(*one);
                prop_assert!(crossed as f64 <= 0.2 * length as f64 + 10.0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn draws_follow_capacity(weights in prop::collection::vec(1u32..50, 1..20)) {
        // A grid over 0..1 hits each as often as its share says. Both draws alike: what is drawn is chosen.
        const POINTS: u32 = 1_000;
        let candidates: Vec<_> = weights.iter().map(|w| Candidate { alpha_us: 10_000.0 / f64::from(*w), ..idle() }).collect();
        let mut hits = vec![0u32; weights.len()];
        for point in 0..POINTS {
            let draw = f64::from(point) / f64::from(POINTS);
            hits[choose_at(&candidates, None, [draw, draw]).unwrap()] += 1;
        }
        let total: u32 = weights.iter().sum();
        for (weight, hits) in weights.iter().zip(hits) {
            let expected = f64::from(POINTS) * f64::from(*weight) / f64::from(total);
            prop_assert!((f64::from(hits) - expected).abs() <= 2.0, "weight {} of {}: {} hits", weight, total, hits);
        }
    }

    #[test]
    fn a_replica_that_slowed_down_is_offered_proportionally_less(slow in 1.0f64..20.0, others in 1usize..6) {
        const POINTS: u32 = 1_000;
        let mut candidates = vec![idle(); others];
        candidates.push(Candidate { slow, ..idle() });
        let hits = (0..POINTS).filter(|point| {
            let draw = f64::from(*point) / f64::from(POINTS);
            choose_at(&candidates, None, [draw, draw]) == Ok(others)
        });
        let expected = f64::from(POINTS) / slow / (others as f64 + 1.0 / slow);
        prop_assert!((hits.count() as f64 - expected).abs() <= 2.0);
    }
}

/// One change of [`idle`] and the microseconds its finish must then have.
fn check_finish(expected_us: f64, change: impl Fn(&mut Candidate, &mut Request)) {
    let (mut candidate, mut request) = (Candidate { alpha_us: 100.0, beta_us: 1_000.0, rows_max: 8, ..idle() }, request(None));
    request.now = Moment::from_us(2_000);
    change(&mut candidate, &mut request);
    let finish_us = candidate.finish_us(&request);
    assert!((finish_us - expected_us).abs() < 1e-6, "expected {expected_us}, got {finish_us}: {candidate:?}");
}

#[test]
fn every_term_counts() {
    check_finish(1_100.0, |_, _| {});
    check_finish(1_300.0, |_, r| r.rows = 3);
    check_finish(2_900.0, |_, r| r.rows = 9); // two batches
    check_finish(1_100.0 + 250.0, |c, _| c.rtt_us = 250.0);
    check_finish(1_100.0 + 3_000.0, |c, _| c.backlog_us = 5_000); // two of the five milliseconds have passed
    check_finish(1_100.0, |c, _| c.backlog_us = 1_500); // and here all
    check_finish(1_100.0 * 3.0, |c, _| c.slow = 3.0);
    check_finish(1_100.0 * 1.5, |c, _| c.kappa = 1.5);
    check_finish(1_100.0 + 500.0, |c, _| c.rows_since_report = 5); // rides in the same batch
    check_finish(1_100.0 + 1_600.0 + 2_000.0, |c, _| c.rows_since_report = 16);
    check_finish(1_100.0 + 1_800.0, |c, _| (c.rows_since_report, c.instances) = (16, 2));
    check_finish(1_100.0 + 700.0, |c, _| (c.rows_since_report, c.senders) = (2, 3.5));
    check_finish(1_100.0 + 1_600.0 + 2_000.0, |c, _| (c.rows_since_report, c.senders) = (2, 100.0)); // at most 8
    check_finish(1_100.0 + 200.0, |c, _| (c.rows_since_report, c.senders) = (2, f64::NAN)); // at least 1
    check_finish(1_100.0 + 64.0, |c, r| (c.bytes_per_us, r.bytes) = (1_000.0, 64_000));
    check_finish(1_100.0, |c, _| c.distance = Distance::OtherSite); // a preference takes no time
}

#[test]
fn the_earlier_finish_of_the_two_wins() {
    let pair = [Candidate { rows_since_report: 5, ..idle() }, Candidate { rows_since_report: 1, ..idle() }];
    for remaining in [None, Some(50_000)] {
        assert_eq!(choose_at(&pair, remaining, [0.1, 0.9]), Ok(1));
        assert_eq!(choose_at(&pair, remaining, [0.9, 0.1]), Ok(1));
    }
}

#[test]
fn equals_go_to_the_one_with_less_in_flight() {
    let pair = [Candidate { in_flight: 3, ..idle() }, Candidate { in_flight: 2, ..idle() }];
    assert_eq!(choose_at(&pair, None, [0.1, 0.9]), Ok(1));
    assert_eq!(choose_at(&pair, None, [0.9, 0.1]), Ok(1));
}

#[test]
fn a_new_replica_begins_with_a_tenth() {
    let at = |age_us| Candidate { age_us, ..idle() }.capacity() / idle().capacity();
    assert!((at(0) - 0.1).abs() < 1e-9);
    assert!((at(5_000_000) - 0.55).abs() < 1e-9);
    assert!((at(60_000_000) - 1.0).abs() < 1e-9);
}

#[test]
fn capacity_counts_the_useful_batch_not_the_first_row() {
    let gpu = Candidate { alpha_us: 250.0, beta_us: 4_000.0, rows_max: 64, rows_useful: 32, ..idle() };
    assert!((gpu.capacity() - 32.0 / 12_000.0).abs() < 1e-9);
}

#[test]
fn what_two_draws_miss_the_scan_finds() {
    let mut candidates = [Candidate { backlog_us: 50_000, ..idle() }; 10];
    candidates[7].backlog_us = 0;
    assert_eq!(choose_at(&candidates, Some(5_000), [0.0, 0.2]), Ok(7));
}

#[test]
fn a_refusal_says_whether_waiting_helps() {
    let busy = [Candidate { backlog_us: 9_000, ..idle() }, Candidate { backlog_us: 20_000, ..idle() }];
    // 10 ms until the first is done, 8 of the 10 ms may be used.
    assert_eq!(choose_at(&busy, Some(10_000), [0.0, 0.9]), Err(Refusal::Busy { retry_us: 2_000 }));
    assert_eq!(choose_at(&busy, Some(1_000), [0.0, 0.9]), Err(Refusal::Hopeless { idle_us: 1_000, allowed_us: 800 }));
    assert_eq!(choose_at(&[], Some(1_000), [0.0, 0.9]), Err(Refusal::NoReplica));
}

#[test]
fn the_headroom_moves_the_line() {
    let mut headroom = Headroom::default();
    let busy = [Candidate { backlog_us: 6_000, ..idle() }];
    assert!(choose(&busy, &request(Some(10_000)), &headroom, [0.0, 0.0]).is_ok());
    (0..1_000).for_each(|_| headroom.record(1_000, 9_000, 10_000));
    assert_eq!(choose(&busy, &request(Some(10_000)), &headroom, [0.0, 0.0]), Err(Refusal::Busy { retry_us: 1_000 }));
}

/// Three replicas at each distance.
fn spread() -> Vec<Candidate> {
    DISTANCES.into_iter().flat_map(|distance| [Candidate { distance, ..idle() }; 3]).collect()
}

#[test]
fn an_idle_site_keeps_its_requests() {
    for draw in 0..100 {
        let draw = f64::from(draw) / 100.0;
        for remaining in [None, Some(5_000)] {
            let index = choose_at(&spread(), remaining, [draw, 1.0 - draw]).unwrap();
            assert_ne!(spread()[index].distance, Distance::OtherSite);
        }
    }
    assert_eq!(choose_at(&spread(), None, [0.1, 0.9]).map(|i| spread()[i].distance), Ok(Distance::SameZone), "5 ms nearer");
}

#[test]
fn a_busy_site_spills_and_only_on_the_budget() {
    let mut candidates = spread();
    candidates.iter_mut().filter(|c| c.distance != Distance::OtherSite).for_each(|c| c.backlog_us = 100_000);
    for remaining_us in [None, Some(10_000)] {
        let on_budget = Request { remaining_us, ..request(None) };
        let choice = choose(&candidates, &on_budget, &Headroom::default(), [0.1, 0.5]).unwrap();
        assert!(choice.spilled && candidates[choice.index].distance == Distance::OtherSite);
        let off_budget = Request { may_cross: false, ..on_budget };
        let stays = choose(&candidates, &off_budget, &Headroom::default(), [0.1, 0.5]);
        assert!(stays.is_ok_and(|choice| candidates[choice.index].distance != Distance::OtherSite) == remaining_us.is_none());
    }
}

#[test]
fn a_site_with_fewer_than_half_of_its_replicas_healthy_leans_on_others_without_a_budget() {
    let mut candidates = spread();
    let go = |candidates: &[Candidate]| {
        let request = Request { may_cross: false, ..request(None) };
        let choose = |draw| choose(candidates, &request, &Headroom::default(), [draw, draw]).unwrap();
        (0..100).map(|draw| choose(f64::from(draw) / 100.0)).filter(|c| candidates[c.index].distance == Distance::OtherSite).count()
    };
    for standing in candidates.iter_mut().take(3).map(|c| &mut c.standing) {
        *standing = Standing::Unreachable;
    }
    assert_eq!(go(&candidates), 0, "half are left");
    candidates[3].standing = Standing::Doubtful;
    assert_eq!(go(&candidates), 60, "three of the five");
    candidates[3].standing = Standing::Excluded;
    assert_eq!(go(&candidates), 60, "two of five healthy: what a request does not want says nothing");
}

#[test]
fn an_uneven_replica_that_is_idle_is_not_refused_for_its_rare_slow_runs() {
    let uneven = Candidate { alpha_us: 20_000.0, kappa: 3.0, instances: 2, ..idle() };
    let check = |candidate: Candidate, remaining_us, is_taken: bool| {
        let choice = choose_at(&[candidate], Some(remaining_us), [0.5; 2]);
        assert_eq!(choice.is_ok(), is_taken, "{candidate:?} {remaining_us}: {choice:?}");
    };
    check(uneven, 60_000, true);
    check(uneven, 20_000, true);
    check(uneven, 19_999, false);
    check(Candidate { in_flight: 1, ..uneven }, 60_000, true);
    check(Candidate { in_flight: 2, ..uneven }, 60_000, false);
    check(Candidate { backlog_us: 1, ..uneven }, 60_000, false);
    check(Candidate { in_flight: 2, ..uneven }, 75_000, true);
}

/// An exact replica of 10 ms a row and a worse one of 3 ms, with so much to do before.
fn two_tiers(exact_backlog_us: u64, worse_backlog_us: u64) -> [Candidate; 2] {
    let exact = Candidate { alpha_us: 10_000.0, backlog_us: exact_backlog_us, ..idle() };
    [exact, Candidate { alpha_us: 3_000.0, backlog_us: worse_backlog_us, accuracy: 0.97, ..idle() }]
}

#[test]
fn the_most_accurate_tier_has_it_while_it_leaves_over_half_of_the_time() {
    assert_eq!(choose_at(&two_tiers(8_000, 0), Some(40_000), [0.1, 0.9]), Ok(0));
    assert_eq!(choose_at(&two_tiers(8_001, 0), Some(40_000), [0.1, 0.9]), Ok(1));
}

#[test]
fn where_no_tier_has_time_to_spare_the_earliest_answer_wins() {
    assert_eq!(choose_at(&two_tiers(20_000, 20_000), Some(40_000), [0.5; 2]), Ok(1));
    assert_eq!(choose_at(&two_tiers(12_000, 20_000), Some(40_000), [0.5; 2]), Ok(0));
    assert!(matches!(choose_at(&two_tiers(90_000, 90_000), Some(40_000), [0.5; 2]), Err(Refusal::Busy { .. })));
}

#[test]
fn the_latency_target_decides_the_tier_where_there_is_no_deadline_and_refuses_nothing() {
    let chosen = |candidates: &[Candidate], slo_us| {
        let request = Request { slo_us, ..request(None) };
        choose(candidates, &request, &Headroom::default(), [0.5; 2]).map(|choice| choice.index)
    };
    assert_eq!(chosen(&two_tiers(9_000, 0), Some(40_000.0)), Ok(1));
    assert_eq!(chosen(&two_tiers(9_000_000, 0), None), Ok(0), "nobody is in a hurry");
    assert_eq!(chosen(&two_tiers(9_000_000, 9_000_000), Some(40_000.0)), Ok(1));
    // A shorter deadline goes before the target.
    let request = Request { slo_us: Some(40_000.0), ..request(Some(20_000)) };
    assert_eq!(choose(&two_tiers(0, 0), &request, &Headroom::default(), [0.5; 2]).map(|c| c.index), Ok(1));
}

#[test]
fn a_better_tier_than_the_last_must_have_more_to_spare() {
    let after = |tier| {
        let request = Request { tier, ..request(Some(40_000)) };
        choose(&two_tiers(6_000, 0), &request, &Headroom::default(), [0.5; 2]).map(|choice| choice.index)
    };
    assert_eq!((after(1.0), after(0.97)), (Ok(0), Ok(1)));
}

#[test]
fn a_worse_variant_here_goes_before_a_better_one_in_another_site() {
    let [exact, worse] = two_tiers(0, 0);
    let far = Candidate { distance: Distance::OtherSite, ..exact };
    assert_eq!(choose_at(&[far, worse], Some(40_000), [0.5; 2]), Ok(1));
}

#[test]
fn what_was_sent_to_others_on_the_device_stands_before_it() {
    let [exact, worse] = two_tiers(0, 0);
    let beside = Candidate { beside_us: 5_000.0, senders: 2.0, ..exact };
    assert_eq!(beside.finish_us(&request(None)), 20_000.0);
    assert_eq!(choose_at(&[beside, worse], Some(40_000), [0.5; 2]), Ok(1));
}

proptest! {
    #[test]
    fn nothing_is_more_accurate_and_comfortable_than_what_is_taken_comfortably(
        mut candidates in prop::collection::vec(any_candidate(), 1..12),
        accuracies in prop::collection::vec(0usize..4, 12),
        remaining_us in 1u64..500_000,
        draws: [f64; 2],
    ) {
        candidates.iter_mut().zip(accuracies).for_each(|(c, a)| c.accuracy = [1.0, 0.99, 0.9, f64::NAN][a]);
        let request = request(Some(remaining_us));
        if let Ok(choice) = choose(&candidates, &request, &Headroom::default(), draws) {
            let chosen = candidates[choice.index];
            let alone: Vec<_> = candidates.iter().filter(|c| c.accuracy > accuracy(&chosen) && c.standing == chosen.standing).copied().collect();
            // Each better tier alone would not have had the time to spare with these draws either.
            let better = choose(&alone, &request, &Headroom::default(), draws);
            let near = alone.iter().all(|c| c.distance != Distance::OtherSite) && chosen.distance != Distance::OtherSite;
            if near && alone.iter().all(|c| c.accuracy == alone[0].accuracy) && let Ok(better) = better {
                let drawn = Field::new(&alone, &request).unwrap().drawn(alone[0].accuracy, draws);
                let best = drawn.into_iter().flatten().reduce(Entry::better).unwrap();
                let safe = 1.0 - Headroom::default().share();
                prop_assert!(!best.is_comfortable(COMFORT_TO_RISE, safe, remaining_us as f64), "{best:?} {better:?}");
            }
        }
    }
}

#[test]
fn a_tail_beyond_the_safe_part_keeps_a_tier_from_being_taken_and_one_within_it_does_not() {
    let with_tail = |kappa| {
        let [exact, worse] = two_tiers(0, 0);
        choose_at(&[Candidate { kappa, ..exact }, worse], Some(40_000), [0.5; 2])
    };
    assert_eq!((with_tail(2.0), with_tail(3.9)), (Ok(0), Ok(1)));
}

#[test]
fn planned_shares_lead_but_for_a_better_tier_that_has_nothing_to_do() {
    let planned = |exact_backlog_us, exact, worse| {
        let [a, b] = two_tiers(exact_backlog_us, 0);
        choose_at(&[Candidate { planned: exact, ..a }, Candidate { planned: worse, ..b }], Some(40_000), [0.5; 2])
    };
    assert_eq!(planned(5_000, 0.0, 100.0), Ok(1), "it is busy, and the plan means the other");
    assert_eq!(planned(5_000, 100.0, 0.0), Ok(0), "the plan means it");
    assert_eq!(planned(0, 0.0, 100.0), Ok(0), "it is free");
    assert_eq!(planned(12_000, 100.0, 0.0), Ok(0), "it is in time where the plan means it to be, though with little to spare");
    assert_eq!(planned(30_000, 100.0, 0.0), Ok(1), "the plan means one that has no time to spare");
    let [exact, worse] = two_tiers(0, 0);
    let seldom_free = [Candidate { spare: 0.3, ..exact }, Candidate { planned: 100.0, ..worse }];
    assert_eq!(choose_at(&seldom_free, Some(40_000), [0.5; 2]), Ok(1), "it is free, but seldom, and so meant for others");
    let [exact, worse] = two_tiers(30_000, 0);
    assert_eq!(choose_at(&[exact, Candidate { planned: 9.0, ..worse }], None, [0.5; 2]), Ok(0), "nobody is in a hurry");
}
