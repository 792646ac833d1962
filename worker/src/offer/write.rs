//! Writes versions and models to the registry, beside what others wrote.

use super::{Described, Offers};
use crate::error::WorkerError;
use crate::repository::Found;
use policy::{ExecutionProvider, ModelRecord, SCHEMA, Unknown, Version, VersionRecord};
use proto::model_config;
use registry::{Compare, Entry, Txn};

/// What a version record may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Only of none: the registry lost it.
    Nothing,
    /// Of one whose files nobody else holds, or that has the same files.
    Stale,
    /// Of any: somebody asked for this one.
    Any,
}

impl Offers {
    /// Writes what a version is. The first to offer a version stands while anyone holds its files. True when it took the place of
    /// another description, by which replicas may be running.
    pub(super) async fn write(&self, record: &VersionRecord, over: Over) -> Result<bool, WorkerError> {
        let mut changed = false;
        let key = self.config.keys.version(record.model.as_str(), record.version.into());
        if let Some(entry) = self.registry.get(&key).await? {
            let known: Result<VersionRecord, _> = registry::decode(&entry, SCHEMA);
            match known {
                Ok(known) if over == Over::Nothing || known == *record => return Ok(false),
                Ok(known) if over == Over::Stale && known.artifact != record.artifact && self.held_elsewhere(&known).await? => {
                    tracing::error!(
                        model = %record.model, version = %record.version, known = %known.artifact, here = %record.artifact,
                        "another worker offers other files under this version; not offered: give it a new version"
                    );
                    return Ok(false);
                }
                Ok(_) => changed = true,
                Err(_) => {} // a record nobody can read is replaced
            }
        }
        self.registry.txn(Txn::new().put(&key, registry::encode(record)?)).await?;
        Ok(changed)
    }

    /// Wants the model if nobody has said anything about it; if only its files have, says what they say now. `reload`: replicas that
    /// run by an older description are loaded anew.
    pub(super) async fn want(&self, model: &Described, reload: bool) -> Result<(), WorkerError> {
        let Some(first) = model.found.first() else { return Ok(()) };
        let key = self.config.keys.model(first.model.as_str());
        let entry = self.registry.get(&key).await?;
        let derived = self.derived(first, model.wanted.clone());
        let next = |known: &ModelRecord| known.generation.saturating_add(u64::from(reload));
        let record = match entry.as_ref().map(|e| registry::decode::<ModelRecord>(e, SCHEMA)) {
            None => derived,
            Some(Ok(known)) if known.derived => {
                let (wanted, unknown) = (known.wanted, known.unknown.clone());
                let now = ModelRecord { wanted, unknown, generation: next(&known), ..derived };
                if now == known {
                    return Ok(());
                }
                now
            }
            // An operator's word stands, but for how often it was loaded.
            Some(Ok(known)) if reload => ModelRecord { generation: next(&known), ..known },
            Some(_) => return Ok(()),
        };
        self.put_model(&key, entry.as_ref(), &record).await
    }

    /// Wants the model if the registry knows nothing of it.
    pub(super) async fn want_if_lost(&self, model: &Described) -> Result<(), WorkerError> {
        let Some(first) = model.found.first() else { return Ok(()) };
        let key = self.config.keys.model(first.model.as_str());
        let record = self.derived(first, model.wanted.clone());
        self.put_model(&key, None, &record).await
    }

    /// Puts `record` where `before` is, if nobody was faster; who was has said something newer.
    async fn put_model(&self, key: &str, before: Option<&Entry>, record: &ModelRecord) -> Result<(), WorkerError> {
        let same = before.map_or_else(|| Compare::Absent(key.to_owned()), |e| Compare::Revision(key.to_owned(), e.revision));
        self.registry.txn(Txn::new().when(same).put(key, registry::encode(record)?)).await?;
        Ok(())
    }

    /// What the files of a model say about serving it; `sluice.toml` before `config.pbtxt` before this worker's settings.
    fn derived(&self, found: &Found, versions: Vec<Version>) -> ModelRecord {
        let config = found.config.as_ref().ok().and_then(Option::as_ref);
        let provider: Option<ExecutionProvider> = config.and_then(model_config::provider);
        ModelRecord {
            schema: SCHEMA,
            name: found.model.clone(),
            wanted: true,
            versions,
            replicas: found.settings.replicas,
            provider: provider.unwrap_or(self.config.provider),
            fallback: None,
            instances: found.settings.instances.or_else(|| config.and_then(model_config::instances)),
            slo: found.settings.slo.clone(),
            derived: true,
            generation: 0,
            unknown: Unknown::new(),
        }
    }

    /// Does any other worker hold the files of `known`?
    async fn held_elsewhere(&self, known: &VersionRecord) -> Result<bool, WorkerError> {
        let prefix = format!("{}/", self.config.keys.artifact(known.artifact.as_str()));
        let own = self.config.keys.holder(known.artifact.as_str(), self.config.id.as_str());
        Ok(self.registry.list(&prefix).await?.entries.iter().any(|entry| entry.key != own))
    }
}
