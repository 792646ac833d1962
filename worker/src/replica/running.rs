//! What is in the engines of a replica, and who waits for it: a run whose callers have all gone is stopped.

use crate::engine::CancelFlag;
use policy::batch::Ticket;
use smallvec::SmallVec;

/// Batches in engines: one per instance at most.
#[derive(Default)]
pub(super) struct Running(Vec<Run>);

struct Run {
    /// Place of the batch among all that were taken.
    turn: u64,
    waiting: SmallVec<[Ticket; 8]>,
    cancel: CancelFlag,
}

impl Running {
    /// A batch goes to an engine; what stops its run.
    pub(super) fn begin(&mut self, turn: u64, waiting: SmallVec<[Ticket; 8]>) -> CancelFlag {
        let cancel = CancelFlag::new();
        self.0.push(Run { turn, waiting, cancel: cancel.clone() });
        cancel
    }

    /// It is answered.
    pub(super) fn end(&mut self, turn: u64) {
        self.0.retain(|run| run.turn != turn);
    }

    /// Nothing is in an engine.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller of `ticket` has gone: what to set, once no lock is held, when it was the last of its batch.
    pub(super) fn abandon(&mut self, ticket: Ticket) -> Option<&CancelFlag> {
        let run = self.0.iter_mut().find(|run| run.waiting.contains(&ticket))?;
        run.waiting.retain(|waiting| *waiting != ticket);
        run.waiting.is_empty().then_some(&run.cancel)
    }
}
