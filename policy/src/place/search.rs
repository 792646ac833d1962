//! The search: add, one after another, what the prices of the linear part say is worth most; make room by what is worth least.

use super::flow::{Flow, flow};
use super::{Device, Pair, Problem, Solution};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Candidates whose gain is computed in each step.
const CANDIDATES: usize = 6;
/// With so many loads left, several are added at once: a first start has hundreds.
const TOGETHER_MIN: usize = 8;
/// Most of those, and of the loads left at most this part: prices hold for the first few, and a load once spent is hard to win back.
const TOGETHER_MAX: usize = 24;
const TOGETHER_PART: usize = 4;
/// Swaps that gained nothing, one after the other, after which no more are tried.
const SWAPS_REFUSED_MAX: usize = 12;
/// Share of a full device that a new replica is expected to win from what runs there.
const WON_SHARE: f64 = 0.3;
/// Least gain over staying, as a share of what all rows are worth, for which anything is loaded: below it noise would move replicas.
pub const GAIN_MIN: f64 = 3e-3;
/// Least gain of a step, as a share of what all rows are worth: below it is what an interior point is off by.
const STEP_GAIN_MIN: f64 = 1e-5;
/// Prices and flows below this share are nothing: an interior point is never on the edge.
const NOTHING: f64 = 1e-6;

/// The best plan found while `more` says so. Deterministic for the same answers.
///
/// Replicas that are missing for redundancy are placed in any case; beyond that the plan stays as it is unless another is worth
/// [`GAIN_MIN`] more.
pub fn solve(problem: &Problem, more: &mut dyn FnMut() -> bool) -> Solution {
    let mut search = Search::new(problem);
    let redundant = search.add_redundancy();
    search.reflow();
    let base = search.clone();
    search.climb(more);
    let worth = problem.worth();
    let keep = !redundant && search.objective - base.objective <= GAIN_MIN * worth;
    let programs = search.programs;
    if keep { base.solution(programs) } else { search.solution(programs) }
}

#[derive(Clone)]
struct Search<'p> {
    problem: &'p Problem,
    rate: f64,
    /// Of each model, distinct nodes and zones that redundancy wants.
    spread_min: Rc<[(usize, usize)]>,
    placed: Vec<bool>,
    tally: Tally,
    flow: Flow,
    objective: f64,
    programs: usize,
}

/// Sums over what is placed.
#[derive(Clone, Default, PartialEq)]
struct Tally {
    /// Loads in all.
    loads: usize,
    devices: Vec<Load>,
    /// Of each pair: it is there, and its model would be below its redundancy without it.
    needed: Vec<bool>,
}

/// What is placed on a device.
#[derive(Clone, Copy, Default, PartialEq)]
struct Load {
    bytes: u64,
    loads: usize,
    load_s: f64,
    /// Share of its allowance in use.
    busy: f64,
}

/// A change of what is placed: one pair more, others less.
struct Step {
    add: usize,
    evict: Vec<usize>,
}

impl<'p> Search<'p> {
    fn new(problem: &'p Problem) -> Self {
        let placed = problem.pairs.iter().map(|pair| pair.placed || pair.fixed).collect();
        let spread_min = (0..problem.models.len()).map(|model| wanted_spread(problem, model)).collect();
        let (rate, tally, flow) = (problem.rate(), Tally::default(), Flow::default());
        let mut search = Self { problem, rate, spread_min, placed, tally, flow, objective: 0.0, programs: 0 };
        search.reflow();
        search
    }

    fn solution(self, programs: usize) -> Solution {
        let Self { placed, flow, objective, .. } = self;
        let Flow { rates, unserved, row_prices, time_prices, .. } = flow;
        Solution { placed, flow: rates, unserved, objective, row_prices, time_prices, programs }
    }

    fn reflow(&mut self) {
        self.flow = flow(self.problem, &self.placed);
        self.count();
        self.objective = self.flow.value - self.problem.fixed_cost(&self.placed, self.rate);
        self.programs = self.programs.saturating_add(1);
    }

    fn there(&self) -> impl Iterator<Item = (usize, &'p Pair)> + '_ {
        self.problem.pairs.iter().enumerate().filter(|(j, _)| self.is_placed(*j))
    }

    fn is_placed(&self, pair: usize) -> bool {
        self.placed.get(pair).copied().unwrap_or_default()
    }

    fn rate_of(&self, pair: usize) -> f64 {
        self.flow.rates.get(pair).copied().unwrap_or_default()
    }

    fn set(&mut self, pair: usize, placed: bool) {
        self.placed.iter_mut().skip(pair).take(1).for_each(|p| *p = placed);
    }

    fn apply(&mut self, step: &Step) {
        step.evict.iter().for_each(|j| self.set(*j, false));
        self.set(step.add, true);
    }

    /// Counts anew what is placed.
    fn count(&mut self) {
        let mut tally =
            Tally { devices: vec![Load::default(); self.problem.devices.len()], needed: vec![false; self.placed.len()], loads: 0 };
        let mut models: Vec<Vec<(usize, Device)>> = vec![Vec::new(); self.problem.models.len()];
        for (j, pair) in self.there() {
            if let Some(load) = tally.devices.get_mut(pair.device) {
                load.bytes = load.bytes.saturating_add(pair.bytes);
                load.busy += self.rate_of(j) * pair.share();
                if !pair.placed {
                    load.loads += 1;
                    load.load_s += pair.load_s;
                    tally.loads += 1;
                }
            }
            if let (Some(model), Some(device)) = (models.get_mut(pair.model), self.problem.devices.get(pair.device)) {
                model.push((j, *device));
            }
        }
        for (there, (nodes_min, zones_min)) in models.iter().zip(&*self.spread_min) {
            for (j, _) in there {
                let others = || there.iter().filter(|(other, _)| other != j).map(|(_, device)| device);
                let (nodes, zones): (BTreeSet<_>, BTreeSet<_>) = others().map(|d| (d.node, d.zone)).unzip();
                let needed = nodes.len() < *nodes_min || zones.len() < *zones_min;
                tally.needed.iter_mut().skip(*j).take(1).for_each(|n| *n = needed);
            }
        }
        self.tally = tally;
    }

    fn is_needed(&self, pair: usize) -> bool {
        self.tally.needed.get(pair).copied().unwrap_or_default()
    }

    fn load(&self, device: usize) -> Load {
        self.tally.devices.get(device).copied().unwrap_or_default()
    }

    /// May another load be put on this pair's device, by the number and length of loads?
    fn may_load(&self, pair: &Pair) -> bool {
        self.may_load_less(pair, 0, 0.0)
    }

    /// May it be loaded in the place of another of its device? That may be a load of this very plan, such as one for redundancy.
    fn may_load_instead(&self, pair: &Pair, other: &Pair) -> bool {
        if other.placed { self.may_load(pair) } else { self.may_load_less(pair, 1, other.load_s) }
    }

    fn may_load_less(&self, pair: &Pair, loads: usize, load_s: f64) -> bool {
        if pair.placed {
            return true;
        }
        let (Some(device), load) = (self.problem.devices.get(pair.device), self.load(pair.device)) else { return false };
        let (all, here) = (self.tally.loads.saturating_sub(loads), load.loads.saturating_sub(loads));
        let in_time = here == 0 || load.load_s - load_s + pair.load_s <= device.load_s_max;
        // Redundancy may have gone beyond the bound, which a swap leaves as it is.
        (all < self.problem.loads_max || loads > 0) && here < device.loads_max && in_time
    }

    fn step_min(&self) -> f64 {
        STEP_GAIN_MIN * self.problem.worth()
    }

    fn loads_left(&self) -> usize {
        self.problem.loads_max.saturating_sub(self.tally.loads)
    }

    /// What must go for a pair to fit, in the order of what it is worth a byte; `None` where that is not enough.
    fn room_for(&self, add: &Pair) -> Option<Vec<usize>> {
        let capacity = self.problem.devices.get(add.device)?.bytes;
        let mut short = self.load(add.device).bytes.saturating_add(add.bytes).saturating_sub(capacity);
        if short == 0 {
            return Some(Vec::new());
        }
        let here = self.there().filter(|(_, p)| p.device == add.device);
        // Another variant of the model goes first: what it answers and stands for here, the new one will.
        let mut victims: Vec<_> = here.filter(|(j, p)| !p.fixed && (p.model == add.model || !self.is_needed(*j))).collect();
        let worth = |j: usize, p: &Pair| {
            let weight = self.problem.models.get(p.model).map_or(1.0, |m| m.weight);
            let rate = self.rate_of(j);
            if rate <= NOTHING * self.rate || p.model == add.model { 0.0 } else { weight * rate / (p.bytes.max(1) as f64) }
        };
        victims
            .sort_by(|(a, p), (b, q)| worth(*a, p).total_cmp(&worth(*b, q)).then(Reverse(p.bytes).cmp(&Reverse(q.bytes))).then(a.cmp(b)));
        let mut evict = Vec::new();
        for (j, pair) in victims {
            if short == 0 {
                break;
            }
            // Two of one model must not go together where one of them is needed.
            if !evict.iter().filter_map(|e: &usize| self.problem.pairs.get(*e)).any(|e| e.model == pair.model) {
                short = short.saturating_sub(pair.bytes);
                evict.push(j);
            }
        }
        (short == 0).then_some(evict)
    }

    /// Nodes and zones that a model is on.
    fn spread(&self, model: usize) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let devices = self.there().filter(|(_, p)| p.model == model);
        devices.filter_map(|(_, p)| self.problem.devices.get(p.device)).map(|d| (d.node, d.zone)).unzip()
    }

    /// Adds replicas where there are too few, models with the fewest ways first: to a new zone, of the most accurate variant that is not too
    /// slow there, on the idlest device. However many loads that takes: what is lost with one machine cannot wait. True if any.
    fn add_redundancy(&mut self) -> bool {
        let mut ways: BTreeMap<usize, usize> = BTreeMap::new();
        self.problem.pairs.iter().for_each(|p| *ways.entry(p.model).or_default() += 1);
        let mut order: Vec<_> = ways.into_iter().map(|(model, ways)| (ways, model)).collect();
        order.sort_unstable();
        let mut busy: Vec<f64> = self.tally.devices.iter().map(|load| load.busy).collect();
        let mut added = false;
        for (_, model) in order {
            let (nodes_min, zones_min) = self.spread_min.get(model).copied().unwrap_or_default();
            let weight = self.problem.models.get(model).map_or(0.0, |m| m.rate / m.replicas_min.max(1) as f64);
            loop {
                let (nodes, zones) = self.spread(model);
                if nodes.len() >= nodes_min && zones.len() >= zones_min {
                    break;
                }
                let needs_zone = zones.len() < zones_min;
                let candidates = self.problem.pairs.iter().enumerate().filter(|(j, p)| p.model == model && !self.is_placed(*j));
                let options = candidates.filter_map(|(j, p)| {
                    let device = self.problem.devices.get(p.device)?;
                    let new = if needs_zone { !zones.contains(&device.zone) } else { !nodes.contains(&device.node) };
                    let evict = new.then(|| self.room_for(p)).flatten()?;
                    let load = busy.get(p.device).copied().unwrap_or_default() + weight * p.share();
                    Some(([f64::from(load > 1.0), -p.accuracy, load], p.tie, Step { add: j, evict }))
                });
                let order = |(a, b): (&f64, &f64)| a.total_cmp(b);
                let options = options.min_by(|a, b| a.0.iter().zip(&b.0).map(order).find(|o| o.is_ne()).unwrap_or(a.1.cmp(&b.1)));
                let Some((_, _, step)) = options else { break };
                if let Some(pair) = self.problem.pairs.get(step.add) {
                    busy.iter_mut().skip(pair.device).take(1).for_each(|b| *b += weight * pair.share());
                }
                self.apply(&step);
                self.count();
                added = true;
            }
        }
        added
    }

    fn climb(&mut self, more: &mut dyn FnMut() -> bool) {
        let before = self.objective;
        let mut together = true;
        while self.loads_left() > 0 && more() {
            let scored = self.candidates();
            if scored.is_empty() {
                break;
            }
            if together && self.loads_left() >= TOGETHER_MIN {
                together = self.add_together(&scored);
                continue;
            }
            if !self.add_best(&scored, more) {
                break;
            }
        }
        self.swap(more);
        // While loads are left, whatever gains has been added; and where they gained too little to move anything, other loads hardly would:
        // a fleet in which rates only jitter is done here.
        let pays = self.objective - before > GAIN_MIN * self.problem.worth();
        while pays && self.loads_left() == 0 && self.revise(more) {
            self.swap(more);
        }
        self.drop_idle();
    }

    /// Absent pairs by what they promise: (score, pair), best first, one of each variant on each kind of device first.
    fn candidates(&self) -> Vec<(f64, usize)> {
        // What other variants of a model take of a device, a better one there wins for sure.
        let mut own: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        self.there().for_each(|(j, p)| *own.entry((p.model, p.device)).or_default() += self.rate_of(j) * p.share());
        let mut scored: Vec<(f64, usize)> = Vec::new();
        for (j, pair) in self.problem.pairs.iter().enumerate().filter(|(j, _)| !self.is_placed(*j)) {
            let Some(model) = self.problem.models.get(pair.model) else { continue };
            let row_price = self.flow.row_prices.get(pair.model).copied().unwrap_or_default();
            let time_price = self.flow.time_prices.get(pair.device).copied().unwrap_or_default();
            let gain = model.weight * pair.accuracy - row_price - time_price * pair.share();
            let slack = 1.0 - self.load(pair.device).busy;
            let own = own.get(&(pair.model, pair.device)).copied().unwrap_or_default();
            let room = (WON_SHARE + own).min(1.0).max(slack);
            let rows = model.rate.min(room / pair.share());
            let score = gain * rows - self.problem.load_cost(pair, self.rate) - self.rate * super::IDLE_COST;
            if score > 0.0 {
                scored.push((score, j));
            }
        }
        let tie = |j: usize| self.problem.pairs.get(j).map_or(0, |p| p.tie);
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(tie(a.1).cmp(&tie(b.1))));
        scored
    }

    /// Adds the best of different models on different devices at once, and takes back what nothing flows through. False: no gain.
    fn add_together(&mut self, scored: &[(f64, usize)]) -> bool {
        let before = self.clone();
        let (mut models, mut devices, mut added) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let most = TOGETHER_MAX.min(self.loads_left() / TOGETHER_PART);
        for (_, j) in scored {
            let Some(pair) = self.problem.pairs.get(*j) else { continue };
            if added.len() >= most || models.contains(&pair.model) || devices.contains(&pair.device) || !self.may_load(pair) {
                continue;
            }
            let Some(evict) = self.room_for(pair) else { continue };
            models.insert(pair.model);
            devices.insert(pair.device);
            self.apply(&Step { add: *j, evict });
            self.count();
            added.push(*j);
        }
        if added.len() < 2 {
            *self = before;
            return false;
        }
        self.reflow();
        let useless: Vec<_> = added.into_iter().filter(|j| self.rate_of(*j) <= NOTHING * self.rate).collect();
        if !useless.is_empty() {
            useless.iter().for_each(|j| self.set(*j, false));
            self.reflow();
        }
        if self.objective <= before.objective + self.step_min() {
            let programs = self.programs;
            *self = Self { programs, ..before };
            return false;
        }
        true
    }

    /// Adds the one of the best candidates that gains most. False: none does.
    fn add_best(&mut self, scored: &[(f64, usize)], more: &mut dyn FnMut() -> bool) -> bool {
        let mut kinds = BTreeSet::new();
        let mut best: Option<Self> = None;
        let mut tried = 0;
        for (_, j) in scored {
            let Some(pair) = self.problem.pairs.get(*j) else { continue };
            let kind = self.problem.devices.get(pair.device).map_or(0, |d| d.kind);
            if tried >= CANDIDATES || (tried > 0 && !more()) {
                break;
            }
            if kinds.contains(&(pair.model, pair.variant, kind)) || !self.may_load(pair) {
                continue;
            }
            let Some(evict) = self.room_for(pair) else { continue };
            kinds.insert((pair.model, pair.variant, kind));
            tried += 1;
            let mut next = Self { programs: 0, ..self.clone() };
            next.apply(&Step { add: *j, evict });
            next.reflow();
            self.programs = self.programs.saturating_add(1);
            if next.objective > best.as_ref().map_or(self.objective + self.step_min(), |b| b.objective) {
                best = Some(next);
            }
        }
        let programs = self.programs;
        let found = best.is_some();
        if let Some(best) = best {
            *self = Self { programs, ..best };
        }
        found
    }

    /// Takes one placed pair's place by another of the same device, where the prices promise something, while there is time.
    fn swap(&mut self, more: &mut dyn FnMut() -> bool) {
        let mut refused: BTreeSet<(usize, usize)> = BTreeSet::new();
        while refused.len() < SWAPS_REFUSED_MAX && more() {
            let Some((out, add)) = self.best_swap(&refused) else { return };
            let mut next = self.clone();
            next.apply(&Step { add, evict: vec![out] });
            next.reflow();
            if next.objective > self.objective + self.step_min() {
                *self = next;
                refused.clear();
            } else {
                self.programs = next.programs;
                refused.insert((out, add));
            }
        }
    }

    /// Spends loads better: takes some back and adds what gains most without them. First one, the one that answers least first, then two
    /// at once, since what one of them evicted may be what keeps the other from its place. True if that won anything.
    fn revise(&mut self, more: &mut dyn FnMut() -> bool) -> bool {
        let value = |j: usize, p: &Pair| self.problem.models.get(p.model).map_or(0.0, |m| m.weight * p.accuracy * self.rate_of(j));
        let loaded = self.there().filter(|(j, p)| !p.placed && !p.fixed && !self.is_needed(*j));
        let mut loaded: Vec<_> = loaded.map(|(j, p)| (value(j, p), j)).collect();
        loaded.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let two = loaded.iter().enumerate().flat_map(|(n, (_, second))| loaded.iter().take(n).map(|(_, first)| vec![*first, *second]));
        let attempts: Vec<Vec<usize>> = loaded.iter().map(|(_, j)| vec![*j]).chain(two).collect();
        for out in attempts {
            if !more() {
                break;
            }
            let mut next = self.clone();
            next.take_back(&out);
            while next.loads_left() > 0 && more() {
                let mut scored = next.candidates();
                scored.retain(|(_, j)| !out.contains(j));
                if !next.add_best(&scored, more) {
                    break;
                }
            }
            if next.objective > self.objective + self.step_min() {
                *self = next;
                return true;
            }
            self.programs = next.programs;
        }
        false
    }

    /// Undoes loads, and puts back on their devices what was there and fits: that costs nothing.
    fn take_back(&mut self, out: &[usize]) {
        out.iter().for_each(|j| self.set(*j, false));
        self.count();
        let devices: BTreeSet<_> = out.iter().filter_map(|j| self.problem.pairs.get(*j)).map(|p| p.device).collect();
        for (j, pair) in self.problem.pairs.iter().enumerate().filter(|(_, p)| p.placed && devices.contains(&p.device)) {
            let capacity = self.problem.devices.get(pair.device).map_or(0, |d| d.bytes);
            if !self.is_placed(j) && self.load(pair.device).bytes.saturating_add(pair.bytes) <= capacity {
                self.set(j, true);
                self.tally.devices.iter_mut().skip(pair.device).take(1).for_each(|load| load.bytes = load.bytes.saturating_add(pair.bytes));
            }
        }
        self.reflow();
    }

    /// The swap that promises most, of those not refused: what goes loses what flows through it at prices, what comes wins at them.
    fn best_swap(&self, refused: &BTreeSet<(usize, usize)>) -> Option<(usize, usize)> {
        let mut here: BTreeMap<usize, Vec<(usize, &Pair)>> = BTreeMap::new();
        self.there().for_each(|(j, p)| here.entry(p.device).or_default().push((j, p)));
        let mut best: Option<(f64, usize, usize)> = None;
        for (add, pair) in self.problem.pairs.iter().enumerate().filter(|(j, _)| !self.is_placed(*j)) {
            let (Some(model), Some(device)) = (self.problem.models.get(pair.model), self.problem.devices.get(pair.device)) else {
                continue;
            };
            let row_price = self.flow.row_prices.get(pair.model).copied().unwrap_or_default();
            let time_price = self.flow.time_prices.get(pair.device).copied().unwrap_or_default();
            let gain = model.weight * pair.accuracy - row_price - time_price * pair.share();
            if gain <= 0.0 {
                continue;
            }
            let used = self.load(pair.device).bytes;
            for (out, other) in here.get(&pair.device).into_iter().flatten() {
                let fits = used.saturating_sub(other.bytes).saturating_add(pair.bytes) <= device.bytes;
                if !fits
                    || other.fixed
                    || !self.may_load_instead(pair, other)
                    || refused.contains(&(*out, add))
                    || (other.model != pair.model && self.is_needed(*out))
                {
                    continue;
                }
                let freed = self.rate_of(*out) * other.share();
                let rows = model.rate.min((freed + WON_SHARE) / pair.share());
                // What flows through the other is lost only as far as nobody else takes it at the same price.
                let score = gain * rows - self.problem.load_cost(pair, self.rate);
                if score > 0.0 && best.is_none_or(|(s, _, _)| score > s) {
                    best = Some((score, *out, add));
                }
            }
        }
        best.map(|(_, out, add)| (out, add))
    }

    /// Lets go what nothing flows through and redundancy does not want, the largest first.
    fn drop_idle(&mut self) {
        let mut idle: Vec<_> =
            self.there().filter(|(j, p)| !p.fixed && self.rate_of(*j) <= NOTHING * self.rate).map(|(j, p)| (Reverse(p.bytes), j)).collect();
        idle.sort_unstable();
        let before = self.tally.clone();
        for (_, j) in idle {
            if !self.is_needed(j) {
                self.set(j, false);
                self.count();
            }
        }
        if self.tally != before {
            self.reflow();
        }
    }
}

/// The distinct nodes and zones that redundancy wants of a model, as far as there are so many it can be on.
fn wanted_spread(problem: &Problem, model: usize) -> (usize, usize) {
    let wanted = problem.models.get(model).map_or(0, |m| m.replicas_min);
    let possible = problem.pairs.iter().filter(|p| p.model == model).filter_map(|p| problem.devices.get(p.device));
    let (nodes, zones): (BTreeSet<_>, BTreeSet<_>) = possible.map(|d| (d.node, d.zone)).unzip();
    (wanted.min(nodes.len()), wanted.min(zones.len()).min(2))
}
