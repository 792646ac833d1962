//! ONNX Runtime in a process of its own without a server around it: what this machine can do with a model.
//!
//! The process loads its sessions once and then runs all of them for as long as it is told, so that it can take turns with servers.

use crate::server::OWN;
use anyhow::{Context as _, ensure};
use policy::DataType;
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::io::{BufRead as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use worker::engine::ort::Runtime;
use worker::engine::{CancelFlag, Engine, EngineSignature, LoadSpec, TensorView};

/// Longest wait for an answer of the process: it may be loading, or inside a run.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Runs of each session before the first that counts.
const WARM_UP: usize = 3;

/// How the machine is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Setting {
    /// Sessions, each run by a thread of its own
    #[arg(long)]
    pub(crate) sessions: usize,
    /// Threads of each session
    #[arg(long)]
    pub(crate) threads: NonZeroUsize,
    /// Rows of each run
    #[arg(long)]
    pub(crate) rows: u32,
    /// Threads of a session spin while they wait for each other
    #[arg(long)]
    pub(crate) spinning: bool,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, threads, rows, spinning } = self;
        write!(f, "{sessions} x {threads} threads, batch {rows}{}", if *spinning { ", spinning" } else { "" })
    }
}

/// A model, and how large its open dimensions are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Subject {
    /// The model file
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Size of open dimensions other than the rows
    #[arg(long)]
    pub(crate) size: i64,
}

/// A process that waits to be told to run.
pub(crate) struct InProcess {
    _child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl InProcess {
    /// Starts it, loads and warms up.
    pub(crate) async fn start(subject: &Subject, setting: Setting) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(OWN).arg("in-process").arg("--file").arg(&subject.file).args(["--size", &subject.size.to_string()]);
        command.args(["--sessions", &setting.sessions.to_string(), "--threads", &setting.threads.to_string()]);
        command.args(["--rows", &setting.rows.to_string()]);
        command.args(setting.spinning.then_some("--spinning"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let orders = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut process = Self { _child: child, orders, lines };
        ensure!(process.line().await? == "ready", "{}, {setting}: not ready", subject.file.display());
        Ok(process)
    }

    /// Rows a second over `length`, and the processor seconds of each.
    pub(crate) async fn run(&mut self, length: Duration) -> anyhow::Result<(f64, f64)> {
        self.orders.write_all(format!("{}\n", length.as_millis()).as_bytes()).await?;
        let line = self.line().await?;
        let (rate, cpu) = line.split_once(' ').with_context(|| format!("the in-process run says {line:?}"))?;
        Ok((rate.parse()?, cpu.parse()?))
    }

    /// Rows a second over `length`.
    pub(crate) async fn rate(&mut self, length: Duration) -> anyhow::Result<f64> {
        Ok(self.run(length).await?.0)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let line = tokio::time::timeout(ANSWER_MAX, self.lines.next_line()).await.context("the in-process run says nothing")??;
        line.context("the in-process run has ended")
    }
}

/// The process itself: reads milliseconds from its input, runs for that long, prints rows a second and processor seconds of a row; until
/// the input ends.
pub(crate) fn serve(library: &Path, subject: &Subject, setting: Setting) -> anyhow::Result<()> {
    let runtime = Runtime::open(&[library.to_owned()])?;
    let spec = LoadSpec { allow_spinning: setting.spinning, ..LoadSpec::cpu(&subject.file, setting.threads) };
    let mut engines = (0..setting.sessions).map(|_| runtime.load(&spec)).collect::<Result<Vec<_>, _>>()?;
    let inputs = match engines.first() {
        Some(engine) => inputs(engine.signature(), setting.rows, subject.size)?,
        None => Vec::new(),
    };
    for engine in &mut engines {
        for _ in 0..WARM_UP {
            run(engine.as_mut(), &inputs)?;
        }
    }
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let length = Duration::from_millis(line?.trim().parse()?);
        let before = cpu();
        let runs = std::thread::scope(|scope| {
            let inputs = &inputs;
            let runs: Vec<_> = engines.iter_mut().map(|engine| scope.spawn(move || repeat(engine.as_mut(), inputs, length))).collect();
            let joined = runs.into_iter().map(|run| run.join().unwrap_or_else(|_| anyhow::bail!("a run panicked")));
            joined.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let used = cpu().saturating_sub(before).as_secs_f64();
        let rows = |runs: f64| runs * f64::from(setting.rows);
        let rate: f64 = runs.iter().map(|(count, seconds)| rows(f64::from(*count)) / seconds).sum();
        let count: u32 = runs.iter().map(|(count, _)| count).sum();
        writeln!(out, "{rate} {}", used / rows(f64::from(count)).max(1.0))?;
    }
    Ok(())
}

/// How often it ran in about `length`, and seconds until the last run ended.
fn repeat(engine: &mut dyn Engine, inputs: &[Input], length: Duration) -> anyhow::Result<(u32, f64)> {
    let (started, mut runs) = (Instant::now(), 0u32);
    while started.elapsed() < length {
        run(engine, inputs)?;
        runs = runs.saturating_add(1);
    }
    Ok((runs, started.elapsed().as_secs_f64()))
}

/// Processor time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn run(engine: &mut dyn Engine, inputs: &[Input]) -> anyhow::Result<()> {
    let views: Vec<_> = inputs.iter().map(Input::view).collect();
    engine.run(&views, &CancelFlag::new())?;
    Ok(())
}

/// Zeros for one input.
struct Input {
    name: String,
    datatype: DataType,
    shape: Vec<i64>,
    data: Vec<u8>,
}

impl Input {
    fn view(&self) -> TensorView<'_> {
        TensorView::new(&self.name, self.datatype, &self.shape, &self.data)
    }
}

/// What a load generator would send: `rows` in the first open dimension, `size` in the others.
fn inputs(signature: &EngineSignature, rows: u32, size: i64) -> anyhow::Result<Vec<Input>> {
    let input = |spec: &policy::TensorSpec| {
        let open = |(place, dim): (usize, &i64)| match (place, *dim) {
            (0, ..0) => i64::from(rows),
            (_, ..0) => size,
            (_, fixed) => fixed,
        };
        let shape: Vec<i64> = spec.shape.iter().enumerate().map(open).collect();
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?));
        let bytes = elements.and_then(|n| n.checked_mul(spec.datatype.size()?));
        let data = vec![0; bytes.with_context(|| format!("no zeros for input {} of {shape:?}", spec.name))?];
        Ok(Input { name: spec.name.clone(), datatype: spec.datatype, shape, data })
    };
    signature.inputs.iter().filter(|spec| !spec.optional).map(input).collect()
}
