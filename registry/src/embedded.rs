//! The registry in this process: everything in memory, what must outlast it in a journal.

mod journal;
mod lock;
mod memory;
mod record;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::lease::Keeper;
use crate::{Change, Entry, Lease, LeaseId, Listing, Registry, RegistryError, Txn, TxnOutcome, Watch};
use journal::Journal;
use memory::{Memory, Plan};

/// Revisions promised to the journal at once, so that writes under leases, which are not kept, need no disk of their own.
const REVISIONS_AHEAD: i64 = 1024;

/// A registry for one process.
///
/// With a directory, every transaction is on disk before it is acknowledged, and the directory is locked against a second
/// process. Keys under leases are never written: the end of the process ends its leases.
/// Dropping it closes the journal, loses its leases and leaves its watches silent.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// Two locks, so that no reader waits for the disk: whoever writes holds `writer` throughout, `memory` only to read or change it.
#[derive(Debug)]
struct Shared {
    writer: Mutex<Option<Journal>>,
    memory: RwLock<Memory>,
    /// The number of changes so far, for those who wait for the next.
    changes: watch::Sender<u64>,
    durable: bool,
}

impl Embedded {
    /// Opens the registry in `data_dir`, which is created if missing, or one that forgets everything at the end.
    ///
    /// A journal that was torn by a kill or a crash is cut after its last whole transaction.
    pub fn open(data_dir: Option<&Path>) -> Result<Self, RegistryError> {
        let (journal, memory) = match data_dir {
            Some(dir) => {
                let (journal, recovered) = Journal::open(dir)?;
                (Some(journal), Memory::new(recovered.entries, recovered.revision))
            }
            None => (None, Memory::default()),
        };
        let durable = journal.is_some();
        let (changes, _) = watch::channel(memory.changes());
        let shared = Shared { writer: Mutex::new(journal), memory: RwLock::new(memory), changes, durable };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends a lease over its holder's head, as `etcdctl lease revoke` would: its keys go and [`Lease::lost`] resolves.
    pub async fn end_lease(&self, id: LeaseId) -> Result<(), RegistryError> {
        self.shared.run(move |shared| shared.end_lease(id)).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Tasks of watches and leases may live on for a moment; the journal and its lock must not.
        *self.shared.writer() = None;
        self.shared.memory_mut().lose_leases();
    }
}

#[async_trait]
impl Registry for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        Ok(self.shared.memory().get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, RegistryError> {
        Ok(self.shared.memory().list(prefix))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, RegistryError> {
        txn.check()?;
        self.shared.run(move |shared| shared.txn(txn)).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, RegistryError> {
        let (id, gone) = self.shared.memory_mut().grant();
        let (lease, keeper) = Lease::new(id);
        tokio::spawn(keep(self.shared.clone(), id, ttl, keeper, gone));
        Ok(lease)
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        Watch::spawn(|changes| follow(shared, prefix, changes))
    }
}

/// Ends a lease when its holder wants it, or `ttl` after the holder went.
async fn keep(shared: Arc<Shared>, id: LeaseId, ttl: Duration, mut keeper: Keeper, mut gone: oneshot::Receiver<()>) {
    let answer = tokio::select! {
        _ = &mut gone => return keeper.lose(),
        asked = keeper.asked() => asked,
    };
    if answer.is_none() {
        tokio::select! {
            _ = gone => return,
            () = tokio::time::sleep(ttl) => {}
        }
    }
    let ended = shared.run(move |shared| shared.end_lease(id)).await;
    if let Some(answer) = answer {
        let _ = answer.send(ended); // the holder may have stopped waiting
    }
}

/// Sends a Reset, then every change; a Reset again whenever the reader was slower than the history is long.
async fn follow(shared: Arc<Shared>, prefix: String, sender: mpsc::Sender<Change>) {
    let mut latest = shared.changes.subscribe();
    let mut read = None;
    loop {
        let batch = shared.memory().since(&prefix, read);
        for change in batch.changes {
            if sender.send(change).await.is_err() {
                return;
            }
        }
        read = Some(batch.read);
        if latest.wait_for(|changes| *changes > batch.read).await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn writer(&self) -> MutexGuard<'_, Option<Journal>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that may wait for the disk, without making the runtime wait with it.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Shared) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        if !self.durable {
            return work(self);
        }
        let shared = self.clone();
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            Err(error) => Err(RegistryError::Unavailable { endpoints: vec!["embedded".to_owned()], cause: error.to_string() }),
        }
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome, RegistryError> {
        let mut writer = self.writer();
        let plan = self.memory().plan(txn)?;
        let Some(plan) = plan else {
            return Ok(TxnOutcome { applied: false, revision: self.memory().revision() });
        };
        if let Some(journal) = writer.as_mut() {
            self.write_ahead(journal, &plan)?;
        }
        let revision = plan.revision;
        self.apply(plan);
        if let Some(journal) = writer.as_mut() {
            journal.compact_if_due(|| self.memory().durable());
        }
        Ok(TxnOutcome { applied: true, revision })
    }

    fn end_lease(&self, id: LeaseId) -> Result<(), RegistryError> {
        let mut writer = self.writer();
        let plan = self.memory().plan_end(id);
        if let Some(journal) = writer.as_mut()
            && let Err(error) = self.write_ahead(journal, &plan)
        {
            // Time cannot be refused. The promise is made up for by the next write that reaches the disk.
            tracing::warn!(%error, "cannot keep the revision of an ended lease");
        }
        self.memory_mut().forget_lease(id);
        self.apply(plan);
        Ok(())
    }

    /// Puts on disk what of `plan` must outlast the process: its lasting writes, or else only that its revision was used.
    fn write_ahead(&self, journal: &mut Journal, plan: &Plan) -> Result<(), RegistryError> {
        match self.memory().lasting(plan) {
            Some(record) => journal.append(&record),
            None if plan.revision > journal.revision() => journal.reserve(plan.revision.saturating_add(REVISIONS_AHEAD)),
            None => Ok(()),
        }
    }

    fn apply(&self, plan: Plan) {
        let mut memory = self.memory_mut();
        memory.apply(plan);
        let changes = memory.changes();
        drop(memory);
        self.changes.send_replace(changes);
    }
}
