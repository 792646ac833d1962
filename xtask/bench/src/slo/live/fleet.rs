//! The fleet of the live half: real workers of this machine that differ in cores and engines, real models with the variants that are made
//! of them, all of them warm on every worker that can run them.

use super::send::{Told, closed};
use crate::Args;
use crate::etcd::Etcd;
use crate::report::Report;
use crate::server::Server;
use anyhow::{Context as _, ensure};
use loadtest::Ask;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// A worker: its name, its part of the cores, whether it has OpenVINO beside ONNX Runtime, and what it is started with.
struct Described {
    name: &'static str,
    part: Part,
    openvino: bool,
    flags: &'static [&'static str],
}

enum Part {
    /// The first core.
    First,
    /// All but the first.
    Rest,
}

/// They share no core: each takes its devices to be its own. Gateway, controller, etcd and client run beside them, on all cores.
const WORKERS: [Described; 2] = [
    Described { name: "narrow", part: Part::First, openvino: false, flags: &["--instances", "1"] },
    Described { name: "wide", part: Part::Rest, openvino: true, flags: &["--instances", "2"] },
];

/// A model: where it, its samples and its evaluation lie in the cache, what is made of it, the least accuracy that its answers may have,
/// and its part of the requests.
struct Kept {
    name: &'static str,
    folder: &'static str,
    calib: &'static str,
    eval: &'static str,
    recipes: &'static str,
    floor: f64,
    share: f64,
}

const MODELS: [Kept; 2] = [
    Kept {
        name: "minilm_l6",
        folder: "models/demo/minilm_l6",
        calib: "data/minilm/calib.npz",
        eval: "data/minilm/test.npz",
        recipes: "int8-dynamic,bf16@openvino",
        floor: 0.98,
        share: 1.0,
    },
    Kept {
        name: "effnet_lite0_cls96",
        folder: "models/variants/effnet_lite0_cls96",
        calib: "data/fashion_mnist/calib.npz",
        eval: "data/fashion_mnist/test1000.npz",
        recipes: "int8-qdq,bf16@openvino",
        floor: 0.98,
        share: 1.0,
    },
];

/// The variant that nothing is lost with.
const REFERENCE: &str = "fp32@ort";
/// Time that an answer may take, in runs of the reference alone, and at least in milliseconds.
const TARGET: (f64, f64) = (6.0, 40.0);
/// Longest wait until all is warm and timed.
const WARM_MAX: Duration = Duration::from_secs(240);
/// Workers that use less than this share of a core have nothing more to time.
const IDLE_SHARE: f64 = 0.05;
/// Callers and time of a look at what the fleet can do.
const CALLERS: usize = 8;
const LOOK: Duration = Duration::from_secs(2);

/// A model that is served.
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) floor: f64,
    pub(super) share: f64,
    /// Milliseconds in which an answer is worth something.
    pub(super) target_ms: f64,
    /// The reference first.
    pub(super) variants: Vec<Variant>,
}

/// A way to run it.
pub(super) struct Variant {
    pub(super) name: String,
    /// Relative to the reference, as answers tell.
    pub(super) accuracy: f64,
    /// Workers that run it.
    pub(super) workers: usize,
    /// Answers a second of those, if they do nothing else.
    pub(super) rate: f64,
}

/// Running processes that never outlive the bench.
pub(super) struct Live {
    pub(super) gateway: Server,
    /// With their names.
    pub(super) workers: Vec<(&'static str, Server)>,
    pub(super) models: Vec<Model>,
    /// Requests of the mix a second that references alone answer.
    pub(super) capacity: f64,
    sluice: PathBuf,
    _controller: Server,
    _etcd: Etcd,
    dir: tempfile::TempDir,
}

impl Live {
    /// Makes the variants, starts everything, waits until all is warm, and sees what the references can do.
    pub(super) async fn start(args: &Args, report: &mut Report) -> anyhow::Result<Self> {
        let cache = args.models.parent().and_then(Path::parent).context("--models is not in a cache of fetched things")?;
        let dir = tempfile::tempdir()?;
        let mut models = Vec::new();
        for kept in &MODELS {
            models.push(make(args, cache, kept, dir.path()).await?);
        }
        let etcd = Etcd::start(&args.etcd, dir.path()).await?;
        let controller = part(args, &etcd, dir.path(), "controller", &["--id", "c"], None).await?;
        let mut workers = Vec::new();
        for described in &WORKERS {
            workers.push((described.name, worker(args, &etcd, dir.path(), described).await?));
        }
        let gateway = part(args, &etcd, dir.path(), "gateway", &["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"], None).await?;
        let sluice = args.sluice.clone();
        let mut live = Self { gateway, workers, models, capacity: 0.0, sluice, _controller: controller, _etcd: etcd, dir };
        live.warm().await?;
        live.look().await?;
        live.apply(true).await?;
        live.tell(report);
        Ok(live)
    }

    /// Everything everywhere, and nothing left to time.
    async fn warm(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while let Err(error) = self.apply(false).await {
            ensure!(started.elapsed() < WARM_MAX, "{error:#}"); // the models are not offered yet
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let wanted: usize = self.models.iter().flat_map(|model| &model.variants).map(|variant| variant.workers).sum();
        let variants: usize = self.models.iter().map(|model| model.variants.len()).sum();
        loop {
            let said = self.sluice(&["get", "replicas", "-o", "json"]).await?;
            let replicas: Vec<Value> = serde_json::from_str(&said)?;
            let ready = replicas.iter().filter(|replica| replica.get("state").is_some_and(|state| state == "ready")).count();
            let timed = serde_json::from_str::<Vec<Value>>(&self.sluice(&["get", "profiles", "-o", "json"]).await?)?.len();
            if ready >= wanted && timed >= variants && self.is_idle().await? {
                return Ok(());
            }
            ensure!(
                started.elapsed() < WARM_MAX,
                "{ready} of {wanted} replicas are warm and {timed} of {variants} variants timed after {WARM_MAX:?}: {said}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Has no worker anything to do, for two seconds?
    async fn is_idle(&self) -> anyhow::Result<bool> {
        let used = || self.workers.iter().map(|(_, server)| server.cpu()).sum::<anyhow::Result<Duration>>();
        let (before, length) = (used()?, Duration::from_secs(2));
        tokio::time::sleep(length).await;
        Ok(used()?.saturating_sub(before).as_secs_f64() < IDLE_SHARE * length.as_secs_f64())
    }

    /// What the reference of each model takes alone, what every variant answers a second, and what references answer of the mix.
    async fn look(&mut self) -> anyhow::Result<()> {
        for position in 0..self.models.len() {
            let Some(model) = self.models.get(position) else { break };
            let ask = |variant: &str| Ask { variant: variant.to_owned(), ..Ask::of(model.name) };
            let alone = closed(self, vec![ask(REFERENCE)], 1, LOOK).await?;
            let run_ms = alone.latency_us.value_at_quantile(0.5) as f64 / 1e3;
            let mut looks = Vec::new();
            for variant in &model.variants {
                let seen = closed(self, vec![ask(&variant.name)], CALLERS, LOOK).await?;
                let told = Told::of(&seen.asks, |_| 0.0);
                ensure!(told.answered > 0, "{} of {} answers nothing: {:?}", variant.name, model.name, seen.errors);
                looks.push((seen.answered_per_second(), told.mean_accuracy()));
            }
            if let Some(model) = self.models.get_mut(position) {
                model.target_ms = (TARGET.0 * run_ms).max(TARGET.1).round();
                for (variant, (rate, accuracy)) in model.variants.iter_mut().zip(looks) {
                    (variant.rate, variant.accuracy) = (rate, accuracy);
                }
            }
        }
        let references = self.models.iter().map(|m| Ask { variant: REFERENCE.to_owned(), share: m.share, ..Ask::of(m.name) });
        self.capacity = closed(self, references.collect(), CALLERS, 2 * LOOK).await?.answered_per_second();
        ensure!(self.capacity > 0.0, "references answer nothing");
        Ok(())
    }

    /// Says what is wanted: every variant on every worker that can run it; with what answers must be where that is known.
    async fn apply(&self, is_complete: bool) -> anyhow::Result<()> {
        let mut wanted = String::new();
        for model in &self.models {
            let on = |variant: &Variant| {
                let can = WORKERS.iter().filter(|worker| runs(worker, &variant.name)).map(|worker| worker.name);
                can.map(|worker| format!("{{ variant = \"{}\", worker = \"{worker}\" }}", variant.name)).collect::<Vec<_>>()
            };
            let pins: Vec<String> = model.variants.iter().flat_map(on).collect();
            writeln!(wanted, "[[model]]\nname = \"{}\"\npins = [{}]", model.name, pins.join(", "))?;
            if is_complete {
                writeln!(wanted, "slo = {{ latency_ms = {}, min_accuracy = {} }}", model.target_ms, model.floor)?;
            }
        }
        let file = self.dir.path().join("wanted.toml");
        std::fs::write(&file, wanted)?;
        let file = file.to_string_lossy();
        self.sluice(&["apply", "-f", file.as_ref(), "--wait", "60"]).await.map(drop)
    }

    async fn sluice(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let server = format!("http://{}", self.gateway.admin);
        let output = Command::new(&self.sluice).args(arguments).args(["--server", &server]).output().await?;
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "sluice {}: {said}{failed}", arguments.join(" "));
        Ok(said.into_owned())
    }

    fn tell(&self, report: &mut Report) {
        for worker in &WORKERS {
            let cores = cores(&worker.part);
            let engines = if worker.openvino { "ONNX Runtime and OpenVINO" } else { "ONNX Runtime" };
            report.note(format!("worker {}: core {cores}, {}, {engines}", worker.name, worker.flags.join(" ")));
        }
        for model in &self.models {
            let variant = |v: &Variant| format!("{} {:.4}, {:.0}/s on {} worker(s)", v.name, v.accuracy, v.rate, v.workers);
            let variants: Vec<String> = model.variants.iter().map(variant).collect();
            let (name, target, floor) = (model.name, model.target_ms, model.floor);
            report.note(format!("{name}: within {target} ms, accuracy at least {floor}; alone: {}", variants.join("; ")));
        }
        report.note(format!("load 1 is what references alone answer of the mix, pinned: {:.0}/s", self.capacity));
    }
}

fn runs(worker: &Described, variant: &str) -> bool {
    worker.openvino || !variant.ends_with("@openvino")
}

/// As `taskset` takes them.
fn cores(part: &Part) -> String {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    match part {
        Part::First => "0".to_owned(),
        Part::Rest if last <= 1 => last.to_string(),
        Part::Rest => format!("1-{last}"),
    }
}

/// A copy of the model under `dir`, with its variants.
async fn make(args: &Args, cache: &Path, kept: &Kept, dir: &Path) -> anyhow::Result<Model> {
    let (from, to) = (cache.join(kept.folder), dir.join("models").join(kept.name));
    std::fs::create_dir_all(to.join("1"))?;
    for file in ["1/model.onnx", "sluice.toml", "labels.txt"] {
        if from.join(file).exists() {
            std::fs::copy(from.join(file), to.join(file)).with_context(|| from.join(file).display().to_string())?;
        }
    }
    let mut command = Command::new(&args.sluice);
    command.args(["variants", "make"]).arg(to.join("1/model.onnx")).arg("--calib").arg(cache.join(kept.calib));
    command.arg("--eval").arg(cache.join(kept.eval)).args(["--recipes", kept.recipes, "--budget-ms", "200", "-o", "json"]);
    command.args(["--floor", &format!("accuracy={}", kept.floor)]).env("SLUICE_ONNXRUNTIME", &args.onnxruntime).kill_on_drop(true);
    let output = command.output().await?;
    let made: Value = serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let all = made.get("variants").and_then(Value::as_array).into_iter().flatten();
    let kept_ones = all.filter(|variant| variant.get("outcome").is_some_and(|outcome| outcome == "kept"));
    let names = std::iter::once(REFERENCE).chain(kept_ones.filter_map(|variant| variant.get("name")?.as_str()));
    let variant = |name: &str| {
        let workers = WORKERS.iter().filter(|worker| runs(worker, name)).count();
        Variant { name: name.to_owned(), accuracy: 0.0, workers, rate: 0.0 }
    };
    let variants: Vec<Variant> = names.map(variant).collect();
    ensure!(variants.len() > 1, "no variant of {} is worth anything here: {made}", kept.name);
    Ok(Model { name: kept.name, floor: kept.floor, share: kept.share, target_ms: 0.0, variants })
}

async fn worker(args: &Args, etcd: &Etcd, dir: &Path, described: &Described) -> anyhow::Result<Server> {
    let models = dir.join("models").to_string_lossy().into_owned();
    let mut flags = vec!["--id", described.name, "--listen", "127.0.0.1:0"];
    flags.extend(described.flags);
    if described.openvino {
        flags.extend(["--models", models.as_str()]);
    }
    part(args, etcd, dir, "worker", &flags, Some(described)).await
}

/// A part of the cluster; a worker on its cores only, and where it has no OpenVINO, where none is found.
async fn part(args: &Args, etcd: &Etcd, dir: &Path, role: &str, flags: &[&str], described: Option<&Described>) -> anyhow::Result<Server> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut push = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    push(&["SLUICE_LOG=warn"]);
    if let Some(described) = described {
        if !described.openvino {
            push(&["SLUICE_CACHE=/nowhere"]);
        }
        push(&["taskset", "-c", &cores(&described.part)]);
    }
    let mut onnxruntime = OsString::from("SLUICE_ONNXRUNTIME=");
    onnxruntime.push(&args.onnxruntime);
    arguments.insert(0, onnxruntime);
    arguments.push(args.sluice.clone().into());
    let common = [role, "--etcd", &etcd.url, "--cluster", "bench", "--admin", "127.0.0.1:0"];
    arguments.extend(common.iter().chain(flags).map(OsString::from));
    if role != "controller" {
        let name = described.map_or(role, |described| described.name);
        arguments.extend([OsString::from("--data-dir"), dir.join(name).into()]);
    }
    Server::part(Path::new("env"), arguments.iter().map(AsRef::<OsStr>::as_ref)).await
}
