//! Carrying a plan out: what loads, what may leave, and when.
//!
//! * I1: the last routable replica of a model stays until another is routable.
//! * I8: what is there, loads and leaves never takes more bytes than the device has.
//!
//! What goes for its memory goes at once; all else only when the loads of the plan are done, so that they take over first.

use super::layout::{Layout, Stand};
use policy::Moment;
use std::rc::Rc;

/// Microseconds that a new replica stays whatever the plan says.
const YOUNG_US: u64 = 60_000_000;

/// What becomes of a way. It is absent, then loads, is ready, leaves, is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Loading,
    /// Since then; those of the start are as old as can be.
    Ready(Option<Moment>),
    /// It takes no more, and what it has it answers.
    Leaving,
}

/// What happens now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It will be warm then.
    Load(usize, Moment),
    /// It takes no more.
    Leave(usize),
}

pub(super) struct Stage {
    layout: Rc<Layout>,
    states: Vec<State>,
    /// Wanted and absent, the most urgent first.
    pending: Vec<usize>,
    /// Ready and not wanted.
    going: Vec<usize>,
    /// Bytes held on each device.
    bytes: Vec<u64>,
    loading: Vec<usize>,
    /// Routable replicas of each model.
    routable: Vec<usize>,
    pub(super) loads: usize,
    /// Largest share of any device's bytes that was ever held.
    pub(super) bytes_share_max: f64,
    /// Times that a model lost its last routable replica.
    pub(super) lost_models: u64,
}

impl Stage {
    pub(super) fn new(layout: &Rc<Layout>) -> Self {
        Self {
            states: vec![State::Absent; layout.ways.len()],
            pending: Vec::new(),
            going: Vec::new(),
            bytes: vec![0; layout.places.len()],
            loading: vec![0; layout.places.len()],
            routable: vec![0; layout.models.len()],
            loads: 0,
            bytes_share_max: 0.0,
            lost_models: 0,
            layout: layout.clone(),
        }
    }

    pub(super) fn state(&self, way: usize) -> State {
        self.states.get(way).copied().unwrap_or(State::Absent)
    }

    /// How a plan must take a way.
    pub(super) fn stand(&self, now: Moment, way: usize) -> Stand {
        match self.state(way) {
            State::Absent => Stand::Absent,
            State::Loading => Stand::Fixed,
            State::Ready(Some(since)) if now.us_since(since) < YOUNG_US => Stand::Fixed,
            State::Ready(_) => Stand::Placed,
            State::Leaving => Stand::Leaving,
        }
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        self.states.iter().enumerate().filter(|(_, state)| matches!(state, State::Ready(_))).map(|(way, _)| way)
    }

    pub(super) fn loading(&self) -> usize {
        self.loading.iter().sum()
    }

    /// The start: what is wanted is there.
    pub(super) fn begin(&mut self, placed: &[bool]) {
        for (way, _) in placed.iter().enumerate().filter(|(_, placed)| **placed) {
            self.hold(way);
            self.set(way, State::Ready(None));
        }
    }

    /// A new plan, by the rows that are meant for each way: what needs most goes first.
    pub(super) fn want(&mut self, placed: &[bool], flow: &[f64]) {
        let wanted = |way: usize| placed.get(way).copied().unwrap_or_default();
        let rows = |way: &usize| flow.get(*way).copied().unwrap_or_default();
        self.pending = (0..self.states.len()).filter(|way| wanted(*way) && self.state(*way) == State::Absent).collect();
        self.pending.sort_by(|a, b| rows(b).total_cmp(&rows(a)).then(a.cmp(b)));
        self.going = self.ready().filter(|way| !wanted(*way)).collect();
    }

    /// What can happen of it now.
    pub(super) fn advance(&mut self, now: Moment, steps: &mut Vec<Step>) {
        let pending = std::mem::take(&mut self.pending);
        for number in pending {
            let Some(way) = self.layout.ways.get(number).copied() else { continue };
            let Some(place) = self.layout.places.get(way.device).copied() else { continue };
            let held = self.bytes.get(way.device).copied().unwrap_or_default();
            let fits = held.saturating_add(way.bytes) <= place.bytes;
            if fits && self.loading.get(way.device).is_some_and(|loading| *loading < place.loads) {
                self.hold(number);
                self.set(number, State::Loading);
                self.loads = self.loads.saturating_add(1);
                steps.push(Step::Load(number, Moment::from_us(now.as_us().saturating_add(way.load_us.max(1)))));
                continue;
            }
            self.pending.push(number);
            if !fits {
                self.make_room(way.device, held.saturating_add(way.bytes).saturating_sub(place.bytes), steps);
            }
        }
        if self.pending.is_empty() && self.loading() == 0 {
            self.leave(|_| true, u64::MAX, steps);
        }
    }

    /// Lets go of what goes on a device until `short` bytes more are on their way out.
    fn make_room(&mut self, device: usize, short: u64, steps: &mut Vec<Step>) {
        let layout = self.layout.clone();
        let here = |way: usize| layout.ways.get(way).is_some_and(|way| way.device == device);
        let out = self.states.iter().enumerate().filter(|(way, state)| **state == State::Leaving && here(*way));
        let out: u64 = out.filter_map(|(way, _)| layout.ways.get(way)).map(|way| way.bytes).sum();
        self.leave(here, short.saturating_sub(out), steps);
    }

    fn leave(&mut self, which: impl Fn(usize) -> bool, bytes: u64, steps: &mut Vec<Step>) {
        let mut left = bytes;
        for number in std::mem::take(&mut self.going) {
            let Some(way) = self.layout.ways.get(number).copied() else { continue };
            let is_last = self.routable.get(way.model).is_none_or(|count| *count < 2);
            if left == 0 || !which(number) || is_last {
                self.going.push(number);
                continue;
            }
            self.set(number, State::Leaving);
            left = left.saturating_sub(way.bytes);
            steps.push(Step::Leave(number));
        }
    }

    /// A load is done.
    pub(super) fn loaded(&mut self, now: Moment, way: usize) {
        self.set(way, State::Ready(Some(now)));
    }

    /// Nobody waits for a leaving replica any more.
    pub(super) fn gone(&mut self, way: usize) {
        self.set(way, State::Absent);
        let Some(there) = self.layout.ways.get(way) else { return };
        self.bytes.iter_mut().skip(there.device).take(1).for_each(|held| *held = held.saturating_sub(there.bytes));
    }

    fn hold(&mut self, way: usize) {
        let Some(there) = self.layout.ways.get(way) else { return };
        let capacity = self.layout.places.get(there.device).map_or(0, |place| place.bytes);
        for held in self.bytes.iter_mut().skip(there.device).take(1) {
            *held = held.saturating_add(there.bytes);
            debug_assert!(*held <= capacity, "I8: {held} bytes of {capacity}");
            self.bytes_share_max = self.bytes_share_max.max(*held as f64 / capacity.max(1) as f64);
        }
    }

    fn set(&mut self, way: usize, state: State) {
        let Some(there) = self.layout.ways.get(way).copied() else { return };
        let before = self.state(way);
        let count = |slot: &mut usize, was: bool, is: bool| {
            *slot = slot.saturating_add(usize::from(is)).saturating_sub(usize::from(was));
        };
        for slot in self.loading.iter_mut().skip(there.device).take(1) {
            count(slot, before == State::Loading, state == State::Loading);
        }
        for slot in self.routable.iter_mut().skip(there.model).take(1) {
            count(slot, matches!(before, State::Ready(_)), matches!(state, State::Ready(_)));
            if matches!(before, State::Ready(_)) && *slot == 0 {
                self.lost_models = self.lost_models.saturating_add(1);
            }
            debug_assert!(!matches!(before, State::Ready(_)) || *slot > 0, "I1: the last routable replica of model {}", there.model);
        }
        self.states.iter_mut().skip(way).take(1).for_each(|slot| *slot = state);
    }
}
