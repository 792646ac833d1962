//! The library of whichever engine, by the engine's name.

use super::{Engine, EngineError, EngineName, LoadSpec, openvino, ort};
use std::path::PathBuf;
use std::sync::Arc;

/// A runtime library that this process has loaded.
#[derive(Debug, Clone)]
pub enum Runtime {
    /// ONNX Runtime.
    Ort(Arc<ort::Runtime>),
    /// OpenVINO.
    Openvino(Arc<openvino::Runtime>),
}

impl Runtime {
    /// The library of `engine`: the first of `candidates` that will do, or the one that this process already has.
    ///
    /// # Errors
    /// As [`ort::Runtime::open`].
    pub fn open(engine: EngineName, candidates: &[PathBuf]) -> Result<Self, EngineError> {
        Ok(match engine {
            EngineName::Ort => Self::Ort(ort::Runtime::open(candidates)?),
            EngineName::Openvino => Self::Openvino(openvino::Runtime::open(candidates)?),
        })
    }

    /// Version of the library.
    pub fn version(&self) -> &str {
        match self {
            Self::Ort(runtime) => runtime.version(),
            Self::Openvino(runtime) => runtime.version(),
        }
    }

    /// Loads a variant. Blocks for as long as that takes.
    ///
    /// # Errors
    /// As [`ort::Runtime::load`] and [`openvino::Runtime::load`].
    pub fn load(&self, spec: &LoadSpec) -> Result<Box<dyn Engine>, EngineError> {
        match self {
            Self::Ort(runtime) => runtime.load(spec),
            Self::Openvino(runtime) => runtime.load(spec),
        }
    }
}
