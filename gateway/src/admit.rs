//! What each tenant holds of this gateway: taken when a request has come, given back when it is answered or given up. Where the gateway
//! works on as many bytes as it may, requests wait here, and come in by turns of their tenants.

use crate::infer::Context;
use policy::admit::{Admission, Admitted, Entry, Limits, Ticket};
use policy::{Failure, Moment};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Who is in, and who waits.
pub(crate) struct Door(Mutex<State>);

struct State {
    admission: Admission,
    waiting: HashMap<Ticket, oneshot::Sender<Admitted>>,
}

/// A request's place among its tenant's. Taken back on drop, so a cancelled request is counted too.
pub(crate) struct Place<'d> {
    door: &'d Door,
    admitted: Option<Admitted>,
}

/// A request that waits; it gives up on drop.
struct Wait<'d> {
    door: &'d Door,
    ticket: Ticket,
    called: oneshot::Receiver<Admitted>,
}

impl Door {
    /// Nobody is in.
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Mutex::new(State { admission: Admission::new(limits), waiting: HashMap::new() }))
    }

    /// A place for a request that holds `bytes`, once it is its turn.
    ///
    /// # Errors
    /// [`Failure::Quota`] when the tenant has used up its own, [`Failure::Overloaded`] when too many wait, and
    /// [`Failure::DeadlineExceeded`] when its turn does not come in time.
    pub(crate) async fn enter(&self, now: Moment, context: &Context, bytes: u64) -> Result<Place<'_>, Failure> {
        let wait = {
            let mut state = self.lock();
            match state.admission.enter(now, &context.caller.tenant, bytes)? {
                Entry::Admitted(admitted) => return Ok(Place { door: self, admitted: Some(admitted) }),
                Entry::Waiting(ticket) => {
                    let (call, called) = oneshot::channel();
                    state.waiting.insert(ticket, call);
                    Wait { door: self, ticket, called }
                }
            }
        };
        // Boxed: who need not wait must not carry what it takes.
        Box::pin(context.in_time(wait.turn())).await?
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().admission.waiting()
    }
}

impl<'d> Wait<'d> {
    async fn turn(mut self) -> Result<Place<'d>, Failure> {
        let admitted = (&mut self.called).await.map_err(|_| Failure::Cancelled)?;
        Ok(Place { door: self.door, admitted: Some(admitted) })
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut state = self.door.lock();
        state.waiting.remove(&self.ticket);
        if state.admission.cancel(self.ticket) {
            state.call(); // it may have been in the way of smaller ones
        } else if let Ok(admitted) = self.called.try_recv() {
            state.leave(admitted); // called, and gone before it heard
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            self.door.lock().leave(admitted);
        }
    }
}

impl State {
    fn leave(&mut self, admitted: Admitted) {
        self.admission.leave(admitted);
        self.call();
    }

    /// Lets in who need not wait any more.
    fn call(&mut self) {
        while let Some((ticket, admitted)) = self.admission.call_next() {
            let heard = match self.waiting.remove(&ticket) {
                Some(call) => call.send(admitted),
                None => Err(admitted),
            };
            if let Err(admitted) = heard {
                self.admission.leave(admitted);
            }
        }
    }
}

#[cfg(test)]
mod tests;
