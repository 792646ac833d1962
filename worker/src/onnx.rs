//! A look at an ONNX file before any runtime sees it: is it whole, does it stay in its folder, is it of a sane size?
//!
//! The walk reads the protobuf encoding directly and skips what it does not need, so a model of gigabytes costs a few
//! kilobytes and no weights are read. Whatever bytes it is given, it uses bounded memory and ends.
//!
//! Not here: whether a runtime can load the model; that is tried in a child process (`validate`).

mod element;
mod external;
mod interface;
#[cfg(test)]
mod tests;
mod walk;
mod wire;

pub use element::{datatype, type_name};
pub use interface::{Dim, Tensor};

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use walk::Walk;
use wire::Source;

/// Deepest nesting of subgraphs accepted.
pub const DEPTH_MAX: u32 = 16;
/// Most nodes accepted, those of subgraphs and functions included.
pub const NODES_MAX: u64 = 200_000;
/// Most external files accepted; a model with one file per tensor has some hundreds.
const EXTERNAL_FILES_MAX: usize = 10_000;
/// Most memory that the description of inputs and outputs may take, in bytes. Old files list every weight as an input.
const INTERFACE_BYTES_MAX: u64 = 16 << 20;
/// Most different Einsum equations kept; a model has some tens.
const EQUATIONS_MAX: usize = 1000;
/// Longest name, operator type or external location accepted, in bytes.
const TEXT_LEN_MAX: u64 = 4096;

/// What a model is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Inputs that a request gives: those which the file itself fills are not among them.
    pub inputs: Vec<Tensor>,
    /// Outputs.
    pub outputs: Vec<Tensor>,
    /// Operators and how many nodes use each, as `domain:type`, or `type` alone in ONNX's own domain.
    pub operators: BTreeMap<String, u64>,
    /// Nodes, those of subgraphs and functions included.
    pub nodes: u64,
    /// What is stored, by ONNX's number of the element type: initializers and the tensors of Constant nodes, which
    /// runtimes treat alike.
    pub weights: BTreeMap<u64, Weights>,
    /// Equations of Einsum nodes, up to a limit.
    pub equations: BTreeSet<String>,
    /// Files that belong to the model, relative to its folder, in order of their names.
    pub external_files: Vec<PathBuf>,
    /// Version of ONNX's own operator set.
    pub opset: Option<u64>,
    /// Version of the file format.
    pub ir_version: Option<u64>,
    /// Program that wrote it.
    pub producer: Option<String>,
    /// The first thing found for which it must not be loaded; `None` in what [`scan`] gives.
    pub refusal: Option<ScanError>,
}

/// Tensors of one element type that a file stores, or has stored beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weights {
    /// How many tensors.
    pub tensors: u64,
    /// Their elements, as their dimensions say.
    pub elements: u64,
    /// Bytes of these elements: packed where the type has less than 8 bits; for strings, those of their text.
    pub bytes: u64,
}

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The file system refuses.
    #[error("the model file cannot be read: {reason}")]
    Unreadable {
        /// Its words.
        reason: String,
    },
    /// The bytes are no protobuf message.
    #[error("not an ONNX file, or not all of it: {reason} at byte {at}; the file has {size} bytes")]
    Malformed {
        /// What is wrong there.
        reason: &'static str,
        /// Where.
        at: u64,
        /// Length of the file.
        size: u64,
    },
    /// A message, but no model.
    #[error("not an ONNX file: it has no graph; the file has {size} bytes")]
    NoGraph {
        /// Length of the file.
        size: u64,
    },
    /// Data outside of the file that may not be used.
    #[error("external data {location:?}: {reason}")]
    External {
        /// Where the model says it is.
        location: String,
        /// What is wrong with that.
        reason: String,
    },
    /// An input or output that cannot be served.
    #[error("{place} `{name}` {reason}")]
    NotServed {
        /// `input` or `output`.
        place: &'static str,
        /// Its name.
        name: String,
        /// What it is.
        reason: String,
    },
    /// Larger than is sane.
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is accepted.
        limit: u64,
    },
}

/// Scans the model at `path`; its folder is where external data may lie.
///
/// # Errors
/// See [`ScanError`].
pub fn scan(path: &Path) -> Result<Scan, ScanError> {
    let found = survey(path)?;
    match found.refusal {
        Some(refusal) => Err(refusal),
        None => Ok(found),
    }
}

/// Like [`scan`], but a model that is readable and must not be loaded is described all the same, with the refusal.
///
/// # Errors
/// [`ScanError`] for a file that is not whole, no model, or beyond a limit.
pub fn survey(path: &Path) -> Result<Scan, ScanError> {
    let unreadable = |e: std::io::Error| ScanError::Unreadable { reason: e.kind().to_string() };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ScanError::Unreadable { reason: "it is not a regular file".to_owned() });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let found = Walk::new(Source::new(file, metadata.len()), folder).walk()?;
    found.ok_or(ScanError::NoGraph { size: metadata.len() })
}
