//! Any transactions, and a journal damaged at any byte.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::{Embedded, block_on, entries, open};
use crate::{Change, Compare, Entry, Listing, Op, Registry, Txn, TxnOutcome};

/// How long a journal was, and what the store held then that lasts.
type Point = (usize, BTreeMap<String, Entry>);

/// The journal after some transactions, and each point it went through.
fn written(txns: &[Txn]) -> (Vec<u8>, Vec<Point>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let length = || usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    let registry = open(dir.path());
    let mut states = vec![(0, BTreeMap::new()), (length(), BTreeMap::new())];
    for txn in txns {
        block_on(registry.txn(txn.clone())).unwrap();
        states.push((length(), entries(&registry)));
    }
    (fs::read(&path).unwrap(), states)
}

/// Opens a journal damaged at byte `at` and compares it with the last state that was whole there.
fn check_damaged(damaged: &[u8], at: usize, states: &[Point]) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("journal"), damaged).unwrap();
    let registry = open(dir.path());
    let expected = &states.iter().rev().find(|(length, _)| *length <= at).unwrap().1;
    assert_eq!(entries(&registry), *expected, "damaged at byte {at}");
    // And it goes on from there.
    block_on(registry.txn(Txn::new().put("/after", "x"))).unwrap();
    let after = entries(&registry);
    drop(registry);
    assert_eq!(entries(&open(dir.path())), after, "written after damage at byte {at}");
}

#[test]
fn a_journal_cut_or_damaged_at_any_byte_opens_with_all_that_was_whole_before_it() {
    let txns = [
        Txn::new().put("/a", "one").put("/b", "two"),
        Txn::new().put("/a", [0xff, 0x00]),
        Txn::new().delete("/b").put("/c", "\"quoted\""),
        Txn::new().delete_prefix("/"),
        Txn::new().put("/d", ""),
    ];
    let (bytes, states) = written(&txns);
    for at in 0..bytes.len() {
        check_damaged(&bytes[..at], at, &states);
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        check_damaged(&damaged, at, &states);
    }
    let mut longer = bytes.clone();
    longer.extend([0; 4096]); // what a crash of the machine may leave
    check_damaged(&longer, bytes.len(), &states);
}

const KEYS: [&str; 6] = ["/a", "/a/1", "/a/2", "/b", "/b/1", "/c"];

fn any_txn() -> impl Strategy<Value = Txn> {
    let key = || prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
    let op = prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Op::Put { key, value, lease: None }),
        2 => key().prop_map(|key| Op::Delete { key }),
        1 => key().prop_map(|prefix| Op::DeletePrefix { prefix }),
    ];
    let compare = (key(), 0..4_u8, 1..20_i64).prop_map(|(key, kind, revision)| match kind {
        0 => Compare::Absent(key),
        1 => Compare::Exists(key),
        2 => Compare::Revision(key, revision),
        _ => Compare::Created(key, revision),
    });
    (prop::collection::vec(compare, 0..2), prop::collection::vec(op, 0..4)).prop_map(|(when, then)| Txn { when, then })
}

/// The simplest thing that could be a registry.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    revision: i64,
}

impl Model {
    fn txn(&mut self, txn: &Txn) -> TxnOutcome {
        let at = |key: &String| self.entries.get(key).map_or((0, 0), |entry| (entry.revision, entry.created));
        let applied = txn.when.iter().all(|compare| match compare {
            Compare::Absent(key) => at(key).0 == 0,
            Compare::Exists(key) => at(key).0 != 0,
            Compare::Revision(key, revision) => at(key).0 == *revision,
            Compare::Created(key, revision) => at(key).1 == *revision,
        });
        let (revision, before) = (self.revision + 1, self.entries.clone());
        for op in txn.then.iter().filter(|_| applied) {
            match op {
                Op::Put { key, value, .. } => {
                    let created = before.get(key).map_or(revision, |entry| entry.created);
                    let entry = Entry { key: key.clone(), value: value.clone(), revision, created };
                    self.entries.insert(key.clone(), entry);
                }
                Op::Delete { key } => drop(self.entries.remove(key)),
                Op::DeletePrefix { prefix } => self.entries.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        self.revision += i64::from(self.entries != before);
        TxnOutcome { applied, revision: self.revision }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_transactions_do_what_the_simplest_registry_does(txns in prop::collection::vec(any_txn(), 0..40)) {
        block_on(async {
            let registry = Embedded::open(None).unwrap();
            let mut watch = registry.watch("/a");
            prop_assert_eq!(watch.next().await, Change::Reset(Listing { entries: Vec::new(), revision: 1 }));
            let mut model = Model { revision: 1, ..Model::default() };
            for txn in txns.iter().filter(|txn| txn.check().is_ok()) {
                prop_assert_eq!(registry.txn(txn.clone()).await.unwrap(), model.txn(txn));
                prop_assert_eq!(&entries(&registry), &model.entries);
            }
            // What the watch told, put together, is what the list says.
            let truth = registry.list("/a").await.unwrap();
            let (mut known, mut last) = (BTreeMap::new(), 1);
            while !known.values().eq(&truth.entries) {
                let told = timeout(Duration::from_secs(10), watch.next()).await;
                let (key, revision, entry) = match told.unwrap() {
                    Change::Put(entry) => (entry.key.clone(), entry.revision, Some(entry)),
                    Change::Delete { key, revision } => (key, revision, None),
                    other => panic!("{other:?}"),
                };
                prop_assert!(revision >= last && key.starts_with("/a"));
                last = revision;
                match entry {
                    Some(entry) => drop(known.insert(key, entry)),
                    None => prop_assert!(known.remove(&key).is_some()),
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_journal_damaged_anywhere_opens_with_all_that_was_whole_before(
        txns in prop::collection::vec(any_txn(), 0..12),
        at in any::<prop::sample::Index>(),
        flip in 0..8_u32,
    ) {
        let txns: Vec<Txn> = txns.into_iter().filter(|txn| txn.check().is_ok()).collect();
        let (bytes, states) = written(&txns);
        let at = at.index(bytes.len());
        check_damaged(&bytes[..at], at, &states);
        let mut damaged = bytes;
        damaged[at] ^= 1 << flip;
        check_damaged(&damaged, at, &states);
    }
}
