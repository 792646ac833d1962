//! Leases: keys that go when their holder does.

use tokio::sync::{mpsc, oneshot, watch};

use crate::RegistryError;

/// Names a lease in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A lease, kept alive in the background while this handle lives.
///
/// Dropping it stops the renewals, so that the lease and its keys run out; [`Lease::revoke`] ends them at once.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    lost: watch::Receiver<bool>,
    revoke: mpsc::Sender<Revocation>,
}

/// Carries the answer to a revocation back.
pub(crate) type Revocation = oneshot::Sender<Result<(), RegistryError>>;

/// The other end of a [`Lease`]: what the task that renews it holds.
#[derive(Debug)]
pub(crate) struct Keeper {
    lost: watch::Sender<bool>,
    revoke: mpsc::Receiver<Revocation>,
}

impl Lease {
    /// A handle and the end its keeper holds.
    pub(crate) fn new(id: LeaseId) -> (Self, Keeper) {
        let (lost_sender, lost) = watch::channel(false);
        // One: a handle can be revoked once.
        let (revoke, revocations) = mpsc::channel(1);
        (Self { id, lost, revoke }, Keeper { lost: lost_sender, revoke: revocations })
    }

    /// What to put keys under.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Resolves when the store says that the lease is gone, or when it could not be renewed within its ttl: its keys are
    /// gone or may go any moment. The holder then takes a new lease and writes its keys again. Cancel safe.
    pub async fn lost(&self) {
        // A keeper that ended without a word (the runtime goes down) renews no more, which is the same to the holder.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Whether [`Lease::lost`] has resolved.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow() || self.lost.has_changed().is_err()
    }

    /// Ends the lease and deletes its keys now. After an error the lease runs out by itself.
    pub async fn revoke(self) -> Result<(), RegistryError> {
        let (answer, answered) = oneshot::channel();
        if self.revoke.send(answer).await.is_err() {
            return Ok(()); // lost before: its keys are gone already
        }
        answered.await.unwrap_or(Ok(()))
    }
}

impl Keeper {
    /// What the holder wants: `Some` to revoke, `None` when it dropped the handle. Cancel safe.
    pub(crate) async fn asked(&mut self) -> Option<Revocation> {
        self.revoke.recv().await
    }

    /// Tells the holder that the lease is gone. The keeper has nothing left to do.
    pub(crate) fn lose(self) {
        self.lost.send_replace(true);
    }
}
