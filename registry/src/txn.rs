//! Transactions: several keys compared and written at one revision, or not at all.

use crate::{LeaseId, RegistryError};

/// Most operations, and most comparisons, in one transaction (etcd's own default limit is 128).
pub const TXN_OPS_MAX: usize = 100;
/// Largest value. A record is small and readable; anything larger belongs into an artifact.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Keys and values of one transaction together (etcd refuses a request over 1.5 MiB).
pub const TXN_BYTES_MAX: usize = 1024 * 1024;

/// What must hold for a transaction to be applied. An absent key has revision 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists.
    Exists(String),
    /// The key's last write was at this revision.
    Revision(String, i64),
    /// The key was created at this revision: it is the same incarnation, however often rewritten.
    Created(String, i64),
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key. Without a lease the key stays, even if it hung on one before.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// The lease whose end deletes the key.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; no fault if it is absent.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes every key that begins so.
    DeletePrefix {
        /// The beginning; empty means every key.
        prefix: String,
    },
}

/// All of `then`, at one revision, if all of `when` holds; else nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub when: Vec<Compare>,
    /// The operations, in the order in which watchers see them.
    pub then: Vec<Op>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether the conditions held and the operations were done.
    pub applied: bool,
    /// The store's revision afterwards. Of an applied transaction that changed something: the revision of the change.
    pub revision: i64,
}

impl Txn {
    /// An empty transaction, which always applies and changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.when.push(compare);
        self
    }

    /// Adds a write that stays.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.then.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds a write that goes when the lease ends.
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.then.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Adds a deletion.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.then.push(Op::Delete { key: key.into() });
        self
    }

    /// Adds the deletion of every key that begins so.
    pub fn delete_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.then.push(Op::DeletePrefix { prefix: prefix.into() });
        self
    }

    /// The limits and rules every store keeps, checked before any store is asked.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        for (what, ops) in [("operations", self.then.len()), ("comparisons", self.when.len())] {
            if ops > TXN_OPS_MAX {
                return Err(RegistryError::TxnTooLong { what, ops, ops_max: TXN_OPS_MAX });
            }
        }
        if self.when.iter().any(|compare| compare.key().is_empty()) {
            return Err(RegistryError::EmptyKey);
        }
        let mut bytes_total: usize = self.when.iter().map(|compare| compare.key().len()).sum();
        for (at, op) in self.then.iter().enumerate() {
            bytes_total = bytes_total.saturating_add(op.check()?);
            if let Op::Put { key, .. } = op
                && self.then.iter().enumerate().any(|(other, op)| other != at && op.touches(key))
            {
                return Err(RegistryError::DuplicateKey { key: key.clone() });
            }
        }
        if bytes_total > TXN_BYTES_MAX {
            return Err(RegistryError::TxnTooLarge { bytes: bytes_total, bytes_max: TXN_BYTES_MAX });
        }
        Ok(())
    }
}

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Exists(key) | Self::Revision(key, _) | Self::Created(key, _) => key,
        }
    }
}

impl Op {
    /// Whether it writes or deletes `other`.
    fn touches(&self, other: &str) -> bool {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key == other,
            Self::DeletePrefix { prefix } => other.starts_with(prefix.as_str()),
        }
    }

    /// Its size, if it is within the limits.
    fn check(&self) -> Result<usize, RegistryError> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } if key.is_empty() => Err(RegistryError::EmptyKey),
            Self::Put { key, value, .. } if value.len() > VALUE_BYTES_MAX => {
                Err(RegistryError::ValueTooLarge { key: key.clone(), bytes: value.len(), bytes_max: VALUE_BYTES_MAX })
            }
            Self::Put { key, value, .. } => Ok(key.len().saturating_add(value.len())),
            Self::Delete { key } | Self::DeletePrefix { prefix: key } => Ok(key.len()),
        }
    }
}
