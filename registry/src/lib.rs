//! Membership and desired state behind one trait: [`Embedded`] (memory and a journal) and [`Etcd`].
//!
//! Invariants, each named by the test that fails without it:
//! * I2: losing the store takes nothing from those who read it: a [`Mirror`] stays at the last state, a [`Watch`] goes on.
//! * I4: the end of a lease deletes its keys and says no more than that: it is garbage collection, not failure detection.
//! * A watch has no gap, no duplicate and no disorder against what `list` says, through any outage of the store.
//! * An acknowledged transaction survives a kill at any byte of the journal; an unacknowledged one is there whole or not at all.
//!
//! Not here: what the records mean (`policy`), who may write which (controller, worker). A distributed store: that is etcd.

pub mod admin;
mod backoff;
mod config;
mod embedded;
mod error;
mod etcd;
mod keys;
mod lease;
mod mirror;
mod record;
mod store;
mod task;
mod txn;
mod watch;

pub use config::{Credentials, EtcdConfig, RegistryConfig, TlsConfig, open};
pub use embedded::Embedded;
pub use error::RegistryError;
pub use etcd::Etcd;
pub use keys::{Key, Keys};
pub use lease::{Lease, LeaseId};
pub use mirror::{Mirror, State};
pub use record::{decode, encode};
pub use store::{Entry, Listing, Registry};
pub use txn::{Compare, Op, TXN_BYTES_MAX, TXN_OPS_MAX, Txn, TxnOutcome, VALUE_BYTES_MAX};
pub use watch::{Change, Watch};
