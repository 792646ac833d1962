//! Changing what is wanted of models.

use policy::{Failure, ModelName, ModelRecord, SCHEMA};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

use crate::{Compare, Keys, Registry, RegistryError, TXN_OPS_MAX, Txn, decode, encode};

/// Attempts to write when others write the same models at the same moment.
const ATTEMPTS: usize = 5;

/// A change of what is wanted of one model.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// This record, but for its generation, which is counted here. A higher one makes workers load anew: it grows when what
    /// runs would differ, and when `reload` says so.
    Apply {
        /// What is wanted.
        record: Box<ModelRecord>,
        /// Load anew even if nothing differs.
        reload: bool,
    },
    /// Wanted, with whatever settings it had, and loaded anew.
    Load(ModelName),
    /// No longer wanted; its settings stay.
    Unload(ModelName),
}

impl Change {
    /// The model it is about.
    pub fn model(&self) -> &ModelName {
        match self {
            Self::Apply { record, .. } => &record.name,
            Self::Load(model) | Self::Unload(model) => model,
        }
    }

    /// The record after the change.
    fn of(&self, before: Option<&ModelRecord>) -> ModelRecord {
        let generation = before.map_or(0, |b| b.generation);
        let next = generation.saturating_add(u64::from(before.is_some()));
        let known = |name: &ModelName| before.cloned().unwrap_or_else(|| ModelRecord::new(name.clone()));
        match self {
            Self::Load(name) => ModelRecord { wanted: true, generation: next, ..known(name) },
            Self::Unload(name) => ModelRecord { wanted: false, ..known(name) },
            Self::Apply { record, reload } => {
                let runs = |r: &ModelRecord| (r.provider, r.fallback, r.instances, r.slo.latency_ms);
                let differs = before.is_some_and(|b| runs(b) != runs(record));
                let mut record = ModelRecord { derived: false, ..(**record).clone() };
                let kept = before.map(|b| b.unknown.clone()).unwrap_or_default();
                record.generation = if *reload || differs { next } else { generation };
                record.unknown = kept.into_iter().chain(record.unknown).collect();
                record
            }
        }
    }
}

/// Reads what an operator wrote about a model: `name` is needed, all else has defaults, and what this build does not know is kept.
///
/// # Errors
/// What is wrong, naming the field.
pub fn parse_model(json: &str) -> Result<ModelRecord, Failure> {
    let malformed = |what: String| Failure::Malformed { what };
    let value = serde_json::from_str(json).map_err(|e| malformed(format!("a model is not JSON: {e}")))?;
    let Value::Object(fields) = value else { return Err(malformed("a model must be a JSON object".to_owned())) };
    let Some(Value::String(name)) = fields.get("name") else {
        return Err(malformed("field `name` is missing or not a text".to_owned()));
    };
    let name = ModelName::new(name)?;
    if let Some(schema) = fields.get("schema").filter(|s| s.as_u64() != Some(u64::from(SCHEMA))) {
        return Err(malformed(format!("model `{name}`: field `schema`: expected {SCHEMA}, got {schema}")));
    }
    let base = || Map::from_iter([("name".to_owned(), Value::from(name.as_str())), ("wanted".to_owned(), Value::from(true))]);
    // Field by field, because the whole would not say which field is at fault.
    for (field, value) in &fields {
        let mut alone = base();
        alone.insert(field.clone(), value.clone());
        let read: Result<ModelRecord, _> = serde_json::from_value(Value::Object(alone));
        read.map_err(|e| malformed(format!("model `{name}`: field `{field}`: {e}")))?;
    }
    let mut whole = base();
    whole.extend(fields);
    let record: ModelRecord = serde_json::from_value(Value::Object(whole)).map_err(|e| malformed(format!("model `{name}`: {e}")))?;
    let zero = [("replicas", record.replicas), ("instances", record.instances), ("latest", record.latest)]
        .into_iter()
        .find(|(_, n)| *n == Some(0));
    if let Some((field, _)) = zero {
        return Err(malformed(format!("model `{name}`: field `{field}`: must be at least 1; `wanted: false` unloads a model")));
    }
    Ok(record)
}

/// Writes changes of desired state, all or none, and gives the revision at which they hold.
///
/// # Errors
/// When the registry does not answer, or others kept changing the same models.
pub async fn set_models(registry: &dyn Registry, keys: &Keys, changes: &[Change]) -> Result<i64, Failure> {
    if changes.len() > TXN_OPS_MAX {
        return Err(Failure::Limit { what: "number of models".to_owned(), got: changes.len() as u64, limit: TXN_OPS_MAX as u64 });
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = changes.iter().find(|c| !names.insert(c.model())) {
        return Err(Failure::Malformed { what: format!("model `{}` is named twice", twice.model()) });
    }
    for _ in 0..ATTEMPTS {
        let mut txn = Txn::new();
        for change in changes {
            let key = keys.model(change.model().as_str());
            let entry = registry.get(&key).await.map_err(|e| of_registry(&e))?;
            // A record nobody can read is replaced: that is how an operator mends it.
            let before = entry.as_ref().and_then(|e| decode::<ModelRecord>(e, SCHEMA).ok());
            let value = encode(&change.of(before.as_ref())).map_err(|e| of_registry(&e))?;
            txn = txn.when(Compare::Revision(key.clone(), entry.map_or(0, |e| e.revision))).put(key, value);
        }
        let outcome = registry.txn(txn).await.map_err(|e| of_registry(&e))?;
        if outcome.applied {
            return Ok(outcome.revision);
        }
    }
    Err(Failure::Registry { reason: "others keep changing the same models".to_owned() })
}

/// What a caller is told when the registry is at fault.
pub(super) fn of_registry(error: &RegistryError) -> Failure {
    match error {
        RegistryError::ValueTooLarge { bytes, bytes_max, .. } => {
            Failure::Limit { what: "bytes of a model record".to_owned(), got: *bytes as u64, limit: *bytes_max as u64 }
        }
        other => Failure::Registry { reason: other.to_string() },
    }
}
