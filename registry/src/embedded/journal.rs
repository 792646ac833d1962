//! The journal: framed records, appended and flushed one by one, rewritten when mostly out of date.
//!
//! A frame is the payload's length and its CRC-32, four bytes each, little endian, then the payload: one [`Record`] as JSON.
//! Whatever follows the last whole frame was never acknowledged, and is cut at open.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::lock::DirLock;
use super::record::{FORMAT, Record};
use crate::{Entry, RegistryError};

/// Larger than any record we write (a transaction is at most 1 MiB, JSON may escape a byte with up to six): what claims more is torn.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Below this size a journal is not worth rewriting.
const COMPACT_BYTES_MIN: u64 = 1024 * 1024;
/// A journal is rewritten when it has grown to this many times what it was after the last rewriting.
const COMPACT_GROWTH: u64 = 4;

/// Where frames go. The seam for tests of a failing disk.
pub(super) trait Storage: Send + std::fmt::Debug {
    /// Writes at the end and waits until it is on the disk.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes away what lies beyond `len`.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Storage for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        self.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.sync_data()
    }
}

/// The open journal of a locked directory.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    path: PathBuf,
    storage: Box<dyn Storage>,
    /// The length of all whole frames.
    len: u64,
    /// Something may lie beyond `len`, left by a write that failed.
    torn: bool,
    /// The file's name may not be on the disk yet.
    unnamed: bool,
    revision: i64,
    compact_at: u64,
    _lock: DirLock,
}

/// What a journal said when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) revision: i64,
}

impl Journal {
    /// Locks `dir`, reads its journal, cuts a torn end.
    pub(super) fn open(dir: &Path) -> Result<(Self, Recovered), RegistryError> {
        fs::create_dir_all(dir).map_err(|error| RegistryError::disk("create", dir, &error))?;
        let lock = DirLock::take(dir)?;
        let path = dir.join("journal");
        let fault = |action, error: io::Error| RegistryError::disk(action, &path, &error);
        let _ = fs::remove_file(temporary(dir)); // left by a kill during a rewriting
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let mut file = opened.map_err(|error| fault("open", error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| fault("read", error))?;
        let (recovered, whole) = replay(&bytes, &path)?;
        let beyond = bytes.len().saturating_sub(whole);
        if beyond > 0 {
            tracing::warn!(path = %path.display(), bytes = beyond, "cut the torn end of the journal");
            file.cut(length(whole)).map_err(|error| fault("cut", error))?;
        }
        let lasting: u64 = recovered.entries.values().map(|entry| length(entry.key.len()) + length(entry.value.len())).sum();
        let mut journal = Self {
            dir: dir.to_path_buf(),
            path,
            storage: Box::new(file),
            len: length(whole),
            torn: false,
            unnamed: true,
            revision: recovered.revision,
            compact_at: due_at(lasting),
            _lock: lock,
        };
        if whole == 0 {
            journal.append(&Record::Format(FORMAT))?;
        }
        Ok((journal, recovered))
    }

    /// The least revision a reopened store will have.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Promises that a reopened store has at least this revision.
    pub(super) fn reserve(&mut self, revision: i64) -> Result<(), RegistryError> {
        self.append(&Record::Reserve(revision))
    }

    /// Writes one record. It is on disk afterwards, or, after an error, nowhere.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), RegistryError> {
        let fault = |action, error: io::Error| RegistryError::disk(action, &self.path, &error);
        let frame = frame(record).map_err(|error| fault("write", error))?;
        if self.unnamed {
            sync_dir(&self.dir).map_err(|error| fault("sync", error))?;
            self.unnamed = false;
        }
        if self.torn {
            self.storage.cut(self.len).map_err(|error| fault("cut", error))?;
            self.torn = false;
        }
        if let Err(error) = self.storage.append(&frame) {
            // Parts may be there, even all of it with only the flush failed: none of it may come back at the next open.
            self.torn = self.storage.cut(self.len).is_err();
            return Err(fault("write", error));
        }
        self.len = self.len.saturating_add(length(frame.len()));
        match record {
            Record::Txn { revision, .. } | Record::Reserve(revision) => self.revision = self.revision.max(*revision),
            Record::Format(_) => {}
        }
        Ok(())
    }

    /// Rewrites a journal that has grown large to the records `lasting` gives. Failing at it costs space and nothing else.
    pub(super) fn compact_if_due(&mut self, lasting: impl FnOnce() -> Vec<Record>) {
        if self.len < self.compact_at {
            return;
        }
        if let Err(error) = self.compact(&lasting()) {
            tracing::warn!(path = %self.path.display(), %error, "cannot compact the journal");
            let _ = fs::remove_file(temporary(&self.dir));
            self.compact_at = self.len.saturating_mul(2);
        }
    }

    fn compact(&mut self, lasting: &[Record]) -> io::Result<()> {
        let temporary = temporary(&self.dir);
        let _ = fs::remove_file(&temporary);
        let mut bytes = frame(&Record::Format(FORMAT))?;
        bytes.extend(frame(&Record::Reserve(self.revision))?);
        for record in lasting {
            bytes.extend(frame(record)?);
        }
        let mut file = OpenOptions::new().append(true).create_new(true).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        self.storage = Box::new(file);
        self.len = length(bytes.len());
        self.torn = false;
        self.compact_at = due_at(self.len);
        // Should this fail, the old file could still come back: the next append tries again before it writes.
        self.unnamed = true;
        sync_dir(&self.dir)?;
        self.unnamed = false;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn with_storage(&mut self, replace: impl FnOnce(Box<dyn Storage>) -> Box<dyn Storage>) {
        let empty = Box::new(tempfile::tempfile().unwrap());
        self.storage = replace(std::mem::replace(&mut self.storage, empty));
    }
}

fn temporary(dir: &Path) -> PathBuf {
    dir.join("journal.new")
}

fn due_at(len: u64) -> u64 {
    len.saturating_mul(COMPACT_GROWTH).max(COMPACT_BYTES_MIN)
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Makes a file's name last, as its content does.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn frame(record: &Record) -> io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(payload.len().saturating_add(8));
    frame.extend(len.to_le_bytes());
    frame.extend(crc32fast::hash(&payload).to_le_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// The payload of the first frame, and what follows it; `None` if it is torn.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok().filter(|len| (1..=FRAME_BYTES_MAX).contains(len))?;
    let (payload, rest) = rest.split_at_checked(len)?;
    (crc32fast::hash(payload) == u32::from_le_bytes(*crc)).then_some((payload, rest))
}

/// What the whole frames say, and how many bytes they take.
fn replay(bytes: &[u8], path: &Path) -> Result<(Recovered, usize), RegistryError> {
    let mut recovered = Recovered::default();
    let mut rest = bytes;
    while let Some((payload, after)) = split(rest) {
        let at = bytes.len().saturating_sub(rest.len());
        // Whole, but not ours to read: a later build wrote it, and cutting it would destroy what that one knows.
        let unreadable = |cause| RegistryError::Disk { action: "read", path: path.to_path_buf(), cause };
        match serde_json::from_slice(payload) {
            Ok(Record::Format(FORMAT)) => {}
            Ok(Record::Format(found)) => {
                return Err(unreadable(format!("format {found}, this build reads {FORMAT}")));
            }
            Ok(record) => recovered.take(record),
            Err(error) => return Err(unreadable(format!("record at byte {at}: {error}"))),
        }
        rest = after;
    }
    Ok((recovered, bytes.len().saturating_sub(rest.len())))
}

impl Recovered {
    fn take(&mut self, record: Record) {
        match record {
            Record::Format(_) => {}
            Record::Reserve(revision) => self.revision = self.revision.max(revision),
            Record::Txn { revision, puts, deletes } => {
                self.revision = self.revision.max(revision);
                for key in deletes {
                    self.entries.remove(&key);
                }
                let entries = puts.into_iter().map(|put| put.into_entry(revision));
                self.entries.extend(entries.map(|entry| (entry.key.clone(), entry)));
            }
        }
    }
}
