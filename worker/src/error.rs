//! What can go wrong in a worker besides a request.

use crate::engine::EngineError;
use registry::RegistryError;
use std::path::PathBuf;

/// Why a worker did not start, or a version or replica did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file or folder could not be used.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A model's folder is not as it must be.
    #[error("{}: {what}", path.display())]
    Repository {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what was expected.
        what: String,
    },
    /// Nobody has an artifact, or what they have is not it.
    #[error("artifact {digest}: {what}")]
    Artifact {
        /// Which one.
        digest: String,
        /// What happened at each place.
        what: String,
    },
    /// The model does not fit the device.
    #[error("needs {needed} bytes, device {device} has {free} of {total} free")]
    Memory {
        /// Bytes it would take.
        needed: u64,
        /// The device.
        device: String,
        /// Bytes not promised yet.
        free: u64,
        /// Bytes it has.
        total: u64,
    },
    /// The model ran, but not as its signature says.
    #[error("{0}")]
    Signature(String),
    /// The machine gave no thread or runtime.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl WorkerError {
    /// A file error with its path.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { path, cause }
    }
}
