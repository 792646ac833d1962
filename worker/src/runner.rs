//! Runner processes: engines in a child per device, so that what a model does to its runtime ends there.
//!
//! A runner is this binary, called with [`SUBCOMMAND`]. Its main thread takes orders from a socket, its standard input: load, stop a
//! run, unload. Each engine has a thread there and memory shared with its thread here: the arena in which batches are put together, slots
//! for outputs, and a page of mail for what belongs to a run; eventfds wake. The copy that puts a batch together is the one that crosses;
//! outputs are copied once in the runner and lent from there.
//!
//! When a runner dies, each of its engines answers [`EngineError::Gone`], and the next load starts another.

mod child;
mod engine;
mod mail;
mod orders;
mod process;
mod slots;
#[cfg(test)]
mod tests;
mod window;

pub use child::child_main;
pub(crate) use process::Runner;

use crate::engine::{Engine, EngineError, EngineName, Found, LoadSpec, Runtime, ort};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The hidden subcommand by which a binary runs [`child_main`]; the libraries of the engines follow it, in the order of
/// [`EngineName::ALL`], of which ONNX Runtime's is always there.
pub const SUBCOMMAND: &str = "__runner";

/// Where engines live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// In this process: nothing is faster, and a model that crashes its runtime takes the worker along.
    None,
    /// In a child process per device.
    Process,
}

/// Loads engines where this worker keeps them.
pub(crate) struct Loader {
    ort: Arc<ort::Runtime>,
    /// Loaded by the first engine that needs it; else why there is none.
    openvino: Result<Found, EngineError>,
    runners: Option<Runners>,
}

struct Runners {
    binary: PathBuf,
    libraries: Vec<PathBuf>,
    of: Mutex<BTreeMap<String, Arc<Runner>>>,
}

/// An engine, and the process it is in if that is not this one.
pub(crate) struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) runner: Option<Arc<Runner>>,
}

impl Loader {
    /// Runners, if any, will be `binary`.
    pub(crate) fn new(ort: Arc<ort::Runtime>, openvino: Result<Found, EngineError>, isolation: Isolation, binary: PathBuf) -> Self {
        let libraries = std::iter::once(ort.path().to_owned()).chain(openvino.iter().map(|found| found.path.clone())).collect();
        let runners = (isolation == Isolation::Process).then(|| Runners { binary, libraries, of: Mutex::default() });
        Self { ort, openvino, runners }
    }

    /// Version of ONNX Runtime's library.
    pub(crate) fn version(&self) -> &str {
        self.version_of(EngineName::Ort).unwrap_or_default()
    }

    /// Version of an engine's library; `None` where it is not installed.
    pub(crate) fn version_of(&self, engine: EngineName) -> Option<&str> {
        match engine {
            EngineName::Ort => Some(self.ort.version()),
            EngineName::Openvino => self.openvino.as_ref().ok().map(|found| found.version.as_str()),
        }
    }

    /// Loads `spec` on `device`. Blocks for as long as that takes.
    ///
    /// # Errors
    /// As [`Runtime::load`], [`EngineError::LibraryMissing`] for an engine that is not installed, and [`EngineError::Failed`] when no runner can be started, [`EngineError::Gone`] when it dies meanwhile.
    pub(crate) fn load(&self, device: &str, spec: &LoadSpec) -> Result<Loaded, EngineError> {
        if let (EngineName::Openvino, Err(missing)) = (spec.engine, &self.openvino) {
            return Err(missing.clone());
        }
        let Some(runners) = &self.runners else {
            return Ok(Loaded { engine: self.runtime(spec.engine)?.load(spec)?, runner: None });
        };
        let runner = runners.of(device)?;
        Ok(Loaded { engine: Box::new(runner.load(spec)?), runner: Some(runner) })
    }

    /// The library in this process.
    fn runtime(&self, engine: EngineName) -> Result<Runtime, EngineError> {
        match engine {
            EngineName::Ort => Ok(Runtime::Ort(self.ort.clone())),
            EngineName::Openvino => Runtime::open(engine, &[self.openvino.clone()?.path]),
        }
    }
}

impl Runners {
    /// The runner of `device`: the one there is while it lives, else a new one.
    fn of(&self, device: &str) -> Result<Arc<Runner>, EngineError> {
        let mut runners = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runner) = runners.get(device).filter(|runner| runner.lives()) {
            return Ok(runner.clone());
        }
        let runner = Arc::new(Runner::start(&self.binary, &self.libraries, device)?);
        runners.insert(device.to_owned(), runner.clone());
        Ok(runner)
    }
}
