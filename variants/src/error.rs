//! Why a variant could not be made.

use std::path::PathBuf;

/// What was wrong, with what was expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VariantError {
    /// The file system refuses.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Its words.
        reason: String,
    },
    /// The bytes are no ONNX model.
    #[error("{}: not an ONNX model: {reason}", path.display())]
    NotOnnx {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor whose bytes are not what its type and shape say.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Sample inputs that do not suit the model.
    #[error("{}: {reason}", path.display())]
    Samples {
        /// Where they came from.
        path: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A pass that cannot be applied to this model; not a fault of the model.
    #[error("not applicable: {0}")]
    NotApplicable(String),
    /// The engine refuses, in its own words.
    #[error("{0}")]
    Engine(String),
    /// The engine has no code for something in a model that may be right; in its own words.
    #[error("{0}")]
    NotImplemented(String),
    /// Nothing was learned of a model: the fault is this machine's.
    #[error("{0}")]
    NotTried(String),
    /// A card or a folder of variants that cannot be used.
    #[error("{0}")]
    Card(String),
}

impl VariantError {
    pub(crate) fn file(path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self::File { path: path.into(), reason: error.to_string() }
    }

    pub(crate) fn tensor(name: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), reason: reason.into() }
    }
}
