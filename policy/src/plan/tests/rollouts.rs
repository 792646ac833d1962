//! Both sides of a rollout are kept until it ends; then what won.

use super::variants::{ready, with_variant};
use super::*;
use crate::rollout::{Answers, Counts, End, Pairs, Rollout};
use crate::{Counted, CountsRecord, Moment, Phase, RolloutRecord};
use serde_json::json;

fn rollout(fields: serde_json::Value) -> Rollout {
    let mut all = json!({ "null_rate": 0.005, "weights": [0.5], "step_s": 10, "pairs_min": 100 });
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn to_version(number: u64) -> Rollout {
    rollout(json!({ "candidate": { "version": number } }))
}

/// A cluster with a leader, whose clock a test sets.
struct Led {
    sim: Sim,
    rollouts: Rollouts,
    second: u64,
}

impl Led {
    fn new(workers: Vec<WorkerRecord>, versions: Vec<VersionRecord>, model: ModelRecord) -> Self {
        let mut led = Self { sim: Sim::new(workers, versions, vec![model]), rollouts: Rollouts::default(), second: 0 };
        led.settle();
        led
    }

    /// Leads, plans and works until nothing changes.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.look(0);
            self.sim.settle();
        }
    }

    fn look(&mut self, seconds: u64) {
        self.second += seconds;
        let now = Moment::from_us(self.second * 1_000_000);
        self.rollouts.look(&self.sim.observed, &self.sim.wanted, 7, now, self.second * 1_000);
        self.sim.observed.rollouts = self.rollouts.records().map(|r| (r.model.clone(), r.clone())).collect();
    }

    fn record(&self) -> &RolloutRecord {
        self.rollouts.records().next().unwrap()
    }

    /// A gateway tells that it compared so many pairs of the rollout `id`.
    fn count(&mut self, id: i64, compared: u64, disagreed: u64) {
        let counts = Counts { look: self.record().progress.look, pairs: Pairs { compared, disagreed }, ..Counts::default() };
        let models = [(ModelName::new("m").unwrap(), Counted { rollout: id, counts })].into();
        let record = CountsRecord { schema: crate::SCHEMA, gateway: "g".to_owned(), models, unknown: Unknown::new() };
        self.sim.observed.counts = vec![record];
    }

    fn ready(&self) -> [usize; 3] {
        [1, 2, 3].map(|number| self.sim.ready("m", Some(number)).len())
    }
}

fn workers() -> Vec<WorkerRecord> {
    ["a", "b", "c"].map(|id| worker(id, id, 100)).into()
}

fn versions() -> Vec<VersionRecord> {
    vec![version("m", 1, 1, 10), version("m", 2, 2, 10)]
}

fn wanting(rollout: Rollout) -> ModelRecord {
    ModelRecord { rollout: Some(rollout), ..model("m") }
}

#[test]
fn both_versions_are_loaded_while_it_runs_and_then_the_one_that_won() {
    for (disagreed, phase, left) in [(0, Phase::Promoted, [0, 2, 0]), (200, Phase::RolledBack, [2, 0, 0])] {
        let mut led = Led::new(workers(), versions(), wanting(to_version(2)));
        assert_eq!((led.ready(), led.record().phase(), led.record().weight), ([2, 2, 0], Phase::Runs, 0.5));
        assert_eq!(led.record().baseline.map(u64::from), Some(1));
        led.sim.add_version(version("m", 3, 3, 10));
        led.settle();
        assert_eq!(led.ready(), [2, 2, 0], "no version takes over by being newer");
        led.count(led.record().id, 1_000, disagreed);
        led.look(11);
        led.look(11);
        led.settle();
        assert_eq!((led.record().phase(), led.ready()), (phase, left), "{:?}", led.record());
        assert_eq!((led.record().progress.evidence.len(), led.record().shadow, &led.record().waits), (1, 0.0, &None));
        led.sim.model("m").rollout = None;
        led.settle();
        assert_eq!((led.ready(), led.rollouts.records().count()), ([0, 0, 2], 0), "without a rollout the newest is served");
    }
}

#[test]
fn versions_that_are_named_stay_but_for_the_one_that_lost() {
    for (disagreed, left) in [(0, [2, 2, 0]), (200, [2, 0, 2])] {
        let all = [versions(), vec![version("m", 3, 3, 10)]].concat();
        let named = ["1", "3"].map(|n| Version::parse(n).unwrap()).into();
        let asked = ModelRecord { versions: named, ..wanting(to_version(2)) };
        let mut led = Led::new(workers(), all, asked);
        assert_eq!((led.ready(), led.record().baseline.map(u64::from)), ([2, 2, 2], Some(3)));
        led.count(led.record().id, 1_000, disagreed);
        led.look(11);
        led.look(11);
        led.settle();
        assert_eq!(led.ready(), left);
    }
}

#[test]
fn nothing_is_split_before_both_sides_could_answer() {
    let mut led = Led::new(workers(), vec![version("m", 1, 1, 10)], wanting(to_version(2)));
    assert_eq!((led.record().phase(), led.record().weight, led.record().shadow), (Phase::Waits, 0.0, 0.0));
    assert_eq!((led.ready(), led.record().waits.as_deref()), ([2, 0, 0], Some("no worker offers version 2")));
    assert_eq!(progress_of(&led.sim, "m"), Progress::Unknown("no worker offers version 2 of model `m`".to_owned()));
    led.sim.add_version(version("m", 2, 2, 1_000));
    led.settle();
    assert_eq!(led.record().waits.as_deref(), Some("version 2 has no replica that is ready yet"));
    assert_eq!(led.ready(), [2, 0, 0], "there is no room for it, and it replaces nothing");
    let mut alone = Led::new(workers(), vec![version("m", 2, 2, 10)], wanting(to_version(2)));
    alone.look(60);
    assert!(alone.record().waits.as_deref().is_some_and(|w| w.contains("take over from nobody")), "{:?}", alone.record());
}

#[test]
fn a_new_leader_goes_on_and_a_changed_rollout_begins_anew() {
    let mut led = Led::new(workers(), versions(), wanting(Rollout { weights: vec![0.1, 0.5], ..to_version(2) }));
    let first = led.record().id;
    led.count(first, 1_000, 0);
    led.look(11);
    led.look(11);
    assert_eq!((led.record().progress.step, led.record().weight), (1, 0.5));
    let before = led.record().clone();
    let text = serde_json::to_vec(&before).unwrap();
    led.sim.observed.rollouts = [(before.model.clone(), serde_json::from_slice(&text).unwrap())].into();
    led.rollouts = Rollouts::default();
    led.look(1);
    assert_eq!((led.record().id, led.record().progress.step, led.record().progress.evidence.len()), (first, 1, 2));

    led.sim.model("m").rollout = Some(Rollout { weights: vec![0.2, 0.5], ..to_version(2) });
    led.look(1);
    assert_eq!((led.record().progress.step, led.record().progress.evidence.len(), led.record().weight), (0, 1, 0.2));
    assert!(led.record().id > first);
    led.count(first, 1_000, 900);
    led.look(11);
    assert_eq!(
        (led.record().phase(), led.record().progress.evidence[0].pairs),
        (Phase::Runs, Pairs::default()),
        "counts of the one before"
    );

    let second = led.record().id;
    let again = led.sim.observed.versions.iter_mut().find(|v| u64::from(v.version) == 2).unwrap();
    again.artifact = Digest::new(format!("{:064x}", 9)).unwrap();
    led.look(1);
    assert!(led.record().id > second && led.record().weight == 0.0, "other files are another candidate: {:?}", led.record());
    let third = led.record().id;
    led.sim.really.insert(Digest::new(format!("{:064x}", 9)).unwrap(), 10);
    led.settle();
    assert_eq!((led.record().id, led.record().weight), (third, 0.2), "which begins when it is loaded");
}

#[test]
fn what_both_sides_lost_at_once_is_held_against_neither() {
    let mut led = Led::new(workers(), versions(), wanting(Rollout { weights: vec![0.1, 0.5], ..to_version(2) }));
    led.count(led.record().id, 1_000, 0);
    led.look(11);
    led.look(11);
    let id = led.record().id;
    let stands = |led: &Led| (led.record().id, led.record().phase(), led.record().progress.step, led.record().weight);
    assert_eq!(stands(&led), (id, Phase::Runs, 1, 0.5));
    led.sim.model("m").wanted = false;
    led.settle();
    assert_eq!((stands(&led), led.ready()), ((id, Phase::Waits, 1, 0.0), [0, 0, 0]));
    assert_eq!(led.record().waits.as_deref(), Some("the model is unloaded"));
    led.sim.model("m").wanted = true;
    led.look(1);
    assert_eq!(stands(&led), (id, Phase::Waits, 1, 0.0));
    led.settle();
    assert_eq!(stands(&led), (id, Phase::Runs, 1, 0.5));

    // The whole cluster starts again, its leader first.
    let replicas = std::mem::take(&mut led.sim.observed.replicas);
    led.rollouts = Rollouts::default();
    led.look(1);
    assert_eq!(stands(&led), (id, Phase::Waits, 1, 0.0));
    led.sim.observed.replicas = replicas;
    led.look(1);
    assert_eq!(stands(&led), (id, Phase::Runs, 1, 0.5));
    // One side alone, under a leader that saw both: a gateway counts that against it.
    led.sim.observed.replicas.retain(|r| u64::from(r.variant.version) == 1);
    led.look(1);
    assert_eq!(stands(&led), (id, Phase::Runs, 1, 0.5));
}

#[test]
fn without_news_a_record_stays_as_it_is_for_some_seconds() {
    let mut led = Led::new(workers(), versions(), wanting(to_version(2)));
    led.look(6);
    let seen = led.record().clone();
    led.look(1);
    assert_eq!(*led.record(), seen);
    led.look(5);
    assert_ne!(*led.record(), seen);
    let seen = led.record().clone();
    led.count(seen.id, 10, 0);
    led.look(0);
    assert_eq!(led.record().progress.evidence[0].pairs.compared, 10);
    led.sim.observed.counts[0].models.values_mut().for_each(|c| c.counts.latency.candidate.long = Answers { total: 500, late: 500 });
    led.sim.observed.counts[0].models.values_mut().for_each(|c| c.counts.latency.candidate.short = Answers { total: 50, late: 50 });
    led.look(0);
    assert!(matches!(led.record().progress.end, Some(End::RolledBack(_))), "{:?}", led.record());
}

#[test]
fn a_variant_that_is_to_take_over_is_loaded_though_nobody_knows_that_it_pays_and_goes_when_it_lost() {
    for (disagreed, left) in [(0, 2), (200, 0)] {
        let candidate = rollout(json!({ "candidate": { "variant": "int8@ort" } }));
        let mut led = Led::new(workers(), vec![with_variant("int8@ort", 5, None)], wanting(candidate));
        assert_eq!((ready(&led.sim, "int8@ort").len(), ready(&led.sim, "fp32@ort").len(), led.record().phase()), (2, 2, Phase::Runs));
        led.count(led.record().id, 1_000, disagreed);
        led.look(11);
        led.look(11);
        led.settle();
        assert_eq!((ready(&led.sim, "int8@ort").len(), ready(&led.sim, "fp32@ort").len()), (left, 2));
    }
}

#[test]
fn requests_of_both_sides_are_planned_for_by_their_weight() {
    let check = |rollout: Rollout, versions: Vec<VersionRecord>, expected: &[(&str, f64)]| {
        let mut asked = wanting(rollout);
        (asked.expected_rate, asked.slo.latency_ms) = (Some(100.0), Some(1_000));
        let mut led = Led::new(workers(), versions, model("m"));
        *led.sim.model("m") = asked;
        for _ in 0..12 {
            led.look(0);
            led.sim.plan_once();
            led.sim.work(|| true);
        }
        let mut rates: BTreeMap<String, f64> = BTreeMap::new();
        for share in led.sim.plan.models.iter().flat_map(|m| &m.shares) {
            *rates.entry(format!("{}:{}", share.variant.version, share.variant.name)).or_default() += share.rate;
        }
        let rates: Vec<_> = rates.iter().map(|(variant, rate)| (variant.as_str(), rate.round())).collect();
        assert_eq!((led.record().phase(), &rates[..]), (Phase::Runs, expected), "{:?}", led.record());
    };
    let quarter = |rollout: Rollout| Rollout { weights: vec![0.25], ..rollout };
    check(quarter(to_version(2)), versions(), &[("1:fp32@ort", 75.0), ("2:fp32@ort", 25.0)]);
    let variant = rollout(json!({ "candidate": { "variant": "int8@ort" } }));
    check(quarter(variant), vec![with_variant("int8@ort", 5, None)], &[("1:fp32@ort", 75.0), ("1:int8@ort", 25.0)]);
}
