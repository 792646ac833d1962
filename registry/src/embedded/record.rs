//! What one entry of the journal says.

use serde::{Deserialize, Serialize};

use crate::Entry;

/// The journal's format. A build reads this one only.
pub(super) const FORMAT: u32 = 1;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// The first of all.
    Format(u32),
    /// Revisions up to this one may have been used by writes that are not kept.
    Reserve(i64),
    /// The lasting part of one transaction.
    Txn {
        /// Its revision.
        revision: i64,
        /// What it wrote.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        puts: Vec<Put>,
        /// What it deleted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        deletes: Vec<String>,
    },
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Put {
    key: String,
    created: i64,
    value: Value,
}

/// A value; nearly always JSON, which is kept readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
}

impl Put {
    pub(super) fn new(entry: &Entry) -> Self {
        let value = match String::from_utf8(entry.value.clone()) {
            Ok(text) => Value::Text(text),
            Err(error) => Value::Bytes(error.into_bytes()),
        };
        Self { key: entry.key.clone(), created: entry.created, value }
    }

    pub(super) fn into_entry(self, revision: i64) -> Entry {
        let value = match self.value {
            Value::Text(text) => text.into_bytes(),
            Value::Bytes(bytes) => bytes,
        };
        Entry { key: self.key, value, revision, created: self.created }
    }
}
