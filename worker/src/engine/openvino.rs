//! OpenVINO as an [`Engine`], on the processor, through its C API.
//!
//! One process holds one library: [`Runtime::open`] loads it once and then hands out the same runtime.
//!
//! It computes 64-bit numbers in 32 bits. What a request brings is checked for that; what a graph makes of it is not, so that a model
//! which counts beyond 2³¹ inside answers otherwise than in ONNX Runtime. A loop inside a graph is one step to it, which a cancelled
//! run does not leave before its end.

mod handle;
mod library;
mod message;
mod model;
mod request;
mod tensor;
#[cfg(test)]
mod tests;

use super::library::{Found, same_file};
use super::{Engine, EngineError, ExecutionProvider, Fallback, LoadSpec, trim_heap};
use crate::cores;
use handle::Core;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The one runtime of this process: the crate under it keeps the library in a global of its own.
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// A loaded OpenVINO library.
#[derive(Debug)]
pub struct Runtime {
    core: Core,
    found: Found,
}

/// The first of `candidates` that is a library new enough. It is only asked for its version, which takes milliseconds and leaves some 6 MB
/// of it in memory: a worker whose engines live in runners needs no more of it.
///
/// # Errors
/// As [`Runtime::open`].
pub fn find(candidates: &[PathBuf]) -> Result<Found, EngineError> {
    library::find(candidates)
}

impl Runtime {
    /// Loads the first of `candidates` that is a library new enough, or gives the runtime that this process already has.
    ///
    /// # Errors
    /// [`EngineError::LibraryMissing`] with all that was tried, [`EngineError::LibraryVersion`] when all that was found is
    /// too old, [`EngineError::Failed`] when this process already has another library.
    pub fn open(candidates: &[PathBuf]) -> Result<Arc<Self>, EngineError> {
        let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*slot {
            if candidates.iter().any(|c| same_file(c, &runtime.found.path)) {
                return Ok(runtime.clone());
            }
            let reason = format!("this process already runs OpenVINO {} and cannot load a second library", runtime.found.version);
            return Err(EngineError::Failed { reason });
        }
        let found = library::find(candidates)?;
        let failed = |e: String| EngineError::Failed { reason: format!("OpenVINO {}: {e}", found.version) };
        openvino_sys::library::load_from(&found.path).map_err(failed)?;
        let core = Core::new().map_err(|e| failed(e.text))?;
        let runtime = Arc::new(Self { core, found });
        *slot = Some(runtime.clone());
        Ok(runtime)
    }

    /// Version of the library, such as `2026.4.1`.
    pub fn version(&self) -> &str {
        &self.found.version
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.found.path
    }

    /// Loads a variant, an ONNX file or OpenVINO's own `.xml`, and checks what runs it and in which precision. Blocks for as long as
    /// that takes.
    ///
    /// The model is a stranger's file: scan it with [`crate::onnx::scan`] first, and load it first in a child process.
    ///
    /// # Errors
    /// [`EngineError::HintNotSupported`] when the processor does not compute in the precision asked for;
    /// [`EngineError::ProviderNotUsed`] when another provider than the processor was asked for and no fallback is allowed;
    /// [`EngineError::ModelInvalid`] and [`EngineError::UnsupportedOperator`] for a model that cannot be loaded.
    pub fn load(&self, spec: &LoadSpec) -> Result<Box<dyn Engine>, EngineError> {
        let mut fallback = None;
        if spec.provider != ExecutionProvider::Cpu {
            let reason = "OpenVINO is used on the processor only".to_owned();
            let refused =
                EngineError::ProviderNotUsed { asked: spec.provider, used: vec![], available: vec![model::DEVICE.into()], reason };
            if spec.fallback != Fallback::Cpu {
                return Err(refused);
            }
            fallback = Some(refused.to_string());
        }
        // The runtime's own threads start with the model and inherit the cores.
        let loaded = cores::bound_to(&spec.cores, || model::load(&self.core, spec, fallback));
        trim_heap();
        Ok(Box::new(loaded?))
    }
}
