//! Why an engine did not load or did not answer.

use policy::{EngineName, ExecutionProvider, PrecisionHint};
use std::path::PathBuf;

/// What went wrong with an engine. Texts of the runtime are kept, but without the paths of this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum EngineError {
    /// No library of an engine could be loaded.
    #[error(
        "engine {engine} is not installed: no {} library could be loaded; run `cargo xtask fetch`, or name one with --{}; tried: {}",
        engine.product(), engine.library(), list(tried)
    )]
    LibraryMissing {
        /// Which engine.
        engine: EngineName,
        /// Every place looked at, with what was wrong there.
        tried: Vec<(PathBuf, String)>,
    },
    /// A library is there, but too old.
    #[error(
        "{} is {} {found}, but {needed} or newer is needed; run `cargo xtask fetch`, or name another with --{}",
        path.display(), engine.product(), engine.library()
    )]
    LibraryVersion {
        /// Of which engine.
        engine: EngineName,
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest that works.
        needed: String,
    },
    /// The model can never run here.
    #[error("the model is not usable: {reason}")]
    ModelInvalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The runtime has no kernel for an operator of the model.
    #[error("the engine does not implement operator {operator}: {reason}")]
    UnsupportedOperator {
        /// The operator, with its version where the runtime tells it.
        operator: String,
        /// The runtime's words.
        reason: String,
    },
    /// Another execution provider would run the graph than the one asked for (I6).
    #[error("execution provider {asked} does not run this model: {reason}; used: {}; compiled into the library: {}", counts(used), available.join(", "))]
    ProviderNotUsed {
        /// What was asked for.
        asked: ExecutionProvider,
        /// What the runtime would have used, with nodes; empty when no session came to be.
        used: Vec<(String, usize)>,
        /// Providers compiled into the library.
        available: Vec<String>,
        /// What happened.
        reason: String,
    },
    /// The engine would compute in another precision than it was told to (I6).
    #[error("precision hint {hint} is not supported: {reason}")]
    HintNotSupported {
        /// What was asked for.
        hint: PrecisionHint,
        /// Why not.
        reason: String,
    },
    /// The caller's tensors do not fit the model.
    #[error("{what}")]
    BadInput {
        /// What does not fit, with the tensor's name and both values.
        what: String,
    },
    /// The model could not compute this input; another may work.
    #[error("the model could not compute this input: {reason}")]
    NotComputed {
        /// The runtime's words.
        reason: String,
    },
    /// The run was stopped through its [`super::CancelFlag`].
    #[error("the run was cancelled")]
    Cancelled,
    /// Memory for the run could not be had; a smaller batch may work.
    #[error("the engine is out of memory: {reason}")]
    OutOfMemory {
        /// The runtime's words.
        reason: String,
    },
    /// The process that the engine was in is gone, and what it ran with it.
    #[error("{reason}")]
    Gone {
        /// Which, and how it went.
        reason: String,
    },
    /// The engine can no longer be trusted.
    #[error("the engine failed: {reason}")]
    Failed {
        /// The runtime's words.
        reason: String,
    },
}

impl EngineError {
    /// Is the engine that gave this from `run` as usable as before? No `_` arm: a new error must decide it.
    pub fn keeps_engine(&self) -> bool {
        match self {
            Self::BadInput { .. } | Self::NotComputed { .. } | Self::Cancelled | Self::OutOfMemory { .. } => true,
            Self::LibraryMissing { .. }
            | Self::LibraryVersion { .. }
            | Self::ModelInvalid { .. }
            | Self::UnsupportedOperator { .. }
            | Self::ProviderNotUsed { .. }
            | Self::HintNotSupported { .. }
            | Self::Gone { .. }
            | Self::Failed { .. } => false,
        }
    }
}

fn list(tried: &[(PathBuf, String)]) -> String {
    if tried.is_empty() {
        return "nothing, since no path was given".to_owned();
    }
    tried.iter().map(|(path, why)| format!("{} ({why})", path.display())).collect::<Vec<_>>().join(", ")
}

fn counts(used: &[(String, usize)]) -> String {
    if used.is_empty() {
        return "none".to_owned();
    }
    used.iter().map(|(name, nodes)| format!("{name} {nodes} nodes")).collect::<Vec<_>>().join(", ")
}
