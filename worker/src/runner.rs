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

use crate::engine::ort::Runtime;
use crate::engine::{Engine, EngineError, LoadSpec};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The hidden subcommand by which a binary runs [`child_main`]; the runtime library follows it.
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
    runtime: Arc<Runtime>,
    runners: Option<Runners>,
}

struct Runners {
    binary: PathBuf,
    of: Mutex<BTreeMap<String, Arc<Runner>>>,
}

/// An engine, and the process it is in if that is not this one.
pub(crate) struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) runner: Option<Arc<Runner>>,
}

impl Loader {
    /// Runners, if any, will be `binary`.
    pub(crate) fn new(runtime: Arc<Runtime>, isolation: Isolation, binary: PathBuf) -> Self {
        let runners = (isolation == Isolation::Process).then(|| Runners { binary, of: Mutex::default() });
        Self { runtime, runners }
    }

    /// Version of the runtime library.
    pub(crate) fn version(&self) -> &str {
        self.runtime.version()
    }

    /// Loads `spec` on `device`. Blocks for as long as that takes.
    ///
    /// # Errors
    /// As [`Runtime::load`], and [`EngineError::Failed`] when no runner can be started, [`EngineError::Gone`] when it dies meanwhile.
    pub(crate) fn load(&self, device: &str, spec: &LoadSpec) -> Result<Loaded, EngineError> {
        let Some(runners) = &self.runners else {
            return Ok(Loaded { engine: self.runtime.load(spec)?, runner: None });
        };
        let runner = runners.of(device, &self.runtime)?;
        Ok(Loaded { engine: Box::new(runner.load(spec)?), runner: Some(runner) })
    }
}

impl Runners {
    /// The runner of `device`: the one there is while it lives, else a new one.
    fn of(&self, device: &str, runtime: &Runtime) -> Result<Arc<Runner>, EngineError> {
        let mut runners = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runner) = runners.get(device).filter(|runner| runner.lives()) {
            return Ok(runner.clone());
        }
        let runner = Arc::new(Runner::start(&self.binary, runtime.path(), device)?);
        runners.insert(device.to_owned(), runner.clone());
        Ok(runner)
    }
}
