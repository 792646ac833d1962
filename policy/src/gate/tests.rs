use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const FAST: u64 = 1;
const SLOW: u64 = 2;

fn at_us(us: u64) -> Option<Moment> {
    Some(Moment::from_us(us))
}

fn ask(replica: u64, threads: u32, deadline: Option<Moment>) -> Ask {
    Ask { replica, threads, deadline }
}

/// All whose turn it is now.
fn go(gate: &mut Gate) -> Vec<Turn> {
    std::iter::from_fn(|| gate.next()).collect()
}

/// A gate of `capacity` threads that one run has all of.
fn busy(capacity: u32) -> (Gate, Turn) {
    let mut gate = Gate::new(capacity);
    let run = gate.ask(ask(SLOW, capacity, None));
    assert_eq!(go(&mut gate), [run]);
    (gate, run)
}

#[test]
fn the_earliest_deadline_goes_first_and_who_has_none_last() {
    let (mut gate, run) = busy(1);
    let [lax, endless, urgent, same] = [at_us(900), None, at_us(100), at_us(100)].map(|deadline| gate.ask(ask(FAST, 1, deadline)));
    assert!(go(&mut gate).is_empty());
    let mut last = run;
    for expected in [urgent, same, lax, endless] {
        gate.done(last);
        assert_eq!(go(&mut gate), [expected]);
        last = expected;
    }
}

#[test]
fn a_request_that_comes_meanwhile_counts() {
    let (mut gate, run) = busy(1);
    let [other, mine] = [(SLOW, at_us(500)), (FAST, at_us(900))].map(|(replica, deadline)| gate.ask(ask(replica, 1, deadline)));
    gate.hasten(FAST, at_us(100));
    gate.done(run);
    assert_eq!(go(&mut gate), [mine]);
    gate.done(mine);
    assert_eq!(go(&mut gate), [other]);
}

#[test]
fn an_urgent_run_that_needs_more_threads_keeps_its_turn_and_one_without_a_deadline_does_not() {
    let check = |deadline: Option<Moment>, expected: usize| {
        let mut gate = Gate::new(2);
        let runs = [(); 2].map(|()| gate.ask(ask(FAST, 1, None)));
        assert_eq!(go(&mut gate), runs);
        let large = gate.ask(ask(SLOW, 7, deadline));
        gate.ask(ask(FAST, 1, None));
        gate.done(runs[0]);
        assert_eq!(go(&mut gate).len(), expected, "{deadline:?}");
        gate.done(runs[1]);
        assert_eq!(go(&mut gate) == [large], expected == 0, "it runs alone");
    };
    check(at_us(100), 0);
    check(None, 1);
}

#[test]
fn who_was_passed_twenty_times_is_next() {
    let (mut gate, mut last) = busy(2);
    let patient = gate.ask(ask(SLOW, 2, None));
    for _ in 0..LOST_MAX {
        let urgent = gate.ask(ask(FAST, 1, at_us(1)));
        gate.done(last);
        assert_eq!(go(&mut gate), [urgent]);
        last = urgent;
    }
    gate.ask(ask(FAST, 1, at_us(1)));
    assert!(go(&mut gate).is_empty(), "what is free is kept for it");
    gate.done(last);
    assert_eq!(go(&mut gate), [patient]);
}

#[test]
fn who_has_gone_is_not_waited_for_and_its_threads_come_back_once() {
    let (mut gate, run) = busy(2);
    let gone = gate.ask(ask(FAST, 2, at_us(1)));
    let other = gate.ask(ask(3, 1, None));
    assert_eq!(gate.cancel(FAST), [gone]);
    gate.revoke(SLOW);
    assert_eq!(go(&mut gate), [other]);
    gate.done(run);
    let [more, waits] = [(); 2].map(|()| gate.ask(ask(3, 1, None)));
    assert_eq!(go(&mut gate), [more]);
    gate.done(gone);
    assert!(go(&mut gate).is_empty(), "it never ran");
    gate.done(other);
    assert_eq!(go(&mut gate), [waits]);
}

#[test]
fn a_backlog_is_the_devices() {
    let work = |us, threads| Work { backlog: Backlog::whole(us), threads };
    let check = |own: Work, instances: u32, others: &[Work], expected: u64| {
        let all = std::iter::once(own).chain(others.iter().copied());
        assert_eq!(backlog(own, instances, all, 4), Backlog::whole(expected), "{own:?} {others:?}");
    };
    check(work(0, 1), 4, &[], 0);
    check(work(8_000, 1), 4, &[], 2_000); // alone: what waits over its instances
    check(work(8_000, 2), 2, &[], 4_000);
    check(work(0, 1), 4, &[work(8_000, 1)], 2_000); // idle beside a busy one
    check(work(4_000, 1), 4, &[work(8_000, 2)], 5_000);
    check(work(8_000, 1), 1, &[work(8_000, 1)], 8_000); // it has no second instance
    check(work(0, 1), 4, &[work(1_000, 64)], 1_000); // who wants more than there is has all
    check(work(u64::MAX, 9), 0, &[work(u64::MAX, 9)], u64::MAX);
}

/// One thing that happens at a gate.
#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(Ask),
    /// The run that is this far down the list ends.
    Done(usize),
    Hasten(u64, Option<Moment>),
    Cancel(u64),
    Revoke(u64),
}

fn any_deadline() -> impl Strategy<Value = Option<Moment>> {
    prop::option::of((0u64..50).prop_map(Moment::from_us))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..4, 0u32..12, any_deadline()).prop_map(|(replica, threads, deadline)| Step::Ask(ask(replica, threads, deadline))),
        6 => any::<usize>().prop_map(Step::Done),
        1 => (0u64..4, any_deadline()).prop_map(|(replica, deadline)| Step::Hasten(replica, deadline)),
        1 => (0u64..4).prop_map(Step::Cancel),
        1 => (0u64..4).prop_map(Step::Revoke),
    ]
}

/// A gate beside a plain account of what it was told.
struct Account {
    gate: Gate,
    capacity: u32,
    waiting: BTreeMap<Turn, (Ask, u32)>,
    running: BTreeMap<Turn, Ask>,
}

impl Account {
    fn new(capacity: u32) -> Self {
        Self { gate: Gate::new(capacity), capacity, waiting: BTreeMap::new(), running: BTreeMap::new() }
    }

    fn free(&self) -> u32 {
        self.capacity - self.running.values().map(|ask| ask.threads).sum::<u32>()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(ask) => {
                let turn = self.gate.ask(ask);
                let known = Ask { threads: ask.threads.clamp(1, self.capacity), ..ask };
                assert!(self.waiting.insert(turn, (known, 0)).is_none() && !self.running.contains_key(&turn));
            }
            Step::Done(at) => {
                let at = at % self.running.len().max(1);
                let Some(turn) = self.running.keys().nth(at).copied() else { return };
                self.running.remove(&turn);
                self.gate.done(turn);
                self.gate.done(turn); // the second time it changes nothing
            }
            Step::Hasten(replica, deadline) => {
                self.gate.hasten(replica, deadline);
                self.waiting.values_mut().filter(|(ask, _)| ask.replica == replica).for_each(|(ask, _)| ask.deadline = deadline);
            }
            Step::Cancel(replica) => {
                let gone: BTreeSet<Turn> = self.gate.cancel(replica).into_iter().collect();
                let expected = self.waiting.iter().filter(|(_, (ask, _))| ask.replica == replica).map(|(turn, _)| *turn);
                assert_eq!(gone, expected.collect());
                self.waiting.retain(|turn, _| !gone.contains(turn));
            }
            Step::Revoke(replica) => {
                self.gate.revoke(replica);
                self.running.retain(|_, ask| ask.replica != replica);
            }
        }
    }

    /// Who goes by the rules, looked for in the plainest way.
    fn expected(&self) -> Option<Turn> {
        let fits = |ask: &Ask| ask.threads <= self.free();
        if let Some((turn, (ask, _))) = self.waiting.iter().find(|(_, (_, lost))| *lost >= LOST_MAX) {
            return fits(ask).then_some(*turn);
        }
        let urgent = self.waiting.iter().filter_map(|(turn, (ask, _))| Some((ask.deadline?, *turn, ask))).min_by_key(|(d, t, _)| (*d, *t));
        match urgent {
            Some((_, turn, ask)) => fits(ask).then_some(turn),
            None => self.waiting.iter().find(|(_, (ask, _))| fits(ask)).map(|(turn, _)| *turn),
        }
    }

    /// All whose turn it is start.
    fn go(&mut self) {
        loop {
            let (expected, turn) = (self.expected(), self.gate.next());
            assert_eq!(turn, expected);
            let Some(turn) = turn else { break };
            let (ask, _) = self.waiting.remove(&turn).expect("it waited");
            assert!(ask.threads <= self.free(), "more threads than there are");
            self.waiting.range_mut(..turn).for_each(|(_, (_, lost))| *lost += 1);
            self.running.insert(turn, ask);
        }
        assert!(self.waiting.is_empty() || !self.running.is_empty(), "somebody waits beside an idle device");
        let starved = self.waiting.values().any(|(_, lost)| *lost >= LOST_MAX);
        let urgent = self.waiting.values().any(|(ask, _)| ask.deadline.is_some());
        let room = self.waiting.values().any(|(ask, _)| ask.threads <= self.free());
        assert!(starved || urgent || !room, "somebody waits beside free threads");
        let all_small = self.waiting.values().all(|(ask, _)| ask.threads <= self.free());
        assert!(self.waiting.is_empty() || self.free() == 0 || !all_small, "all would find room and wait");
    }
}

proptest! {
    /// Never more threads than there are; the earliest deadline first; somebody runs whenever something waits and its threads are free.
    #[test]
    fn turns_keep_the_rules(capacity in 0u32..9, steps in prop::collection::vec(any_step(), 0..200)) {
        let mut account = Account::new(capacity.max(1));
        for step in steps {
            account.step(step);
            account.go();
        }
    }

    /// Whoever asks goes before more than 20 that came later have.
    #[test]
    fn nobody_starves(capacity in 1u32..9, patient in (0u32..12, any_deadline()), others in prop::collection::vec((0u32..12, any_deadline()), 1..20)) {
        let mut gate = Gate::new(capacity);
        for (threads, deadline) in &others {
            gate.ask(ask(FAST, *threads, *deadline));
        }
        go(&mut gate);
        let patient = gate.ask(ask(SLOW, patient.0, patient.1));
        let (mut others, mut later, mut ran) = (others.into_iter().cycle(), 0, false);
        for _ in 0..1_000 {
            let (threads, deadline) = others.next().unwrap();
            gate.ask(ask(FAST, threads, deadline));
            if let Some(first) = gate.running.first().map(|run| run.turn) {
                gate.done(first);
            }
            let went = go(&mut gate);
            later += went.iter().take_while(|turn| **turn != patient).filter(|turn| **turn > patient).count();
            prop_assert!(later <= LOST_MAX as usize);
            ran = ran || went.contains(&patient);
            if ran {
                break;
            }
        }
        prop_assert!(ran);
    }
}
