//! ONNX Runtime as an [`Engine`], through the `ort` crate and, where that has no safe call, its C API.
//!
//! One process holds one library: [`Runtime::open`] loads it once and then hands out the same runtime.

mod assignment;
mod library;
mod message;
mod session;
mod tensor;
#[cfg(test)]
mod tests;

use super::library::same_file;
use super::{Engine, EngineError, ExecutionProvider, Fallback, LoadSpec, trim_heap};
use crate::cores;
use ::ort::environment::Environment;
use ::ort::logging::LogLevel;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The one runtime of this process. A global because the library is one: it keeps its own state per process, and refuses
/// a second environment.
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// A loaded ONNX Runtime library.
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: String,
    available: Vec<String>,
}

impl Runtime {
    /// Loads the first of `candidates` that is a library new enough, or gives the runtime that this process already has.
    /// A candidate without a directory is looked up as the system's loader does.
    ///
    /// # Errors
    /// [`EngineError::LibraryMissing`] with all that was tried, [`EngineError::LibraryVersion`] when all that was found is
    /// too old, [`EngineError::Failed`] when this process already has another library.
    pub fn open(candidates: &[PathBuf]) -> Result<Arc<Self>, EngineError> {
        let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*slot {
            return runtime.clone().again(candidates);
        }
        let found = library::find(candidates)?;
        let failed = |what: &str, e: String| EngineError::Failed { reason: format!("ONNX Runtime {}: {what}: {e}", found.version) };
        let builder = ::ort::init_from(&found.path).map_err(|e| failed("load", e.to_string()))?;
        let builder = builder.with_name("sluice").with_telemetry(false).with_logger(Arc::new(log));
        let environment = builder.build().map_err(|e| failed("start", e.to_string()))?;
        // The crate starts it at the most verbose level, which costs a call per node and run.
        environment.set_log_level(LogLevel::Warning);
        let available = library::available_providers().map_err(|e| failed("list providers", e.to_string()))?;
        let runtime = Arc::new(Self { environment, path: found.path, version: found.version, available });
        *slot = Some(runtime.clone());
        Ok(runtime)
    }

    fn again(self: Arc<Self>, candidates: &[PathBuf]) -> Result<Arc<Self>, EngineError> {
        if candidates.iter().any(|c| same_file(c, &self.path)) {
            return Ok(self);
        }
        let reason = format!("this process already runs ONNX Runtime {} and cannot load a second library", self.version);
        Err(EngineError::Failed { reason })
    }

    /// Version of the library, such as `1.32.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Execution providers compiled into it, as it spells them. That one is here does not mean it works.
    pub fn available_providers(&self) -> &[String] {
        &self.available
    }

    /// Was support for `provider` compiled in?
    pub fn has(&self, provider: ExecutionProvider) -> bool {
        self.available.iter().any(|name| name == session::provider_name(provider))
    }

    /// Loads a variant and checks which provider took its graph. Blocks for as long as that takes.
    ///
    /// The model is a stranger's file: scan it with [`crate::onnx::scan`] first, and load it first in a child process.
    ///
    /// # Errors
    /// [`EngineError::ProviderNotUsed`] when the asked provider took no node and no fallback is allowed;
    /// [`EngineError::ModelInvalid`] and [`EngineError::UnsupportedOperator`] for a model that cannot be loaded.
    pub fn load(&self, spec: &LoadSpec) -> Result<Box<dyn Engine>, EngineError> {
        if let Some(hint) = spec.hint {
            let reason = "ONNX Runtime computes in the precision of the file".to_owned();
            return Err(EngineError::HintNotSupported { hint, reason });
        }
        // The runtime's own threads start with the session and inherit the cores.
        let loaded = cores::bound_to(&spec.cores, || match session::load(self, spec, spec.provider, None) {
            Err(refused @ EngineError::ProviderNotUsed { .. }) if spec.fallback == Fallback::Cpu => {
                session::load(self, spec, ExecutionProvider::Cpu, Some(refused.to_string()))
            }
            other => other,
        });
        trim_heap();
        Ok(Box::new(loaded?))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("version", &self.version).field("available", &self.available).finish_non_exhaustive()
    }
}

/// The runtime's own log. What fails comes back as an error too, and is logged where it becomes an answer, so all of
/// this is detail.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, location, "{message}"),
        _ => tracing::debug!(target: "onnxruntime", category, location, "{message}"),
    }
}
