//! The runner's own side: a main thread for orders, a thread per engine.

use super::engine::{datatype, number};
use super::mail::{Ask, LoadTold, Mail, Tensor, Told, ring};
use super::orders::{self, Order, Shared};
use super::window::Window;
use crate::arena::{ALIGN, Region};
use crate::cores;
use crate::engine::{CancelFlag, Engine, EngineError, EngineName, LoadSpec, Runtime, TensorOut, TensorView};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Points by which the system prefers this process to the worker when it must kill one for its memory.
const OOM_SCORE: &[u8] = b"500";

/// What this process does when called with [`super::SUBCOMMAND`] and the libraries: takes orders from standard input until the
/// worker closes it.
pub fn child_main() -> ExitCode {
    let libraries: Vec<_> = std::env::args_os().skip(2).map(PathBuf::from).collect();
    let result = restrict().and_then(|()| obey(&libraries));
    if let Err(error) = &result {
        let _ = writeln!(std::io::stderr(), "runner: {error}");
    }
    // Not a return: engines may be running, and nobody waits for them any more.
    std::process::exit(i32::from(result.is_err()))
}

fn restrict() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    // A service manager may tell every process of the service to end; this one ends when the worker is done with it. The handler stays
    // when the runtime is gone.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _in_it = runtime.enter();
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map(drop)
}

/// An engine as the main thread knows it.
struct Known {
    current: Arc<Current>,
    closed: Arc<AtomicBool>,
    bell: OwnedFd,
}

fn obey(libraries: &[PathBuf]) -> std::io::Result<()> {
    let mut engines = HashMap::<u64, Known>::new();
    while let Some((order, fds)) = orders::receive(std::io::stdin())? {
        match order {
            Order::Load { engine, spec } => {
                let shared = Shared::from_fds(fds).ok_or_else(|| std::io::Error::other("a load without its memory"))?;
                let (current, closed) = (Arc::<Current>::default(), Arc::<AtomicBool>::default());
                let bell = shared.post.to_runner.try_clone()?;
                let served = Served {
                    mail: shared.post.runner(closed.clone()),
                    inputs: Window::new(shared.inputs),
                    outputs: Window::new(shared.outputs),
                    current: current.clone(),
                    names: Vec::new(),
                    last: Vec::new(),
                };
                // Here, not on the engine's thread: threads of the library's own would inherit its cores and its name.
                let runtime = open(libraries, spec.engine);
                let work = move || {
                    let _fatal = Fatal;
                    served.serve(runtime, &spec);
                };
                std::thread::Builder::new().name(format!("sluice-engine-{engine}")).spawn(work)?;
                engines.insert(engine, Known { current, closed, bell });
            }
            Order::Stop { engine, run } => {
                if let Some(known) = engines.get(&engine) {
                    known.current.stop(run);
                }
            }
            Order::Unload { engine } => {
                if let Some(known) = engines.remove(&engine) {
                    known.closed.store(true, Ordering::Release);
                    ring(&known.bell)?;
                }
            }
        }
    }
    Ok(())
}

/// A fault of ours ends the runner: the worker then answers whoever waits and starts another.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// What stops an engine's run. Runs come and stops come by different ways: a stop may be here first.
#[derive(Default)]
struct Current(Mutex<Run>);

#[derive(Default)]
struct Run {
    number: u64,
    stopped: u64,
    flag: CancelFlag,
}

impl Current {
    fn begin(&self, number: u64) -> CancelFlag {
        let mut run = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (run.number, run.flag) = (number, CancelFlag::new());
        if run.stopped >= number {
            run.flag.cancel();
        }
        run.flag.clone()
    }

    fn stop(&self, number: u64) {
        let mut run = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        run.stopped = run.stopped.max(number);
        if run.number == number {
            run.flag.cancel();
        }
    }
}

/// The library of `engine`, loaded by its first load.
fn open(libraries: &[PathBuf], engine: EngineName) -> Result<Runtime, EngineError> {
    let named = EngineName::ALL.into_iter().zip(libraries).find(|(name, _)| *name == engine);
    Runtime::open(engine, named.map(|(_, path)| std::slice::from_ref(path)).unwrap_or_default())
}

/// An engine's thread.
struct Served {
    mail: Mail,
    inputs: Window,
    outputs: Window,
    current: Arc<Current>,
    /// Of the inputs, in the signature's order.
    names: Vec<String>,
    /// Outputs that are not written yet, since the slot was too small.
    last: Vec<TensorOut>,
}

impl Served {
    /// Loads, tells how it went, and runs until it is told to end.
    fn serve(mut self, runtime: Result<Runtime, EngineError>, spec: &LoadSpec) {
        cores::bind(&spec.cores);
        let loaded = runtime.and_then(|runtime| runtime.load(spec));
        let told = loaded.as_ref().map(|engine| (engine.provider(), engine.signature()));
        let sent = serde_json::to_vec(&told).map_err(std::io::Error::other).and_then(|json| self.mail.send(&LoadTold { json }));
        let (Ok(mut engine), Ok(())) = (loaded, sent) else { return };
        self.names = engine.signature().inputs.iter().map(|spec| spec.name.clone()).collect();
        while let Ok(ask) = self.mail.receive::<Ask>() {
            let told = match self.answer(engine.as_mut(), &ask) {
                Ok(told) => told,
                Err(error) => Told { error: serde_json::to_vec(&error).unwrap_or_default(), ..Told::default() },
            };
            if let Err(error) = self.mail.send(&told) {
                let error = EngineError::NotComputed { reason: error.to_string() };
                let told = Told { error: serde_json::to_vec(&error).unwrap_or_default(), ..Told::default() };
                if self.mail.send(&told).is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&mut self, engine: &mut dyn Engine, ask: &Ask) -> Result<Told, EngineError> {
        if ask.run > 0 {
            self.last.clear();
            self.last = self.run(engine, ask)?;
        }
        let sizes = self.last.iter().map(|output| output.data.len().next_multiple_of(ALIGN) as u64);
        let needed = sizes.fold(0, u64::saturating_add);
        if needed > ask.slot_len {
            return Ok(Told { needed, ..Told::default() });
        }
        let outputs = self.write(engine, ask.slot).ok_or_else(|| misplaced("outputs"))?;
        self.last.clear();
        Ok(Told { outputs, ..Told::default() })
    }

    fn run(&mut self, engine: &mut dyn Engine, ask: &Ask) -> Result<Vec<TensorOut>, EngineError> {
        let ends = ask.inputs.iter().map(|tensor| tensor.region().and_then(|region| region.offset.checked_add(region.len)));
        let end = ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max().or(Some(0)));
        end.and_then(|end| self.inputs.reach(end)).ok_or_else(|| misplaced("inputs"))?;
        let view = |tensor| view(&self.inputs, &self.names, tensor);
        let views: Vec<_> = ask.inputs.iter().map(view).collect::<Option<_>>().ok_or_else(|| misplaced("inputs"))?;
        engine.run(&views, &self.current.begin(ask.run))
    }

    /// Copies the last outputs to the slot at `offset`, one behind the other.
    fn write(&mut self, engine: &dyn Engine, mut offset: u64) -> Option<Vec<Tensor>> {
        let mut tensors = Vec::with_capacity(self.last.len());
        for output in &self.last {
            let region = Region { offset: usize::try_from(offset).ok()?, len: output.data.len() };
            self.outputs.bytes_mut(region)?.copy_from_slice(&output.data);
            tensors.push(Tensor {
                place: u32::try_from(engine.signature().outputs.iter().position(|spec| *spec.name == *output.name)?).ok()?,
                datatype: number(output.datatype),
                shape: output.shape.clone(),
                offset,
                len: region.len as u64,
            });
            offset = offset.checked_add(region.len.next_multiple_of(ALIGN) as u64)?;
        }
        Some(tensors)
    }
}

fn view<'a>(inputs: &'a Window, names: &'a [String], tensor: &'a Tensor) -> Option<TensorView<'a>> {
    let name = names.get(usize::try_from(tensor.place).ok()?)?;
    let data = inputs.reached(tensor.region()?)?;
    Some(TensorView { name, datatype: datatype(tensor.datatype)?, shape: &tensor.shape, data, in_arena: None })
}

fn misplaced(what: &str) -> EngineError {
    EngineError::Failed { reason: format!("{what} lie where no memory is shared") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_for_its_run_whether_it_comes_before_it_or_after() {
        let current = Current::default();
        let running = current.begin(1);
        assert!(!running.is_cancelled());
        current.stop(1);
        assert!(running.is_cancelled());
        current.stop(2);
        assert!(current.begin(2).is_cancelled(), "it was here first");
        let next = current.begin(3);
        current.stop(2);
        assert!(!next.is_cancelled());
    }
}
