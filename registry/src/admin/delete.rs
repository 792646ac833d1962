//! Deleting the record of a model.

use policy::{Failure, ModelName, Origin, ReplicaState};
use std::collections::BTreeSet;
use std::time::Duration;

use super::desired::{ATTEMPTS, of_registry};
use super::{AdminService, Change, Records, set_models, wait_routable};
use crate::{Compare, Txn};

impl AdminService {
    /// Removes what is wanted of `model`, and with it its settings. Refused while it is wanted and replicas of it are routable; with
    /// `force` it is unloaded first. The record goes once they have drained. Gives what else is to be known, empty for nothing.
    ///
    /// # Errors
    /// When there is no such record, it is in use, or it has not drained within `timeout`: then it stays, unloaded.
    pub async fn delete(&self, model: &ModelName, force: bool, timeout: Duration) -> Result<String, Failure> {
        let key = self.keys.model(model.as_str());
        for _ in 0..ATTEMPTS {
            let state = self.listed().await.map_err(|e| of_registry(&e))?;
            let Some(entry) = state.entries.get(&key) else {
                return Err(Failure::UnknownModel { model: model.to_string() });
            };
            let records = Records::read(&state, &self.keys);
            // A record that nobody can read may be wanted.
            let wanted = records.models.get(model).is_none_or(|(record, _)| record.wanted);
            let routable = routable(&records, model);
            if wanted && !routable.is_empty() && !force {
                let on = routable.into_iter().collect::<Vec<_>>().join(", ");
                return Err(in_use(
                    model,
                    format!("it is wanted, and replicas of it answer requests on {on}: unload it first, or force it"),
                ));
            }
            if !routable.is_empty() {
                let revision = if wanted { self.unload(model).await? } else { entry.revision };
                self.drained(model, revision, timeout).await?;
                continue; // to see what the record is now
            }
            let txn = Txn::new().when(Compare::Revision(key.clone(), entry.revision)).delete(&key);
            if self.registry.txn(txn).await.map_err(|e| of_registry(&e))?.applied {
                return Ok(comes_back(&records, model));
            }
        }
        Err(Failure::Registry { reason: "others keep changing the same model".to_owned() })
    }

    async fn unload(&self, model: &ModelName) -> Result<i64, Failure> {
        set_models(&*self.registry, &self.keys, &[Change::Unload(model.clone())]).await
    }

    /// Waits until nothing of an unloaded model answers. A record that went before would have it answer again: replicas of a model of which
    /// nothing is said are routable.
    async fn drained(&self, model: &ModelName, revision: i64, timeout: Duration) -> Result<(), Failure> {
        let drained = wait_routable(&self.mirror, &self.keys, model, revision, timeout).await;
        drained.map(drop).map_err(|failure| match failure {
            Failure::LoadFailed { reason, .. } => {
                in_use(model, format!("it is unloaded and still draining, {reason}; delete it again then"))
            }
            other => other,
        })
    }
}

fn in_use(model: &ModelName, reason: String) -> Failure {
    Failure::InUse { model: model.to_string(), reason }
}

/// Workers whose replicas of `model` are warm; a replica of a former life of its worker is gone.
fn routable<'r>(records: &'r Records, model: &ModelName) -> BTreeSet<&'r str> {
    let observed = &records.observed;
    let lives = |r: &policy::ReplicaRecord| observed.workers.iter().any(|w| w.id == r.worker && w.incarnation == r.incarnation);
    let ready = observed.replicas.iter().filter(|r| r.variant.model == *model && r.state == ReplicaState::Ready && lives(r));
    ready.map(|r| r.worker.as_str()).collect()
}

/// Who will want `model` again: a worker that offers it and finds no record of it writes one, as at its start.
fn comes_back(records: &Records, model: &ModelName) -> String {
    let observed = &records.observed;
    let versions: Vec<_> = observed.versions.iter().filter(|v| v.model == *model).collect();
    let held = observed.holders.iter().filter(|h| h.in_directory && versions.iter().any(|v| v.artifact == h.artifact));
    let held: BTreeSet<&str> = held.map(|h| h.worker.as_str()).collect();
    let again = "it comes back within a minute or so, wanted as its files say";
    if !held.is_empty() {
        let workers = held.into_iter().collect::<Vec<_>>().join(", ");
        format!("{again}: {workers} has it in the model directory; unload it instead, or take it out of there and restart the worker")
    } else if versions.iter().any(|v| v.origin == Origin::Files) {
        format!("{again}: a load call brought its files, which the worker that took them offers until it restarts")
    } else {
        String::new()
    }
}
