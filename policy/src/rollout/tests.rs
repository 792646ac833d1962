//! What a rollout promises, over whole rollouts with several gateways.

use super::*;
use crate::{Moment, Slo};
use proptest::prelude::*;

/// Draws from 0 up to, not including, 1 (splitmix64).
pub(super) struct Draws(pub(super) u64);

impl Draws {
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn rollout() -> Rollout {
    serde_json::from_value(serde_json::json!({ "candidate": { "variant": "int8@ort" }, "step_s": 60 })).unwrap()
}

fn guard(rollout: &Rollout) -> Guard {
    Guard::new(rollout, Some(0.995), &Slo { percentile: Some(99.0), ..Slo::default() })
}

/// A cluster under steady load: what becomes of its rollout.
struct World {
    rollout: Rollout,
    /// Chance that a pair disagrees.
    disagree: f64,
    /// Chance that an answer of the candidate, and of the baseline, is late.
    late: (f64, f64),
    draws: Draws,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { rollout: rollout(), disagree: 0.005, late: (0.01, 0.01), draws: Draws(seed) }
    }

    /// Runs until it ends, at most 20 minutes: seconds of each `Advance`, the last action with its second, and where it stands then.
    /// 200 requests a second come to three gateways, which take a second to notice a new look. Another controller leads every 100 seconds.
    fn run(&mut self) -> (Vec<u64>, Action, u64, Progress) {
        let guard = guard(&self.rollout);
        let (mut progress, mut steps, mut last) = (Progress::default(), Vec::new(), Action::Advance);
        let mut gateways = [(); 3].map(|()| (Counts::default(), Burn::new(self.rollout.step_s)));
        for second in 0..1_200 {
            let now = Moment::from_us(second * 1_000_000);
            for request in 0..200 {
                let (counts, burn) = &mut gateways[request % 3];
                let side = split(self.draws.next(), progress.weight(&self.rollout));
                let copied = mirrors(self.draws.next(), progress.shadow(&self.rollout));
                for answers in [Some(side), copied.then_some(side.other())].into_iter().flatten() {
                    let late = if answers == Side::Candidate { self.late.0 } else { self.late.1 };
                    burn.observe(now, answers, self.draws.next() < late);
                }
                if copied {
                    counts.pairs.observe(self.draws.next() < self.disagree);
                }
            }
            let reports = gateways.each_ref().map(|(counts, burn)| Counts { latency: burn.counts(now), ..*counts });
            for (counts, _) in &mut gateways {
                if counts.look != progress.look {
                    *counts = Counts { look: progress.look, ..Counts::default() };
                }
            }
            if second % 100 == 99 {
                progress = serde_json::from_slice(&serde_json::to_vec(&progress).unwrap()).unwrap();
            }
            last = progress.decide(&guard, now, 1_000 * second, &Counts::sum(progress.look, &reports));
            match &last {
                Action::Hold(_) => {}
                Action::Advance => steps.push(second),
                Action::Promote | Action::RollBack(_) => return (steps, last, second, progress),
            }
        }
        (steps, last, 1_200, progress)
    }
}

#[test]
fn a_good_candidate_is_promoted_step_by_step_with_its_evidence() {
    for seed in 0..10 {
        let (steps, action, end, progress) = World::new(seed).run();
        assert_eq!((steps.len(), action), (3, Action::Promote), "seed {seed}");
        let times: Vec<_> = [0].into_iter().chain(steps).chain([end]).collect();
        assert!(times.windows(2).all(|pair| (60..180).contains(&(pair[1] - pair[0]))), "{times:?}");
        let evidence = &progress.evidence;
        assert_eq!(evidence.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(evidence.iter().all(|e| e.verdict == Verdict::Holds && e.pairs.compared >= 500 && e.rate < 0.02), "{evidence:?}");
        assert_eq!(evidence.iter().map(|e| e.at_ms / 1_000).collect::<Vec<_>>(), times[1..], "each is of when its step was left");
        let bytes = serde_json::to_vec(&progress).unwrap().len();
        assert!(bytes < 4_096, "{bytes} bytes for a registry value");
        assert_eq!((progress.weight(&rollout()), progress.shadow(&rollout())), (1.0, 0.0));
    }
}

#[test]
fn a_candidate_that_disagrees_is_rolled_back_with_the_figures() {
    for seed in 0..20 {
        let mut world = World { disagree: 0.03, ..World::new(seed) };
        let (steps, action, end, progress) = world.run();
        let Action::RollBack(reason) = action else { panic!("seed {seed}: {action:?}") };
        assert!(steps.is_empty() && end < 60, "20 pairs a second: {end} s, {steps:?}");
        let last = progress.evidence.last().unwrap();
        let figures = format!("{} of {} compared pairs disagree", last.pairs.disagreed, last.pairs.compared);
        assert!(last.looks_held > 0 || reason.starts_with(&figures), "{reason}; {figures}");
        assert!(reason.contains("where 0.50 % are expected and 2.50 % are a fault"), "{reason}");
        assert_eq!((last.verdict, progress.weight(&world.rollout)), (Verdict::Faulty, 0.0));
    }
}

#[test]
fn a_slow_candidate_is_rolled_back_unless_the_baseline_is_slow_too() {
    let mut slow = World { late: (0.3, 0.01), ..World::new(1) };
    let (_, action, end, progress) = slow.run();
    assert!(matches!(&action, Action::RollBack(reason) if reason.contains("times what the objective allows")), "{action:?}");
    assert!(end < 60, "{end}");
    assert!(progress.evidence.last().is_some_and(|e| e.burn > 14.4 && e.burn_baseline < 3.0));
    let mut overload = World { late: (0.3, 0.3), ..World::new(1) };
    assert_eq!(overload.run().1, Action::Promote);
    let mut worse = World { late: (0.06, 0.01), ..World::new(1) };
    let (steps, action, ..) = worse.run();
    assert!(matches!(&action, Action::Hold(wait) if wait.contains("are late")), "no reason to stop, but none to go on: {action:?}");
    assert!(steps.is_empty(), "{steps:?}");
}

#[test]
fn without_copies_latency_decides_alone() {
    let mut world = World::new(1);
    world.rollout.shadow = 0.0;
    world.rollout.weights = vec![0.1, 1.0];
    assert_eq!(world.run().1, Action::Promote);
    world.rollout.pairs_min = 10_000;
    let (steps, action, ..) = world.run();
    assert!(matches!(&action, Action::Hold(wait) if wait.contains("of 10000 answers")), "{action:?}");
    assert!(steps.is_empty(), "{steps:?}");
}

/// Counts of a look in which `disagreed` of `compared` pairs disagree.
fn counts(look: u32, compared: u64, disagreed: u64) -> Counts {
    Counts { look, pairs: Pairs { compared, disagreed }, ..Counts::default() }
}

#[test]
fn no_step_is_left_while_the_evidence_leans_to_a_fault() {
    let (mut progress, guard) = (Progress::default(), guard(&rollout()));
    let at = |seconds: u64| Moment::from_us(seconds * 1_000_000);
    assert!(matches!(progress.decide(&guard, at(0), 0, &counts(1, 1_000, 5)), Action::Hold(_)));
    assert_eq!((progress.look, progress.looks_held), (2, 1), "it held, and the next look begins");
    let leaning = progress.decide(&guard, at(60), 0, &counts(2, 100, 2));
    assert!(matches!(&leaning, Action::Hold(wait) if wait.contains("lean to a fault")), "{leaning:?}");
    assert_eq!(progress.decide(&guard, at(61), 0, &counts(2, 300, 2)), Action::Advance);
    assert_eq!((progress.step, progress.look, progress.looks_held), (1, 3, 0));
    let late = progress.decide(&guard, at(62), 0, &counts(2, 300, 200));
    assert!(matches!(late, Action::Hold(_)), "those pairs are of a look that is over: {late:?}");
}

#[test]
fn time_without_a_controller_does_not_count() {
    let (mut progress, guard) = (Progress::default(), guard(&rollout()));
    let held = counts(1, 1_000, 5);
    progress.decide(&guard, Moment::from_us(5_000_000), 0, &held);
    progress.decide(&guard, Moment::from_us(45_000_000), 0, &held);
    let mut next: Progress = serde_json::from_value(serde_json::to_value(&progress).unwrap()).unwrap();
    let wait = next.decide(&guard, Moment::from_us(9_000_000_000), 0, &counts(next.look, 0, 0));
    assert_eq!(wait, Action::Hold("step 1 of 4 holds for 20 s more".to_owned()));
    assert_eq!(next.decide(&guard, Moment::from_us(9_020_000_000), 0, &counts(next.look, 0, 0)), Action::Advance);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_is_counted_it_goes_one_step_at_a_time_and_ends_once(
        seen in prop::collection::vec((0u64..90, 0u64..1_500, 0u64..20, 0u64..500, 0u64..80, any::<bool>()), 1..80),
    ) {
        let (rollout, mut progress, mut now, mut entered) = (rollout(), Progress::default(), 0, 0);
        let guard = guard(&rollout);
        for (gap, compared, disagreed, total, late, stale) in seen {
            now += gap;
            let mut counts = counts(progress.look - u32::from(stale), compared, disagreed.min(compared));
            counts.latency.candidate.long = Answers { total, late: late.min(total) };
            let before = progress.clone();
            let action = progress.decide(&guard, Moment::from_us(now * 1_000_000), now, &counts);
            let (was, is) = (before.weight(&rollout), progress.weight(&rollout));
            prop_assert!(progress.look >= before.look && progress.evidence.len() <= rollout.weights.len());
            match &action {
                Action::Hold(_) => prop_assert_eq!((was, progress.end.clone()), (is, None)),
                Action::Advance => {
                    prop_assert!(progress.step == before.step + 1 && is > was && now - entered >= 60, "{:?}", progress);
                    prop_assert!(progress.evidence.last().is_some_and(|e| e.looks_held > 0 && e.pairs.compared >= 500));
                    entered = now;
                }
                Action::Promote => prop_assert_eq!((progress.step, is), (3, 1.0)),
                Action::RollBack(_) => prop_assert_eq!(is, 0.0),
            }
            if before.end.is_some() {
                prop_assert_eq!((&progress.end, &progress.evidence), (&before.end, &before.evidence));
                prop_assert!(matches!(action, Action::Promote | Action::RollBack(_)));
            }
        }
    }

    #[test]
    fn gateways_may_report_in_any_order_and_old_looks_do_not_count(reports in prop::collection::vec((1u32..3, 0u64..1_000, 0u64..9), 0..9)) {
        let reports: Vec<_> = reports.into_iter().map(|(look, compared, disagreed)| counts(look, compared, disagreed)).collect();
        let sum = Counts::sum(2, &reports);
        prop_assert_eq!(sum, Counts::sum(2, reports.iter().rev()));
        prop_assert_eq!(sum.pairs.compared, reports.iter().filter(|r| r.look == 2).map(|r| r.pairs.compared).sum::<u64>());
    }
}

#[test]
fn shares_are_kept_and_pairs_come_at_any_weight() {
    for weight in [0.0, 0.01, 0.5, 1.0] {
        let (mut draws, mut candidate, mut pairs) = (Draws(7), 0, 0);
        for _ in 0..100_000 {
            let side = split(draws.next(), weight);
            let copied = mirrors(draws.next(), 0.1);
            candidate += i32::from(side == Side::Candidate);
            pairs += i32::from(copied && [side, side.other()].contains(&Side::Candidate));
        }
        assert!((f64::from(candidate) / 1e5 - weight).abs() < 0.005, "{candidate} at {weight}");
        assert!((f64::from(pairs) / 1e5 - 0.1).abs() < 0.005, "{pairs} at {weight}");
    }
    assert_eq!((split(0.0, 0.0), mirrors(0.0, 0.0), split(0.999_999, 1.0)), (Side::Baseline, false, Side::Candidate));
}

#[test]
fn problems_name_their_fields_and_the_defaults_have_none() {
    assert_eq!(rollout().problems(), [""; 0]);
    let check = |field: &str, change: &dyn Fn(&mut Rollout)| {
        let mut changed = rollout();
        change(&mut changed);
        let problems = changed.problems();
        assert!(problems.len() == 1 && problems[0].starts_with(&format!("{field}: ")), "{field}: {problems:?}");
    };
    check("weights", &|r| r.weights.clear());
    check("weights", &|r| r.weights = (0..17).map(|n| f64::from(n) / 17.0).collect());
    check("weights", &|r| r.weights = vec![0.5, 0.5]);
    check("weights", &|r| r.weights = vec![0.5, 1.5]);
    check("weights", &|r| r.weights = vec![f64::NAN]);
    check("weights", &|r| (r.weights, r.shadow) = (vec![0.0, 1.0], 0.0));
    check("shadow", &|r| r.shadow = 1.1);
    check("null_rate", &|r| r.null_rate = Some(-0.1));
    check("null_rate", &|r| r.candidate = Candidate::Version(Version::parse("2").unwrap()));
    check("margin", &|r| r.margin = 0.0);
    check("margin", &|r| r.null_rate = Some(0.99));
    check("error_rate", &|r| r.error_rate = 0.5);
    check("step_s", &|r| r.step_s = 0);
    check("cosine_min", &|r| r.cosine_min = f64::NAN);
    let shadowed = Rollout { weights: vec![0.0], shadow: 1.0, ..rollout() };
    assert_eq!(shadowed.problems(), [""; 0]);
    let mut text = serde_json::to_value(rollout()).unwrap();
    assert_eq!(serde_json::from_value::<Rollout>(text.clone()).unwrap(), rollout());
    let near = Rollout { margin: rollout().margin + 1e-17, null_rate: Some(0.1), ..rollout() };
    assert!(near.is(&Rollout { null_rate: Some(0.1), ..rollout() }) && !near.is(&rollout()));
    let others: [fn(&mut Rollout); 4] = [|r| r.weights[0] = 0.5, |r| r.shadow = 0.2, |r| r.step_s = 61, |r| _ = r.weights.pop()];
    for change in others {
        let mut changed = rollout();
        change(&mut changed);
        assert!(!changed.is(&rollout()), "{changed:?}");
    }
    text["shadows"] = 0.5.into();
    assert!(serde_json::from_value::<Rollout>(text).unwrap_err().to_string().contains("unknown field `shadows`"));
    assert_eq!((rollout().null(Some(0.98)) * 1e6).round(), 2e4);
    assert_eq!(Rollout { null_rate: Some(0.1), ..rollout() }.null(Some(0.98)), 0.1);
}
