//! Other people's routing, to compare ours with: selected by name, seen in the same harness, never the default.
//!
//! All of them take the candidates of the best standing there is, look at neither deadline nor distance, and refuse nothing.

use super::{Candidate, best_standing, pick};
use crate::Moment;
use std::fmt;
use std::str::FromStr;

/// How replicas are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutePolicy {
    /// Ours, [`super::choose`]: two by capacity, the earlier predicted finish, refusal at the door.
    #[default]
    Finish,
    /// Each in turn.
    RoundRobin,
    /// Each in turn, as often as its capacity says.
    WeightedRoundRobin,
    /// Two by capacity, the one with less in flight (P2C).
    TwoChoices,
    /// The greatest capacity / (in flight + 1) of all.
    LeastRequest,
    /// Two by capacity, the lower round trip · (in flight + 1); the round trip jumps up and decays (Finagle, linkerd).
    PeakEwma,
    /// Probes in a pool: of those not hot the fastest, else the one with least in flight (Wydrowski et al., NSDI 2024).
    Prequal,
}

/// A name that is no policy's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routing policy {got:?} is not one of {names}", names = RoutePolicy::ALL.map(|p| p.name()).join(", "))]
pub struct UnknownRoutePolicy {
    /// What was asked for, its first 64 characters.
    pub got: String,
}

impl RoutePolicy {
    /// Every one, ours first.
    pub const ALL: [Self; 7] =
        [Self::Finish, Self::RoundRobin, Self::WeightedRoundRobin, Self::TwoChoices, Self::LeastRequest, Self::PeakEwma, Self::Prequal];

    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::TwoChoices => "two-choices",
            Self::LeastRequest => "least-request",
            Self::PeakEwma => "peak-ewma",
            Self::Prequal => "prequal",
        }
    }
}

impl fmt::Display for RoutePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RoutePolicy {
    type Err = UnknownRoutePolicy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| UnknownRoutePolicy { got: name.chars().take(64).collect() })
    }
}

/// What a baseline remembers between requests. Candidates are known by position: when their set changes, begin with a new one.
#[derive(Debug, Clone)]
pub enum Baseline {
    /// The position whose turn was last.
    RoundRobin(Option<usize>),
    /// What each has saved up since its last turn.
    WeightedRoundRobin(Vec<f64>),
    /// Nothing.
    TwoChoices,
    /// Nothing.
    LeastRequest,
    /// The round trip of each.
    PeakEwma(Vec<Ewma>),
    /// The pool.
    Prequal(Vec<Probe>),
}

impl Baseline {
    /// That of `policy` for so many replicas; `None` for ours, which is [`super::choose`].
    pub fn new(policy: RoutePolicy, replicas: usize) -> Option<Self> {
        Some(match policy {
            RoutePolicy::Finish => return None,
            RoutePolicy::RoundRobin => Self::RoundRobin(None),
            RoutePolicy::WeightedRoundRobin => Self::WeightedRoundRobin(vec![0.0; replicas]),
            RoutePolicy::TwoChoices => Self::TwoChoices,
            RoutePolicy::LeastRequest => Self::LeastRequest,
            RoutePolicy::PeakEwma => Self::PeakEwma(vec![Ewma::default(); replicas]),
            RoutePolicy::Prequal => Self::Prequal(Vec::with_capacity(POOL_MAX)),
        })
    }

    /// The replica that takes a request at `now`; `None` when there is none. `draws` are two random numbers in 0..1.
    pub fn choose(&mut self, candidates: &[Candidate], now: Moment, draws: [f64; 2]) -> Option<usize> {
        let standing = best_standing(candidates)?;
        let eligible = || candidates.iter().enumerate().filter(|(_, c)| c.standing == standing);
        let two = |cost: &dyn Fn(usize, &Candidate) -> f64| {
            let [one, two] = draws.map(|draw| pick(|| eligible().map(|(i, c)| ((i, c), c.capacity())), draw));
            let (a, b) = (one?, two?);
            Some(if cost(b.0, b.1) < cost(a.0, a.1) { b.0 } else { a.0 })
        };
        match self {
            Self::RoundRobin(last) => {
                let next = eligible().find(|(i, _)| last.is_none_or(|last| *i > last)).or_else(|| eligible().next());
                *last = next.map(|(i, _)| i);
                *last
            }
            Self::WeightedRoundRobin(saved) => smooth(saved, || eligible().map(|(i, c)| (i, c.capacity()))),
            Self::TwoChoices => two(&|_, c| f64::from(c.in_flight)),
            Self::LeastRequest => {
                let share = |c: &Candidate| c.capacity() / (f64::from(c.in_flight) + 1.0);
                eligible().max_by(|(_, a), (_, b)| share(a).total_cmp(&share(b))).map(|(i, _)| i)
            }
            Self::PeakEwma(trips) => two(&|i, c| {
                let trip = trips.get(i).map_or(0.0, |t| t.at(now));
                // Unknown: what the profile says, so that a new one is neither flooded nor avoided.
                let trip = if trip > 0.0 { trip } else { c.slow * (c.alpha_us + c.beta_us) };
                trip * (f64::from(c.in_flight) + 1.0)
            }),
            Self::Prequal(pool) => {
                probe(pool, candidates, || eligible().map(|(i, _)| i), now, draws);
                take(pool, |i| candidates.get(i).is_some_and(|c| c.standing == standing)).or_else(|| eligible().next().map(|(i, _)| i))
            }
        }
    }

    /// The replica at `index` answered at `now` after `us`.
    pub fn answered(&mut self, index: usize, now: Moment, us: u64) {
        if let Self::PeakEwma(trips) = self
            && let Some(trip) = trips.get_mut(index)
        {
            trip.observe(now, us);
        }
    }
}

/// Smooth weighted round robin, as nginx has it: each saves its weight, the richest pays for all.
fn smooth<I: Iterator<Item = (usize, f64)>>(saved: &mut [f64], weights: impl Fn() -> I) -> Option<usize> {
    let mut richest: Option<(usize, f64)> = None;
    for (i, weight) in weights() {
        let Some(own) = saved.get_mut(i) else { continue };
        *own += weight;
        if richest.is_none_or(|(_, most)| *own > most) {
            richest = Some((i, *own));
        }
    }
    let (i, _) = richest?;
    if let Some(own) = saved.get_mut(i) {
        *own -= weights().map(|(_, weight)| weight).sum::<f64>();
    }
    Some(i)
}

/// Time in which a peak loses 1 - 1/e of itself, in microseconds.
const DECAY_US: f64 = 10_000_000.0;

/// A round trip that jumps up to a peak and decays from it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ewma {
    us: f64,
    seen: Moment,
}

impl Ewma {
    fn observe(&mut self, now: Moment, us: u64) {
        let us = us as f64;
        let kept = (-(now.us_since(self.seen) as f64) / DECAY_US).exp();
        self.us = if us > self.us { us } else { self.us * kept + us * (1.0 - kept) };
        self.seen = now;
    }

    fn at(&self, now: Moment) -> f64 {
        self.us * (-(now.us_since(self.seen) as f64) / DECAY_US).exp()
    }
}

/// Probes kept.
const POOL_MAX: usize = 16;
/// A probe older than this is forgotten, in microseconds.
const PROBE_AGE_US_MAX: u64 = 1_000_000;
/// This share of the probes is not hot: 2^-0.25.
const COLD_SHARE: f64 = 0.840_896_415;

/// What one replica said of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    index: usize,
    in_flight: f64,
    latency_us: f64,
    asked: Moment,
}

/// Three uniform probes. What a gateway knows already stands in for the answer: the worker's forecast, and what is in flight from all.
fn probe<I: Iterator<Item = usize>>(
    pool: &mut Vec<Probe>,
    candidates: &[Candidate],
    eligible: impl Fn() -> I,
    now: Moment,
    [a, b]: [f64; 2],
) {
    pool.retain(|probe| now.us_since(probe.asked) <= PROBE_AGE_US_MAX);
    let count = eligible().count();
    // The sum of two is uniform too, and of no one's choosing.
    for draw in [a, b, (a + b).fract()] {
        let nth = ((draw * count as f64) as usize).min(count.saturating_sub(1));
        let Some(index) = eligible().nth(nth) else { continue };
        let Some(c) = candidates.get(index) else { continue };
        if pool.len() >= POOL_MAX {
            pool.remove(0);
        }
        let latency_us = c.backlog_us as f64 + c.slow * (c.alpha_us + c.beta_us);
        pool.push(Probe { index, in_flight: f64::from(c.in_flight) * c.senders.max(1.0), latency_us, asked: now });
    }
}

/// Hot-cold: the fastest of those not hot, else the one with least in flight. The probe is used up; one more in flight is added to
/// others of the same replica.
fn take(pool: &mut Vec<Probe>, is_eligible: impl Fn(usize) -> bool) -> Option<usize> {
    pool.retain(|probe| is_eligible(probe.index));
    let mut loads: smallvec::SmallVec<[f64; POOL_MAX]> = pool.iter().map(|probe| probe.in_flight).collect();
    loads.sort_unstable_by(f64::total_cmp);
    let hot = loads.get(((loads.len() as f64 * COLD_SHARE) as usize).min(loads.len().saturating_sub(1))).copied()?;
    let key = |probe: &Probe| if probe.in_flight < hot { (0, probe.latency_us) } else { (1, probe.in_flight) };
    let order = |a: &Probe, b: &Probe| key(a).0.cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1));
    let (at, best) = pool.iter().copied().enumerate().min_by(|(_, a), (_, b)| order(a, b))?;
    pool.remove(at);
    for probe in pool.iter_mut().filter(|probe| probe.index == best.index) {
        probe.in_flight += 1.0;
    }
    Some(best.index)
}

/// A zone as Envoy's rule sees it: shares of all, each in 0..1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZoneShare {
    /// Of the gateways.
    pub gateways: f64,
    /// Of the healthy replicas.
    pub replicas: f64,
}

/// The share of its traffic that a gateway in zone `here` sends to zone `to`: as much as fits stays, the rest goes where replicas are
/// left over.
pub fn envoy_zone_share(zones: &[ZoneShare], here: usize, to: usize) -> f64 {
    let (Some(own), Some(target)) = (zones.get(here), zones.get(to)) else { return 0.0 };
    let stay = if own.gateways > 0.0 { (own.replicas / own.gateways).min(1.0) } else { 1.0 };
    if here == to {
        return stay;
    }
    let left_over = |zone: &ZoneShare| (zone.replicas - zone.gateways).max(0.0);
    let total: f64 = zones.iter().map(left_over).sum();
    if total > 0.0 { (1.0 - stay) * left_over(target) / total } else { 0.0 }
}

#[cfg(test)]
mod tests;
