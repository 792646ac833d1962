//! What the embedded registry promises beyond the contract: what a restart, a kill, a full disk and time do to it.

mod any;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::journal::Storage;
use super::*;
use crate::{State, VALUE_BYTES_MAX};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(Some(dir)).unwrap()
}

async fn put(registry: &Embedded, key: &str, value: &str) -> TxnOutcome {
    registry.txn(Txn::new().put(key, value)).await.unwrap()
}

fn entries(registry: &Embedded) -> BTreeMap<String, Entry> {
    registry.shared.memory().list("").entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

#[tokio::test]
async fn everything_but_leased_keys_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    put(&registry, "/a", "one").await;
    put(&registry, "/a", "two").await;
    registry.txn(Txn::new().put("/b", [0xff, 0]).put("/c", "x")).await.unwrap();
    registry.txn(Txn::new().delete("/c")).await.unwrap();
    let lasting = entries(&registry);
    let lease = registry.lease(Duration::from_secs(60)).await.unwrap();
    registry.txn(Txn::new().put_leased("/leased", "x", lease.id())).await.unwrap();
    let revision = registry.list("").await.unwrap().revision;
    drop(registry);
    timeout(Duration::from_secs(5), lease.lost()).await.expect("a closed registry has no leases");

    let registry = open(dir.path());
    assert_eq!(entries(&registry), lasting);
    assert!(registry.list("").await.unwrap().revision >= revision);
    assert_eq!(registry.txn(Txn::new().put_leased("/x", "x", lease.id())).await, Err(RegistryError::LeaseGone { id: lease.id() }));
}

#[tokio::test]
async fn a_key_that_went_under_a_lease_does_not_come_back_with_its_old_value() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let lease = registry.lease(Duration::from_secs(60)).await.unwrap();
    put(&registry, "/there", "old").await;
    registry.txn(Txn::new().put_leased("/there", "new", lease.id()).put_leased("/back", "x", lease.id())).await.unwrap();
    put(&registry, "/back", "stays").await;
    drop(registry);
    assert_eq!(entries(&open(dir.path())).into_keys().collect::<Vec<_>>(), ["/back"]);
}

#[tokio::test]
async fn revisions_never_go_back_even_if_only_leased_keys_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let registry = open(dir.path());
        assert!(registry.list("").await.unwrap().revision >= last);
        for _ in 0..10 {
            let lease = registry.lease(Duration::from_secs(60)).await.unwrap();
            let revision = registry.txn(Txn::new().put_leased("/a", "x", lease.id())).await.unwrap().revision;
            assert!(revision > last);
            registry.end_lease(lease.id()).await.unwrap();
            last = registry.list("").await.unwrap().revision;
            assert_eq!(last, revision + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i4_a_lease_runs_out_its_ttl_after_the_handle_is_dropped() {
    let registry = Embedded::open(None).unwrap();
    let lease = registry.lease(Duration::from_secs(15)).await.unwrap();
    registry.txn(Txn::new().put_leased("/a", "x", lease.id())).await.unwrap();
    let mut watch = registry.watch("/");
    assert!(matches!(watch.next().await, Change::Reset(_)));
    let dropped = Instant::now();
    drop(lease);
    assert!(matches!(watch.next().await, Change::Delete { .. }));
    assert!(dropped.elapsed() >= Duration::from_secs(15) && dropped.elapsed() < Duration::from_millis(15_010));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ended_by_others_is_known_as_lost() {
    let registry = Embedded::open(None).unwrap();
    let lease = registry.lease(Duration::from_secs(15)).await.unwrap();
    registry.txn(Txn::new().put_leased("/a", "x", lease.id())).await.unwrap();
    registry.end_lease(lease.id()).await.unwrap();
    timeout(Duration::from_secs(1), lease.lost()).await.unwrap();
    assert!(lease.is_lost());
    assert_eq!(registry.get("/a").await, Ok(None));
    assert_eq!(lease.revoke().await, Ok(()));
}

#[tokio::test]
async fn a_watch_further_behind_than_the_history_is_told_the_whole_truth() {
    let registry = Embedded::open(None).unwrap();
    let mut watch = registry.watch("/");
    assert_eq!(watch.next().await, Change::Reset(Listing { entries: Vec::new(), revision: 1 }));
    for at in 0..10_000 {
        put(&registry, &format!("/{}", at % 3), "x").await;
    }
    let mut state = State::default();
    let mut resets = 0;
    while state.entries != entries(&registry) {
        match watch.next().await {
            Change::Reset(listing) => {
                resets += 1;
                state.entries = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            }
            Change::Put(entry) => drop(state.entries.insert(entry.key.clone(), entry)),
            Change::Delete { key, .. } => drop(state.entries.remove(&key)),
        }
    }
    assert_eq!(resets, 1);
}

#[test]
fn a_second_holder_of_the_directory_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Embedded::open(Some(dir.path())).unwrap_err();
    let pid = std::process::id();
    assert_eq!(error, RegistryError::Locked { path: dir.path().join("lock"), pid: Some(pid) });
    assert!(error.to_string().contains(&format!("in use by process {pid}")), "{error}");
    drop(first);
    open(dir.path());
}

/// A disk that takes half of a write and then says why not.
#[derive(Debug)]
struct Failing {
    disk: Box<dyn Storage>,
    error: io::ErrorKind,
    /// How many writes and cuts still fail.
    appends: usize,
    cuts: usize,
}

impl Storage for Failing {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.appends == 0 {
            return self.disk.append(bytes);
        }
        self.appends -= 1;
        self.disk.append(&bytes[..bytes.len() / 2])?;
        Err(self.error.into())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.cuts == 0 {
            return self.disk.cut(len);
        }
        self.cuts -= 1;
        Err(self.error.into())
    }
}

#[tokio::test]
async fn a_write_the_disk_refuses_is_an_error_and_changes_nothing() {
    let action = "write";
    for (error, cuts) in [(io::ErrorKind::StorageFull, 0), (io::ErrorKind::StorageFull, 2), (io::ErrorKind::ReadOnlyFilesystem, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let registry = open(dir.path());
        put(&registry, "/a", "x").await;
        let before = registry.list("").await.unwrap();
        let fail = |disk| Box::new(Failing { disk, error, appends: 1, cuts }) as Box<dyn Storage>;
        registry.shared.writer().as_mut().unwrap().with_storage(fail);
        let mut watch = registry.watch("/");
        assert_eq!(watch.next().await, Change::Reset(before.clone()));

        let refused = registry.txn(Txn::new().put("/b", "x").delete("/a")).await.unwrap_err();
        match error {
            io::ErrorKind::StorageFull => {
                assert_eq!(refused, RegistryError::DiskFull { action, path })
            }
            _ => assert!(refused.to_string().contains("read-only file system"), "{refused}"),
        }
        assert_eq!(registry.list("").await.unwrap(), before);
        assert_eq!(watch.try_next(), None);
        for _ in 1..cuts {
            assert!(registry.txn(Txn::new().put("/b", "x")).await.is_err(), "not while the torn end is there");
        }
        put(&registry, "/c", "x").await;
        let after = entries(&registry);
        drop(registry);
        assert_eq!(entries(&open(dir.path())), after);
        assert!(after.contains_key("/a") && !after.contains_key("/b") && after.contains_key("/c"));
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_the_reason() {
    for (code, words) in [(30, "read-only file system"), (13, "permission denied"), (28, "the disk is full")] {
        let error = RegistryError::disk("open", Path::new("/data/lock"), &io::Error::from_raw_os_error(code));
        assert!(error.to_string().contains("/data/lock") && error.to_string().contains(words), "{error}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Embedded::open(Some(&file.path().join("data"))).unwrap_err().to_string();
    assert!(error.starts_with("cannot create `") && error.contains("Not a directory"), "{error}");
}

#[test]
fn a_journal_of_a_later_build_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let payload = br#"{"format":2}"#;
    let mut bytes = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(crc32fast::hash(payload).to_le_bytes());
    bytes.extend(payload);
    fs::write(dir.path().join("journal"), &bytes).unwrap();
    let error = Embedded::open(Some(dir.path())).unwrap_err().to_string();
    assert!(error.contains("format 2, this build reads 1"), "{error}");
    assert_eq!(fs::read(dir.path().join("journal")).unwrap(), bytes);
}

#[tokio::test]
async fn a_journal_mostly_out_of_date_is_rewritten_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let registry = open(dir.path());
    put(&registry, "/first", "x").await;
    let lease = registry.lease(Duration::from_secs(60)).await.unwrap();
    registry.txn(Txn::new().put_leased("/leased", "x", lease.id())).await.unwrap();
    let value = "v".repeat(VALUE_BYTES_MAX);
    let mut largest = 0;
    for at in 0..80 {
        put(&registry, &format!("/{}", at % 2), &value).await;
        largest = largest.max(fs::metadata(&journal).unwrap().len());
    }
    put(&registry, "/last", "x").await;
    assert!(largest < 1024 * 1024 + 2 * 65_536, "{largest}");
    let before = registry.list("").await.unwrap();
    drop(registry);
    fs::write(dir.path().join("journal.new"), "left by a kill").unwrap();
    let registry = open(dir.path());
    let after = registry.list("").await.unwrap();
    assert!(after.revision >= before.revision);
    let lasting: Vec<_> = before.entries.into_iter().filter(|entry| entry.key != "/leased").collect();
    assert_eq!(after.entries, lasting);
    assert!(!dir.path().join("journal.new").exists());
}
