//! Offers models to the cluster: finds what is in the model directory, or is handed files, validates what is new in a child
//! process, and writes what each version is.

use crate::artifact::{Artifacts, hash_folder};
use crate::config::WorkerConfig;
use crate::error::WorkerError;
use crate::publish::Publisher;
use crate::repository::{Found, Wanted, scan, wanted_versions};
use crate::verdict::{How, Verdicts};
use policy::offer::Occasion;
use policy::{
    ArtifactRecord, HolderRecord, ModelName, Origin, SCHEMA, Signature, Unknown, VariantName, Version, VersionRecord, VersionState,
};
use proto::model_config;
use registry::{Registry, Txn};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

mod anew;
#[cfg(test)]
mod tests;
mod turns;
mod variants;
mod write;

pub(crate) use turns::Turns;
use write::Written;

/// How often a registry that lost what was written, by a wipe or an old backup, is told again.
const AGAIN: Duration = Duration::from_secs(60);
/// Pause before trying again after the registry refused.
const RETRY: Duration = Duration::from_secs(1);

/// What offering needs.
pub(crate) struct Offers {
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) verdicts: Verdicts,
    pub(crate) publisher: Publisher,
    /// One look at a model at a time: two could write each other's half.
    pub(crate) turns: Turns,
    /// What was offered last of each model.
    pub(crate) described: Mutex<BTreeMap<ModelName, Arc<Described>>>,
}

/// A model as it was offered.
pub(crate) struct Described {
    found: Vec<Found>,
    records: Vec<VersionRecord>,
    /// Those of them that the registry took.
    stand: BTreeSet<Version>,
    wanted: Wanted,
}

impl Offers {
    /// Offers everything in `dir`, one version after another, and tells `offered` which models are described then; problems
    /// are logged and do not stop the others. Then writes again whatever the registry lost, for ever.
    pub(crate) async fn run(self: Arc<Self>, dir: PathBuf, offered: watch::Sender<Option<BTreeSet<String>>>) {
        let (found, problems) = match scan(&dir) {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::error!(%error, "the model directory cannot be read");
                offered.send_replace(Some(BTreeSet::new()));
                return;
            }
        };
        problems.iter().for_each(|problem| tracing::error!(%problem, "model not offered"));
        if self.config.owns_repository {
            self.until_written("forgetting what is no longer there", || self.forget_missing(&found)).await;
        }
        let (versions, mut models) = (found.len(), BTreeSet::new());
        for of_model in found.chunk_by(|a, b| a.model == b.model) {
            let Some(first) = of_model.first() else { continue };
            let _turn = self.turns.of(&first.model).await;
            if self.described(&first.model).is_some() {
                continue; // a load call was faster, and what it saw is newer
            }
            let (mut changed, mut refused, mut records, mut stand) = (false, false, Vec::new(), BTreeSet::new());
            let occasion = Occasion::Start { owns: self.config.owns_repository };
            for found in of_model {
                match self.describe(found).await {
                    Ok(record) => {
                        if let Some(written) = self.until_written("writing a version", || self.write(&record, occasion)).await {
                            changed |= written == Written::Replaced;
                            refused |= written == Written::Refused;
                            stand.extend((written != Written::Refused).then_some(record.version));
                            records.push(record);
                        }
                    }
                    Err(error) => tracing::error!(model = %found.model, version = %found.version, %error, "version not offered"),
                }
            }
            let model = Described { found: of_model.to_vec(), records, stand, wanted: wanted_versions(of_model) };
            if !refused {
                self.until_written("writing a model", || self.want(&model, changed, occasion)).await;
            }
            if !model.records.is_empty() {
                models.insert(first.model.to_string());
                self.describe_as(first.model.clone(), model);
            }
        }
        tracing::info!(versions, problems = problems.len(), "model directory offered");
        offered.send_replace(Some(models));
        loop {
            tokio::time::sleep(AGAIN).await;
            let names: Vec<ModelName> = self.described.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
            for name in names {
                let _turn = self.turns.of(&name).await;
                let Some(model) = self.described(&name) else { continue };
                for record in &model.records {
                    self.until_written("writing a version again", || self.write(record, Occasion::Again)).await;
                }
                self.until_written("writing a model again", || self.want_if_lost(&model)).await;
            }
        }
    }

    /// The model as it was offered last.
    fn described(&self, model: &ModelName) -> Option<Arc<Described>> {
        self.described.lock().unwrap_or_else(PoisonError::into_inner).get(model).cloned()
    }

    /// Forgets files that a load call brought: the next one did not mention them.
    fn forget_brought(&self, model: &ModelName) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        if described.get(model).is_some_and(|d| d.records.iter().any(|r| r.origin == Origin::Files)) {
            described.remove(model);
        }
    }

    fn describe_as(&self, model: ModelName, described: Described) {
        self.described.lock().unwrap_or_else(PoisonError::into_inner).insert(model, Arc::new(described));
    }

    /// The registry may be away for long: says so once and tries on. None when it never will take it.
    async fn until_written<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, WorkerError>>,
    {
        let mut complained = false;
        loop {
            match attempt().await {
                Ok(written) => return Some(written),
                Err(error) if !error.may_pass() => {
                    tracing::error!(%error, "{what} failed");
                    return None;
                }
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::warn!(%error, "{what}: the registry does not take it, trying on");
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Hashes and, where this artifact was never validated here, validates.
    async fn describe(&self, found: &Found) -> Result<VersionRecord, WorkerError> {
        let folder = found.folder.clone();
        let hashed = tokio::task::spawn_blocking(move || hash_folder(&folder)).await;
        let artifact = hashed.map_err(|e| WorkerError::Signature(e.to_string()))??;
        let known = match &found.config {
            Ok(config) => self.complete(found, &artifact, config.clone()).await,
            Err(reason) => Err(WorkerError::Invalid(reason.clone())),
        };
        let (state, completed, bytes_resident) = match known {
            Ok((completed, bytes)) => (VersionState::Valid, Some(completed), bytes),
            Err(WorkerError::Invalid(reason)) => {
                tracing::error!(model = %found.model, version = %found.version, reason, "version is not valid");
                (VersionState::Invalid(reason), None, 0)
            }
            Err(error) => return Err(error),
        };
        if state == VersionState::Valid {
            self.artifacts.offer(&artifact, &found.folder);
            let key = publish_holder(&self.config, &self.publisher, &self.artifacts, &artifact.digest);
            // Whoever looks who has the files must find this worker before it finds the version.
            self.publisher.written(&key).await;
        }
        let variants = if state == VersionState::Valid { self.variants(found, &artifact).await } else { Vec::new() };
        Ok(VersionRecord {
            schema: SCHEMA,
            model: found.model.clone(),
            version: found.version,
            state,
            reference: VariantName::new(VariantName::REFERENCE).map_err(|e| WorkerError::Signature(e.to_string()))?,
            artifact: artifact.digest,
            files: artifact.files,
            model_file: found.model_file.clone(),
            config: completed.as_ref().map(|c| model_config::to_json(&c.config)),
            signature: completed.map_or_else(Signature::default, |c| c.signature),
            bytes_resident,
            image: found.settings.image.clone(),
            split: found.settings.split,
            padding: found.settings.padding.clone(),
            labels: found.labels.clone(),
            origin: found.origin,
            variants,
            unknown: Unknown::new(),
        })
    }

    /// What the graph says, and its configuration completed with it.
    async fn complete(
        &self,
        found: &Found,
        artifact: &ArtifactRecord,
        config: Option<proto::inference::ModelConfig>,
    ) -> Result<(model_config::Completed, u64), WorkerError> {
        let facts = self.verdicts.of(&artifact.digest, &found.folder.join(&found.model_file), How::CPU).await?;
        let completed = model_config::complete(config, found.model.as_str(), &facts.inputs, &facts.outputs, found.settings.max_batch_size);
        let mut completed = completed.map_err(|error| WorkerError::Invalid(format!("its configuration: {error}")))?;
        if let Some(padding) = &found.settings.padding {
            padding.check(&completed.signature).map_err(|what| WorkerError::Invalid(format!("[padding] in its sluice.toml: {what}")))?;
        }
        completed.config.default_model_filename.clone_from(&found.model_file);
        Ok((completed, facts.bytes_resident))
    }

    /// The directory is the whole truth: versions it no longer has are forgotten, and models without a version.
    async fn forget_missing(&self, found: &[Found]) -> Result<(), WorkerError> {
        let keys = &self.config.keys;
        let versions: BTreeSet<String> = found.iter().map(|f| keys.version(f.model.as_str(), f.version.into())).collect();
        let models: BTreeSet<String> = found.iter().map(|f| keys.model(f.model.as_str())).collect();
        let mut gone = Vec::new();
        for (prefix, kept) in [(keys.versions(), versions), (keys.models(), models)] {
            let entries = self.registry.list(&prefix).await?.entries;
            gone.extend(entries.into_iter().map(|e| e.key).filter(|key| !kept.contains(key)));
        }
        for part in gone.chunks(64) {
            self.registry.txn(part.iter().fold(Txn::new(), |txn, key| txn.delete(key))).await?;
        }
        Ok(())
    }
}

/// Says that this worker has `artifact`; gives the key of the record.
pub(crate) fn publish_holder(config: &WorkerConfig, publisher: &Publisher, artifacts: &Artifacts, artifact: &policy::Digest) -> String {
    let holder = HolderRecord {
        schema: SCHEMA,
        artifact: artifact.clone(),
        worker: config.id.clone(),
        admin: config.advertise_admin.clone(),
        in_directory: artifacts.in_directory(artifact),
        unknown: Unknown::new(),
    };
    let key = config.keys.holder(artifact.as_str(), config.id.as_str());
    publisher.put(key.clone(), &holder);
    key
}
