//! The seam: one trait, implemented by [`crate::Embedded`] and [`crate::Etcd`].

use std::time::Duration;

use async_trait::async_trait;

use crate::{Lease, RegistryError, Txn, TxnOutcome, Watch};

/// One record as stored. `revision` is the store-wide revision of its last write (etcd: `mod_revision`); `created` that of its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value, a small JSON record (see [`crate::decode`]).
    pub value: Vec<u8>,
    /// The revision of its last write.
    pub revision: i64,
    /// The revision of its creation.
    pub created: i64,
}

/// Everything under a prefix at one revision, ordered by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The records.
    pub entries: Vec<Entry>,
    /// The store's revision when they were read.
    pub revision: i64,
}

/// Membership and desired state.
///
/// Contract, run on every implementation by `tests/contract`:
/// * Revisions only grow, also over a restart of a persistent store. All writes of a transaction share one.
/// * A transaction is applied whole or not at all; a failed one ([`RegistryError`]) is not applied, but for
///   [`RegistryError::Unavailable`], after which the outcome is unknown.
/// * A lease lives while its handle does, and the keys put under it go with it.
/// * A watch tells every change after its first [`crate::Change::Reset`], in order, once, or tells a new Reset.
///
/// All calls need a tokio runtime around them, [`Registry::watch`] too.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The record under `key`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError>;

    /// Every record whose key begins with `prefix`, all of one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, RegistryError>;

    /// Applies a transaction. Conditions that do not hold are an outcome, not an error.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, RegistryError>;

    /// Grants a lease and keeps it alive in the background until the handle is dropped (it then runs out) or revoked.
    /// A store may round `ttl` up (etcd: to whole seconds, at least 2).
    async fn lease(&self, ttl: Duration) -> Result<Lease, RegistryError>;

    /// Follows a prefix. Supervised: never ends by itself; reconnects, resumes, resets. The first item is a Reset, as soon
    /// as the store answers.
    fn watch(&self, prefix: &str) -> Watch;
}
