//! Following a prefix.

use tokio::sync::mpsc;

use crate::task::Task;
use crate::{Entry, Listing};

/// Changes waiting for a slow reader. At most 64 KiB each, so 4 MiB, and a store's history takes over beyond that.
const WAITING_MAX: usize = 64;

/// What happened under a watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The whole truth under the prefix, first of all and after every gap; keys absent from it are gone.
    Reset(Listing),
    /// A record was written.
    Put(Entry),
    /// A record was deleted, by someone or by the end of its lease.
    Delete {
        /// Its key.
        key: String,
        /// The revision of its deletion.
        revision: i64,
    },
}

/// A watch on a prefix. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<Change>,
    _task: Task,
}

impl Watch {
    /// Starts a watch whose changes `follow` sends, for as long as this handle lives.
    pub(crate) fn spawn<F>(follow: impl FnOnce(mpsc::Sender<Change>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, changes) = mpsc::channel(WAITING_MAX);
        Self { changes, _task: Task::spawn(follow(sender)) }
    }

    /// The next change. Waits for ever while there is none, be it that the store is away. Cancel safe.
    pub async fn next(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            // The runtime is going down: nothing will ever change again.
            None => std::future::pending().await,
        }
    }

    /// The next change, if one is here already.
    pub fn try_next(&mut self) -> Option<Change> {
        self.changes.try_recv().ok()
    }
}
