//! The state of the embedded registry and its recent history. Plain data: no locks, no clock, no disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use tokio::sync::oneshot;

use super::record::{Put, Record};
use crate::{Change, Compare, Entry, LeaseId, Listing, Op, RegistryError, Txn};

/// Changes kept for watches that are behind. One that falls further back gets a Reset.
const HISTORY_CHANGES_MAX: usize = 8192;
/// The same bound in bytes of keys and values.
const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most changes handed to a watch at once.
const BATCH_MAX: usize = 64;
/// The revision of a store to which nothing was ever written, as in etcd.
const FIRST_REVISION: i64 = 1;

/// Every record, every lease, and the last changes.
#[derive(Debug)]
pub(super) struct Memory {
    items: BTreeMap<String, Item>,
    leases: HashMap<LeaseId, Held>,
    last_lease: i64,
    revision: i64,
    history: VecDeque<Change>,
    history_bytes: usize,
    /// How many changes there have been: the number of the one after the last in `history`.
    changes: u64,
}

#[derive(Debug)]
struct Item {
    entry: Entry,
    lease: Option<LeaseId>,
}

/// What hangs on a lease.
#[derive(Debug)]
struct Held {
    keys: BTreeSet<String>,
    /// Dropped with this, which tells the lease's keeper.
    _alive: oneshot::Sender<()>,
}

/// What a transaction will do, worked out but not done.
#[derive(Debug)]
pub(super) struct Plan {
    /// The store's revision once it is done.
    pub(super) revision: i64,
    effects: Vec<Effect>,
}

#[derive(Debug)]
enum Effect {
    Put(Item),
    Delete(String),
}

/// The next changes for a watch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    /// Up to where the watch has now read.
    pub(super) read: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(BTreeMap::new(), FIRST_REVISION)
    }
}

impl Memory {
    pub(super) fn new(entries: BTreeMap<String, Entry>, revision: i64) -> Self {
        let item = |(key, entry)| (key, Item { entry, lease: None });
        Self {
            items: entries.into_iter().map(item).collect(),
            leases: HashMap::new(),
            // Random, so that an id from before a restart does not name someone else's lease.
            last_lease: fastrand::i64(1..i64::MAX / 2),
            revision: revision.max(FIRST_REVISION),
            history: VecDeque::new(),
            history_bytes: 0,
            changes: 0,
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.items.get(key).map(|item| item.entry.clone())
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let entries = self.under(prefix).map(|item| item.entry.clone()).collect();
        Listing { entries, revision: self.revision }
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Item> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.items.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, item)| item)
    }

    /// What lies under `prefix` for a watch that has read up to `read`: what came since, or everything.
    pub(super) fn since(&self, prefix: &str, read: Option<u64>) -> Batch {
        let behind = read.and_then(|read| self.changes.checked_sub(read)).and_then(|behind| usize::try_from(behind).ok());
        let Some(skip) = behind.and_then(|behind| self.history.len().checked_sub(behind)) else {
            return Batch { changes: vec![Change::Reset(self.list(prefix))], read: self.changes };
        };
        let mut read = read.unwrap_or_default();
        let mut changes = Vec::new();
        for change in self.history.iter().skip(skip) {
            if changes.len() >= BATCH_MAX {
                break;
            }
            read = read.saturating_add(1);
            if key_of(change).starts_with(prefix) {
                changes.push(change.clone());
            }
        }
        Batch { changes, read }
    }

    /// What `txn` would do now; `None` if its conditions do not hold.
    pub(super) fn plan(&self, txn: Txn) -> Result<Option<Plan>, RegistryError> {
        if !txn.when.iter().all(|compare| self.holds(compare)) {
            return Ok(None);
        }
        let revision = self.revision.saturating_add(1);
        let mut deleted = BTreeSet::new();
        let mut effects = Vec::new();
        for op in txn.then {
            match op {
                Op::Put { key, value, lease } => {
                    if let Some(id) = lease.filter(|id| !self.leases.contains_key(id)) {
                        return Err(RegistryError::LeaseGone { id });
                    }
                    let created = self.items.get(&key).map_or(revision, |item| item.entry.created);
                    effects.push(Effect::Put(Item { entry: Entry { key, value, revision, created }, lease }));
                }
                Op::Delete { key } => {
                    if self.items.contains_key(&key) && deleted.insert(key.clone()) {
                        effects.push(Effect::Delete(key));
                    }
                }
                Op::DeletePrefix { prefix } => {
                    let keys = self.under(&prefix).map(|item| item.entry.key.clone());
                    effects.extend(keys.filter(|key| deleted.insert(key.clone())).map(Effect::Delete));
                }
            }
        }
        Ok(Some(self.planned(effects)))
    }

    /// The deletion of what hangs on a lease.
    pub(super) fn plan_end(&self, id: LeaseId) -> Plan {
        let keys = self.leases.get(&id).map(|held| held.keys.iter().cloned().map(Effect::Delete).collect());
        self.planned(keys.unwrap_or_default())
    }

    /// What changes nothing takes no revision.
    fn planned(&self, effects: Vec<Effect>) -> Plan {
        let step = i64::from(!effects.is_empty());
        Plan { revision: self.revision.saturating_add(step), effects }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.items.get(compare.key()).map(|item| &item.entry);
        match compare {
            Compare::Absent(_) => entry.is_none(),
            Compare::Exists(_) => entry.is_some(),
            Compare::Revision(_, revision) => entry.map_or(0, |entry| entry.revision) == *revision,
            Compare::Created(_, revision) => entry.map_or(0, |entry| entry.created) == *revision,
        }
    }

    /// What of `plan` outlasts the process. A write under a lease is, to the journal, the deletion of what was there before.
    pub(super) fn lasting(&self, plan: &Plan) -> Option<Record> {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for effect in &plan.effects {
            match effect {
                Effect::Put(Item { entry, lease: None }) => puts.push(Put::new(entry)),
                Effect::Put(Item { entry: Entry { key, .. }, .. }) | Effect::Delete(key) => {
                    if self.items.get(key).is_some_and(|item| item.lease.is_none()) {
                        deletes.push(key.clone());
                    }
                }
            }
        }
        let nothing = puts.is_empty() && deletes.is_empty();
        (!nothing).then_some(Record::Txn { revision: plan.revision, puts, deletes })
    }

    /// All that outlasts the process, oldest first.
    pub(super) fn durable(&self) -> Vec<Record> {
        let mut entries: Vec<&Entry> = self.items.values().filter(|item| item.lease.is_none()).map(|item| &item.entry).collect();
        entries.sort_by_key(|entry| entry.revision);
        let record = |entry: &Entry| Record::Txn { revision: entry.revision, puts: vec![Put::new(entry)], deletes: Vec::new() };
        entries.into_iter().map(record).collect()
    }

    pub(super) fn apply(&mut self, plan: Plan) {
        debug_assert!(plan.revision >= self.revision);
        self.revision = plan.revision;
        for effect in plan.effects {
            match effect {
                Effect::Put(item) => {
                    let (key, entry) = (item.entry.key.clone(), item.entry.clone());
                    if let Some(held) = item.lease.and_then(|id| self.leases.get_mut(&id)) {
                        held.keys.insert(key.clone());
                    }
                    let lease = item.lease;
                    let before = self.items.insert(key.clone(), item);
                    self.unhang(&key, before.and_then(|item| item.lease).filter(|old| Some(*old) != lease));
                    self.remember(Change::Put(entry));
                }
                Effect::Delete(key) => {
                    let before = self.items.remove(&key);
                    self.unhang(&key, before.and_then(|item| item.lease));
                    self.remember(Change::Delete { key, revision: plan.revision });
                }
            }
        }
    }

    fn unhang(&mut self, key: &str, lease: Option<LeaseId>) {
        if let Some(held) = lease.and_then(|id| self.leases.get_mut(&id)) {
            held.keys.remove(key);
        }
    }

    fn remember(&mut self, change: Change) {
        self.history_bytes = self.history_bytes.saturating_add(bytes_of(&change));
        self.history.push_back(change);
        self.changes = self.changes.saturating_add(1);
        while self.history.len() > HISTORY_CHANGES_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.history.pop_front() else {
                break;
            };
            self.history_bytes = self.history_bytes.saturating_sub(bytes_of(&oldest));
        }
    }

    /// A new lease, and what resolves when it is no more.
    pub(super) fn grant(&mut self) -> (LeaseId, oneshot::Receiver<()>) {
        self.last_lease = self.last_lease.saturating_add(1);
        let (alive, gone) = oneshot::channel();
        self.leases.insert(LeaseId(self.last_lease), Held { keys: BTreeSet::new(), _alive: alive });
        (LeaseId(self.last_lease), gone)
    }

    pub(super) fn forget_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    pub(super) fn lose_leases(&mut self) {
        self.leases.clear();
    }
}

fn key_of(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete { key, .. } => key,
        Change::Reset(_) => "", // never in the history
    }
}

fn bytes_of(change: &Change) -> usize {
    let value = if let Change::Put(entry) = change { entry.value.len() } else { 0 };
    key_of(change).len().saturating_add(value)
}
