//! The seam between a replica and what computes: [`Engine`], the values that cross it, and its errors.
//!
//! Every implementation passes the one contract test in `engine/contract.rs`.
//!
//! Not here: queues, batches and threads (`replica`), which artifact to load (`repository`).

mod aligned;
mod cancel;
mod check;
mod clean;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod error;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod library;
pub mod openvino;
pub mod ort;
mod runtime;
pub mod sample;

pub use cancel::{Armed, CancelFlag, Terminate};
pub use check::check_inputs;
pub(crate) use clean::without_paths;
pub use error::EngineError;
pub use library::Found;
pub use policy::{EngineName, ExecutionProvider, PrecisionHint};
pub use runtime::Runtime;

use crate::arena::Arena;
use bytes::Bytes;
use policy::{DataType, TensorSpec};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// One variant loaded on one device. Owned by one OS thread, which is its only caller.
///
/// Contract: `run` blocks and answers every output of the signature, in its order; row `i` of an output belongs to row
/// `i` of the inputs. It never keeps a reference to `inputs`, and its answers outlive the engine. An error for which
/// [`EngineError::keeps_engine`] holds leaves the engine as usable as before; after any other the owner drops the engine
/// and reports the replica failed.
pub trait Engine: Send {
    /// What really runs the graph, read back from the session, never what was asked for (I6).
    fn provider(&self) -> &ProviderReport;

    /// Inputs and outputs in the model's order.
    fn signature(&self) -> &EngineSignature;

    /// Memory from which this engine takes inputs without a copy; none where any memory will do. Whoever takes it puts every input there
    /// from then on and says so in [`TensorView::in_arena`].
    fn arena(&mut self) -> Option<Arena> {
        None
    }

    /// Cores that whoever runs this engine should keep to, by number; none in particular when empty.
    fn cores(&self) -> &[usize] {
        &[]
    }

    /// Computes one batch. Returns [`EngineError::Cancelled`] soon after `cancel` is set, also when it was set before.
    ///
    /// # Errors
    /// See [`EngineError`].
    fn run(&mut self, inputs: &[TensorView<'_>], cancel: &CancelFlag) -> Result<Vec<TensorOut>, EngineError>;
}

/// Which execution providers took the nodes of a graph.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProviderReport {
    /// What the load asked for.
    pub asked: ExecutionProvider,
    /// Provider names as the runtime spells them, with the nodes each took, 0 where it does not tell; the one with most nodes first.
    pub used: Vec<(String, usize)>,
    /// What to call it in records: the asked provider when it took nodes, else the processor.
    pub summary: ExecutionProvider,
    /// Why it runs on the processor although another provider was asked for.
    pub fallback: Option<String>,
}

/// What a loaded graph takes and gives.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct EngineSignature {
    /// Inputs in the model's order, then those with a default, which are optional.
    pub inputs: Vec<TensorSpec>,
    /// For each input the model's names of its dimensions, empty where one has none: equal names are equal sizes.
    #[serde(default)]
    pub input_symbols: Vec<Vec<String>>,
    /// Outputs in the model's order. An output whose rank the graph does not tell has an empty shape.
    pub outputs: Vec<TensorSpec>,
    /// Program that wrote the model.
    pub producer: Option<String>,
    /// The model's own key-value pairs.
    pub metadata: BTreeMap<String, String>,
}

/// An input: bytes that the caller keeps for the length of the call.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Name in the signature.
    pub name: &'a str,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, outermost first, all known.
    pub shape: &'a [i64],
    /// Elements in row-major order, little-endian; BYTES as on the wire (4-byte little-endian length, then the bytes, per
    /// element). Passed on without a copy where its address suits the element type.
    pub data: &'a [u8],
    /// Where `data` lies in the arena that the engine gave, if it does.
    pub in_arena: Option<usize>,
}

impl<'a> TensorView<'a> {
    /// An input that lies anywhere.
    pub fn new(name: &'a str, datatype: DataType, shape: &'a [i64], data: &'a [u8]) -> Self {
        Self { name, datatype, shape, data, in_arena: None }
    }
}

/// An output: bytes that the engine produced, not copied.
#[derive(Debug, Clone)]
pub struct TensorOut {
    /// Name in the signature.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, outermost first.
    pub shape: Vec<i64>,
    /// In the form of [`TensorView::data`].
    pub data: Bytes,
}

/// What to do when the asked provider does not take the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Fail the load (I6).
    #[default]
    Never,
    /// Load on the processor and say why in the [`ProviderReport`].
    Cpu,
}

/// How to load one variant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LoadSpec {
    /// The model file; external data lies beside it.
    pub path: PathBuf,
    /// The engine that loads it.
    pub engine: EngineName,
    /// The precision to compute in; that of the file without it. A load error where the engine or the device has no choice of it.
    pub hint: Option<PrecisionHint>,
    /// What must run it.
    pub provider: ExecutionProvider,
    /// Which of the provider's devices; nothing for the processor.
    pub device_id: i32,
    /// May the processor run it instead?
    pub fallback: Fallback,
    /// Threads that work on one run, the caller's among them.
    pub intra_threads: NonZeroUsize,
    /// Cores those threads keep to, by number; none in particular when empty.
    pub cores: Vec<usize>,
    /// Let those threads spin while they wait: microseconds of latency for whole cores. Off, since cores are shared.
    pub allow_spinning: bool,
    /// Where a provider that compiles may keep what it compiled; without it each load compiles anew.
    pub cache_dir: Option<PathBuf>,
    /// Run the graph as it is written: nothing fused, so that every value of it is what its operators say.
    pub as_written: bool,
    /// Measure the graph as it is written, neither optimised nor packed, and write what each node of each run took and
    /// gave to a file whose name starts with this path, when the engine is dropped.
    pub profile: Option<PathBuf>,
}

impl LoadSpec {
    /// On the processor through ONNX Runtime, with `intra_threads` threads.
    pub fn cpu(path: impl Into<PathBuf>, intra_threads: NonZeroUsize) -> Self {
        Self {
            path: path.into(),
            engine: EngineName::Ort,
            hint: None,
            provider: ExecutionProvider::Cpu,
            device_id: 0,
            fallback: Fallback::Never,
            intra_threads,
            cores: Vec::new(),
            allow_spinning: false,
            cache_dir: None,
            as_written: false,
            profile: None,
        }
    }
}

/// Gives freed heap back to the system: a load leaves about as much free as the weights take (measured: 251 to 108 MB
/// for ResNet-50).
fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #![allow(unsafe_code, reason = "glibc has no safe wrapper for this call")]
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}
