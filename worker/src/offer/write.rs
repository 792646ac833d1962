//! Writes versions and models to the registry, beside what others wrote.

use super::{Described, Offers};
use crate::error::WorkerError;
use crate::repository::Found;
use crate::repository::Wanted;
use policy::offer::{Held, Occasion, replaces};
use policy::{ExecutionProvider, HolderRecord, ModelName, ModelRecord, Origin, SCHEMA, VersionRecord};
use proto::model_config;
use registry::{Compare, Entry, Txn};

/// `record` and, where `known` is of the same files, the variants that only that has.
fn with_variants_of(record: &VersionRecord, known: &VersionRecord) -> VersionRecord {
    let mut merged = record.clone();
    if known.artifact == record.artifact {
        let others = known.variants.iter().filter(|other| record.variants.iter().all(|own| own.name != other.name));
        merged.variants.extend(others.cloned());
        merged.variants.sort_by(|a, b| a.name.cmp(&b.name));
    }
    merged
}

/// What became of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It is what the registry says.
    Stands,
    /// It is what the registry says, in the place of another by which replicas may be running.
    Replaced,
    /// Another stands.
    Refused,
}

impl Offers {
    /// Writes what a version is, unless what the registry has stands.
    pub(super) async fn write(&self, record: &VersionRecord, occasion: Occasion<'_>) -> Result<Written, WorkerError> {
        let key = self.config.keys.version(record.model.as_str(), record.version.into());
        loop {
            let entry = self.registry.get(&key).await?;
            let known = entry.as_ref().map(|entry| registry::decode::<VersionRecord>(entry, SCHEMA));
            let record = &match &known {
                // Variants that another worker offers of the same files stay.
                Some(Ok(known)) if !self.config.owns_repository => with_variants_of(record, known),
                _ => record.clone(),
            };
            let written = match &known {
                Some(Ok(known)) if known == record => return Ok(Written::Stands),
                Some(Ok(known)) if !replaces(occasion, known, record, self.held(known).await?) => {
                    if occasion != Occasion::Again {
                        tracing::error!(
                            model = %record.model, version = %record.version, known = %known.artifact, here = %record.artifact,
                            "something else is served under this version; not offered: give it a new version"
                        );
                    }
                    return Ok(Written::Refused);
                }
                // Other variants beside it are no reason to load what runs anew.
                Some(Ok(known)) if VersionRecord { variants: record.variants.clone(), ..known.clone() } == *record => Written::Stands,
                Some(Ok(_)) => Written::Replaced,
                None | Some(Err(_)) => Written::Stands, // a record nobody can read is replaced
            };
            // Whoever was faster may have said what stands.
            let txn = Txn::new().when(same(&key, entry.as_ref())).put(&key, registry::encode(record)?);
            if self.registry.txn(txn).await?.applied {
                return Ok(written);
            }
        }
    }

    /// Wants the model if nobody has said anything about it; if only its files have, says what they say now. `reload`: replicas that
    /// run by an older description are loaded anew.
    pub(super) async fn want(&self, model: &Described, reload: bool, occasion: Occasion<'_>) -> Result<(), WorkerError> {
        let Some(first) = model.found.first() else { return Ok(()) };
        let key = self.config.keys.model(first.model.as_str());
        let entry = self.registry.get(&key).await?;
        let derived = self.derived(first, model.wanted.clone());
        let next = |known: &ModelRecord| known.generation.saturating_add(u64::from(reload));
        let record = match entry.as_ref().map(|e| registry::decode::<ModelRecord>(e, SCHEMA)) {
            None => derived,
            // What a load call said stands over a start.
            Some(Ok(known)) if known.by_call && occasion == (Occasion::Start { owns: false }) => return Ok(()),
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
        self.registry.txn(Txn::new().when(same(key, before)).put(key, registry::encode(record)?)).await?;
        Ok(())
    }

    /// What the files of a model say about serving it; `sluice.toml` before `config.pbtxt` before this worker's settings.
    fn derived(&self, found: &Found, wanted: Wanted) -> ModelRecord {
        let config = found.config.as_ref().ok().and_then(Option::as_ref);
        let provider: Option<ExecutionProvider> = config.and_then(model_config::provider);
        let said = found.settings.wanted.clone().unwrap_or_else(|| ModelRecord::new(found.model.clone()));
        ModelRecord {
            versions: wanted.versions,
            latest: wanted.latest,
            provider: provider.unwrap_or(self.config.provider),
            instances: said.instances.or_else(|| config.and_then(model_config::instances)),
            by_call: !found.origin.is_directory(),
            derived: true,
            ..said
        }
    }

    /// Who holds the files of `known`?
    async fn held(&self, known: &VersionRecord) -> Result<Held, WorkerError> {
        let prefix = format!("{}/", self.config.keys.artifact(known.artifact.as_str()));
        let entries = self.registry.list(&prefix).await?.entries;
        let holders = entries.iter().filter_map(|entry| registry::decode::<HolderRecord>(entry, SCHEMA).ok());
        let held = holders.map(|holder| match holder.in_directory && holder.worker != self.config.id {
            true => Held::Offered,
            false => Held::Cached,
        });
        let here = self.artifacts.has(&known.artifact).then_some(Held::Cached);
        Ok(held.chain(here).max().unwrap_or(Held::Nowhere))
    }

    /// Forgets versions that `found` has not: all of them where the directory is the whole truth, else those of which a load call brought
    /// the files.
    pub(super) async fn forget_versions(&self, model: &ModelName, found: &[Found]) -> Result<(), WorkerError> {
        let keys = &self.config.keys;
        let kept: Vec<String> = found.iter().map(|f| keys.version(model.as_str(), f.version.into())).collect();
        for entry in self.registry.list(&keys.versions_of(model.as_str())).await?.entries {
            let brought = || registry::decode::<VersionRecord>(&entry, SCHEMA).is_ok_and(|known| known.origin == Origin::Files);
            if !kept.contains(&entry.key) && (self.config.owns_repository || brought()) {
                // Another worker may have found it in its directory meanwhile.
                self.registry.txn(Txn::new().when(same(&entry.key, Some(&entry))).delete(&entry.key)).await?;
            }
        }
        Ok(())
    }
}

/// Nobody has written since.
fn same(key: &str, before: Option<&Entry>) -> Compare {
    before.map_or_else(|| Compare::Absent(key.to_owned()), |entry| Compare::Revision(key.to_owned(), entry.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn version(artifact: char, variants: &[(&str, f64)]) -> VersionRecord {
        let digest = |c: char| c.to_string().repeat(64);
        let variant = |(name, accuracy): &(&str, f64)| json!({ "name": name, "artifact": digest('b'), "files": [], "bytes_resident": 1, "accuracy": accuracy, "metric": "cosine", "data": digest('c') });
        let record = json!({
            "model": "m", "version": 1, "state": "valid", "reference": "fp32@ort", "artifact": digest(artifact), "files": [],
            "signature": { "max_batch_size": 0, "inputs": [], "outputs": [] }, "bytes_resident": 1,
            "variants": variants.iter().map(variant).collect::<Vec<_>>(),
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn variants_that_another_worker_offers_of_the_same_files_stay() {
        let (own, known) = (version('a', &[("int8@ort", 0.9)]), version('a', &[("bf16@openvino", 1.0), ("int8@ort", 0.5)]));
        let merged = with_variants_of(&own, &known);
        let listed: Vec<_> = merged.variants.iter().map(|v| (v.name.as_str(), v.accuracy)).collect();
        assert_eq!(listed, [("bf16@openvino", 1.0), ("int8@ort", 0.9)]);
        assert_eq!(with_variants_of(&merged, &known), merged, "again changes nothing");
        assert_eq!(with_variants_of(&own, &version('d', &[("bf16@openvino", 1.0)])), own, "of other files they are no variants");
    }
}
