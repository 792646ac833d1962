//! Real networks at concurrency 8, beside what is the most that this machine could do: the engine alone, in its best setting, and the
//! client, which needs the same cores. Ideal is 1 / (1 / best + client CPU seconds per request / cores).

use crate::Args;
use crate::cluster::Cluster;
use crate::inprocess::{InProcess, Setting, Subject};
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use anyhow::ensure;
use loadtest::report::Place;
use loadtest::{Ask, Load, Pace, Script, Target};
use std::num::NonZeroUsize;
use std::time::Duration;

/// Requests in flight.
const CALLERS: usize = 8;
/// Rows of a run that are tried, and that servers may put together.
const ROWS: [u32; 4] = [1, 2, 4, 8];
/// Settings that are measured again before one is called the best.
const FINALISTS: usize = 3;
/// Answers that a slice should hold at least, so that one more or less does not matter.
const ANSWERS: f64 = 200.0;
/// Bounds of a slice.
const SLICE: (f64, f64) = (1.0, 8.0);
/// Time that is sent and not counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// Ways to serve, other flags of the worker, and the share of the ideal that each should reach, if it should reach any.
const SPREAD: [(&str, &[&str], Option<f64>); 2] = [
    ("gateway + worker, isolation none", &["--isolation", "none"], Some(0.93)),
    ("gateway + worker, isolation process", &["--isolation", "process"], None),
];
const UP: (&str, Option<f64>) = ("sluice up", Some(0.97));

/// A model of the cache, and how many elements its open dimensions have besides the rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) size: i64,
}

pub(crate) const MOBILENET: Network = Network { name: "mobilenetv2", size: 224 };
/// 128 tokens are a long sentence.
const NETWORKS: [Network; 4] = [
    Network { name: "efficientnet_lite0", size: 224 },
    MOBILENET,
    Network { name: "minilm_l6", size: 128 },
    Network { name: "resnet50", size: 224 },
];

impl Network {
    /// The file, among the models of the benches or those of the demo.
    pub(crate) fn subject(&self, args: &Args) -> anyhow::Result<Subject> {
        let folders = [args.models.clone(), args.demo_models()];
        let mut files = folders.iter().map(|folder| folder.join(self.name).join("1/model.onnx"));
        let file = files.find(|file| file.exists());
        ensure!(file.is_some(), "{}: in neither of {folders:?}", self.name);
        Ok(Subject { file: file.unwrap_or_default().canonicalize()?, size: self.size })
    }

    /// A model directory with this one alone, in which as many rows may ride together as the engine alone is tried with.
    pub(crate) fn repository(&self, args: &Args) -> anyhow::Result<tempfile::TempDir> {
        let (repository, file) = (tempfile::tempdir()?, self.subject(args)?.file);
        let folder = repository.path().join(self.name);
        std::fs::create_dir_all(folder.join("1"))?;
        std::fs::copy(file, folder.join("1/model.onnx"))?;
        std::fs::write(folder.join("sluice.toml"), format!("max_batch_size = {}\n", ROWS.iter().max().unwrap_or(&1)))?;
        Ok(repository)
    }

    /// A slice of a closed loop at `server`: answers a second, and the client's CPU seconds for each.
    pub(crate) async fn ask(&self, server: &Server, length: Duration) -> anyhow::Result<(f64, f64)> {
        let load =
            Load::new(Target::grpc(&format!("http://{}", server.grpc)), Ask::of(self.name), Pace::Closed { concurrency: CALLERS }, length);
        let script = Script { warm_up: WARM_UP, ..load.script };
        let sent = loadtest::run(&Load { script, size: self.size, ..load }).await?;
        ensure!(sent.errors.is_empty(), "{sent}");
        let Place::Client(client) = sent.place else { anyhow::bail!("not sent") };
        let rate = sent.answered_per_second();
        Ok((rate, client.cpu.as_secs_f64() / (rate * length.as_secs_f64()).max(1.0)))
    }
}

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    report.note(format!(
        "networks at {CALLERS} callers, gRPC, one row a request: ideal = 1 / (1 / best + client CPU seconds a request / cores), best being the \
         engine alone, in its best of {} settings",
        settings().len()
    ));
    for network in NETWORKS {
        of_network(args, network, report).await?;
    }
    Ok(())
}

/// Every way to divide the cores: among sessions, among threads of one session, and half of them.
fn settings() -> Vec<Setting> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let one = NonZeroUsize::MIN;
    let divided = |rows: u32| {
        let setting = |sessions: usize, threads, spinning| Setting { sessions, threads, rows, spinning };
        [setting(cores.get(), one, false), setting(1, cores, false), setting(1, cores, true), setting(1, one, false)]
    };
    let mut settings: Vec<Setting> = ROWS.into_iter().flat_map(divided).collect();
    settings.dedup();
    settings
}

/// The setting in which the engine alone is fastest, and its rate.
async fn best(subject: &Subject) -> anyhow::Result<(Setting, f64)> {
    let length = Duration::from_secs_f64(SLICE.0);
    let mut rates = Vec::new();
    for setting in settings() {
        rates.push((setting, InProcess::start(subject, setting).await?.rate(length).await?));
    }
    rates.sort_by(|a, b| b.1.total_cmp(&a.1));
    rates.truncate(FINALISTS);
    let mut finalists = Vec::new();
    for (setting, _) in rates {
        finalists.push((setting, InProcess::start(subject, setting).await?, Samples::default()));
    }
    for _ in 0..3 {
        for (_, process, samples) in &mut finalists {
            samples.push(process.rate(length).await?);
        }
    }
    let medians = finalists.iter().map(|(setting, _, samples)| (*setting, samples.median()));
    medians.max_by(|a, b| a.1.total_cmp(&b.1)).ok_or_else(|| anyhow::anyhow!("no setting"))
}

/// What one way to serve came to.
#[derive(Default)]
struct Way {
    rate: Samples,
    share: Samples,
    /// What the ideal would take of the processors over what this took: what others do on the machine hardly matters to it.
    cpu_share: Samples,
    client_us: Samples,
    server_us: Samples,
}

impl Way {
    /// One slice, after the engine alone made `best` rows a second, each for so many processor seconds.
    async fn measure(&mut self, network: Network, servers: &[&Server], length: Duration, (best, alone): (f64, f64)) -> anyhow::Result<()> {
        let Some(front) = servers.first() else { anyhow::bail!("no server") };
        let cpu = || servers.iter().map(|server| server.cpu()).sum::<anyhow::Result<Duration>>();
        let (before, began) = (cpu()?, std::time::Instant::now());
        let (rate, client) = network.ask(front, length).await?;
        let used = cpu()?.saturating_sub(before).as_secs_f64();
        let cores = std::thread::available_parallelism()?.get() as f64;
        self.rate.push(rate);
        self.share.push(rate * (1.0 / best + client / cores));
        let server = used / (rate * began.elapsed().as_secs_f64()).max(1.0);
        self.cpu_share.push((alone + client) / (server + client));
        self.client_us.push(client * 1e6);
        self.server_us.push(server * 1e6);
        Ok(())
    }

    fn report(&self, name: &str, target: Option<f64>, report: &mut Report) {
        report.row(format!("{name}: rate"), &self.rate, "1/s");
        report.row(format!("{name}: client CPU a request"), &self.client_us, "us");
        report.row(format!("{name}: server CPU a request"), &self.server_us, "us");
        report.row(format!("{name}: share of the ideal"), &self.share, "");
        report.row(format!("{name}: the same of processor time"), &self.cpu_share, "");
        if let Some(target) = target {
            report.target(format!("{name}: share of the ideal"), self.share.median(), Bound::AtLeast(target), "");
        }
    }
}

async fn of_network(args: &Args, network: Network, report: &mut Report) -> anyhow::Result<()> {
    let (subject, repository, dir) = (network.subject(args)?, network.repository(args)?, tempfile::tempdir()?);
    let (setting, rate) = best(&subject).await?;
    let length = Duration::from_secs_f64((ANSWERS / rate.max(1.0)).clamp(SLICE.0, SLICE.1));
    let mut alone = InProcess::start(&subject, setting).await?;
    let collector = Server::collector().await?;
    let up = Server::up_traced(&args.sluice, repository.path(), &dir.path().join("up"), &collector).await?;
    let mut clusters = Vec::new();
    for (number, (_, flags, _)) in SPREAD.into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        clusters.push(Cluster::start(args, repository.path(), &dir, network.name, flags, &collector).await?);
    }
    let mut ways: Vec<(Vec<&Server>, Way)> = vec![(vec![&up], Way::default())];
    ways.extend(clusters.iter().map(|cluster| (vec![&cluster.gateway, &cluster.worker], Way::default())));
    let (mut best, mut cpu_us) = (Samples::default(), Samples::default());
    for _ in 0..args.rounds {
        let (rate, cpu) = alone.run(length).await?;
        best.push(rate);
        cpu_us.push(cpu * 1e6);
        for (servers, way) in &mut ways {
            way.measure(network, servers, length, (rate, cpu)).await?;
        }
    }
    let model = network.name;
    report.row(format!("{model}, engine alone ({setting})"), &best, "1/s");
    report.row(format!("{model}, engine alone: CPU a row"), &cpu_us, "us");
    let named = std::iter::once(UP).chain(SPREAD.iter().map(|(name, _, target)| (*name, *target)));
    for ((name, target), (_, way)) in named.zip(&ways) {
        way.report(&format!("{model}, {name}"), target, report);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_division_of_the_cores_is_tried_with_every_batch() {
        let settings = settings();
        assert!(ROWS.iter().all(|rows| settings.iter().any(|setting| setting.rows == *rows)));
        let cores = std::thread::available_parallelism().unwrap().get();
        assert!(settings.iter().all(|setting| setting.sessions * setting.threads.get() <= cores));
    }
}
