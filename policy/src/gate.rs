//! Whose turn it is on a device that several replicas share. A run takes as many threads as it works on, and together runs never take more
//! than the device has.
//!
//! The earliest deadline goes first, those without one after all others, and of equal ones who came first. While threads are free for
//! whose turn it is nobody waits. A run that needs more threads than are free keeps its turn if it has a deadline: smaller ones would else
//! go before it until by chance enough threads come free at once, and what that costs is at most the rest of the runs that are under way.
//! Without a deadline it lets them pass. Who was passed by 20 that came later is next whatever the others' deadlines.
//!
//! Not here: which requests ride in a run (`batch`), which is decided after its turn has come.

use crate::{Backlog, Moment};

/// Turns that may go to others who came later before somebody's turn has come: as many as a lane of a batcher may lose.
const LOST_MAX: u32 = 20;

/// The name of one turn, never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn(u64);

/// What somebody wants who has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The replica it is for.
    pub replica: u64,
    /// Threads of the run. More than the device has is all of them: it runs alone.
    pub threads: u32,
    /// The earliest of what waits for it.
    pub deadline: Option<Moment>,
}

/// Turns on one device.
#[derive(Debug)]
pub struct Gate {
    free: u32,
    capacity: u32,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    running: Vec<Running>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    turn: Turn,
    ask: Ask,
    /// Turns of others that came later.
    lost: u32,
}

impl Waiting {
    /// Less goes first.
    fn order(&self) -> (bool, Moment) {
        (self.ask.deadline.is_none(), self.ask.deadline.unwrap_or_default())
    }
}

#[derive(Debug, Clone, Copy)]
struct Running {
    turn: Turn,
    replica: u64,
    threads: u32,
}

impl Gate {
    /// For a device of `capacity` threads, at least one.
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity.max(1);
        Self { free: capacity, capacity, waiting: Vec::new(), running: Vec::new(), next: 0 }
    }

    /// Threads of all runs together, at most.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Somebody has work. It waits until [`Gate::next`] gives its turn, which may be at once.
    pub fn ask(&mut self, ask: Ask) -> Turn {
        let turn = Turn(self.next);
        self.next = self.next.wrapping_add(1);
        let threads = ask.threads.clamp(1, self.capacity);
        self.waiting.push(Waiting { turn, ask: Ask { threads, ..ask }, lost: 0 });
        turn
    }

    /// Who runs now, if anybody can; to be asked until nobody can, after everything that happens here.
    #[expect(clippy::should_implement_trait, reason = "what comes next depends on what happens in between")]
    pub fn next(&mut self) -> Option<Turn> {
        let at = self.first()?;
        let Waiting { turn, ask, .. } = self.waiting.remove(at);
        for passed in self.waiting.iter_mut().take(at) {
            passed.lost = passed.lost.saturating_add(1);
        }
        self.free = self.free.saturating_sub(ask.threads);
        self.running.push(Running { turn, replica: ask.replica, threads: ask.threads });
        Some(turn)
    }

    /// Where the one stands whose turn it is, if its threads are free.
    fn first(&self) -> Option<usize> {
        let fits = |waiting: &Waiting| waiting.ask.threads <= self.free;
        // Nobody has lost more than who came before.
        if let Some(starved) = self.waiting.first().filter(|first| first.lost >= LOST_MAX) {
            return fits(starved).then_some(0);
        }
        let in_order = self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.ask.deadline.is_some() || fits(waiting));
        let (at, first) = in_order.min_by_key(|(_, waiting)| waiting.order())?;
        fits(first).then_some(at)
    }

    /// The run is over. Nothing if its threads were given back before.
    pub fn done(&mut self, turn: Turn) {
        self.give_back(|running| running.turn == turn);
    }

    /// What waits for `replica` has changed, and with it what its turns wait for.
    pub fn hasten(&mut self, replica: u64, deadline: Option<Moment>) {
        self.waiting.iter_mut().filter(|waiting| waiting.ask.replica == replica).for_each(|waiting| waiting.ask.deadline = deadline);
    }

    /// Nothing waits for `replica` any more; its turns that have not come.
    pub fn cancel(&mut self, replica: u64) -> Vec<Turn> {
        let (gone, stay) = self.waiting.drain(..).partition(|waiting| waiting.ask.replica == replica);
        self.waiting = stay;
        let gone: Vec<Waiting> = gone;
        gone.into_iter().map(|waiting| waiting.turn).collect()
    }

    /// The runs of `replica` do not end and are not counted on any more: others get their threads.
    pub fn revoke(&mut self, replica: u64) {
        self.give_back(|running| running.replica == replica);
    }

    fn give_back(&mut self, ends: impl Fn(&Running) -> bool) {
        let free = &mut self.free;
        self.running.retain(|running| {
            let ends = ends(running);
            if ends {
                *free = free.saturating_add(running.threads);
            }
            !ends
        });
    }
}

/// What a replica has on its device: what waits for it, and the rest of what it runs, in microseconds of one of its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Queued and running.
    pub backlog: Backlog,
    /// Threads that one of its instances takes.
    pub threads: u32,
}

/// Microseconds until a request that arrived now at a replica would start: `own` work over its `instances`, or everything on the device,
/// its own too, over the `capacity`, whichever is longer. A replica with fewer instances than the device has room for waits for those.
pub fn backlog(own: Work, instances: u32, all: impl IntoIterator<Item = Work>, capacity: u32) -> Backlog {
    let together = all.into_iter().map(|work| work.backlog.shared(work.threads.clamp(1, capacity.max(1)), 1));
    own.backlog.shared(1, instances).max(together.fold(Backlog::default(), Backlog::and).shared(1, capacity))
}

#[cfg(test)]
mod tests;
