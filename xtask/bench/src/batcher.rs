//! Every way to form batches at one device, from little load to far too much: ours, other people's, and a grid of the settings that a
//! Triton model can have. Nobody refuses at the door: what is not in time is the batcher's doing.

use crate::report::{Bound, Report, Samples};
use crate::simulated::{Outcome, Run, SIMULATED, all};
use loadtest::sim::{Fleet, FleetModel, FleetWorker};
use loadtest::{Arrivals, Ask, Mix, Pace, Script};
use policy::batch::BatchPolicy;
use policy::route::baseline::RoutePolicy;
use std::time::Duration;

/// A device: its name, microseconds a row and a batch.
const DEVICES: [(&str, f64, f64); 2] = [("GPU", 250.0, 4_000.0), ("CPU", 10_000.0, 0.0)];
/// Milliseconds in which an answer is worth something.
const DEADLINE_MS: f64 = 50.0;
const ROWS_MAX: u32 = 64;
/// Models that share the device and its queue, but no batch.
const MODELS: [usize; 2] = [1, 8];
/// Load, as a share of what the device can do in its largest useful batches.
const LOADS: [f64; 7] = [0.3, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5];
/// Coefficient of variation of the gaps: Poisson, and squared 4.
const VARIATIONS: [f64; 2] = [1.0, 2.0];
/// Load and variation of the cells of bursts.
const BURSTS: [(f64, f64); 2] = [(0.6, 4.0), (0.8, 4.0)];
/// Sigma of the log-normal noise on a batch's time.
const NOISE: f64 = 0.1;
/// Settings that are fixed for a model: longest delay in microseconds, preferred rows.
const STATIC: [(u64, &[u32]); 8] =
    [(500, &[]), (2_000, &[]), (10_000, &[]), (500, &[8]), (2_000, &[8]), (10_000, &[8]), (2_000, &[8, 32]), (10_000, &[8, 32])];

/// A way to form batches.
struct Way {
    name: String,
    policy: BatchPolicy,
    max_delay_us: u64,
    preferred_rows: Vec<u32>,
    is_static: bool,
}

/// Ours first.
fn ways() -> Vec<Way> {
    let others = BatchPolicy::ALL.into_iter().map(|(policy, name)| {
        let is_static = matches!(policy, BatchPolicy::Triton | BatchPolicy::Linger);
        Way { name: name.to_owned(), policy, max_delay_us: 0, preferred_rows: Vec::new(), is_static }
    });
    let fixed = STATIC.into_iter().map(|(max_delay_us, preferred)| Way {
        name: format!("triton, {} ms, {preferred:?}", max_delay_us as f64 / 1e3),
        policy: BatchPolicy::Triton,
        max_delay_us,
        preferred_rows: preferred.to_vec(),
        is_static: true,
    });
    others.chain(fixed).collect()
}

/// What all ways are tried on.
#[derive(Clone, Copy)]
struct Cell {
    device: (&'static str, f64, f64),
    models: usize,
    load: f64,
    cv: f64,
}

impl Cell {
    fn name(&self) -> String {
        let models = if self.models == 1 { "model" } else { "models" };
        format!("{} {} {models} CV\u{b2} {} at {}", self.device.0, self.models, self.cv * self.cv, self.load)
    }

    fn fleet(&self) -> Fleet {
        let (_, alpha_us, beta_us) = self.device;
        let name = |number: usize| format!("m{number}");
        Fleet {
            gateways: 1,
            one_way_us: 0.0,
            push_ms: 0.0,
            route: RoutePolicy::RoundRobin, // the only replica, never a refusal
            batch: BatchPolicy::Sluice,
            max_delay_us: 0,
            preferred_rows: Vec::new(),
            service_noise: NOISE,
            models: (0..self.models)
                .map(|number| FleetModel { name: name(number), slo_ms: Some(DEADLINE_MS), max_batch_size: ROWS_MAX })
                .collect(),
            workers: vec![FleetWorker {
                count: 1,
                models: (0..self.models).map(name).collect(),
                alpha_us,
                beta_us,
                rows_max: None,
                instances: 1,
                slow: 1.0,
                zone: String::new(),
            }],
        }
    }

    fn runs(&self, way: &Way, seeds: usize, requests: f64) -> Vec<Run> {
        let fleet = self.fleet();
        let rate = self.load * fleet.capacity();
        let asks = fleet.models.iter().map(|model| Ask { deadline_ms: Some(DEADLINE_MS), ..Ask::of(&model.name) }).collect();
        let counted = Duration::from_secs_f64(requests / rate);
        let script = Script {
            mix: Mix { asks },
            pace: Pace::Open(Arrivals::Gamma { rate, cv: self.cv }),
            warm_up: counted / 10,
            duration: counted,
            seed: 1,
        };
        let fleet = Fleet { batch: way.policy, max_delay_us: way.max_delay_us, preferred_rows: way.preferred_rows.clone(), ..fleet };
        (1..=seeds as u64).map(|seed| Run { fleet: fleet.clone(), script: Script { seed, ..script.clone() } }).collect()
    }
}

/// Runs it.
pub(crate) fn run(full: bool, report: &mut Report) -> anyhow::Result<()> {
    let (seeds, requests) = if full { (10, 100_000.0) } else { (5, 20_000.0) };
    report.note(SIMULATED);
    report.note(format!(
        "one device: GPU 4 + 0.25 ms a row, CPU 10 ms a row, at most {ROWS_MAX} rows; {DEADLINE_MS} ms to answer, noise {NOISE}; models share the \
         device by one queue; {seeds} paired seeds of {requests} requests; load is a share of the largest useful batches' rate. Shown: ours, the \
         best fixed setting, the best other way"
    ));
    let ways = ways();
    let mut ours: Vec<(Cell, Vec<Outcome>)> = Vec::new();
    for device in DEVICES {
        let mut worst = f64::INFINITY;
        for models in MODELS {
            let steady = VARIATIONS.into_iter().flat_map(|cv| LOADS.map(|load| (load, cv)));
            for (load, cv) in steady.chain(BURSTS) {
                let cell = Cell { device, models, load, cv };
                let runs: Vec<Run> = ways.iter().flat_map(|way| cell.runs(way, seeds, requests)).collect();
                let outcomes = all(&runs)?;
                worst = worst.min(compare(&cell, &ways, &outcomes, seeds, full, report));
                ours.push((cell, outcomes.into_iter().take(seeds).collect()));
            }
        }
        report.target(format!("{}: ours over the best fixed, worst of all cells", device.0), worst, Bound::AtLeast(0.0), "points");
    }
    judge(&ours, report);
    Ok(())
}

/// Writes the rows of a cell: ours, the best fixed setting and the best of the rest, or `all`. In bursts ours is held against the best
/// fixed one. Points by which ours is over that.
fn compare(cell: &Cell, ways: &[Way], outcomes: &[Outcome], seeds: usize, all: bool, report: &mut Report) -> f64 {
    let of_way = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| 100.0 - outcome.lost).collect::<Samples>();
    let in_time: Vec<(&Way, Samples)> = ways.iter().zip(outcomes.chunks(seeds).map(of_way)).collect();
    let best = |is_static: bool| {
        let others = in_time.iter().skip(1).filter(|(way, _)| way.is_static == is_static);
        others.max_by(|a, b| a.1.mean().total_cmp(&b.1.mean()))
    };
    let rows: Vec<_> =
        if all { in_time.iter().collect() } else { in_time.first().into_iter().chain(best(true)).chain(best(false)).collect() };
    for (way, samples) in rows {
        report.row(format!("{}: {}", cell.name(), way.name), samples, "% in time");
    }
    let (Some((_, ours)), Some((way, theirs))) = (in_time.first(), best(true)) else { return f64::NAN };
    let over = ours.mean() - theirs.mean();
    if BURSTS.contains(&(cell.load, cell.cv)) {
        let name = format!("{}: ours over the best fixed, {}", cell.name(), way.name);
        report.target(name.clone(), over, Bound::AtLeast(0.0), "points");
        report.target(name, over, Bound::AtLeast(3.0), "points");
    }
    over
}

/// What holds for ours over all cells.
fn judge(ours: &[(Cell, Vec<Outcome>)], report: &mut Report) {
    let goodput = |of: &Cell, load: f64| {
        let same = |c: &Cell| c.device == of.device && c.models == of.models && c.cv == of.cv && c.load == load;
        ours.iter().find(|(cell, _)| same(cell)).map(|(_, outcomes)| outcomes)
    };
    for (cell, twice) in ours.iter().filter(|(cell, _)| cell.load == 2.0) {
        let Some(once) = goodput(cell, 1.0) else { continue };
        let kept: Samples = twice.iter().zip(once).map(|(twice, once)| twice.goodput / once.goodput).collect();
        report.target(format!("{}: goodput over that at 1", cell.name()), kept.median(), Bound::AtLeast(0.95), "");
    }
    let wasted = ours.iter().flat_map(|(_, outcomes)| outcomes).map(|outcome| outcome.wasted).collect();
    report.row("sluice, all runs: device time on late answers", &wasted, "%");
    let worst = |figure: fn(&Outcome) -> f64| ours.iter().flat_map(|(_, outcomes)| outcomes).map(figure).fold(0.0, f64::max);
    report.target("started after their deadline, worst run", worst(|o| o.started_late), Bound::AtMost(0.0), "requests");
    report.target("device time on late answers, worst run", worst(|o| o.wasted), Bound::AtMost(2.0), "%");
}
