//! The solver of mixed-integer programs in the fetched Python, which judges plans.

use crate::Args;
use anyhow::{Context as _, ensure};
use policy::place::{Problem, Solution};
use serde::Deserialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Seconds for each instance: fifty, two at a time, are done within twenty minutes whatever comes.
const SECONDS: usize = 45;
/// Processes at a time, of one thread each.
const PROCESSES: usize = 2;

/// What the solver says of a plan.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Judged {
    /// Value of the plan, counted there.
    pub(super) value: f64,
    /// No plan is worth more; `None` when it had no bound in time.
    pub(super) bound: Option<f64>,
    /// Value of the best plan it found.
    pub(super) best: Option<f64>,
    /// Rows a second which that one answers.
    pub(super) served: Option<f64>,
    /// By how much the plan breaks the rule it breaks most.
    pub(super) broken: f64,
}

pub(super) struct Oracle {
    python: PathBuf,
    script: PathBuf,
}

impl Oracle {
    pub(super) fn find(args: &Args) -> anyhow::Result<Self> {
        let cache = args.models.parent().and_then(Path::parent).context("--models is not in a cache of fetched things")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/py/oracle.py");
        Ok(Self { python: cache.join("venv/bin/python"), script })
    }

    pub(super) fn note(&self) -> String {
        format!("bounds by HiGHS, started from our plan, {SECONDS} s an instance on one thread, to a gap of 0.2 % of its own best")
    }

    /// In the order of `plans`.
    pub(super) fn judge(&self, plans: &[(Problem, Solution)]) -> anyhow::Result<Vec<Judged>> {
        let scratch = tempfile::tempdir()?;
        let mut running = Vec::new();
        for process in 0..PROCESSES {
            // In turns, so that large ones are shared.
            let path = scratch.path().join(format!("{process}.jsonl"));
            let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
            for (problem, solution) in plans.iter().skip(process).step_by(PROCESSES) {
                writeln!(file, "{}", serde_json::json!({ "problem": problem, "solution": solution }))?;
            }
            file.flush()?;
            let mut command = Command::new(&self.python);
            command.arg("-B").arg(&self.script).arg(&path).arg(SECONDS.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
            running.push(command.spawn().with_context(|| format!("cannot run {}", self.python.display()))?);
        }
        let said = running.into_iter().map(answers).collect::<anyhow::Result<Vec<_>>>()?;
        let judged: Vec<Judged> = (0..plans.len()).filter_map(|n| said.get(n % PROCESSES)?.get(n / PROCESSES).copied()).collect();
        ensure!(judged.len() == plans.len(), "{} of {} plans were judged", judged.len(), plans.len());
        Ok(judged)
    }
}

fn answers(process: Child) -> anyhow::Result<Vec<Judged>> {
    let output = process.wait_with_output()?;
    ensure!(output.status.success(), "the oracle failed: {}", output.status);
    String::from_utf8(output.stdout)?.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}
