//! The simulator against what it simulates: one trace live and in virtual time, first at a cluster whose engines are fakes that take a
//! described time, then at a real model, which is described by what its worker has just measured.

use crate::Args;
use crate::ideal::MOBILENET;
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use loadtest::sim::{Fleet, FleetModel, FleetWorker, simulate};
use loadtest::{Arrivals, Ask, Load, Pace, Script, Target};
use policy::batch::BatchPolicy;
use policy::profile::Latency;
use policy::route::baseline::RoutePolicy;
use proto::inference::{ModelStatisticsRequest, StatisticDuration};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// 6 processors, 4 with int8, 2 graphics cards, all ten times slower than real ones, so that what this machine does meanwhile is small.
const FLEET: &str = r#"
    one_way_us = 150
    service_noise = 0.1
    [[model]]
    name = "fake"
    slo_ms = 400
    max_batch_size = 32
    [[worker]]
    count = 6
    models = ["fake"]
    alpha_us = 100_000
    [[worker]]
    count = 4
    models = ["fake"]
    alpha_us = 30_000
    [[worker]]
    count = 2
    models = ["fake"]
    alpha_us = 2_500
    beta_us = 40_000
"#;
const FAKE_DEADLINE_MS: f64 = 400.0;
/// Shares of what the fleet can do.
const LOADS: [f64; 2] = [0.7, 1.2];
/// Coefficient of variation of the gaps.
const VARIATION: f64 = 2.0;
/// Time that is sent and not counted, and that is, of a trace for the fakes.
const FAKE_LENGTH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(20));
/// Traces of each load for the fakes.
const FAKE_SEEDS: u64 = 3;
/// The same for the real model.
const REAL_LENGTH: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// A look at the real model, before and after.
const LOOK: Duration = Duration::from_secs(3);
/// Time that an answer of the real model may take, in median runs of its engine.
const REAL_DEADLINE: f64 = 6.0;

/// What is compared, its unit, and how far it may be off for fakes and for a real model.
const FIGURES: [(&str, &str, f64, f64); 3] =
    [("p50", "ms", 0.10, 0.10), ("p99", "ms", 0.10, 0.25), ("goodput", "% of offered", 0.10, 0.10)];

fn figures(report: &loadtest::Report) -> [f64; 3] {
    let ms = |quantile| report.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    [ms(0.5), ms(0.99), 100.0 * report.in_time as f64 / report.offered.max(1) as f64]
}

/// Figures of the same traces, live and in virtual time.
#[derive(Default)]
struct Pair {
    live: [Samples; 3],
    virtual_time: [Samples; 3],
    ratio: [Samples; 3],
}

impl Pair {
    fn push(&mut self, live: [f64; 3], virtual_time: [f64; 3]) {
        for (index, (live, virtual_time)) in live.into_iter().zip(virtual_time).enumerate() {
            let Some((l, (v, r))) = self.live.get_mut(index).zip(self.virtual_time.get_mut(index).zip(self.ratio.get_mut(index))) else {
                continue;
            };
            l.push(live);
            v.push(virtual_time);
            r.push(virtual_time / live);
        }
    }

    fn report(&self, name: &str, is_real: bool, report: &mut Report) {
        let sides = self.live.iter().zip(&self.virtual_time).zip(&self.ratio);
        for ((figure, unit, fake_off, real_off), ((live, virtual_time), ratio)) in FIGURES.into_iter().zip(sides) {
            report.row(format!("{name}: {figure}, live"), live, unit);
            report.row(format!("{name}: {figure}, SIMULATED"), virtual_time, unit);
            let off = Bound::AtMost(if is_real { real_off } else { fake_off });
            report.target(format!("{name}: {figure}, simulated over live is off by"), (ratio.median() - 1.0).abs(), off, "");
        }
    }
}

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    report.note("rows that say SIMULATED are computed in virtual time; the others were measured");
    report.note(format!(
        "fake-latency engines: 6 workers at 100 ms, 4 at 30 ms, 2 at 40 + 2.5 ms a row, noise 0.1, {FAKE_DEADLINE_MS} ms to answer, gamma \
         arrivals with CV {VARIATION}, {FAKE_SEEDS} traces of {} s",
        FAKE_LENGTH.1.as_secs()
    ));
    fakes(report).await?;
    real(args, report).await
}

/// `ask` at `rate`, recorded.
fn trace(ask: Ask, rate: f64, (warm_up, duration): (Duration, Duration), seed: u64) -> Script {
    let script = Script { warm_up, seed, ..Script::new(ask, Pace::Open(Arrivals::Gamma { rate, cv: VARIATION }), duration) };
    let dues: Vec<_> = script.schedule().collect();
    Script { pace: Pace::Replay(dues.into()), ..script }
}

async fn send(server: &Server, script: Script, size: i64) -> anyhow::Result<loadtest::Report> {
    let target = Target::grpc(&format!("http://{}", server.grpc));
    let load = Load::new(target, Ask::of(""), Pace::Replay([].into()), script.duration);
    Ok(loadtest::run(&Load { script, size, connections: 8, ..load }).await?)
}

async fn fakes(report: &mut Report) -> anyhow::Result<()> {
    let (fleet, dir) = (Fleet::parse(FLEET)?, tempfile::tempdir()?);
    let file = dir.path().join("fleet.toml");
    std::fs::write(&file, FLEET)?;
    for load in LOADS {
        let mut pair = Pair::default();
        for seed in 1..=FAKE_SEEDS {
            let ask = Ask { deadline_ms: Some(FAKE_DEADLINE_MS), ..Ask::of("fake") };
            let script = trace(ask, load * fleet.capacity(), FAKE_LENGTH, seed);
            let live = send(&start(&file, seed).await?, script.clone(), 1).await?;
            let virtual_time = simulate(&fleet, &script)?;
            pair.push(figures(&live), figures(&virtual_time));
        }
        pair.report(&format!("fake-latency engines at {load}"), false, report);
    }
    Ok(())
}

/// A cluster as `fleet` describes it, as new as the simulated one.
async fn start(fleet: &Path, seed: u64) -> anyhow::Result<Server> {
    let seed = seed.to_string();
    let arguments = ["fake-latency", "--seed", &seed, "--fleet"].map(std::ffi::OsString::from);
    Server::own(arguments.into_iter().chain([fleet.as_os_str().to_owned()])).await
}

async fn real(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (model, size) = (MOBILENET.name, MOBILENET.size);
    let (repository, data) = (MOBILENET.repository(args)?, tempfile::tempdir()?);
    let up = Server::up(&args.sluice, repository.path(), data.path()).await?;
    let look = Look::at(&up).await?;
    let (capacity, deadline_ms) = (look.fleet().capacity(), REAL_DEADLINE * look.batch_us() / 1e3);
    report.note(format!(
        "{model} through sluice up: {capacity:.0}/s by its own statistics, {deadline_ms:.0} ms to answer, gamma arrivals with CV \
         {VARIATION}; described by what its worker measures just before and just after each trace of {} s",
        REAL_LENGTH.1.as_secs()
    ));
    for load in LOADS {
        let mut pair = Pair::default();
        for seed in 1..=args.rounds as u64 {
            let ask = Ask { deadline_ms: Some(deadline_ms), ..Ask::of(model) };
            let script = trace(ask, load * capacity, REAL_LENGTH, seed);
            let before = Look::at(&up).await?;
            let live = send(&up, script.clone(), size).await?;
            let after = Look::at(&up).await?;
            let virtual_time = simulate(&before.and(after).fleet(), &script)?;
            pair.push(figures(&live), figures(&virtual_time));
        }
        pair.report(&format!("{model} at {load}"), true, report);
    }
    Ok(())
}

/// What a worker measures of its batches while all its instances are busy and nobody waits.
struct Look {
    latency: Latency,
    /// Sigma of the log-normal noise on it.
    noise: f64,
    /// Microseconds of a request outside the engine.
    around_us: f64,
    instances: u32,
}

impl Look {
    async fn at(up: &Server) -> anyhow::Result<Self> {
        let instances = std::thread::available_parallelism()?.get().min(4);
        let before = batches(up).await?;
        let pace = Pace::Closed { concurrency: instances };
        let sent = send(up, Script::new(Ask::of(MOBILENET.name), pace, LOOK), MOBILENET.size).await?;
        let mut batches = batches(up).await?;
        for (rows, (count, us)) in &mut batches {
            let (count_before, us_before) = before.get(rows).copied().unwrap_or_default();
            (*count, *us) = (count.saturating_sub(count_before), *us - us_before);
        }
        let means: Vec<(u32, f64)> =
            batches.iter().filter(|(_, (count, _))| *count > 0).map(|(rows, (count, us))| (*rows, us / *count as f64)).collect();
        let latency = Latency::fit(&means);
        let at = |quantile| sent.latency_us.value_at_quantile(quantile) as f64;
        // The ninth tenth of a normal distribution is 1.2816 sigma from its middle.
        let noise = (at(0.9) / at(0.5)).ln().max(0.0) / 1.2816;
        let around_us = (at(0.5) - latency.batch_us(1)).max(0.0);
        Ok(Self { latency, noise, around_us, instances: u32::try_from(instances)? })
    }

    fn batch_us(&self) -> f64 {
        self.latency.batch_us(1)
    }

    /// The mean of two.
    fn and(self, other: Self) -> Self {
        let mean = |a: f64, b: f64| (a + b) / 2.0;
        let latency = Latency {
            alpha_us: mean(self.latency.alpha_us, other.latency.alpha_us),
            beta_us: mean(self.latency.beta_us, other.latency.beta_us),
        };
        let (noise, around_us) = (mean(self.noise, other.noise), mean(self.around_us, other.around_us));
        Self { latency, noise, around_us, instances: self.instances }
    }

    /// The server as the simulator takes it.
    fn fleet(&self) -> Fleet {
        let model = MOBILENET.name.to_owned();
        Fleet {
            gateways: 1,
            one_way_us: self.around_us / 2.0,
            push_ms: 0.0,
            route: RoutePolicy::default(),
            batch: BatchPolicy::default(),
            max_delay_us: 0,
            preferred_rows: Vec::new(),
            service_noise: self.noise,
            models: vec![FleetModel { name: model.clone(), slo_ms: None, max_batch_size: 8 }],
            workers: vec![FleetWorker {
                count: 1,
                models: vec![model],
                alpha_us: self.latency.alpha_us,
                beta_us: self.latency.beta_us,
                rows_max: None,
                instances: self.instances,
                slow: 1.0,
                zone: String::new(),
            }],
        }
    }
}

/// By rows of a batch: how many ran, and what they took in microseconds together.
async fn batches(up: &Server) -> anyhow::Result<BTreeMap<u32, (u64, f64)>> {
    let mut client = loadtest::connect(&format!("http://{}", up.grpc)).await?;
    let request = ModelStatisticsRequest { name: MOBILENET.name.to_owned(), version: String::new() };
    let answer = client.model_statistics(request).await?.into_inner();
    let us = |duration: &Option<StatisticDuration>| duration.as_ref().map_or(0.0, |duration| duration.ns as f64 / 1e3);
    let batches = answer.model_stats.iter().flat_map(|model| &model.batch_stats).map(|batch| {
        let count = batch.compute_infer.as_ref().map_or(0, |duration| duration.count);
        Ok((u32::try_from(batch.batch_size)?, (count, us(&batch.compute_input) + us(&batch.compute_infer))))
    });
    batches.collect()
}
