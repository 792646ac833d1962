//! A lane: one network runtime's side of this worker. Answers of engine threads come back to it together, with one wake for all of a
//! batch, and models too small to be worth a hand-over run on it.
//!
//! A oneshot that another thread completes wakes the runtime by a system call of its own and one connection for one reply; here the
//! runtime's own task completes all that came, so replies of one connection leave in one write.

use policy::Failure;
use proto::call::InferReply;
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

/// What a caller waits for.
pub(crate) type Outcome = Result<InferReply, Failure>;

/// A way to one network runtime. Its task ends with the last clone.
#[derive(Clone)]
pub(crate) struct Lane {
    mailbox: Arc<Mailbox>,
    _task: Arc<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What waits for a runtime's task.
#[derive(Default)]
pub(crate) struct Mailbox {
    /// Handed over and not given to their callers yet; as many as requests are in flight.
    answered: Mutex<Vec<(oneshot::Sender<Outcome>, Outcome)>>,
    /// Wants to run here; each at most once.
    due: Mutex<Vec<Arc<dyn Turn>>>,
    wake: Notify,
}

/// Something small that runs on a lane.
pub(crate) trait Turn: Send + Sync {
    /// Runs one batch; true when more waits.
    fn turn(&self, here: &Arc<Mailbox>) -> bool;
}

/// Where a request's answer goes.
pub(crate) struct Answer {
    mailbox: Arc<Mailbox>,
    caller: oneshot::Sender<Outcome>,
}

impl Lane {
    /// The lane of the runtime that this is called on.
    pub(crate) fn start() -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let task = tokio::spawn(run(mailbox.clone()));
        Self { mailbox, _task: Arc::new(Task(task.abort_handle())) }
    }

    /// An answer, and where its caller waits for it. The caller keeps a clone of the lane until then.
    pub(crate) fn answer(&self) -> (Answer, oneshot::Receiver<Outcome>) {
        let (caller, receiver) = oneshot::channel();
        (Answer { mailbox: self.mailbox.clone(), caller }, receiver)
    }

    /// Runs `turn` behind everything that is ready now, so that what arrives meanwhile shares its batch.
    pub(crate) fn schedule(&self, turn: &Arc<impl Turn + 'static>) {
        let mut due = lock(&self.mailbox.due);
        if !due.iter().any(|other| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(turn))) {
            due.push(turn.clone());
            drop(due);
            self.mailbox.wake.notify_one();
        }
    }
}

/// How long batches of one model may follow each other before the sockets are looked at again: their answers leave together, and what
/// has arrived waits that much longer.
const TURN_MAX: Duration = Duration::from_micros(50);

/// Completes what was handed over, and runs what is due between two looks at the sockets.
async fn run(mailbox: Arc<Mailbox>) {
    let (mut answered, mut due, mut again) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        if again.is_empty() {
            mailbox.wake.notified().await;
        } else {
            lock(&mailbox.due).append(&mut again);
            tokio::task::yield_now().await;
        }
        std::mem::swap(&mut *lock(&mailbox.answered), &mut answered);
        for (caller, outcome) in answered.drain(..) {
            let _ = caller.send(outcome);
        }
        std::mem::swap(&mut *lock(&mailbox.due), &mut due);
        again.extend(due.drain(..).filter(|turn: &Arc<dyn Turn>| {
            let began = Instant::now();
            while turn.turn(&mailbox) {
                if began.elapsed() > TURN_MAX {
                    return true;
                }
            }
            false
        }));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers on their way; when it is dropped, each runtime that gets some is woken once.
pub(crate) struct Delivery<'m> {
    /// The runtime this is on, if on one: its callers need no wake.
    here: Option<&'m Arc<Mailbox>>,
    woken: SmallVec<[Arc<Mailbox>; 4]>,
}

impl<'m> Delivery<'m> {
    /// None yet, from a runtime or from an engine thread.
    pub(crate) fn from(here: Option<&'m Arc<Mailbox>>) -> Self {
        Self { here, woken: SmallVec::new() }
    }

    /// Hands an outcome to its caller.
    pub(crate) fn give(&mut self, Answer { mailbox, caller }: Answer, outcome: Outcome) {
        if self.here.is_some_and(|here| Arc::ptr_eq(here, &mailbox)) {
            let _ = caller.send(outcome);
            return;
        }
        lock(&mailbox.answered).push((caller, outcome));
        if !self.woken.iter().any(|known| Arc::ptr_eq(known, &mailbox)) {
            self.woken.push(mailbox);
        }
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        self.woken.iter().for_each(|mailbox| mailbox.wake.notify_one());
    }
}
