//! How good the placement search is: against the bound of a solver of mixed-integer programs, at a thousand variants, under noise and in a
//! flash crowd. Everything is computed from seeds; only the times are measured.

mod oracle;

use crate::Args;
use crate::report::{Bound, Report, Samples};
use oracle::{Judged, Oracle};
use policy::place::seeded::{Stream, problem};
use policy::place::{Problem, Solution, bound, solve};
use std::time::{Duration, Instant};

/// Devices and models of the instances that are judged.
const SIZES: [(usize, usize); 5] = [(10, 25), (20, 40), (30, 50), (45, 60), (60, 75)];
/// Instances of each size; their loads are spread evenly over these.
const SEEDS: usize = 10;
const LOADS: (f64, f64) = (0.6, 1.5);
/// What a plan may take.
const PLAN_MAX: Duration = Duration::from_secs(1);
/// Epochs of noise, its deviation, and the time an epoch stands for.
const EPOCHS: usize = 10_000;
const NOISE: f64 = 0.1;
const EPOCH_S: usize = 10;
/// Seconds within which no pair should be loaded twice.
const RELOAD_S: usize = 300;
/// Epochs until nothing moves in a fleet whose rates stay.
const SETTLED: usize = 30;

/// Runs it.
pub(crate) fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    gaps(args, report)?;
    thousand_variants(report);
    noise(report);
    flash_crowd(args, report)
}

/// A plan within [`PLAN_MAX`], and the seconds it took.
fn plan(problem: &Problem) -> (Solution, f64) {
    let began = Instant::now();
    let found = solve(problem, &mut || began.elapsed() < PLAN_MAX);
    (found, began.elapsed().as_secs_f64())
}

/// Pairs that are to be loaded.
fn loads<'p>(problem: &'p Problem, found: &'p Solution) -> impl Iterator<Item = usize> + 'p {
    problem.pairs.iter().zip(&found.placed).enumerate().filter(|(_, (pair, placed))| **placed && !pair.placed).map(|(j, _)| j)
}

/// Makes `found` what is there.
fn settle(problem: &mut Problem, found: &Solution) {
    problem.pairs.iter_mut().zip(&found.placed).for_each(|(pair, placed)| pair.placed = *placed);
}

/// Fifty instances, each judged by the solver started from our plan.
fn gaps(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (mut problems, mut times, mut loads_over) = (Vec::new(), Samples::default(), 0usize);
    for (size, (devices, models)) in SIZES.into_iter().enumerate() {
        let mut own = Samples::default();
        for number in 0..SEEDS {
            let load = LOADS.0 + (LOADS.1 - LOADS.0) * number as f64 / (SEEDS - 1) as f64;
            let problem = problem((1 + SEEDS * size + number) as u64, devices, models, load);
            let (found, seconds) = plan(&problem);
            own.push(seconds);
            times.push(seconds);
            loads_over += usize::from(loads(&problem, &found).count() > problem.loads_max);
            problems.push((problem, found));
        }
        report.row(format!("plan {devices}x{models}: time"), &own, "s");
    }
    let oracle = Oracle::find(args)?;
    report.note(oracle.note());
    let began = Instant::now();
    let judged = oracle.judge(&problems)?;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    report.note(format!("the solver took {minutes:.1} minutes; gaps are from a plan to the bound, as shares of the plan's value"));

    let (mut gaps, mut of_worth) = (Samples::default(), Samples::default());
    let (mut broken, mut apart, mut without) = (Samples::default(), Samples::default(), 0usize);
    for ((devices, models), of_size) in SIZES.into_iter().zip(problems.chunks(SEEDS).zip(judged.chunks(SEEDS))) {
        let (mut own, mut best) = (Samples::default(), Samples::default());
        for (number, ((problem, found), judged)) in of_size.0.iter().zip(of_size.1).enumerate() {
            without += usize::from(judged.bound.is_none());
            let most = least(judged, problem);
            let gap = 100.0 * (most - judged.value) / judged.value.abs();
            own.push(gap);
            gaps.push(gap);
            best.push(100.0 * (most - judged.best.unwrap_or(judged.value)) / judged.value.abs());
            of_worth.push(100.0 * (most - judged.value) / problem.worth());
            broken.push(judged.broken);
            apart.push((judged.value - found.objective).abs() / problem.worth());
            if gap > 1.0 {
                report.note(format!("plan {devices}x{models}, number {number}: {gap:.2} % from the bound"));
            }
        }
        report.row(format!("plan {devices}x{models}: gap"), &own, "%");
        report.row(format!("plan {devices}x{models}: gap of the solver's own best"), &best, "%");
    }
    report.row("plan: gap, all", &gaps, "%");
    report.row("plan: gap, all, as a share of what all rows are worth", &of_worth, "%");
    let close = gaps.count(|gap| gap <= 1.0) as f64;
    report.note(format!("{without} instances had no bound from the solver in time and are held against the linear one alone"));
    report.target("plan: gap, worst", gaps.max(), Bound::AtMost(1.0), "%");
    report.target("plan: gap at most 1 %", close, Bound::AtLeast(gaps.len() as f64), "instances");
    report.target("plan: time, worst", times.max(), Bound::AtMost(PLAN_MAX.as_secs_f64() + 0.05), "s");
    report.target("plan: more loads than allowed", loads_over as f64, Bound::AtMost(0.0), "instances");
    report.target("plan: rule broken most", broken.max(), Bound::AtMost(1e-6), "of its greatest term");
    report.target("plan: value apart from the oracle's", apart.max(), Bound::AtMost(1e-6), "of what all rows are worth");
    Ok(())
}

/// The lower of the solver's bound and of the linear one: both hold.
fn least(judged: &Judged, problem: &Problem) -> f64 {
    judged.bound.unwrap_or(f64::INFINITY).min(bound(problem).unwrap_or(f64::INFINITY))
}

/// A fleet of a thousand variants, from what is there and from nothing.
fn thousand_variants(report: &mut Report) {
    let seeded = problem(1_000, 100, 250, 0.9);
    let mut empty = Problem { loads_max: usize::MAX, ..seeded.clone() };
    empty.pairs.iter_mut().for_each(|pair| pair.placed = false);
    empty.devices.iter_mut().for_each(|device| (device.loads_max, device.load_s_max) = (usize::MAX, f64::INFINITY));
    for (name, problem) in [("from what is there", seeded), ("from nothing", empty)] {
        let (found, seconds) = plan(&problem);
        let most = bound(&problem).unwrap_or(f64::NAN);
        let gap = 100.0 * (most - found.objective) / found.objective.abs();
        report.row(format!("plan 100x250x4 {name}: time"), &Samples::from_iter([seconds]), "s");
        report.row(format!("plan 100x250x4 {name}: gap to the linear bound"), &Samples::from_iter([gap]), "%");
        report.row(format!("plan 100x250x4 {name}: loads"), &Samples::from_iter([loads(&problem, &found).count() as f64]), "");
        report.row(format!("plan 100x250x4 {name}: programs"), &Samples::from_iter([found.programs as f64]), "");
        report.target(format!("plan 100x250x4 {name}: time"), seconds, Bound::AtMost(PLAN_MAX.as_secs_f64() + 0.1), "s");
    }
}

/// An instance in which nothing moves any more.
fn settled(seed: u64, devices: usize, models: usize, load: f64) -> Problem {
    let mut problem = problem(seed, devices, models, load);
    for _ in 0..SETTLED {
        let (found, _) = plan(&problem);
        let moved = loads(&problem, &found).count();
        settle(&mut problem, &found);
        if moved == 0 {
            break;
        }
    }
    problem
}

/// Rates that move about a mean: nothing should follow them.
fn noise(report: &mut Report) {
    let mut problem = settled(3, 10, 25, 0.8);
    let rates: Vec<f64> = problem.models.iter().map(|model| model.rate).collect();
    let mut stream = Stream::new(7);
    let mut last: Vec<Option<usize>> = vec![None; problem.pairs.len()];
    let (mut all, mut again) = (0usize, 0usize);
    for epoch in 0..EPOCHS {
        problem.models.iter_mut().zip(&rates).for_each(|(model, rate)| model.rate = rate * (NOISE * stream.normal()).exp());
        let (found, _) = plan(&problem);
        for j in loads(&problem, &found) {
            all += 1;
            if let Some(before) = last.get_mut(j) {
                again += usize::from(before.is_some_and(|before| (epoch - before) * EPOCH_S < RELOAD_S));
                *before = Some(epoch);
            }
        }
        settle(&mut problem, &found);
    }
    report.note(format!("noise: {EPOCHS} epochs of {EPOCH_S} s at 10x25, each rate times e^N(0, {NOISE})"));
    report.target("plan, noise: loads", all as f64 / EPOCHS as f64, Bound::AtMost(0.1), "an epoch");
    report.target(format!("plan, noise: pairs loaded twice in {RELOAD_S} s"), again as f64, Bound::AtMost(0.0), "");
}

/// Three models of a fleet at half its load are asked for eight times as much. What can be served after two epochs is what one plan serves
/// that may use the loads of both.
fn flash_crowd(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let mut problem = settled(5, 30, 50, 0.5);
    // Not the largest, which would be most of the load: the fourth to the sixth by Zipf's law.
    problem.models.iter_mut().skip(3).take(3).for_each(|model| model.rate *= 8.0);
    let offered = problem.rate();
    let served = |found: &Solution| 100.0 * (offered - found.unserved.iter().sum::<f64>()) / offered;
    let mut both = Problem { loads_max: 2 * problem.loads_max, ..problem.clone() };
    both.devices.iter_mut().for_each(|device| (device.loads_max, device.load_s_max) = (2 * device.loads_max, 2.0 * device.load_s_max));
    let mut free = Problem { loads_max: usize::MAX, ..problem.clone() };
    free.devices.iter_mut().for_each(|device| (device.loads_max, device.load_s_max) = (usize::MAX, f64::INFINITY));
    let one = |value: f64| Samples::from_iter([value]);
    let free = served(&solve(&free, &mut || true));
    let start = plan(&both).0;
    let most = Oracle::find(args)?.judge(&[(both, start)])?.first().and_then(|judged| judged.served).unwrap_or(f64::NAN) * 100.0 / offered;
    let mut second = f64::NAN;
    for epoch in 0..=2 {
        let (found, _) = plan(&if epoch == 0 { Problem { loads_max: 0, ..problem.clone() } } else { problem.clone() });
        let name = ["before a load", "after 1 epoch", "after 2 epochs"].get(epoch).copied().unwrap_or_default();
        report.row(format!("plan, crowd of 8: rows served {name}"), &one(served(&found)), "%");
        if epoch > 0 {
            report.row(format!("plan, crowd of 8: loads of epoch {epoch}"), &one(loads(&problem, &found).count() as f64), "");
            settle(&mut problem, &found);
            second = served(&found);
        }
    }
    report.row("plan, crowd of 8: by the solver, loads of both at once", &one(most), "%");
    report.row("plan, crowd of 8: without limits on loads", &one(free), "%");
    report.target("plan, crowd of 8: served after 2 epochs, of what can be", 100.0 * second / most, Bound::AtLeast(99.0), "%");
    Ok(())
}
