//! First validation of an unknown artifact: a child process scans it, loads it and runs it once, under limits of time and
//! memory. Whatever the artifact does to the runtime, this process only reads a verdict.
//!
//! Not here: remembering verdicts by digest (`repository`).

mod child;
#[cfg(test)]
mod tests;

pub use child::child_main;

use crate::engine::{EngineName, ExecutionProvider, PrecisionHint, ProviderReport, without_paths};
use policy::TensorSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// The hidden subcommand by which a binary runs [`child_main`].
pub const SUBCOMMAND: &str = "__validate";

/// Largest measurement of a trial: some 400,000 runs of nodes, read in seconds. Models have hundreds, loops the rest.
pub const PROFILE_BYTES_MAX: u64 = 256 << 20;
/// Most that is read of a child's verdict: signatures are some kilobytes.
const STDOUT_LEN_MAX: u64 = 4 << 20;
/// How much of the end of its error output is kept.
const STDERR_LEN_MAX: usize = 16 << 10;
/// How much of that is repeated in a reason.
const STDERR_SHOWN_MAX: usize = 400;

/// What to validate, and how it will be loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The model file.
    pub model: PathBuf,
    /// The engine that will load it.
    pub engine: EngineName,
    /// The precision it will be told to compute in.
    pub hint: Option<PrecisionHint>,
    /// Places to look for the engine's library, as [`crate::engine::Runtime::open`] takes them.
    pub libraries: Vec<PathBuf>,
    /// What must run it.
    pub provider: ExecutionProvider,
    /// Which of the provider's devices.
    pub device_id: i32,
    /// May the processor run it instead?
    pub fallback: crate::engine::Fallback,
    /// Threads of one run.
    pub intra_threads: NonZeroUsize,
}

/// A run that is measured rather than served.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trial {
    /// Shapes of all inputs, by name.
    pub shapes: BTreeMap<String, Vec<i64>>,
    /// Where the measurement goes, as [`crate::engine::LoadSpec::profile`] takes it.
    pub profile: PathBuf,
}

/// What a child may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From start to verdict.
    pub time: Duration,
    /// Writable memory, the runtime's own included.
    pub memory_bytes: u64,
}

impl Default for Limits {
    /// A minute and 8 GiB.
    fn default() -> Self {
        Self { time: Duration::from_secs(60), memory_bytes: 8 << 30 }
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// It loads, and runs as far as could be tried.
    Valid(Box<Facts>),
    /// It must not be loaded in a process that serves.
    Invalid {
        /// Why, fit for a client.
        reason: String,
    },
    /// Nothing was learned of the artifact: the fault is this host's. To be tried again, not remembered.
    NotRun {
        /// What went wrong.
        reason: String,
    },
}

/// What a valid artifact is like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Inputs in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// What really runs it (I6).
    pub provider: ProviderReport,
    /// Version of the runtime library.
    pub engine_version: String,
    /// Memory that loading and one run added to a process which had the runtime already.
    pub bytes_resident: u64,
    /// Milliseconds to load.
    pub load_ms: u64,
    /// Milliseconds of the first run; none if no run succeeded.
    pub first_run_ms: Option<u64>,
    /// Why no run succeeded: sizes or values that were guessed did not suit the model. It is valid all the same.
    pub not_exercised: Option<String>,
    /// Files beside the model that belong to it.
    pub external_files: Vec<PathBuf>,
}

impl Facts {
    /// Did a run succeed?
    pub fn warmed(&self) -> bool {
        self.first_run_ms.is_some()
    }
}

/// What the child is told: the request, and what it must do to itself.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    request: Request,
    trial: Option<Trial>,
    memory_bytes: u64,
    /// Process id of who wants the verdict; the child ends with it.
    parent: u32,
}

/// A line from the child.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// What it does from here on, for the case that it does not come back.
    Stage(Stage),
    /// The last line.
    Verdict(Verdict),
}

/// What a child is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Starting,
    Scanning,
    Loading,
    Running,
}

impl Stage {
    fn doing(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Scanning => "scanning",
            Self::Loading => "loading",
            Self::Running => "running",
        }
    }
}

/// Has `binary` validate an artifact as `binary __validate` in a child process, which is killed when its time is up, when
/// the returned future is dropped, and when the thread that polls this first ends.
pub async fn validate(binary: &Path, request: &Request, limits: Limits) -> Verdict {
    ask(binary, request, None, limits).await
}

/// Like [`validate`], but loads the graph as it is written and runs it once on inputs of `trial`'s shapes, and no others.
pub async fn measure(binary: &Path, request: &Request, trial: Trial, limits: Limits) -> Verdict {
    ask(binary, request, Some(trial), limits).await
}

async fn ask(binary: &Path, request: &Request, trial: Option<Trial>, limits: Limits) -> Verdict {
    let not_run = |what: &str, e: &dyn std::fmt::Display| Verdict::NotRun { reason: format!("validating process: {what}: {e}") };
    let order = Order { request: request.clone(), trial, memory_bytes: limits.memory_bytes, parent: std::process::id() };
    let order = match serde_json::to_vec(&order) {
        Ok(order) => order,
        Err(e) => return not_run("order", &e),
    };
    let mut command = Command::new(binary);
    command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return not_run("start", &e),
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let talk = talk(&mut child, &order, &mut stdout, &mut stderr);
    match tokio::time::timeout(limits.time, talk).await {
        Ok(Ok(status)) => judge(status, &stdout, &stderr, limits),
        Ok(Err(e)) => not_run("talk", &e),
        Err(_) => {
            let _ = child.kill().await; // and waits for its end
            let (stage, seconds) = (last_stage(&stdout), limits.time.as_secs_f64());
            match stage {
                Stage::Starting => not_run("start", &format!("not done within {seconds} s")),
                _ => Verdict::Invalid {
                    reason: format!("did not finish loading and one run within {seconds} s; stopped while {}", stage.doing()),
                },
            }
        }
    }
}

async fn talk(child: &mut Child, order: &[u8], stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A child that is gone already tells more by how it ended.
            let _ = stdin.write_all(order).await;
        }
    };
    let listen = async {
        match out {
            Some(out) => out.take(STDOUT_LEN_MAX).read_to_end(stdout).await.map(drop),
            None => Ok(()),
        }
    };
    let ((), listened, ()) = tokio::join!(tell, listen, keep_end(err, stderr));
    listened?;
    child.wait().await
}

/// Reads to the end, so that the child never waits for us, and keeps the last of it.
async fn keep_end(source: Option<impl AsyncRead + Unpin>, end: &mut Vec<u8>) {
    let Some(mut source) = source else { return };
    let mut chunk = [0u8; 4096];
    while let Ok(read @ 1..) = source.read(&mut chunk).await {
        end.extend_from_slice(chunk.get(..read).unwrap_or_default());
        end.drain(..end.len().saturating_sub(STDERR_LEN_MAX));
    }
}

fn judge(status: ExitStatus, stdout: &[u8], stderr: &[u8], limits: Limits) -> Verdict {
    if let Some(verdict) = lines(stdout).find_map(|line| if let Line::Verdict(v) = line { Some(v) } else { None }) {
        return verdict;
    }
    let stage = last_stage(stdout);
    let text = without_paths(&String::from_utf8_lossy(stderr), None);
    let last: String = text.chars().skip(text.chars().count().saturating_sub(STDERR_SHOWN_MAX)).collect();
    let reason = match status.signal() {
        Some(6) if ["memory allocation", "bad_alloc"].iter().any(|t| text.contains(t)) => over_memory(limits.memory_bytes, stage),
        // Rust's own handler turns a stack that ran over, signal 11, into signal 6.
        Some(6) if text.contains("overflowed its stack") => {
            format!("the runtime crashed (signal 11, out of stack) while {}", stage.doing())
        }
        // SIGXFSZ: only a trial has such a limit, and writes a file.
        Some(25) => format!("its nodes run too often for a measurement, which may have {} MiB", PROFILE_BYTES_MAX >> 20),
        Some(9) => format!("the runtime was killed (signal 9) while {}, as happens when the host is out of memory", stage.doing()),
        Some(signal) => format!("the runtime crashed (signal {signal}) while {}", stage.doing()),
        None => format!("the validating process ended with status {} while {}: {last}", status.code().unwrap_or(-1), stage.doing()),
    };
    match stage {
        // Signal 9 comes from outside: the host was out of memory, which says nothing of the model.
        _ if status.signal() == Some(9) => Verdict::NotRun { reason },
        Stage::Starting => Verdict::NotRun { reason },
        _ => Verdict::Invalid { reason },
    }
}

fn over_memory(limit: u64, stage: Stage) -> String {
    format!("needs more memory while {} than the {} MiB that validation allows", stage.doing(), limit >> 20)
}

fn last_stage(stdout: &[u8]) -> Stage {
    lines(stdout).filter_map(|line| if let Line::Stage(s) = line { Some(s) } else { None }).last().unwrap_or(Stage::Starting)
}

/// The child's lines; what a library prints between them is passed over.
fn lines(stdout: &[u8]) -> impl Iterator<Item = Line> {
    stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}
