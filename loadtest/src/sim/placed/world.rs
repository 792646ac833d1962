//! The event loop over a fleet on which placement decides.

use super::control::{Control, Made};
use super::device::{Device, Effect};
use super::fleet::PlacedFleet;
use super::gateway::Gateway;
use super::layout::Layout;
use super::outcome::{Outcome, Tally};
use super::stage::{Stage, State, Step};
use super::{Job, Policy, Word};
use crate::schedule::Due;
use crate::script::Script;
use crate::sim::later;
use fastrand::Rng;
use policy::demand::Demand;
use policy::{Failure, Moment};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;

/// A second, in microseconds: how often the rates are looked at.
const TICK_US: u64 = 1_000_000;
/// Seconds of the schedule whose mean is served at the start.
const FIRST_S: f64 = 10.0;

pub(super) struct World<'s> {
    layout: Rc<Layout>,
    script: &'s Script,
    /// Of each kind of the mix, the model that it asks.
    asked: Vec<usize>,
    one_way_us: u64,
    push_us: u64,
    gateways: Vec<Gateway>,
    devices: Vec<Device>,
    stage: Stage,
    control: Control,
    /// Requests on their way to, in and from each way's replica.
    under_way: Vec<u32>,
    /// Microseconds that each device's engines ran since the last tick.
    busy_us: Vec<f64>,
    random: Rng,
    dues: Box<dyn Iterator<Item = Due> + Send>,
    events: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
    open: u64,
    outcome: Outcome,
    /// Their room is reused.
    effects: Vec<Effect>,
    steps: Vec<Step>,
}

enum Event {
    Due(Due),
    AtDevice(Job),
    Ends(usize, usize),
    AtGateway(Job, Result<(), Failure>, Word),
    Told(usize, usize, Word),
    Push,
    Tick,
    Loaded(usize),
}

struct Scheduled {
    at: Moment,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl<'s> World<'s> {
    pub(super) fn new(fleet: &PlacedFleet, policy: &Policy, script: &'s Script) -> Self {
        let layout = Rc::new(Layout::new(fleet));
        let mut random = Rng::with_seed(script.seed.wrapping_add(0x5EED).rotate_left(32));
        let device = |place: &super::layout::Place| Device::new(place.instances, fleet.service_noise, random.fork());
        let devices = layout.places.iter().map(device).collect();
        let position = |name: &str| fleet.models.iter().position(|model| model.name == name).unwrap_or_default();
        let seconds = usize::try_from(script.length().as_secs()).unwrap_or(usize::MAX).saturating_add(1);
        Self {
            script,
            asked: script.mix.asks.iter().map(|ask| position(&ask.model)).collect(),
            one_way_us: fleet.one_way_us as u64,
            push_us: (fleet.push_ms * 1e3) as u64,
            gateways: (0..fleet.gateways).map(|_| Gateway::new(&layout)).collect(),
            devices,
            stage: Stage::new(&layout),
            control: Control::new(&layout, policy),
            under_way: vec![0; layout.ways.len()],
            busy_us: vec![0.0; layout.places.len()],
            random,
            dues: script.schedule(),
            events: BinaryHeap::new(),
            number: 0,
            open: 0,
            outcome: Outcome { seconds: vec![vec![Tally::default(); layout.models.len()]; seconds], ..Outcome::default() },
            effects: Vec::new(),
            steps: Vec::new(),
            layout,
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        let start = Moment::default();
        let (first, mean) = self.rates();
        let made = self.control.begin(&first, &mean);
        self.stage.begin(&made.wish.placed);
        let ready: Vec<usize> = self.stage.ready().collect();
        ready.into_iter().for_each(|way| self.open_way(start, way));
        self.adopt(start, made);
        self.next_due();
        if self.push_us > 0 {
            self.at(later(start, self.push_us), Event::Push);
        }
        self.at(later(start, TICK_US), Event::Tick);
        while let Some(Reverse(Scheduled { at: now, event, .. })) = self.events.pop() {
            self.happen(now, event);
        }
        debug_assert_eq!(self.open, 0, "every request has ended");
        self.outcome.loads = self.stage.loads;
        self.outcome.bytes_share_max = self.stage.bytes_share_max;
        self.outcome.lost_models = self.stage.lost_models;
        self.outcome
    }

    /// Rows a second of each model in the first seconds of the schedule, and in all of it.
    fn rates(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut first, mut mean) = (vec![0.0; self.layout.models.len()], vec![0.0; self.layout.models.len()]);
        let length = self.script.length().as_secs_f64();
        let first_s = FIRST_S.min(length);
        for due in self.script.schedule() {
            let rows = self.script.mix.asks.get(due.ask).map_or(0.0, |ask| f64::from(ask.rows.get()));
            let model = self.asked.get(due.ask).copied().unwrap_or_default();
            mean.iter_mut().skip(model).take(1).for_each(|sum| *sum += rows / length);
            if due.at.as_secs_f64() < first_s {
                first.iter_mut().skip(model).take(1).for_each(|sum| *sum += rows / first_s);
            }
        }
        (first, mean)
    }

    fn at(&mut self, at: Moment, event: Event) {
        self.number = self.number.wrapping_add(1);
        self.events.push(Reverse(Scheduled { at, number: self.number, event }));
    }

    fn next_due(&mut self) {
        if let Some(due) = self.dues.next() {
            self.open = self.open.saturating_add(1);
            self.at(Moment::default().after(due.at), Event::Due(due));
        }
    }

    fn happen(&mut self, now: Moment, event: Event) {
        match event {
            Event::Due(due) => {
                self.next_due();
                self.route(now, due);
            }
            Event::AtDevice(job) => self.arrive(now, job),
            Event::Ends(device, instance) => self.finish(now, device, instance),
            Event::AtGateway(job, outcome, word) => self.hear(now, job, outcome, word),
            Event::Told(device, gateway, word) => {
                if let Some(gateway) = self.gateways.get_mut(gateway) {
                    gateway.hear(now, device, word);
                }
            }
            Event::Push => self.push(now),
            Event::Tick => self.tick(now),
            Event::Loaded(way) => {
                self.stage.loaded(now, way);
                self.open_way(now, way);
                self.carry_out(now);
            }
        }
    }

    fn route(&mut self, now: Moment, due: Due) {
        let number = self.random.usize(0..self.gateways.len().max(1));
        let draws = [self.random.f64(), self.random.f64()];
        let (Some(ask), Some(model)) = (self.script.mix.asks.get(due.ask), self.asked.get(due.ask)) else { return };
        let deadline = ask.deadline().map(|length| now.after(length));
        let mut job = Job { model: *model, rows: ask.rows.get(), due: now, deadline, gateway: number, way: 0, predicted_us: 0 };
        let second = (now.as_us() / TICK_US) as usize;
        if let Some(tally) = self.outcome.at(second, job.model) {
            tally.offered = tally.offered.saturating_add(1);
        }
        let Some(gateway) = self.gateways.get_mut(number) else { return };
        let Ok(chosen) = gateway.choose(now, &job, draws, &mut self.random) else {
            self.open = self.open.saturating_sub(1);
            return;
        };
        (job.way, job.predicted_us) = (chosen.way, chosen.predicted_us);
        let floor = self.layout.models.get(job.model).map_or(-1.0, |model| model.floor);
        let kept = floor < 0.0 || self.layout.ways.get(job.way).is_some_and(|way| way.accuracy >= floor);
        if let Some(tally) = self.outcome.at(second, job.model).filter(|_| !kept) {
            tally.below_floor = tally.below_floor.saturating_add(1);
        }
        self.under_way.iter_mut().skip(job.way).take(1).for_each(|count| *count = count.saturating_add(1));
        self.at(later(now, self.one_way_us), Event::AtDevice(job));
    }

    fn device_of(&self, way: usize) -> usize {
        self.layout.ways.get(way).map_or(0, |way| way.device)
    }

    fn arrive(&mut self, now: Moment, job: Job) {
        let index = self.device_of(job.way);
        let Some(device) = self.devices.get_mut(index) else { return };
        let leaves_by = job.deadline.map(|deadline| Moment::from_us(deadline.as_us().saturating_sub(self.one_way_us)));
        match device.arrive(now, job, leaves_by) {
            Ok(()) => self.work(now, index),
            Err(failure) => self.reply(now, job, Err(failure)),
        }
    }

    fn finish(&mut self, now: Moment, index: usize, instance: usize) {
        let Some(ended) = self.devices.get_mut(index).and_then(|device| device.finish(now, instance)) else { return };
        let us = now.us_since(ended.run.started) as f64;
        self.busy_us.iter_mut().skip(index).take(1).for_each(|busy| *busy += us);
        if ended.run.started >= Moment::default().after(self.script.warm_up) {
            self.outcome.executions = self.outcome.executions.saturating_add(1);
            self.outcome.in_tail = self.outcome.in_tail.saturating_add(u64::from(ended.in_tail));
        }
        ended.run.jobs.into_iter().for_each(|job| self.reply(now, job, Ok(())));
        self.work(now, index);
    }

    /// Idle engines of a device take what they can.
    fn work(&mut self, now: Moment, index: usize) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(device) = self.devices.get_mut(index) {
            device.start(now, &mut effects);
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Ends(instance, at) => self.at(at, Event::Ends(index, instance)),
                Effect::Refused(job, failure) => self.reply(now, job, Err(failure)),
            }
        }
        self.effects = effects;
    }

    fn reply(&mut self, now: Moment, job: Job, outcome: Result<(), Failure>) {
        let index = self.device_of(job.way);
        let Some(device) = self.devices.get_mut(index) else { return };
        let word = device.word(now, job.gateway, Some(job.way));
        self.at(later(now, self.one_way_us), Event::AtGateway(job, outcome, word));
    }

    fn hear(&mut self, now: Moment, job: Job, outcome: Result<(), Failure>, word: Word) {
        let device = self.device_of(job.way);
        if let Some(gateway) = self.gateways.get_mut(job.gateway) {
            gateway.hear(now, device, word);
            gateway.end(now, &job, &outcome);
        }
        self.open = self.open.saturating_sub(1);
        self.under_way.iter_mut().skip(job.way).take(1).for_each(|count| *count = count.saturating_sub(1));
        if outcome.is_ok() {
            let accuracy = self.layout.ways.get(job.way).map_or(0.0, |way| way.accuracy);
            let in_time = job.deadline.is_none_or(|deadline| now < deadline);
            if let Some(tally) = self.outcome.at((job.due.as_us() / TICK_US) as usize, job.model) {
                tally.answered = tally.answered.saturating_add(1);
                if in_time {
                    tally.in_time = tally.in_time.saturating_add(1);
                    tally.accuracy += if accuracy.is_nan() { 0.0 } else { accuracy };
                }
            }
        }
        if self.stage.state(job.way) == State::Leaving {
            self.close_idle(now, job.way);
        }
    }

    fn push(&mut self, now: Moment) {
        if self.open == 0 {
            return;
        }
        for index in 0..self.devices.len() {
            for gateway in 0..self.gateways.len() {
                let Some(word) = self.devices.get_mut(index).map(|device| device.word(now, gateway, None)) else { continue };
                self.at(later(now, self.one_way_us), Event::Told(index, gateway, word));
            }
        }
        self.at(later(now, self.push_us), Event::Push);
    }

    /// The controller looks at what gateways count.
    fn tick(&mut self, now: Moment) {
        if self.open == 0 {
            return;
        }
        let mut demands = Vec::with_capacity(self.layout.models.len());
        for model in 0..self.layout.models.len() {
            let seen: Option<Demand> = self.gateways.iter_mut().map(|gateway| gateway.demand(now, model)).reduce(Demand::and);
            demands.push(seen.unwrap_or_default());
        }
        let busy = self.layout.places.iter().zip(&self.busy_us).map(|(place, us)| us / TICK_US as f64 / f64::from(place.instances.max(1)));
        let busy: Vec<f64> = busy.collect();
        self.busy_us.fill(0.0);
        if let Some(made) = self.control.tick(now, &demands, &busy, &self.stage) {
            self.stage.want(&made.wish.placed, &made.wish.flow);
            self.adopt(now, made);
        }
        self.carry_out(now);
        self.at(later(now, TICK_US), Event::Tick);
    }

    fn adopt(&mut self, _now: Moment, made: Made) {
        if let Some(taste) = made.taste {
            let short = made.wish.unserved / made.epoch.planned.max(f64::MIN_POSITIVE);
            self.gateways.iter_mut().for_each(|gateway| gateway.prefer(taste.clone(), short));
        }
        self.outcome.epochs.push(made.epoch);
    }

    /// What the plan wants and can happen now.
    fn carry_out(&mut self, now: Moment) {
        let mut steps = std::mem::take(&mut self.steps);
        self.stage.advance(now, &mut steps);
        let mut left = Vec::new();
        for step in steps.drain(..) {
            match step {
                Step::Load(way, at) => self.at(at, Event::Loaded(way)),
                Step::Leave(way) => {
                    self.gateways.iter_mut().for_each(|gateway| gateway.set_routable(now, way, false));
                    left.push(way);
                }
            }
        }
        self.steps = steps;
        left.into_iter().for_each(|way| self.close_idle(now, way));
    }

    fn open_way(&mut self, now: Moment, way: usize) {
        let layout = self.layout.clone();
        let Some(there) = layout.ways.get(way) else { return };
        if let Some(device) = self.devices.get_mut(there.device) {
            device.open(&layout, way, there);
        }
        self.gateways.iter_mut().for_each(|gateway| gateway.set_routable(now, way, true));
    }

    /// A replica that leaves is gone when nothing of it is under way; then there is room.
    fn close_idle(&mut self, now: Moment, way: usize) {
        if self.under_way.get(way).copied().unwrap_or_default() > 0 {
            return;
        }
        let index = self.device_of(way);
        if let Some(device) = self.devices.get_mut(index) {
            device.close(way);
        }
        self.stage.gone(way);
        self.carry_out(now);
    }
}
