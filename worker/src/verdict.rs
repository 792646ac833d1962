//! Whether an artifact may be loaded in this process: found out once in a child, and remembered.

use crate::config::WorkerConfig;
use crate::engine::{EngineError, EngineName, Fallback, PrecisionHint};
use crate::error::WorkerError;
use crate::validate::{self, Facts, Limits, Request, Verdict};
use policy::{Digest, ExecutionProvider, Runs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Children at once: each may take the memory of a model.
const CHILDREN_MAX: usize = 2;

/// How an artifact would be run here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) engine: EngineName,
    pub(crate) hint: Option<PrecisionHint>,
    pub(crate) provider: ExecutionProvider,
    pub(crate) device_id: i32,
    pub(crate) fallback: Fallback,
}

impl How {
    /// On the processor, through ONNX Runtime.
    pub(crate) const CPU: Self =
        Self { engine: EngineName::Ort, hint: None, provider: ExecutionProvider::Cpu, device_id: 0, fallback: Fallback::Never };

    /// On the processor, as a variant is run.
    ///
    /// # Errors
    /// [`WorkerError::Signature`] for an engine that this build does not know.
    pub(crate) fn of(runs: &Runs<'_>) -> Result<Self, WorkerError> {
        let unknown = || WorkerError::Signature(format!("no engine is called `{}`", runs.name.engine()));
        Ok(Self { engine: EngineName::parse(runs.name.engine()).ok_or_else(unknown)?, hint: runs.hint, ..Self::CPU })
    }
}

/// The verdicts of this host. Another host's say nothing here: library, memory and devices differ.
#[derive(Clone)]
pub(crate) struct Verdicts {
    config: Arc<WorkerConfig>,
    children: Arc<Semaphore>,
}

impl Verdicts {
    pub(crate) fn new(config: Arc<WorkerConfig>) -> Self {
        Self { config, children: Arc::new(Semaphore::new(CHILDREN_MAX)) }
    }

    /// What is known of `artifact`, of which the engine loads `file`; from a child when nothing is.
    ///
    /// # Errors
    /// [`WorkerError::Invalid`] with the reason, [`WorkerError::NotValidated`] when this host could not find out.
    pub(crate) async fn of(&self, artifact: &Digest, file: &Path, how: How) -> Result<Facts, WorkerError> {
        let path = self.path(artifact, file, how);
        let verdict = match std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(known) => known,
            None => self.find_out(&path, file, how).await,
        };
        match verdict {
            Verdict::Valid(facts) => Ok(*facts),
            Verdict::Invalid { reason } => Err(WorkerError::Invalid(reason)),
            Verdict::NotRun { reason } => Err(WorkerError::NotValidated(reason)),
        }
    }

    /// A verdict holds for a file of an artifact, a library, a precision, a provider and the limits it was found under.
    fn path(&self, artifact: &Digest, file: &Path, how: How) -> PathBuf {
        let config = &self.config;
        let file = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let library = self.library(how.engine).map(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()));
        let library = library.ok().flatten().unwrap_or_default();
        let hint = how.hint.map(|hint| format!("-{hint}")).unwrap_or_default();
        let fallback = if how.fallback == Fallback::Cpu { "-or-cpu" } else { "" };
        let limits = format!("{}s-{}b", config.validate_time_max.as_secs(), config.validate_memory_max);
        config.data_dir.join("verdicts").join(format!("{artifact}-{file}-{library}{hint}-{}{fallback}-{limits}.json", how.provider))
    }

    fn library(&self, engine: EngineName) -> Result<&Path, &EngineError> {
        match engine {
            EngineName::Ort => Ok(&self.config.library),
            EngineName::Openvino => self.config.openvino.as_ref().map(|found| found.path.as_path()),
        }
    }

    /// Makes `verdict` what is known.
    #[cfg(test)]
    pub(crate) fn remember(&self, artifact: &Digest, file: &Path, how: How, verdict: &Verdict) -> Result<(), WorkerError> {
        keep(&self.path(artifact, file, how), verdict)
    }

    async fn find_out(&self, path: &Path, file: &Path, how: How) -> Verdict {
        let config = &self.config;
        let library = match self.library(how.engine) {
            Ok(library) => library.to_owned(),
            Err(missing) => return Verdict::NotRun { reason: missing.to_string() },
        };
        let _child = self.children.acquire().await;
        let request = Request {
            model: file.to_owned(),
            engine: how.engine,
            hint: how.hint,
            libraries: vec![library],
            provider: how.provider,
            device_id: how.device_id,
            fallback: how.fallback,
            intra_threads: config.cores.intra_threads,
        };
        let limits = Limits { time: config.validate_time_max, memory_bytes: config.validate_memory_max };
        tracing::info!(path = %request.model.display(), engine = %how.engine, provider = %how.provider, "validating a new artifact in a child process");
        let verdict = validate::validate(&config.binary, &request, limits).await;
        let lasting = match &verdict {
            Verdict::Valid(_) => true,
            // A driver installed tomorrow changes what a provider says, not what the processor does.
            Verdict::Invalid { .. } => how.provider == ExecutionProvider::Cpu,
            Verdict::NotRun { .. } => false,
        };
        if lasting && let Err(error) = keep(path, &verdict) {
            tracing::warn!(%error, "verdict not kept, the next start validates again");
        }
        verdict
    }
}

fn keep(path: &Path, verdict: &Verdict) -> Result<(), WorkerError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(WorkerError::file(folder))?;
    let beside = path.with_extension("new");
    let text = serde_json::to_vec(verdict).map_err(|e| WorkerError::Signature(e.to_string()))?;
    std::fs::write(&beside, text).map_err(WorkerError::file(&beside))?;
    std::fs::rename(&beside, path).map_err(WorkerError::file(path))
}
