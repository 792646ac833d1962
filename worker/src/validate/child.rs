//! The child's side of validation.

use super::{Facts, Line, Order, PROFILE_BYTES_MAX, Stage, Verdict, over_memory};
use crate::engine::{EngineError, LoadSpec, Runtime, sample};
use crate::onnx;
use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Most bytes of an order.
const ORDER_LEN_MAX: u64 = 1 << 20;
/// Reads one order from standard input, does it, and writes the verdict to standard output.
pub fn child_main() -> ExitCode {
    match obey() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "{e}");
            ExitCode::FAILURE
        }
    }
}

fn obey() -> std::io::Result<()> {
    let mut text = Vec::new();
    std::io::stdin().take(ORDER_LEN_MAX).read_to_end(&mut text)?;
    let order: Order = serde_json::from_slice(&text)?;
    // Nothing but us writes to the pipe from here on: what a library prints joins its errors.
    let mut out = Out(File::from(rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3)?));
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    restrict(&order)?;
    let verdict = validate(&order, &mut out)?;
    out.line(&Line::Verdict(verdict))
}

struct Out(File);

impl Out {
    fn line(&mut self, line: &Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.0.write_all(&text)
    }

    fn stage(&mut self, stage: Stage) -> std::io::Result<()> {
        self.line(&Line::Stage(stage))
    }
}

/// Ends with the parent, leaves no core file, and takes no more memory than allowed. The limit is on what can be written
/// to (`RLIMIT_DATA`): address space alone (`RLIMIT_AS`) is reserved by allocators and device drivers by the terabyte.
fn restrict(order: &Order) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(order.parent) {
        return Err(std::io::Error::other("the process that wanted the verdict is gone"));
    }
    let both = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, both(0))?;
    setrlimit(Resource::Data, both(order.memory_bytes))?;
    if order.trial.is_some() {
        setrlimit(Resource::Fsize, both(PROFILE_BYTES_MAX))?;
    }
    Ok(())
}

fn validate(order: &Order, out: &mut Out) -> std::io::Result<Verdict> {
    let request = &order.request;
    out.stage(Stage::Scanning)?;
    let scan = match onnx::scan(&request.model) {
        Ok(scan) => scan,
        Err(onnx::ScanError::Unreadable { reason }) => {
            return Ok(Verdict::NotRun { reason: format!("the model file cannot be read: {reason}") });
        }
        Err(e) => return Ok(Verdict::Invalid { reason: e.to_string() }),
    };
    out.stage(Stage::Starting)?;
    let runtime = match Runtime::open(request.engine, &request.libraries) {
        Ok(runtime) => runtime,
        Err(e) => return Ok(Verdict::NotRun { reason: e.to_string() }),
    };
    out.stage(Stage::Loading)?;
    let (before, started) = (resident_bytes(), Instant::now());
    let spec = LoadSpec {
        engine: request.engine,
        hint: request.hint,
        provider: request.provider,
        device_id: request.device_id,
        fallback: request.fallback,
        profile: order.trial.as_ref().map(|trial| trial.profile.clone()),
        ..LoadSpec::cpu(&request.model, request.intra_threads)
    };
    let mut engine = match runtime.load(&spec) {
        Ok(engine) => engine,
        Err(EngineError::OutOfMemory { .. }) => return Ok(Verdict::Invalid { reason: over_memory(order.memory_bytes, Stage::Loading) }),
        Err(e) => return Ok(Verdict::Invalid { reason: e.to_string() }),
    };
    let load_ms = whole_ms(started.elapsed());
    out.stage(Stage::Running)?;
    let run = match &order.trial {
        None => sample::find(engine.as_mut()).map(|(_, took)| took),
        Some(trial) => sample::run_shaped(engine.as_mut(), &trial.shapes),
    };
    let (first_run_ms, not_exercised) = match run {
        Ok(took) => (Some(whole_ms(took)), None),
        Err(EngineError::OutOfMemory { .. }) => return Ok(Verdict::Invalid { reason: over_memory(order.memory_bytes, Stage::Running) }),
        Err(e) if !e.keeps_engine() => return Ok(Verdict::Invalid { reason: e.to_string() }),
        Err(e) => (None, Some(e.to_string())),
    };
    Ok(Verdict::Valid(Box::new(Facts {
        inputs: engine.signature().inputs.clone(),
        outputs: engine.signature().outputs.clone(),
        provider: engine.provider().clone(),
        engine_version: runtime.version().to_owned(),
        bytes_resident: resident_bytes().saturating_sub(before),
        load_ms,
        first_run_ms,
        not_exercised,
        external_files: scan.external_files,
    })))
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}
