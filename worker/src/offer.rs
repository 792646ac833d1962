//! Offers a model directory to the cluster: finds what is in it, validates what is new in a child process, and writes what
//! each version is.

use crate::artifact::{Artifacts, hash_folder};
use crate::config::WorkerConfig;
use crate::error::WorkerError;
use crate::publish::Publisher;
use crate::repository::{Found, MODEL_FILE, scan};
use crate::verdict::{How, Verdicts};
use policy::{HolderRecord, ModelRecord, SCHEMA, Signature, Unknown, VariantName, VersionRecord, VersionState};
use registry::{Compare, Registry, Txn};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The reference variant of every version.
const REFERENCE: &str = "fp32@ort";
/// How often a registry that lost what was written, by a wipe or an old backup, is told again.
const AGAIN: Duration = Duration::from_secs(60);
/// Pause before trying again after the registry refused.
const RETRY: Duration = Duration::from_secs(1);

/// What offering needs.
pub(crate) struct Offer {
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) verdicts: Verdicts,
    pub(crate) publisher: Publisher,
}

impl Offer {
    /// Offers everything in `dir`, one version after another, and tells `offered` which models are described then; problems
    /// are logged and do not stop the others. Then writes again whatever the registry lost, for ever.
    pub(crate) async fn run(self, dir: PathBuf, offered: watch::Sender<Option<BTreeSet<String>>>) {
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
        let mut described = Vec::new();
        for found in &found {
            match self.describe(found).await {
                Ok(record) => {
                    if self.until_written("writing a version", || self.write(found, &record)).await {
                        described.push((found, record));
                    }
                }
                Err(error) => tracing::error!(model = %found.model, version = %found.version, %error, "version not offered"),
            }
        }
        tracing::info!(versions = found.len(), problems = problems.len(), "model directory offered");
        offered.send_replace(Some(described.iter().map(|(found, _)| found.model.to_string()).collect()));
        loop {
            tokio::time::sleep(AGAIN).await;
            for (found, record) in &described {
                self.until_written("writing a version again", || self.write(found, record)).await;
            }
        }
    }

    /// The registry may be away for long: says so once and tries on. False when it never will take it.
    async fn until_written<F: Future<Output = Result<(), WorkerError>>>(&self, what: &str, mut attempt: impl FnMut() -> F) -> bool {
        let mut complained = false;
        while let Err(error) = attempt().await {
            if !error.may_pass() {
                tracing::error!(%error, "{what} failed");
                return false;
            }
            if !std::mem::replace(&mut complained, true) {
                tracing::warn!(%error, "{what}: the registry does not take it, trying on");
            }
            tokio::time::sleep(RETRY).await;
        }
        true
    }

    /// Hashes and, where this artifact was never validated here, validates.
    async fn describe(&self, found: &Found) -> Result<VersionRecord, WorkerError> {
        let folder = found.folder.clone();
        let hashed = tokio::task::spawn_blocking(move || hash_folder(&folder)).await;
        let artifact = hashed.map_err(|e| WorkerError::Signature(e.to_string()))??;
        let (state, signature, bytes_resident) = match self.verdicts.of(&artifact.digest, &found.folder, How::CPU).await {
            Ok(facts) => {
                let signature = Signature::complete(facts.inputs, facts.outputs, found.settings.max_batch_size);
                (VersionState::Valid, signature, facts.bytes_resident)
            }
            Err(WorkerError::Invalid(reason)) => {
                tracing::error!(model = %found.model, version = %found.version, reason, "version is not valid");
                (VersionState::Invalid(reason), Signature::default(), 0)
            }
            Err(error) => return Err(error),
        };
        self.artifacts.offer(&artifact, &found.folder);
        publish_holder(&self.config, &self.publisher, &artifact.digest);
        Ok(VersionRecord {
            schema: SCHEMA,
            model: found.model.clone(),
            version: found.version,
            state,
            reference: VariantName::new(REFERENCE).map_err(|e| WorkerError::Signature(e.to_string()))?,
            artifact: artifact.digest,
            files: artifact.files,
            model_file: MODEL_FILE.to_owned(),
            config: None,
            signature,
            bytes_resident,
            image: found.settings.image.clone(),
            labels: found.labels.clone(),
            unknown: Unknown::new(),
        })
    }

    /// Writes what the version is, and wants the model if nobody has said anything about it.
    async fn write(&self, found: &Found, record: &VersionRecord) -> Result<(), WorkerError> {
        let keys = &self.config.keys;
        let key = keys.version(record.model.as_str(), record.version.into());
        if let Some(entry) = self.registry.get(&key).await? {
            let known: Result<VersionRecord, _> = registry::decode(&entry, SCHEMA);
            match known {
                Ok(known) if known == *record => return self.want(found).await,
                Ok(known) if known.artifact != record.artifact && self.held_elsewhere(&known).await? => {
                    tracing::error!(
                        model = %record.model, version = %record.version, known = %known.artifact, here = %record.artifact,
                        "another worker offers other files under this version; not offered: give it a new version"
                    );
                    return Ok(());
                }
                _ => {}
            }
        }
        self.registry.txn(Txn::new().put(&key, registry::encode(record)?)).await?;
        self.want(found).await
    }

    async fn want(&self, found: &Found) -> Result<(), WorkerError> {
        let key = self.config.keys.model(found.model.as_str());
        let record = ModelRecord {
            schema: SCHEMA,
            name: found.model.clone(),
            wanted: true,
            versions: Vec::new(),
            replicas: found.settings.replicas,
            provider: self.config.provider,
            fallback: None,
            instances: found.settings.instances,
            slo: found.settings.slo.clone(),
            generation: 0,
            unknown: Unknown::new(),
        };
        self.registry.txn(Txn::new().when(Compare::Absent(key.clone())).put(&key, registry::encode(&record)?)).await?;
        Ok(())
    }

    /// Does any other worker hold the files of `known`?
    async fn held_elsewhere(&self, known: &VersionRecord) -> Result<bool, WorkerError> {
        let prefix = format!("{}/", self.config.keys.artifact(known.artifact.as_str()));
        let own = self.config.keys.holder(known.artifact.as_str(), self.config.id.as_str());
        Ok(self.registry.list(&prefix).await?.entries.iter().any(|entry| entry.key != own))
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

/// Says that this worker has `artifact`.
pub(crate) fn publish_holder(config: &WorkerConfig, publisher: &Publisher, artifact: &policy::Digest) {
    let holder = HolderRecord {
        schema: SCHEMA,
        artifact: artifact.clone(),
        worker: config.id.clone(),
        admin: config.advertise_admin.clone(),
        unknown: Unknown::new(),
    };
    publisher.put(config.keys.holder(artifact.as_str(), config.id.as_str()), &holder);
}
