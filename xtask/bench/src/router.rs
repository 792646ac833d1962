//! Every routing policy over the same unequal fleet and the same requests: healthy, with two replicas five times slower than they say,
//! and in overload. Workers form batches as ours do, whoever routes, and drop what cannot be in time.

use crate::report::{Bound, Report, Samples};
use crate::simulated::{Outcome, Run, SIMULATED, all};
use loadtest::schedule::Phase;
use loadtest::sim::Fleet;
use loadtest::{Arrivals, Ask, Pace, Script};
use policy::route::baseline::RoutePolicy;
use std::time::Duration;

/// 6 processors, 4 with int8, 2 graphics cards. The single ones are those that become slow.
const FLEET: &str = r#"
    gateways = 3
    one_way_us = 100
    push_ms = 100
    [[model]]
    name = "m"
    slo_ms = 40
    max_batch_size = 32
    [[worker]]
    count = 5
    models = ["m"]
    alpha_us = 10_000
    [[worker]]
    models = ["m"]
    alpha_us = 10_000
    [[worker]]
    count = 3
    models = ["m"]
    alpha_us = 3_000
    [[worker]]
    models = ["m"]
    alpha_us = 3_000
    [[worker]]
    count = 2
    models = ["m"]
    alpha_us = 250
    beta_us = 4_000
"#;
/// Milliseconds in which an answer is worth something.
const DEADLINE_MS: f64 = 40.0;
/// How much slower a slow replica is.
const SLOW: f64 = 5.0;
/// Load, as a share of what the fleet can do in its largest useful batches, and whether two replicas are slow.
const CELLS: [(f64, bool); 5] = [(0.5, false), (0.7, false), (0.85, false), (1.2, false), (0.7, true)];
/// Sigma of the log-normal noise on a batch's time.
const NOISES: [f64; 2] = [0.0, 0.3];
/// Seconds before what is counted.
const WARM_UP_S: u64 = 1;

/// Runs it.
pub(crate) fn run(full: bool, report: &mut Report) -> anyhow::Result<()> {
    let (seeds, seconds) = if full { (10, 30) } else { (5, 8) };
    report.note(SIMULATED);
    report.note(format!(
        "6 CPUs at 10 ms, 4 at 3 ms, 2 GPUs at 4 + 0.25 ms a row (at most 32), 3 gateways, {DEADLINE_MS} ms to answer, bursts of half and one \
         and a half of the rate, {seeds} paired seeds of {seconds} s; a slow cell has one CPU and one at 3 ms {SLOW} times slower than they say"
    ));
    for noise in NOISES {
        let mut late = Samples::default();
        for (load, slowed) in CELLS {
            let fleet = fleet(noise, slowed)?;
            let runs: Vec<Run> = RoutePolicy::ALL.iter().flat_map(|route| runs(&fleet, *route, load, seeds, seconds)).collect();
            let outcomes = all(&runs)?;
            let name = format!("noise {noise}, load {load}{}", if slowed { " slow" } else { "" });
            late.push(judge(&name, &outcomes, seeds, report));
        }
        report.target(format!("noise {noise}: answered late, worst cell"), late.max(), Bound::AtMost(1.0), "% of offered");
    }
    Ok(())
}

fn fleet(noise: f64, slowed: bool) -> anyhow::Result<Fleet> {
    let mut fleet = Fleet { service_noise: noise, ..Fleet::parse(FLEET)? };
    if slowed {
        fleet.workers.iter_mut().filter(|worker| worker.count == 1).for_each(|worker| worker.slow = SLOW);
    }
    Ok(fleet)
}

fn runs(fleet: &Fleet, route: RoutePolicy, load: f64, seeds: usize, seconds: u64) -> Vec<Run> {
    let rate = load * fleet.capacity();
    let [calm, burst] = [0.5, 1.5].map(|factor| Phase { rate: factor * rate, dwell_s: 0.1 });
    let ask = Ask { deadline_ms: Some(DEADLINE_MS), ..Ask::of("m") };
    let script = Script::new(ask, Pace::Open(Arrivals::Bursts { calm, burst }), Duration::from_secs(seconds));
    let script = Script { warm_up: Duration::from_secs(WARM_UP_S), ..script };
    (1..=seeds as u64).map(|seed| Run { fleet: Fleet { route, ..fleet.clone() }, script: Script { seed, ..script.clone() } }).collect()
}

/// Writes the rows of a cell and its target; per cent of the offered requests that ours answered late.
fn judge(cell: &str, outcomes: &[Outcome], seeds: usize, report: &mut Report) -> f64 {
    let mut lost: Vec<(RoutePolicy, f64)> = Vec::new();
    for (route, outcomes) in RoutePolicy::ALL.into_iter().zip(outcomes.chunks(seeds)) {
        let samples: Samples = outcomes.iter().map(|outcome| outcome.lost).collect();
        lost.push((route, samples.mean()));
        report.row(format!("{cell}: {route}"), &samples, "% not in time");
    }
    let best = lost.iter().skip(1).min_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some((_, ours)), Some((route, theirs))) = (lost.first(), best) {
        report.target(format!("{cell}: ours over the best other, {route}"), ours - theirs, Bound::AtMost(1.0), "points of the mean");
    }
    outcomes.iter().take(seeds).map(|outcome| outcome.late).collect::<Samples>().mean()
}
