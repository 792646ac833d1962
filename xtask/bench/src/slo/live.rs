//! The same on a cluster of this machine: real workers, real models with their real variants, requests over the network. A ramp that every
//! policy is given in turn at each level, and a worker that is slowed.

mod coverage;
mod fleet;
mod policies;
mod send;
mod slowdown;

use super::{ByLevel, compare, one};
use crate::Args;
use crate::report::{Bound, Report};
use fleet::Live;
use loadtest::Chart;
use policies::Policy;
use send::Cell;
use std::time::{Duration, Instant};

/// Loads, as a share of what references alone answer.
const LEVELS: [f64; 8] = [0.3, 0.6, 0.9, 1.2, 1.5, 2.0, 2.5, 3.0];
/// Times that the policies take turns at each level: what this machine does meanwhile should hit all of them.
const ROUNDS: u32 = 2;
/// Time of each turn that is sent and not counted.
const WARM_UP: Duration = Duration::from_secs(2);
/// Batches that the predicted tail is judged by, at least.
const EXECUTIONS_MIN: f64 = 5_000.0;
/// Intervals of a level in the picture over time.
const PARTS: usize = 5;

/// Runs it, `length` for each level and policy; what is to be drawn.
pub(crate) async fn run(args: &Args, length: Duration, report: &mut Report) -> anyhow::Result<Vec<Chart>> {
    let started = Instant::now();
    report.note("LIVE: gateway, controller, etcd, workers and client share this machine; everything was measured");
    report.note(
        "effective accuracy counts an answer in time by its accuracy, all else as 0; in time, late, refused are shares of what was offered",
    );
    let live = Live::start(args, report).await?;
    let policies = policies::all(&live, LEVELS.iter().sum::<f64>() / LEVELS.len() as f64, report).await?;
    let mut cells: Vec<Vec<Cell>> = policies.iter().map(|_| LEVELS.iter().map(|_| Cell::default()).collect()).collect();
    let (mut ours, begin) = ((0, 0), coverage::total(&live).await?);
    for (level, load) in LEVELS.into_iter().enumerate() {
        for turn in 0..ROUNDS as usize * policies.len() {
            // The same requests for all in a round; who comes first changes from level to level.
            let (round, index) = (turn / policies.len(), (turn + level) % policies.len());
            let (Some(policy), Some(cell)) = (policies.get(index), cells.get_mut(index).and_then(|cells| cells.get_mut(level))) else {
                continue;
            };
            let (before, seed) = (coverage::total(&live).await?, (1 + level + round * LEVELS.len()) as u64);
            cell.add(policies::run(&live, policy, load * live.capacity, WARM_UP, length / ROUNDS, seed).await?);
            let after = coverage::total(&live).await?;
            if *policy == Policy::Sluice {
                ours = (ours.0 + after.0 - before.0, ours.1 + after.1 - before.1);
            }
        }
        for (policy, cell) in policies.iter().zip(cells.iter().filter_map(|cells| cells.get(level))) {
            rows(load, policy, cell, report);
        }
    }
    let end = coverage::total(&live).await?;
    let by_policy: Vec<(&Policy, &[Cell])> = policies.iter().zip(&cells).map(|(policy, cells)| (policy, cells.as_slice())).collect();
    judge(&by_policy, report);
    predicted("sluice", ours, report);
    let (executions, covered) = predicted("all policies", (end.0 - begin.0, end.1 - begin.1), report);
    report.target("live: batches that the prediction is judged by", executions, Bound::AtLeast(EXECUTIONS_MIN), "executions");
    report.target("live: batches within their predicted p99", covered, Bound::AtLeast(97.5), "% of executions");
    report.target("live: batches within their predicted p99", covered, Bound::AtMost(99.8), "% of executions");
    slowdown::run(&live, report).await?;
    report.target("bench slo --live took", started.elapsed().as_secs_f64() / 60.0, Bound::AtMost(20.0), "minutes");
    Ok(pictures(&by_policy))
}

/// Executions, and per cent of them within what was predicted of 99 in 100.
fn predicted(name: &str, (executions, over): (u64, u64), report: &mut Report) -> (f64, f64) {
    let covered = 100.0 * executions.saturating_sub(over) as f64 / executions.max(1) as f64;
    report.row(format!("live, {name}: batches"), &one(executions as f64), "executions");
    report.row(format!("live, {name}: batches within their predicted p99"), &one(covered), "% of executions");
    (executions as f64, covered)
}

fn percent(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

/// Lines of a level and a policy.
fn rows(load: f64, policy: &Policy, cell: &Cell, report: &mut Report) {
    let (told, name) = (&cell.told, format!("live, load {load}: {policy}"));
    report.row(&name, &one(told.in_time_percent()), "% in time");
    report.row(&name, &one(told.accuracy_percent()), "% effective accuracy");
    report.row(&name, &one(told.in_time as f64 / cell.seconds), "in time a second");
    report.row(&name, &one(percent(told.answered.saturating_sub(told.in_time), told.offered)), "% late");
    report.row(&name, &one(percent(told.offered.saturating_sub(told.answered), told.offered)), "% refused");
    if *policy == Policy::Sluice {
        let share = |(variant, count): (&String, &u64)| format!("{variant} {:.0} %", percent(*count, told.answered));
        let shares: Vec<String> = told.variants.iter().map(share).collect();
        report.note(format!("load {load}: sluice answered by {}", shares.join(", ")));
    }
}

/// Rows over all levels, and targets.
fn judge(by_policy: &[(&Policy, &[Cell])], report: &mut Report) {
    let (mut below, mut lag_ms) = (0, 0.0f64);
    for (policy, cells) in by_policy {
        let sum = |of: &dyn Fn(&Cell) -> f64| cells.iter().map(of).sum::<f64>();
        let (offered, seconds) = (sum(&|cell| cell.told.offered as f64).max(1.0), sum(&|cell| cell.seconds));
        let in_time = sum(&|cell| cell.told.in_time as f64);
        report.row(format!("live, overall: {policy}"), &one(100.0 * in_time / offered), "% in time");
        let accuracy = sum(&|cell| cell.told.accuracy_percent() * cell.told.offered as f64) / offered;
        report.row(format!("live, overall: {policy}"), &one(accuracy), "% effective accuracy");
        report.row(format!("live, overall: {policy}"), &one(in_time / seconds), "in time a second");
        below += cells.iter().map(|cell| cell.told.below_floor).sum::<u64>();
        lag_ms = cells.iter().map(|cell| cell.lag_ms).fold(lag_ms, f64::max);
    }
    report.row("live: requests left late, p99 of the worst level", &one(lag_ms), "ms");
    let levels: Vec<ByLevel> = by_policy.iter().map(|(policy, cells)| (policy.to_string(), figures(cells))).collect();
    compare("live", &levels, report);
    report.target("live: answers below their floor, all policies", below as f64, Bound::AtMost(0.0), "answers");
}

/// Of each level what was in time and the effective accuracy, in per cent.
fn figures(cells: &[Cell]) -> Points {
    cells.iter().map(|cell| (cell.told.in_time_percent(), cell.told.accuracy_percent())).collect()
}

/// Points of a line.
type Points = Vec<(f64, f64)>;

fn pictures(by_policy: &[(&Policy, &[Cell])]) -> Vec<Chart> {
    let chart = |title: &str, unit, line: &dyn Fn(&[Cell]) -> Points| {
        let lines = by_policy.iter().map(|(policy, cells)| (policy.to_string(), line(cells))).collect();
        Chart { title: format!("live: {title}"), unit, from: 0.0, to: 100.0, lines }
    };
    let over_load =
        |value: fn(&(f64, f64)) -> f64| move |cells: &[Cell]| LEVELS.iter().copied().zip(figures(cells).iter().map(value)).collect();
    vec![
        chart("% in time over load", "", &over_load(|both| both.0)),
        chart("effective accuracy in % over load", "", &over_load(|both| both.1)),
        chart("% in time over time, one level behind the other", " s", &|cells| over_time(cells, |(in_time, _)| in_time)),
        chart("effective accuracy in % over time, one level behind the other", " s", &|cells| over_time(cells, |(_, accuracy)| accuracy)),
    ]
}

/// A figure of parts of all levels, by the middle of each part: in time and accuracy are given in per cent of the offered.
fn over_time(cells: &[Cell], value: impl Fn((f64, f64)) -> f64) -> Points {
    let (mut from, mut points) = (0.0, Vec::new());
    for cell in cells {
        let size = cell.intervals.len().div_ceil(PARTS).max(1);
        for part in cell.intervals.chunks(size) {
            let offered = part.iter().map(|interval| interval.offered).sum::<u64>().max(1) as f64;
            let in_time = part.iter().map(|interval| interval.in_time).sum::<u64>() as f64;
            let accuracy = part.iter().map(|interval| interval.accuracy).sum::<f64>();
            let seconds = part.len() as f64 * cell.interval.as_secs_f64();
            points.push((from + seconds / 2.0, value((100.0 * in_time / offered, 100.0 * accuracy / offered))));
            from += seconds;
        }
    }
    points
}
