//! Changing what is wanted of models.

use policy::wanted::Written;
use policy::{Failure, ModelName, ModelRecord, SCHEMA};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::{Compare, Keys, Registry, RegistryError, TXN_OPS_MAX, Txn, decode, encode};

/// Attempts to write when others write the same models at the same moment.
pub(super) const ATTEMPTS: usize = 5;
/// Most bytes of problems in an answer: they travel in a header, and clients take 16 KiB of those, in which a character may need nine.
const PROBLEMS_BYTES_MAX: usize = 4096;

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
/// Everything that is wrong, each with the field.
pub fn parse_model(json: &str) -> Result<ModelRecord, Failure> {
    let mut records = parse_models(&[json.to_owned()])?;
    records.pop().ok_or_else(|| Failure::Malformed { what: "no model".to_owned() })
}

/// Reads what an operator wrote about several models.
///
/// # Errors
/// Everything that is wrong with any of them, a line each, with model and field.
pub fn parse_models(models: &[String]) -> Result<Vec<ModelRecord>, Failure> {
    let written = models.iter().map(|json| match serde_json::from_str(json) {
        Ok(Value::Object(fields)) => Written { fields: Some(fields), problems: Vec::new() },
        Ok(_) => Written { fields: None, problems: vec!["a model must be a JSON object".to_owned()] },
        Err(error) => Written { fields: None, problems: vec![format!("a model is not JSON: {error}")] },
    });
    policy::wanted::read_all(written).map_err(|problems| Failure::Malformed { what: listed(&problems) })
}

/// A line each, as many as an answer's header has room for.
fn listed(problems: &[String]) -> String {
    let mut text = String::new();
    for (at, problem) in problems.iter().enumerate() {
        if text.len().saturating_add(problem.len()) > PROBLEMS_BYTES_MAX {
            return format!("{text}\nand {} more", problems.len().saturating_sub(at));
        }
        let end = if at == 0 { "" } else { "\n" };
        text = format!("{text}{end}{problem}");
    }
    text
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
