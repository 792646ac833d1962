//! Keeps this worker's leased records in the registry: itself, its replicas, the artifacts it holds.
//!
//! Level-triggered: the records wanted are one map; the task makes the registry equal to it under the worker's lease, and
//! starts over with a new lease when the old one is lost.

use policy::WorkerRecord;
use registry::{Compare, Keys, Lease, Registry, RegistryError, Txn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Records by key.
pub(crate) type Records = BTreeMap<String, Vec<u8>>;

/// Pause before trying again after the registry refused.
const RETRY: Duration = Duration::from_millis(500);
/// Longest wait for a record to be written.
const WRITTEN_MAX: Duration = Duration::from_secs(5);
/// Operations of one transaction.
const OPS_MAX: usize = 64;

/// The wanted records. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    wanted: Arc<watch::Sender<Records>>,
    written: watch::Receiver<BTreeSet<String>>,
}

/// What [`run`] gets of a [`Publisher`].
pub(crate) struct Wanted {
    records: watch::Receiver<Records>,
    written: watch::Sender<BTreeSet<String>>,
}

impl Publisher {
    /// Nothing wanted yet; the other end goes to [`run`].
    pub(crate) fn new() -> (Self, Wanted) {
        let ((wanted, records), (written_tx, written)) = (watch::channel(Records::new()), watch::channel(BTreeSet::new()));
        (Self { wanted: Arc::new(wanted), written }, Wanted { records, written: written_tx })
    }

    /// Resolves when there was a record under `key` in the registry, or after [`WRITTEN_MAX`]: a registry that does not answer is
    /// the problem of whoever writes to it next.
    pub(crate) async fn written(&self, key: &str) {
        let mut written = self.written.clone();
        let _ = tokio::time::timeout(WRITTEN_MAX, written.wait_for(|keys| keys.contains(key))).await;
    }

    /// Wants `record` under `key`. A record that cannot be written is logged and leaves the old one.
    pub(crate) fn put<T: serde::Serialize>(&self, key: String, record: &T) {
        match registry::encode(record) {
            Ok(value) => {
                self.wanted.send_if_modified(|records| records.insert(key, value.clone()).as_ref() != Some(&value));
            }
            Err(error) => tracing::error!(key, %error, "record not written"),
        }
    }

    /// Wants nothing under `key` any more.
    pub(crate) fn remove(&self, key: &str) {
        self.wanted.send_if_modified(|records| records.remove(key).is_some());
    }
}

/// Who publishes: a worker, and which start of it.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) keys: Keys,
    pub(crate) worker: String,
    pub(crate) incarnation: u64,
}

/// Converges until `stop`, which revokes the lease and so removes the records at once, or until a later start of the same
/// worker has taken over.
pub(crate) async fn run(registry: Arc<dyn Registry>, who: Who, mut wanted: Wanted, mut stop: watch::Receiver<bool>) {
    let mut complained = false;
    loop {
        match one_lease(&*registry, &who, &mut wanted, &mut stop).await {
            Ok(End::Stopped) => return,
            Ok(End::Replaced) => {
                return tracing::error!(
                    worker = who.worker,
                    "another process runs as this worker since; this one no longer registers (give each its own --id)"
                );
            }
            Ok(End::LeaseLost) => {
                complained = false;
                tracing::warn!("the registry dropped this worker's lease, registering again");
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "cannot register with the registry, serving on and trying again");
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = stopped(&mut stop) => return,
                }
            }
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await; // a dropped sender means the same
}

enum End {
    Stopped,
    LeaseLost,
    /// A later start of this worker has written its record.
    Replaced,
}

/// This worker's own record as it stands: no write of this process lands on top of a later start's.
struct Own {
    key: String,
    revision: Option<i64>,
}

impl Own {
    /// As it is in the registry; `None` when a later start has written it.
    async fn read(registry: &dyn Registry, who: &Who) -> Result<Option<Self>, RegistryError> {
        let key = who.keys.worker(&who.worker);
        let entry = registry.get(&key).await?;
        let record = entry.as_ref().and_then(|e| registry::decode::<WorkerRecord>(e, policy::SCHEMA).ok());
        if record.is_some_and(|record| record.incarnation > who.incarnation) {
            return Ok(None);
        }
        Ok(Some(Self { key, revision: entry.map(|e| e.revision) }))
    }

    /// Applies `txn` if the record is as last seen; false when it is not.
    async fn apply(&mut self, registry: &dyn Registry, txn: Txn, writes_own: bool) -> Result<bool, RegistryError> {
        let unchanged = match self.revision {
            Some(revision) => Compare::Revision(self.key.clone(), revision),
            None => Compare::Absent(self.key.clone()),
        };
        let outcome = registry.txn(txn.when(unchanged)).await?;
        if outcome.applied && writes_own {
            self.revision = Some(outcome.revision);
        }
        Ok(outcome.applied)
    }
}

/// From the grant of a lease to its loss.
async fn one_lease(
    registry: &dyn Registry,
    who: &Who,
    wanted: &mut Wanted,
    stop: &mut watch::Receiver<bool>,
) -> Result<End, RegistryError> {
    // Until there is a lease, a stop has nothing to give back; afterwards only the select below may end it.
    let lease = tokio::select! {
        lease = registry.lease(crate::config::LEASE) => lease?,
        () = stopped(stop) => return Ok(End::Stopped),
    };
    let Some(mut own) = Own::read(registry, who).await? else { return Ok(End::Replaced) };
    // What an earlier incarnation left under its own lease would linger until that ends.
    let stale = registry.list(&who.keys.replicas_of(&who.worker)).await?.entries.into_iter().map(|e| e.key);
    let mut written: BTreeMap<String, Option<Vec<u8>>> = stale.map(|key| (key, None)).collect();
    loop {
        let records = wanted.records.borrow_and_update().clone();
        if !converge(registry, &lease, &records, &mut written, &mut own).await? {
            return Ok(match Own::read(registry, who).await? {
                None => End::Replaced,
                Some(_) => End::LeaseLost, // it went with our lease, or somebody meddled: from the start again
            });
        }
        wanted.written.send_replace(records.into_keys().collect());
        tokio::select! {
            changed = wanted.records.changed() => if changed.is_err() {
                return Ok(End::Stopped);
            },
            () = lease.lost() => return Ok(End::LeaseLost),
            () = stopped(stop) => {
                let _ = lease.revoke().await; // the records go now; without an answer they go with the lease
                return Ok(End::Stopped);
            }
        }
    }
}

/// Writes what differs from `written`, which then equals `records`; false when this worker's own record is not as last seen.
async fn converge(
    registry: &dyn Registry,
    lease: &Lease,
    records: &Records,
    written: &mut BTreeMap<String, Option<Vec<u8>>>,
    own: &mut Own,
) -> Result<bool, RegistryError> {
    let keys: BTreeSet<String> = records.keys().chain(written.keys()).cloned().collect();
    let differs = |key: &String| written.get(key).and_then(|v| v.as_ref()) != records.get(key) || !records.contains_key(key);
    let changed: Vec<String> = keys.into_iter().filter(differs).collect();
    for part in changed.chunks(OPS_MAX) {
        let txn = part.iter().fold(Txn::new(), |txn, key| match records.get(key) {
            Some(value) => txn.put_leased(key, value.clone(), lease.id()),
            None => txn.delete(key),
        });
        let writes_own = part.contains(&own.key);
        if !own.apply(registry, txn, writes_own).await? {
            return Ok(false);
        }
        for key in part {
            match records.get(key) {
                Some(value) => drop(written.insert(key.clone(), Some(value.clone()))),
                None => drop(written.remove(key)),
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
