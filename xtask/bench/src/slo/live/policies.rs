//! Who chooses: Sluice, or one of the baselines, which pin each request to a variant before it is sent. Replicas and router are the same
//! for all.

use super::fleet::{Live, Model};
use super::send::{Cell, send};
use crate::report::Report;
use loadtest::schedule::Due;
use loadtest::{Arrivals, Ask, Mix, Pace, Script};
use std::fmt;
use std::time::Duration;

/// Per cent of each model's requests that the single variants must answer in time.
const HELD: f64 = 99.0;
/// Time that single variants are tried for, and that is sent in front of it.
const TRIAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// Share of the workers' time that fixed shares may take up, so that requests are in time.
const USED_MAX: f64 = 0.85;
/// Fixed shares are tried in steps of one in so many.
const STEPS: usize = 10;

/// Of each model a variant, by its position.
type Choice = Vec<usize>;

/// Who chooses.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Policy {
    /// The gateway, told the deadline only.
    Sluice,
    /// The most accurate variants that hold at the mean load.
    BestSingle(Choice),
    /// The fastest allowed variants.
    Fastest(Choice),
    /// Drawn by shares that are best for the mean load, of each model for each variant.
    StaticMean(Vec<Vec<f64>>),
    /// Drawn from all that meet the floor.
    Random,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sluice => "sluice",
            Self::BestSingle(_) => "best-single",
            Self::Fastest(_) => "fastest",
            Self::StaticMean(_) => "static-mean",
            Self::Random => "random",
        })
    }
}

impl Policy {
    /// The variant that a request of `model`, by its position, is pinned to.
    fn pin(&self, model: usize, described: &Model, random: &mut fastrand::Rng) -> Option<usize> {
        match self {
            Self::Sluice => None,
            Self::BestSingle(choice) | Self::Fastest(choice) => choice.get(model).copied(),
            Self::StaticMean(shares) => {
                let (shares, mut point) = (shares.get(model)?, random.f64());
                let drawn = shares.iter().position(|share| {
                    point -= share;
                    point < 0.0
                });
                Some(drawn.unwrap_or_default())
            }
            Self::Random => {
                let allowed = allowed(described);
                allowed.get(random.usize(..allowed.len().max(1))).copied()
            }
        }
    }
}

/// Variants that meet the floor.
fn allowed(model: &Model) -> Vec<usize> {
    let meets = model.variants.iter().enumerate().filter(|(_, variant)| variant.accuracy >= model.floor);
    meets.map(|(position, _)| position).collect()
}

/// Ours, A and B first.
pub(super) async fn all(live: &Live, mean_load: f64, report: &mut Report) -> anyhow::Result<Vec<Policy>> {
    let rate = mean_load * live.capacity;
    let fastest = live.models.iter().map(fastest).collect();
    let (single, held) = best_single(live, rate).await?;
    let shares = shares(&live.models, live.workers.len() as f64, rate);
    let names = |choice: &Choice| {
        let name = |(model, position): (&Model, &usize)| model.variants.get(*position).map_or("none", |variant| &variant.name).to_owned();
        live.models.iter().zip(choice).map(name).collect::<Vec<_>>().join(" and ")
    };
    let held = if held { "hold 99 % in time there" } else { "have most in time there; none hold 99 %" };
    report.note(format!("best-single at the mean load of {mean_load:.2}: {}, which {held}; fastest: {}", names(&single), names(&fastest)));
    let share = |(model, shares): (&Model, &Vec<f64>)| {
        let each = model.variants.iter().zip(shares).map(|(variant, share)| format!("{} {share:.1}", variant.name));
        each.collect::<Vec<_>>().join(", ")
    };
    let told: Vec<String> = live.models.iter().zip(&shares).map(share).collect();
    report.note(format!("static-mean, by what was measured: {}", told.join("; ")));
    report.note(
        "baselines pin each request before it is sent, on the same warm replicas; INFaaS' rule and Proteus' objective decide by what only \
         a router or a controller sees, and are simulated (--sim)",
    );
    Ok(vec![Policy::Sluice, Policy::BestSingle(single), Policy::Fastest(fastest), Policy::StaticMean(shares), Policy::Random])
}

fn fastest(model: &Model) -> usize {
    let rate = |position: &usize| model.variants.get(*position).map_or(0.0, |variant| variant.rate);
    allowed(model).into_iter().max_by(|a, b| rate(a).total_cmp(&rate(b))).unwrap_or_default()
}

/// The most accurate of each model with which every model holds at `rate`, found by trying; and whether any do. Where none do, those that
/// had most in time.
async fn best_single(live: &Live, rate: f64) -> anyhow::Result<(Choice, bool)> {
    let mut choices: Vec<Choice> = vec![Vec::new()];
    for model in &live.models {
        let longer = |choice: &Choice| {
            let longer = |variant: usize| choice.iter().copied().chain([variant]).collect();
            allowed(model).into_iter().map(longer).collect::<Vec<Choice>>()
        };
        choices = choices.iter().flat_map(longer).collect();
    }
    let sum = |choice: &Choice, of: &dyn Fn(&Model, usize) -> f64| -> f64 {
        live.models.iter().zip(choice).map(|(model, variant)| of(model, *variant)).sum()
    };
    let accuracy = |choice: &Choice| sum(choice, &|m, v| m.share * m.variants.get(v).map_or(0.0, |variant| variant.accuracy));
    // More than all the time of the workers that run it is not tried.
    let shares: f64 = live.models.iter().map(|model| model.share).sum();
    let used = |choice: &Choice| {
        let of = |m: &Model, v: usize| m.variants.get(v).map_or(1.0, |variant| rate * m.share / shares / variant.rate.max(1.0));
        sum(choice, &of)
    };
    choices.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)).then(used(a).total_cmp(&used(b))));
    let (mut best, mut most) = (choices.iter().min_by(|a, b| used(a).total_cmp(&used(b))).cloned().unwrap_or_default(), 0.0);
    for choice in choices.iter().filter(|choice| used(choice) < 1.0) {
        let policy = Policy::BestSingle(choice.clone());
        let trial = trace(live, &policy, rate, TRIAL.1, TRIAL.0, 2);
        let sent = send(live, trial).await?;
        let of_model = |position: usize| {
            let asks = sent.asks.get(first(live, position)..first(live, position + 1)).unwrap_or_default();
            super::send::Told::of(asks, |_| 0.0).in_time_percent()
        };
        let worst = (0..live.models.len()).map(of_model).fold(100.0, f64::min);
        if worst >= HELD {
            return Ok((choice.clone(), true));
        }
        if worst > most {
            (best, most) = (choice.clone(), worst);
        }
    }
    Ok((best, false))
}

/// Shares of each model's variants that give most accuracy at `rate` within what `workers` can do; where nothing can be done in time, those
/// that take least.
fn shares(models: &[Model], workers: f64, rate: f64) -> Vec<Vec<f64>> {
    let all: f64 = models.iter().map(|model| model.share).sum();
    let mut plans: Vec<Plan> = vec![Plan::default()];
    for model in models {
        let options = splits(&allowed(model), model.variants.len(), STEPS);
        let longer =
            |plan: &Plan| options.iter().map(|split| plan.with(model, split, rate * model.share / all, workers)).collect::<Vec<_>>();
        plans = plans.iter().flat_map(longer).collect();
    }
    let fits = |plan: &&Plan| plan.time <= USED_MAX * workers && plan.special <= USED_MAX;
    let best = plans.iter().filter(fits).max_by(|a, b| a.accuracy.total_cmp(&b.accuracy).then(b.time.total_cmp(&a.time)));
    let least = plans.iter().min_by(|a, b| a.time.max(a.special).total_cmp(&b.time.max(b.special)));
    best.or(least).map(|plan| plan.shares.clone()).unwrap_or_default()
}

/// Shares that were tried, and what they take.
#[derive(Debug, Clone, Default)]
struct Plan {
    shares: Vec<Vec<f64>>,
    accuracy: f64,
    /// Workers' seconds a second.
    time: f64,
    /// Most of the time of the workers that run what not all do.
    special: f64,
}

impl Plan {
    fn with(&self, model: &Model, split: &[f64], rate: f64, workers: f64) -> Self {
        let mut plan = self.clone();
        for (variant, share) in model.variants.iter().zip(split) {
            let busy = rate * share / variant.rate.max(1.0);
            plan.accuracy += rate * share * variant.accuracy;
            plan.time += busy * variant.workers as f64;
            plan.special += if (variant.workers as f64) < workers { busy } else { 0.0 };
        }
        plan.shares.push(split.to_vec());
        plan
    }
}

/// All ways to split one among the variants at `positions`, of `count`, in steps of one in `steps`.
fn splits(positions: &[usize], count: usize, steps: usize) -> Vec<Vec<f64>> {
    let Some((first, rest)) = positions.split_first() else { return vec![vec![0.0; count]] };
    let mut all = Vec::new();
    let least = if rest.is_empty() { steps } else { 0 };
    for taken in least..=steps {
        for mut split in splits(rest, count, steps - taken) {
            split.iter_mut().skip(*first).take(1).for_each(|share| *share = taken as f64 / STEPS as f64);
            all.push(split);
        }
    }
    all
}

/// Of each model the kinds of its requests begin here: first without a pin, then pinned to each variant.
pub(super) fn first(live: &Live, model: usize) -> usize {
    live.models.iter().take(model).map(|model| 1 + model.variants.len()).sum()
}

/// The floor of a kind of request.
pub(super) fn floor(live: &Live, ask: usize) -> f64 {
    let model = (0..live.models.len()).rev().find(|model| first(live, *model) <= ask);
    model.and_then(|model| live.models.get(model)).map_or(0.0, |model| model.floor)
}

/// Poisson arrivals at `rate`, chosen for by `policy`. The same seed gives the same requests, whoever chooses.
pub(super) fn trace(live: &Live, policy: &Policy, rate: f64, warm_up: Duration, duration: Duration, seed: u64) -> Script {
    let kinds = |model: &Model| {
        let ask = |variant: &str| Ask { variant: variant.to_owned(), deadline_ms: Some(model.target_ms), ..Ask::of(model.name) };
        std::iter::once(ask("")).chain(model.variants.iter().map(|v| ask(&v.name))).collect::<Vec<_>>()
    };
    let asks = live.models.iter().flat_map(kinds).collect();
    let (mut which, mut pins) = (fastrand::Rng::with_seed(seed ^ 0x5eed), fastrand::Rng::with_seed(!seed));
    let all: f64 = live.models.iter().map(|model| model.share).sum();
    let moments = Arrivals::Poisson { rate }.moments(seed).map(Duration::from_secs_f64);
    let due = |at: Duration| {
        let mut point = which.f64() * all;
        let model = live.models.iter().position(|model| {
            point -= model.share;
            point < 0.0
        });
        let model = model.unwrap_or_default();
        let pin = live.models.get(model).and_then(|described| policy.pin(model, described, &mut pins));
        Due { at, ask: first(live, model) + pin.map_or(0, |variant| 1 + variant) }
    };
    let length = warm_up + duration;
    let dues: Vec<Due> = moments.take_while(|at| *at < length).map(due).collect();
    Script { mix: Mix { asks }, pace: Pace::Replay(dues.into()), warm_up, duration, seed }
}

/// Sends such a trace.
pub(super) async fn run(live: &Live, policy: &Policy, rate: f64, warm_up: Duration, length: Duration, seed: u64) -> anyhow::Result<Cell> {
    let sent = send(live, trace(live, policy, rate, warm_up, length, seed)).await?;
    Ok(Cell::of(&sent, |ask| floor(live, ask)))
}

#[cfg(test)]
mod tests {
    use super::super::fleet::Variant;
    use super::*;

    fn model(rates: &[f64]) -> Model {
        let accuracies = [1.0, 0.99, 0.9];
        let variant = |(rate, accuracy): (&f64, f64)| Variant { name: format!("v{rate}"), accuracy, workers: 2, rate: *rate };
        let variants = rates.iter().zip(accuracies).map(variant).collect();
        Model { name: "m", floor: 0.95, share: 1.0, target_ms: 10.0, variants }
    }

    #[test]
    fn splits_add_up_and_leave_out_what_is_not_allowed() {
        let all = splits(&[0, 2], 3, STEPS);
        assert_eq!(all.len(), STEPS + 1);
        assert!(all.iter().all(|split| (split.iter().sum::<f64>() - 1.0).abs() < 1e-9 && split[1] == 0.0), "{all:?}");
    }

    #[test]
    fn shares_are_as_accurate_as_there_is_time_for_and_keep_the_floor() {
        let models = [model(&[100.0, 200.0, 1_000.0])];
        assert_eq!(shares(&models, 2.0, 50.0), [[1.0, 0.0, 0.0]]);
        assert_eq!(shares(&models, 2.0, 125.0), [[0.3, 0.7, 0.0]], "the fastest is below the floor");
        assert_eq!(shares(&models, 2.0, 900.0), [[0.0, 1.0, 0.0]], "too much: what takes least");
        assert_eq!(fastest(&models[0]), 1);
    }
}
