//! Whether an artifact may be loaded in this process: found out once in a child, and remembered.

use crate::config::WorkerConfig;
use crate::engine::Fallback;
use crate::error::WorkerError;
use crate::validate::{self, Facts, Limits, Request, Verdict};
use policy::{Digest, ExecutionProvider, VariantName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Children at once: each may take the memory of a model.
const CHILDREN_MAX: usize = 2;

/// How an artifact would be run here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) provider: ExecutionProvider,
    pub(crate) device_id: i32,
    pub(crate) fallback: Fallback,
}

impl How {
    /// On the processor.
    pub(crate) const CPU: Self = Self { provider: ExecutionProvider::Cpu, device_id: 0, fallback: Fallback::Never };

    /// As a variant of this name and hint is run on the processor.
    ///
    /// # Errors
    /// [`WorkerError::NotValidated`] for an engine that is not here.
    pub(crate) fn of(name: &VariantName, _hint: Option<&str>) -> Result<Self, WorkerError> {
        match name.as_str().split_once('@') {
            Some((_, "ort")) => Ok(Self::CPU),
            _ => Err(WorkerError::NotValidated(format!("this worker has no engine for {name}"))),
        }
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

    /// A verdict holds for a file of an artifact, a library, a provider and the limits it was found under.
    fn path(&self, artifact: &Digest, file: &Path, how: How) -> PathBuf {
        let config = &self.config;
        let file = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let library = config.library.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let fallback = if how.fallback == Fallback::Cpu { "-or-cpu" } else { "" };
        let limits = format!("{}s-{}b", config.validate_time_max.as_secs(), config.validate_memory_max);
        config.data_dir.join("verdicts").join(format!("{artifact}-{file}-{library}-{}{fallback}-{limits}.json", how.provider))
    }

    /// Makes `verdict` what is known.
    #[cfg(test)]
    pub(crate) fn remember(&self, artifact: &Digest, file: &Path, how: How, verdict: &Verdict) -> Result<(), WorkerError> {
        keep(&self.path(artifact, file, how), verdict)
    }

    async fn find_out(&self, path: &Path, file: &Path, how: How) -> Verdict {
        let config = &self.config;
        let _child = self.children.acquire().await;
        let request = Request {
            model: file.to_owned(),
            libraries: vec![config.library.clone()],
            provider: how.provider,
            device_id: how.device_id,
            fallback: how.fallback,
            intra_threads: config.cores.intra_threads,
        };
        let limits = Limits { time: config.validate_time_max, memory_bytes: config.validate_memory_max };
        tracing::info!(path = %request.model.display(), provider = %how.provider, "validating a new artifact in a child process");
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
