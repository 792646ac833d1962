//! Why the registry could not do what was asked.

use std::io;
use std::path::{Path, PathBuf};

use crate::LeaseId;

/// Why a call to the registry, or opening it, failed. [`RegistryError::may_retry`] says whether the same call can succeed later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No member answered in time. For a transaction the outcome is unknown: read before writing again.
    #[error("no registry at {}: {cause}", endpoints.join(", "))]
    Unavailable {
        /// Where it was looked for.
        endpoints: Vec<String>,
        /// What the last member asked had to say.
        cause: String,
    },
    /// The store answered, and said no (permission, quota, an ill-formed request).
    #[error("the registry refused: {cause}")]
    Refused {
        /// The store's own words.
        cause: String,
    },
    /// The lease a key should hang on does not exist, or no longer.
    #[error("lease {} does not exist or has expired", id.0)]
    LeaseGone {
        /// The lease asked for.
        id: LeaseId,
    },
    /// A value is larger than a record may be.
    #[error("`{key}`: {bytes} bytes, at most {bytes_max} allowed")]
    ValueTooLarge {
        /// The key, or the record's type where no key is known yet.
        key: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A transaction carries too many operations or comparisons.
    #[error("transaction with {ops} {what}, at most {ops_max} allowed")]
    TxnTooLong {
        /// `operations` or `comparisons`.
        what: &'static str,
        /// How many there are.
        ops: usize,
        /// The limit.
        ops_max: usize,
    },
    /// The keys and values of a transaction are together too large.
    #[error("transaction of {bytes} bytes, at most {bytes_max} allowed")]
    TxnTooLarge {
        /// Their size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A transaction writes a key that another of its operations also writes or deletes.
    #[error("transaction touches `{key}` twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Keys may not be empty.
    #[error("empty key")]
    EmptyKey,
    /// Another process holds the data directory.
    #[error("`{}` is in use by {}", path.display(), holder(*pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The holder, where the lock file names one.
        pid: Option<u32>,
    },
    /// No space left for the journal. Nothing was applied.
    #[error("cannot {action} `{}`: the disk is full", path.display())]
    DiskFull {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
    },
    /// The data directory cannot be written. Nothing was applied.
    #[error("cannot {action} `{}`: {cause} (the data directory must be writable)", path.display())]
    ReadOnly {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// `read-only file system` or `permission denied`.
        cause: &'static str,
    },
    /// Any other fault of the disk or of what lies on it. Nothing was applied.
    #[error("cannot {action} `{}`: {cause}", path.display())]
    Disk {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A record's schema is one this build cannot read.
    #[error("`{key}`: schema {found}, this build reads {accepted} and {}", accepted.saturating_add(1))]
    Schema {
        /// The record's key.
        key: String,
        /// Its schema.
        found: u64,
        /// The schema this build writes; it reads the next one, too.
        accepted: u32,
    },
    /// A value is not the record it should be.
    #[error("`{key}`: not a record: {cause}")]
    Malformed {
        /// The record's key.
        key: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A setting that can never work.
    #[error("{setting}: {cause}")]
    Config {
        /// The setting at fault.
        setting: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl RegistryError {
    /// Whether the same call may succeed later without anyone changing it. A lost lease is not: the holder needs a new one first.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Locked { .. } | Self::DiskFull { .. } | Self::Disk { .. } => true,
            Self::Refused { .. }
            | Self::LeaseGone { .. }
            | Self::ValueTooLarge { .. }
            | Self::TxnTooLong { .. }
            | Self::TxnTooLarge { .. }
            | Self::DuplicateKey { .. }
            | Self::EmptyKey
            | Self::ReadOnly { .. }
            | Self::Schema { .. }
            | Self::Malformed { .. }
            | Self::Config { .. } => false,
        }
    }

    /// A fault of the disk, sorted by what its reader can do about it.
    pub(crate) fn disk(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action, path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path, cause: "read-only file system" },
            io::ErrorKind::PermissionDenied => Self::ReadOnly { action, path, cause: "permission denied" },
            _ => Self::Disk { action, path, cause: error.to_string() },
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
