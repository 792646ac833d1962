//! A prefix of the store, kept current in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::task::Task;
use crate::{Change, Entry, Registry, Watch};

/// Changes taken into one new state while they are here already: bounds how long a flood can hold a state back.
const TOGETHER_MAX: usize = 256;

/// What a [`Mirror`] knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The records under the prefix.
    pub entries: BTreeMap<String, Entry>,
    /// The revision up to which they are known.
    pub revision: i64,
    /// Whether the store has answered once. Stays true: losing the store leaves the last state in place (I2).
    pub synced: bool,
}

/// Follows a prefix and holds what lies under it. Clones share one watch, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Mirror {
    states: watch::Receiver<Arc<State>>,
    _task: Arc<Task>,
}

impl Mirror {
    /// Starts following `prefix`, and keeps the registry open while it does.
    pub fn spawn(registry: Arc<dyn Registry>, prefix: &str) -> Self {
        let (sender, states) = watch::channel(Arc::new(State::default()));
        let changes = registry.watch(prefix);
        let task = async move {
            let _open = registry;
            follow(changes, &sender).await;
        };
        Self { states, _task: Arc::new(Task::spawn(task)) }
    }

    /// The newest state known. Cheap; holding it holds up nothing.
    pub fn snapshot(&self) -> Arc<State> {
        self.states.borrow().clone()
    }

    /// Waits until the records differ from those of the last call (or of the start). Cancel safe.
    pub async fn changed(&mut self) {
        if self.states.changed().await.is_err() {
            std::future::pending().await // the runtime is going down
        }
    }

    /// Waits until the store has answered once, and gives what is known then. Cancel safe.
    pub async fn synced(&mut self) -> Arc<State> {
        // The borrow ends here: held over the await below it would keep callers from being spawned.
        let state = self.states.wait_for(|state| state.synced).await.map(|state| state.clone());
        match state {
            Ok(state) => state,
            Err(_) => std::future::pending().await,
        }
    }
}

async fn follow(mut changes: Watch, states: &watch::Sender<Arc<State>>) {
    loop {
        let first = changes.next().await;
        states.send_if_modified(|state| {
            let state = Arc::make_mut(state);
            let mut differs = state.take(first);
            for _ in 1..TOGETHER_MAX {
                let Some(change) = changes.try_next() else {
                    break;
                };
                differs |= state.take(change);
            }
            differs
        });
    }
}

impl State {
    /// Takes a change in. Says whether anything but the revision differs now.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Reset(listing) => {
                let entries = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                let differs = !self.synced || self.entries != entries;
                *self = Self { entries, revision: listing.revision, synced: true };
                differs
            }
            Change::Put(entry) => {
                self.revision = self.revision.max(entry.revision);
                let before = self.entries.insert(entry.key.clone(), entry.clone());
                before != Some(entry)
            }
            Change::Delete { key, revision } => {
                self.revision = self.revision.max(revision);
                self.entries.remove(&key).is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Listing;

    fn entry(key: &str, revision: i64) -> Entry {
        Entry { key: key.to_owned(), value: Vec::new(), revision, created: revision }
    }

    #[test]
    fn a_reset_removes_what_it_does_not_name() {
        let mut state = State::default();
        assert!(state.take(Change::Reset(Listing { entries: vec![entry("a", 2), entry("b", 3)], revision: 3 })));
        assert!(state.take(Change::Reset(Listing { entries: vec![entry("b", 3)], revision: 4 })));
        assert_eq!(state.entries.keys().collect::<Vec<_>>(), ["b"]);
        assert!(state.take(Change::Reset(Listing { entries: Vec::new(), revision: 1 })), "a wiped store goes back");
        assert_eq!(state, State { entries: BTreeMap::new(), revision: 1, synced: true });
    }

    #[test]
    fn a_reset_that_says_nothing_new_moves_only_the_revision() {
        let mut state = State::default();
        assert!(state.take(Change::Reset(Listing::default())), "the first answer is news, even if empty");
        assert!(state.take(Change::Put(entry("a", 2))));
        assert!(!state.take(Change::Reset(Listing { entries: vec![entry("a", 2)], revision: 9 })));
        assert_eq!(state.revision, 9);
        assert!(!state.take(Change::Delete { key: "never".to_owned(), revision: 10 }));
    }
}
