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
    /// What is here is not the artifact.
    #[error("artifact {digest}: {what}")]
    Artifact {
        /// Which one.
        digest: String,
        /// What is wrong.
        what: String,
    },
    /// No holder gave the files.
    #[error("artifact {digest}: {what}")]
    NotFetched {
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
    /// The model cannot be served by this worker.
    #[error("{0}")]
    Invalid(String),
    /// Whether it can could not be found out: this host's fault, not the model's.
    #[error("could not be validated: {0}")]
    NotValidated(String),
    /// The model ran, but not as its signature says.
    #[error("{0}")]
    Signature(String),
    /// The machine gave no thread or runtime.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl WorkerError {
    /// May it be gone when tried again, with nothing changed here? No `_` arm: a new error must decide it.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Registry(error) => error.may_retry(),
            // A holder may be away, the host may be short of something.
            Self::NotFetched { .. } | Self::NotValidated(_) => true,
            // Short of memory is for the planner to know: another worker may have it.
            Self::Memory { .. }
            | Self::Engine(_)
            | Self::File { .. }
            | Self::Repository { .. }
            | Self::Artifact { .. }
            | Self::Invalid(_)
            | Self::Signature(_)
            | Self::Thread(_) => false,
        }
    }

    /// A file error with its path.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { path, cause }
    }
}
