//! The gate of a device: instances of all replicas on it take turns (`policy::gate`), so that together they run no more threads than the
//! device has, and each replica's word on what it has to do, which the others add to their own.
//!
//! A lock of a gate is held for a look at who is next and never over anything else; who holds the lock of a replica's queue may take it.
//! What replicas have to do is read without a lock.

use arc_swap::ArcSwap;
use policy::Moment;
use policy::backlog::{Backlog, STEPS};
use policy::gate::{Ask, Turn, Work, backlog};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Runs at once on a graphics processor: one computes while the other copies.
const GPU_RUNS_MAX: u32 = 2;

/// The gates of a worker's devices, by name.
pub(crate) struct Gates {
    cores: NonZeroUsize,
    by_device: Mutex<BTreeMap<String, Arc<Gate>>>,
}

impl Gates {
    /// For a host with `cores` cores.
    pub(crate) fn new(cores: NonZeroUsize) -> Self {
        Self { cores, by_device: Mutex::default() }
    }

    /// The gate of `device`.
    pub(crate) fn of(&self, device: &str) -> Arc<Gate> {
        let mut gates = self.by_device.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(device.to_owned()).or_insert_with(|| match device {
            "cpu" => Gate::of_cores(self.cores),
            _ => Gate::of_runs(GPU_RUNS_MAX),
        });
        gate.clone()
    }
}

/// See the module.
pub(crate) struct Gate {
    origin: Instant,
    /// Threads that work on a run count; else a run is a run.
    by_thread: bool,
    capacity: u32,
    state: Mutex<State>,
    /// The replicas on the device.
    loads: ArcSwap<Vec<Arc<Load>>>,
    /// Changes of that list, which name its replicas. Held by who changes it, so that no change is lost; who reads it takes no lock.
    changes: Mutex<u64>,
}

struct State {
    gate: policy::gate::Gate,
    parked: BTreeMap<Turn, Parked>,
}

/// Whom to wake once the lock is free again.
type Woken = SmallVec<[Arc<Condvar>; 4]>;

impl State {
    /// Lets go whose turn it is; is that `asks`, too, who is not parked?
    fn go(&mut self, asks: Option<Turn>, woken: &mut Woken) -> bool {
        let mut goes = false;
        while let Some(turn) = self.gate.next() {
            goes = goes || asks == Some(turn);
            self.say(turn, Word::Go, woken);
        }
        goes
    }

    fn say(&mut self, turn: Turn, word: Word, woken: &mut Woken) {
        if let Some(parked) = self.parked.get_mut(&turn) {
            parked.word = word;
            woken.push(parked.wake.clone());
        }
    }
}

/// A thread that waits for its turn.
struct Parked {
    word: Word,
    wake: Arc<Condvar>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Wait,
    Go,
    /// Its replica has nothing to run any more, or is no more.
    Leave,
}

/// What a replica has to do.
struct Load {
    threads: u32,
    /// Microseconds of one instance that what is queued takes, by steps. Nobody looks while it is alone on its device, and then it is 0.
    queued: [AtomicU64; STEPS],
    /// When the run of each instance should end, in microseconds; 0 when it has none.
    ends_us: Box<[AtomicU64]>,
}

impl Load {
    /// With what runs, when `queued` waits.
    fn work(&self, now: Moment, queued: Backlog) -> Work {
        let rest = self.ends_us.iter().map(|end| Moment::from_us(end.load(Ordering::Relaxed)).us_since(now));
        Work { backlog: queued.and(Backlog::whole(rest.fold(0, u64::saturating_add))), threads: self.threads }
    }

    /// As it was told last.
    fn told(&self) -> Backlog {
        Backlog::from_steps(self.queued.iter().map(|us| us.load(Ordering::Relaxed)))
    }
}

impl Gate {
    /// Of a device whose cores are what runs compete for.
    pub(crate) fn of_cores(cores: NonZeroUsize) -> Arc<Self> {
        Self::new(u32::try_from(cores.get()).unwrap_or(u32::MAX), true)
    }

    /// Of one that takes so many runs at once, whatever threads of the host stand behind them.
    pub(crate) fn of_runs(runs: u32) -> Arc<Self> {
        Self::new(runs, false)
    }

    fn new(capacity: u32, by_thread: bool) -> Arc<Self> {
        let gate = policy::gate::Gate::new(capacity);
        let capacity = gate.capacity();
        let state = Mutex::new(State { gate, parked: BTreeMap::new() });
        Arc::new(Self { origin: Instant::now(), by_thread, capacity, state, loads: ArcSwap::default(), changes: Mutex::new(0) })
    }

    /// Changes something, then wakes who may go on because of it.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Woken) -> T) -> T {
        let mut woken = Woken::new();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state, &mut woken);
        drop(state);
        woken.iter().for_each(|wake| wake.notify_one());
        result
    }

    fn change_loads(&self, change: impl FnOnce(&mut Vec<Arc<Load>>)) -> u64 {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loads = Vec::clone(&self.loads.load());
        change(&mut loads);
        self.loads.store(Arc::new(loads));
        *changes = changes.wrapping_add(1);
        *changes
    }
}

/// A replica's place on its device, from its start until the last of its instances has ended.
pub(crate) struct Seat {
    gate: Arc<Gate>,
    /// Tells it from others on the device.
    replica: u64,
    load: Arc<Load>,
}

/// What somebody who asked for a turn gets.
pub(crate) enum Answer {
    /// It may run now.
    Go(Permit),
    /// It may not yet.
    Wait(Waits),
}

impl Seat {
    /// Of a replica with `instances` of `threads` threads each.
    pub(crate) fn new(gate: Arc<Gate>, instances: usize, threads: u32) -> Self {
        let threads = if gate.by_thread { threads } else { 1 };
        let ends_us = std::iter::repeat_with(AtomicU64::default).take(instances).collect();
        let load = Arc::new(Load { threads, queued: Default::default(), ends_us });
        let replica = gate.change_loads(|loads| loads.push(load.clone()));
        Self { gate, replica, load }
    }

    /// From which moments on this device count.
    pub(crate) fn origin(&self) -> Instant {
        self.gate.origin
    }

    /// Instance `at` has work, the earliest of which must be done by `deadline`; `held` is what it has from its last turn.
    pub(crate) fn ask(self: &Arc<Self>, at: usize, held: Option<Permit>, deadline: Option<Moment>) -> Answer {
        let ask = Ask { replica: self.replica, threads: self.load.threads, deadline };
        let over = held.and_then(|mut held| held.turn.take());
        // In one step, so that it is weighed against who waits.
        let (turn, goes) = self.gate.change(|state, woken| {
            if let Some(over) = over {
                state.gate.done(over);
            }
            let turn = state.gate.ask(ask);
            let goes = state.go(Some(turn), woken);
            if !goes {
                state.parked.insert(turn, Parked { word: Word::Wait, wake: Arc::default() });
            }
            (turn, goes)
        });
        match goes {
            true => Answer::Go(Permit { seat: self.clone(), turn: Some(turn), at }),
            false => Answer::Wait(Waits { seat: self.clone(), turn, at }),
        }
    }

    /// Something else waits in its queue than before, while an instance waits for a turn: the earliest of it must be done by `deadline`.
    pub(crate) fn hasten(&self, deadline: Option<Moment>) {
        self.gate.change(|state, woken| {
            state.gate.hasten(self.replica, deadline);
            state.go(None, woken);
        });
    }

    /// Nothing waits in its queue any more: instances that wait for a turn do not get one.
    pub(crate) fn leave(&self) {
        self.gate.change(|state, woken| {
            for turn in state.gate.cancel(self.replica) {
                state.say(turn, Word::Leave, woken);
            }
            state.go(None, woken);
        });
    }

    /// Its runs do not end: what they hold goes to others.
    pub(crate) fn revoke(&self) {
        self.gate.change(|state, woken| {
            state.gate.revoke(self.replica);
            state.go(None, woken);
        });
    }

    /// What waits in its queue now; not asked where nobody wants to know.
    pub(crate) fn queued(&self, backlog: impl FnOnce() -> Backlog) {
        let is_shared = self.gate.loads.load().len() > 1;
        let now = if is_shared { backlog() } else { Backlog::default() };
        self.load.queued.iter().zip(now.steps()).for_each(|(told, us)| told.store(*us, Ordering::Relaxed));
    }

    /// Has no other replica on the device anything to do?
    pub(crate) fn is_alone(&self) -> bool {
        let idle = |load: &Load| load.told() == Backlog::default() && load.ends_us.iter().all(|end| end.load(Ordering::Relaxed) == 0);
        self.gate.loads.load().iter().all(|load| Arc::ptr_eq(load, &self.load) || idle(load))
    }

    /// What a request that arrived now would wait for; `queued` is what waits here, on one of `instances`.
    pub(crate) fn backlog(&self, now: Moment, queued: Backlog, instances: u32) -> Backlog {
        let loads = self.gate.loads.load();
        let own = self.load.work(now, queued);
        let others = loads.iter().filter(|load| !Arc::ptr_eq(load, &self.load));
        let others = others.map(|load| load.work(now, load.told()));
        backlog(own, instances, std::iter::once(own).chain(others), self.gate.capacity)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.change_loads(|loads| loads.retain(|load| !Arc::ptr_eq(load, &self.load)));
    }
}

/// A turn that has not come.
pub(crate) struct Waits {
    seat: Arc<Seat>,
    turn: Turn,
    at: usize,
}

impl Waits {
    /// Waits for it; none when its replica has nothing to run any more.
    pub(crate) fn wait(self) -> Option<Permit> {
        let Self { seat, turn, at } = self;
        let mut state = seat.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        let word = loop {
            match state.parked.get(&turn) {
                Some(Parked { word: Word::Wait, wake }) => {
                    let wake = wake.clone();
                    state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                other => break other.map(|parked| parked.word),
            }
        };
        state.parked.remove(&turn);
        drop(state);
        (word == Some(Word::Go)).then(|| Permit { seat, turn: Some(turn), at })
    }
}

/// Threads of the device, given back when it is dropped.
pub(crate) struct Permit {
    seat: Arc<Seat>,
    turn: Option<Turn>,
    /// The instance.
    at: usize,
}

impl Permit {
    /// Its run begins, and should end then.
    pub(crate) fn begin(&self, end: Moment) {
        self.end_at(end.as_us());
    }

    /// Its run is over, though it keeps its threads for what is left to do.
    pub(crate) fn end(&self) {
        self.end_at(0);
    }

    fn end_at(&self, us: u64) {
        if let Some(end) = self.seat.load.ends_us.get(self.at) {
            end.store(us, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end();
        if let Some(turn) = self.turn {
            self.seat.gate.change(|state, woken| {
                state.gate.done(turn);
                state.go(None, woken);
            });
        }
    }
}
