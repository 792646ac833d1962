//! Placement and choice by latency objectives, against what others do: two fleets, a load from a third of what references alone could do to
//! three times that, and a crowd. All of it in virtual time.

mod fleets;
mod live;

pub(crate) use live::run as measured;

use crate::report::{Bound, Report, Samples};
use loadtest::sim::placed::{Outcome, PlacedFleet, Policy, Stretch, best_single, script, simulate};
use loadtest::{Chart, LoadError, Script};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Loads, as a share of what the references alone could answer.
const LEVELS: [f64; 10] = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0];
/// Seconds before what is counted.
const WARM_UP_S: f64 = 20.0;
/// Devices, models, and seconds of each level.
const FLEETS: [(u32, usize, f64); 2] = [(12, 6, 30.0), (60, 20, 10.0)];
/// Where the crowd comes: load before, when, how long, which models, and how many times their share.
const CROWD: (f64, f64, f64, [usize; 3], f64) = (0.4, 60.0, 60.0, [2, 4, 5], 8.0);
/// Seconds over which the share in time counts as back.
const BACK_S: usize = 5;
/// Of each epoch.
const EPOCH_S: f64 = 10.0;

/// A policy over a ramp.
struct Ramp {
    fleet: usize,
    described: PlacedFleet,
    bursty: bool,
    policy: Policy,
    script: Script,
}

/// The ramps and crowds in virtual time.
pub(crate) fn simulated(report: &mut Report) -> anyhow::Result<Vec<Chart>> {
    let started = Instant::now();
    report.note(crate::simulated::SIMULATED);
    report.note(
        "load 1 is what the fleet answers by references alone; effective accuracy counts an answer in time by its accuracy, all else as 0",
    );
    let fleets: Vec<PlacedFleet> = FLEETS.iter().map(|(devices, models, _)| fleets::fleet(*devices, *models)).collect();
    let ramps = ramps(&fleets)?;
    let outcomes = all(&ramps, |ramp| simulate(&ramp.described, &ramp.policy, &ramp.script))?;
    let mut pictures = Vec::new();
    let (mut floors, mut executions, mut in_tail) = (0, 0, 0);
    for (fleet, (devices, models, level_s)) in FLEETS.into_iter().enumerate() {
        for bursty in [false, true] {
            let name = format!("{devices} devices, {models} models, {}", if bursty { "bursts" } else { "Poisson" });
            let mine: Vec<(&Policy, &Outcome)> = ramps
                .iter()
                .zip(&outcomes)
                .filter(|(ramp, _)| ramp.fleet == fleet && ramp.bursty == bursty)
                .map(|(ramp, outcome)| (&ramp.policy, outcome))
                .collect();
            judge(&name, &mine, level_s, report);
            pictures.extend(picture(&name, &mine, level_s));
            floors += mine.iter().map(|(_, outcome)| outcome.between(0, usize::MAX).below_floor).sum::<u64>();
            executions += mine.first().map_or(0, |(_, outcome)| outcome.executions);
            in_tail += mine.first().map_or(0, |(_, outcome)| outcome.in_tail);
        }
    }
    report.target("answers below their floor, all policies", floors as f64, Bound::AtMost(0.0), "requests");
    let covered = 100.0 * in_tail as f64 / executions.max(1) as f64;
    report.row("sluice: batches", &one(executions as f64), "executions");
    report.target("sluice: batches within their predicted p99", covered, Bound::AtLeast(98.5), "% of executions");
    report.target("sluice: batches within their predicted p99", covered, Bound::AtMost(99.5), "% of executions");
    for (fleet, (devices, ..)) in fleets.iter().zip(FLEETS) {
        pictures.push(crowd(fleet, devices, report)?);
    }
    report.target("bench slo --sim took", started.elapsed().as_secs_f64() / 60.0, Bound::AtMost(20.0), "minutes");
    Ok(pictures)
}

fn one(value: f64) -> Samples {
    std::iter::once(value).collect()
}

fn ramps(fleets: &[PlacedFleet]) -> anyhow::Result<Vec<Ramp>> {
    let mut kinds = Vec::new();
    for (fleet, (described, (.., level_s))) in fleets.iter().zip(FLEETS).enumerate() {
        for bursty in [false, true] {
            kinds.push((fleet, described, level_s, bursty));
        }
    }
    let mean = LEVELS.iter().sum::<f64>() / LEVELS.len() as f64;
    let singles = all(&kinds, |(_, described, _, bursty)| {
        let stretch = Stretch { seconds: 15.0, rate: mean * described.capacity(), crowd: Vec::new() };
        best_single(described, &script(described, &[stretch], *bursty, Duration::from_secs(3), 2))
    })?;
    let mut ramps = Vec::new();
    for ((fleet, described, level_s, bursty), single) in kinds.into_iter().zip(singles) {
        let script = ramp(described, level_s, bursty);
        let policies = [
            Policy::Sluice,
            Policy::BestSingle(single),
            Policy::Fastest,
            Policy::StaticMean,
            Policy::Infaas,
            Policy::Proteus,
            Policy::Random,
        ];
        ramps.extend(policies.map(|policy| Ramp { fleet, described: described.clone(), bursty, policy, script: script.clone() }));
    }
    Ok(ramps)
}

fn ramp(fleet: &PlacedFleet, level_s: f64, bursty: bool) -> Script {
    let capacity = fleet.capacity();
    let warm_up = std::iter::once((WARM_UP_S, LEVELS.first().copied().unwrap_or(1.0)));
    let stretches = warm_up.chain(LEVELS.map(|level| (level_s, level)));
    let stretches: Vec<Stretch> =
        stretches.map(|(seconds, level)| Stretch { seconds, rate: level * capacity, crowd: Vec::new() }).collect();
    script(fleet, &stretches, bursty, Duration::from_secs_f64(WARM_UP_S), 1)
}

/// What `work` makes of each of `items`, over the cores of this machine, in their order.
fn all<I: Sync, O: Send>(items: &[I], work: impl Fn(&I) -> Result<O, LoadError> + Sync) -> Result<Vec<O>, LoadError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let outcome = work(item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// In time and effective accuracy of each level, in per cent.
fn levels(outcome: &Outcome, level_s: f64) -> Vec<(f64, f64)> {
    let at = |level: usize| (WARM_UP_S + level as f64 * level_s) as usize;
    let tally = |level: usize| outcome.between(at(level), at(level + 1));
    (0..LEVELS.len()).map(tally).map(|tally| (tally.in_time_percent(), tally.accuracy_percent())).collect()
}

/// Rows and targets of one fleet and kind of arrivals; ours comes first, A second, B third.
fn judge(name: &str, outcomes: &[(&Policy, &Outcome)], level_s: f64, report: &mut Report) {
    for (policy, outcome) in outcomes {
        let by_level = levels(outcome, level_s);
        for (level, (in_time, accuracy)) in LEVELS.iter().zip(&by_level) {
            report.row(format!("{name}, load {level}: {policy}"), &one(*in_time), "% in time");
            report.row(format!("{name}, load {level}: {policy}"), &one(*accuracy), "% effective accuracy");
        }
        let overall = outcome.between(WARM_UP_S as usize, usize::MAX);
        let seconds = level_s * LEVELS.len() as f64;
        report.row(format!("{name}, overall: {policy}"), &one(overall.in_time_percent()), "% in time");
        report.row(format!("{name}, overall: {policy}"), &one(overall.accuracy_percent()), "% effective accuracy");
        report.row(format!("{name}, overall: {policy}"), &one(overall.in_time as f64 / seconds), "in time a second");
        let loads = outcome.loads as f64 / ((seconds + WARM_UP_S) / EPOCH_S);
        report.row(format!("{name}, overall: {policy}"), &one(loads), "loads in 10 s");
    }
    let by_policy: Vec<ByLevel> = outcomes.iter().map(|(policy, outcome)| (policy.to_string(), levels(outcome, level_s))).collect();
    compare(name, &by_policy, report);
}

/// A policy, and of each level what was in time and the effective accuracy, in per cent.
type ByLevel = (String, Vec<(f64, f64)>);

/// Targets of ours, which comes first, beside A, B and the others.
fn compare(name: &str, by_policy: &[ByLevel], report: &mut Report) {
    let [(_, ours), (_, a), (_, b), ..] = by_policy else { return };
    let where_a = ours.iter().zip(a).filter(|(_, a)| a.0 >= 90.0).map(|(ours, _)| ours.0);
    report.target(
        format!("{name}: sluice where best-single gives 90 %, worst level"),
        where_a.fold(100.0, f64::min),
        Bound::AtLeast(99.0),
        "% in time",
    );
    let under_b = ours.iter().zip(b).map(|(ours, b)| b.0 - ours.0).fold(0.0, f64::max);
    report.target(format!("{name}: sluice under fastest, worst level"), under_b, Bound::AtMost(1.0), "points in time");
    for (policy, theirs) in by_policy.iter().skip(1) {
        let behind = ours.iter().zip(theirs).map(|(ours, theirs)| theirs.1 - ours.1).fold(0.0, f64::max);
        report.target(format!("{name}: sluice under {policy}, worst level"), behind, Bound::AtMost(0.1), "points of effective accuracy");
    }
}

fn picture(name: &str, outcomes: &[(&Policy, &Outcome)], level_s: f64) -> Vec<Chart> {
    let over_load = |value: fn(&(f64, f64)) -> f64| {
        let line = |(policy, outcome): &(&Policy, &Outcome)| {
            let points = LEVELS.iter().zip(levels(outcome, level_s)).map(|(level, both)| (*level, value(&both))).collect();
            (policy.to_string(), points)
        };
        outcomes.iter().map(line).collect()
    };
    let line = |(policy, outcome): &(&Policy, &Outcome)| {
        let seconds = outcome.seconds.len().saturating_sub(1);
        let points = (0..seconds / BACK_S).map(|i| {
            let tally = outcome.between(i * BACK_S, (i + 1) * BACK_S);
            ((i * BACK_S) as f64, tally.in_time_percent())
        });
        (policy.to_string(), points.collect())
    };
    let over_time = outcomes.iter().map(line).collect();
    let chart = |title: String, unit, lines| Chart { title, unit, from: 0.0, to: 100.0, lines };
    vec![
        chart(format!("SIMULATED {name}: % in time over load"), "", over_load(|both| both.0)),
        chart(format!("SIMULATED {name}: effective accuracy in % over load"), "", over_load(|both| both.1)),
        chart(format!("SIMULATED {name}: % in time over time"), " s", over_time),
    ]
}

/// Eight times as much of three models at once: how long until all is in time again.
fn crowd(fleet: &PlacedFleet, devices: u32, report: &mut Report) -> Result<Chart, LoadError> {
    let (load, at_s, length_s, models, more) = CROWD;
    let rate = load * fleet.capacity();
    let calm = Stretch { seconds: at_s, rate, crowd: Vec::new() };
    let crowded = Stretch { seconds: length_s, rate, crowd: models.map(|model| (model, more)).to_vec() };
    let outcome = simulate(fleet, &Policy::Sluice, &script(fleet, &[calm, crowded], false, Duration::from_secs(20), 3))?;
    let (from, to) = (at_s as usize, (at_s + length_s) as usize);
    let is_back = |second: usize| outcome.between(second, second + BACK_S).in_time_percent() >= 99.0;
    let back = (from..to.saturating_sub(BACK_S)).find(|second| is_back(*second)).map_or(length_s, |second| second as f64 - at_s);
    let load_s = fleet.models.iter().flat_map(|model| &model.variants).map(|variant| variant.load_s).fold(0.0, f64::max);
    let name = format!("{devices} devices: a crowd of {more} times on three models");
    report.row(format!("{name}, in its first 5 s"), &one(outcome.between(from, from + BACK_S).in_time_percent()), "% in time");
    report.row(format!("{name}, after 20 s"), &one(outcome.between(from + 20, to).in_time_percent()), "% in time");
    report.target(format!("{name}: 99 % in time again"), back, Bound::AtMost(2.0 * EPOCH_S + load_s), "seconds");
    let points = (0..to).map(|second| (second as f64, outcome.between(second, second + 1).in_time_percent())).collect();
    Ok(Chart {
        title: format!("SIMULATED {name}: % in time"),
        unit: " s",
        from: 0.0,
        to: 100.0,
        lines: vec![("sluice".to_owned(), points)],
    })
}
