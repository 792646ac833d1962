//! What is in the engines of a replica, and who waits for it: a run whose callers have all gone is stopped, and so is one that does not
//! end.

use crate::engine::CancelFlag;
use policy::Moment;
use policy::batch::Ticket;
use smallvec::SmallVec;

/// How long an engine may take to stop, in microseconds. Runtimes look between two nodes of a graph.
const STOP_US_MAX: u64 = 5_000_000;

/// Batches in engines: one per instance at most.
#[derive(Default)]
pub(super) struct Running(Vec<Run>);

struct Run {
    /// Place of the batch among all that were taken.
    turn: u64,
    waiting: SmallVec<[Ticket; 8]>,
    cancel: CancelFlag,
    /// When it is taken for endless.
    limit: Moment,
    endless: bool,
}

/// What must be done about runs that do not end.
#[derive(Default)]
pub(super) struct Overdue {
    /// To be set, once no lock is held.
    pub(super) stop: Vec<CancelFlag>,
    /// One was stopped and goes on all the same.
    pub(super) stuck: bool,
}

impl Running {
    /// A batch goes to an engine, which must be done with it at `limit`; what stops its run.
    pub(super) fn begin(&mut self, turn: u64, waiting: SmallVec<[Ticket; 8]>, limit: Moment) -> CancelFlag {
        let cancel = CancelFlag::new();
        self.0.push(Run { turn, waiting, cancel: cancel.clone(), limit, endless: false });
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

    /// Looks for runs that are past their limit.
    pub(super) fn overdue(&mut self, now: Moment) -> Overdue {
        let mut overdue = Overdue::default();
        for run in self.0.iter_mut().filter(|run| now > run.limit) {
            overdue.stuck |= now.us_since(run.limit) > STOP_US_MAX;
            if !std::mem::replace(&mut run.endless, true) {
                overdue.stop.push(run.cancel.clone());
            }
        }
        overdue
    }

    /// Was the run stopped because it did not end?
    pub(super) fn is_endless(&self, turn: u64) -> bool {
        self.0.iter().any(|run| run.turn == turn && run.endless)
    }
}
