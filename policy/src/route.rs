//! Which variant and replica take a request, or that none can. Where a plan says how many rows are meant for each replica, two are drawn by
//! that, for it knows what other models need of their devices. Without a plan, of each accuracy there is (a tier), from the best down: two candidates
//! drawn by capacity, the earlier predicted finish wins, if it leaves over half of the time. Where no tier does, the earliest finish of
//! all that were drawn; with a deadline, all are looked at before the request is refused, and it is refused at once.
//!
//! A prediction and a preference are two numbers. [`Candidate::finish_us`] is time that will really pass and is held against the
//! deadline. Distance is added only to compare replicas: traffic across zones costs money, not the caller's time.
//!
//! Constants and their order of merit come from a simulation of 12 unequal replicas behind 3 gateways; `tests/comparison.rs` is a small
//! copy of it.
//!
//! Not here: floors and pins (the caller excludes who is below or not meant), doubt and ejection (it says what [`Standing`] a replica
//! has), retries.

mod arrivals;
pub mod baseline;
mod headroom;
mod path;
mod pressure;
mod spill;

pub use arrivals::Arrivals;
pub use headroom::Headroom;
pub use path::Path;
pub use pressure::{spare, wait_us_max};
pub use spill::Spill;

use crate::Moment;

/// A tier is taken whose answer is expected within this part of the time there is, and in 99 of 100 cases within the safe part. The rest is for errors of the prediction, and for those
/// who come next: a better tier that is filled up to the deadline loses more than it gives (simulated: 5.8 % at .7 of the capacity, against
/// 0.7 % at this).
const COMFORT: f64 = 0.45;
/// The same of a tier better than that of the last request.
const COMFORT_TO_RISE: f64 = 0.36;
/// The same of a replica for which the plan means rows: the plan has left room for those who come next.
const COMFORT_PLANNED: f64 = 0.6;
/// Who answers more accurately than is planned takes nothing from anybody while the device has nothing to do for this part of the time.
const SPARE_MIN: f64 = 0.5;
/// A new replica is offered this share of its capacity ...
const SLOW_START_SHARE: f64 = 0.1;
/// ... and all of it at this age, in microseconds.
const SLOW_START_US: u64 = 10_000_000;
/// Bounds of [`Candidate::senders`]: one second of arrivals tells no more than this.
const SENDERS: (f64, f64) = (1.0, 8.0);
/// What a replica in another zone of this site must be faster by, in microseconds.
const OTHER_ZONE_US: f64 = 5_000.0;
/// What a replica in another site must be faster by, in microseconds; the round trip comes on top.
const OTHER_SITE_US: f64 = 20_000.0;

/// What a gateway knows of a replica at the moment of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Microseconds of a batch for each of its rows, as its device class measured it.
    pub alpha_us: f64,
    /// Microseconds of a batch whatever its rows.
    pub beta_us: f64,
    /// p99 of a run over its prediction.
    pub kappa: f64,
    /// How much slower than its device class it has been of late: 1 is as fast.
    pub slow: f64,
    /// Most rows of one engine call.
    pub rows_max: u32,
    /// Rows of the largest batch that keeps the latency target.
    pub rows_useful: u32,
    /// Engine threads.
    pub instances: u32,
    /// The worker's own forecast, in microseconds: of what waits that whose deadline is before the request's, and the rest of the running
    /// batches, over its instances.
    pub backlog_us: u64,
    /// When that forecast came.
    pub reported: Moment,
    /// Rows this gateway has sent since that forecast.
    pub rows_since_report: u32,
    /// Microseconds of work, over its instances, that this gateway has sent since to others on the same device.
    pub beside_us: f64,
    /// Of its variant, relative to the reference: 1 is the reference's.
    pub accuracy: f64,
    /// Longest wait that may be in front of this request, in microseconds: [`wait_us_max`].
    pub wait_us_max: f64,
    /// Rows a second that the plan means for it; 0 where it means none, and for all where there is no plan.
    pub planned: f64,
    /// Share of the time of late in which its device had nothing to wait for: [`spare`].
    pub spare: f64,
    /// Arrivals from all gateways over arrivals from this one, as the worker tells it: others send too.
    pub senders: f64,
    /// Requests this gateway has sent and not seen answered.
    pub in_flight: u32,
    /// Round trip without any work, in microseconds.
    pub rtt_us: f64,
    /// Bytes a microsecond on the way there; infinite where they do not travel or nobody measured it.
    pub bytes_per_us: f64,
    /// Where it is, seen from here.
    pub distance: Distance,
    /// Microseconds since it became routable.
    pub age_us: u64,
    /// Can it be drawn at all?
    pub standing: Standing,
}

/// Whether a replica takes part in a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Good,
    /// Only when no good one is left: it failed a moment ago.
    Doubtful,
    /// No: there is no connection to it. Like a doubtful one it is not healthy.
    Unreachable,
    /// No: this request has been there already, or does not want its variant. Says nothing of its health.
    Excluded,
}

/// Where a replica is, seen from a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// In the same zone of the same site.
    SameZone,
    /// In the same site.
    SameSite,
    /// In another site.
    OtherSite,
}

/// What a choice must know of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// The moment of the choice.
    pub now: Moment,
    /// Rows it brings; 0 counts as 1.
    pub rows: u32,
    /// Bytes of its inputs.
    pub bytes: u64,
    /// Microseconds until nobody wants the answer. Without it only full queues refuse.
    pub remaining_us: Option<u64>,
    /// Microseconds that its model promises. A tier is worth waiting for as far as it does not use this up.
    pub slo_us: Option<f64>,
    /// Accuracy of the tier that the last request was sent to: a better one must have more to spare, so that they do not alternate.
    pub tier: f64,
    /// May it leave this site? [`Spill::may_cross`] says.
    pub may_cross: bool,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Position among the candidates.
    pub index: usize,
    /// Microseconds until its answer, as predicted. [`Headroom::record`] wants to know how that went.
    pub predicted_us: u64,
    /// Does it leave this site on the budget? For [`Spill::record`].
    pub spilled: bool,
}

/// Why a request goes nowhere. Asking another worker is no use: all were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Every candidate is excluded or unreachable.
    NoReplica,
    /// Even an idle replica would be too slow: DEADLINE_EXCEEDED.
    Hopeless {
        /// What the fastest would take, idle, in microseconds.
        idle_us: u64,
        /// What the deadline leaves, without the headroom, in microseconds.
        allowed_us: u64,
    },
    /// All are too busy: UNAVAILABLE.
    Busy {
        /// After this many microseconds the first of them would have been in time.
        retry_us: u64,
    },
}

impl Distance {
    /// From `here` to `there`, both (site, zone).
    pub fn between(here: (&str, &str), there: (&str, &str)) -> Self {
        match (here.0 == there.0, here.1 == there.1) {
            (true, true) => Self::SameZone,
            (true, false) => Self::SameSite,
            (false, _) => Self::OtherSite,
        }
    }
}

impl Candidate {
    /// Predicted microseconds until `request` is answered; infinite where its numbers make no sense.
    ///
    /// The forecast of the backlog is worked off as it ages. Since then this gateway sent rows, and others sent as many more as their
    /// share of the arrivals says. Those rows fill whole batches before the one that this request rides in.
    pub fn finish_us(&self, request: &Request) -> f64 {
        let backlog = self.backlog_us.saturating_sub(request.now.us_since(self.reported)) as f64;
        let sent = f64::from(self.rows_since_report) * self.senders.max(SENDERS.0).min(SENDERS.1);
        let batches = (sent / f64::from(self.rows_max.max(1))).floor();
        let ahead = self.slow * (self.alpha_us * sent + self.beta_us * batches) / f64::from(self.instances.max(1));
        let beside = self.beside_us * self.senders.max(SENDERS.0).min(SENDERS.1);
        sane(backlog + ahead + beside + self.idle_us(request))
    }

    /// Microseconds that its device is busy with `rows` rows more, over its instances.
    pub fn work_us(&self, rows: u32) -> f64 {
        let rows = f64::from(rows.max(1));
        let row_us = self.alpha_us + self.beta_us / f64::from(self.rows_max.max(1));
        sane(self.slow * rows * row_us / f64::from(self.instances.max(1)))
    }

    /// The same if nothing else were there.
    pub fn idle_us(&self, request: &Request) -> f64 {
        self.alone_us(request, self.kappa)
    }

    /// The same as a rule, and not in 99 of 100 cases.
    fn expected_us(&self, request: &Request) -> f64 {
        self.alone_us(request, 1.0)
    }

    /// With a run of `tail` times what is expected.
    fn alone_us(&self, request: &Request, tail: f64) -> f64 {
        let rows = request.rows.max(1);
        let batches = rows.div_ceil(self.rows_max.max(1));
        let run = self.slow * tail * (self.alpha_us * f64::from(rows) + self.beta_us * f64::from(batches));
        sane(self.rtt_us + run + request.bytes as f64 / self.bytes_per_us)
    }

    /// Has an instance nothing to do, as far as is known here?
    fn is_free(&self, request: &Request) -> bool {
        self.in_flight < self.instances && request.now.us_since(self.reported) >= self.backlog_us
    }

    /// Rows a microsecond it can take, which is its weight in a draw. Never zero, so that every replica can be drawn.
    pub fn capacity(&self) -> f64 {
        let rows = f64::from(self.rows_useful.max(1));
        let batch_us = sane(self.slow * (self.alpha_us * rows + self.beta_us)).max(1.0);
        let age = (self.age_us as f64 / SLOW_START_US as f64).min(1.0);
        let started = SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * age;
        (f64::from(self.instances.max(1)) * rows * started / batch_us).max(f64::MIN_POSITIVE)
    }

    /// Microseconds added to its finish where replicas are compared.
    fn reluctance_us(&self) -> f64 {
        match self.distance {
            Distance::SameZone => 0.0,
            Distance::SameSite => OTHER_ZONE_US,
            Distance::OtherSite => OTHER_SITE_US + self.rtt_us,
        }
    }
}

/// Of a candidate's variant, or 0 where that is no number.
fn accuracy(candidate: &Candidate) -> f64 {
    if candidate.accuracy.is_nan() { 0.0 } else { candidate.accuracy }
}

/// `us`, if it can be a length of time.
fn sane(us: f64) -> f64 {
    if us >= 0.0 { us } else { f64::INFINITY }
}

/// The replica that takes `request`. `headroom` is the model's, `draws` are two random numbers in 0..1, the same for every tier.
///
/// Without a deadline the latency target stands in for one where it comes to tiers, and nothing is refused. With neither, the most accurate
/// tier has it.
///
/// # Errors
/// [`Refusal`] when nobody may take it, or when it has a deadline and nobody can answer in time.
pub fn choose(candidates: &[Candidate], request: &Request, headroom: &Headroom, draws: [f64; 2]) -> Result<Choice, Refusal> {
    let field = Field::new(candidates, request).ok_or(Refusal::NoReplica)?;
    let remaining_us = request.remaining_us.map(|us| us as f64);
    let safe = 1.0 - headroom.share();
    // Of every tier the better of two that were drawn; then the earliest of those, whatever their tier.
    let mut earliest: Option<Entry> = None;
    let limit_us = remaining_us.unwrap_or(f64::INFINITY).min(request.slo_us.unwrap_or(f64::INFINITY));
    let planned = field.planned(draws).into_iter().flatten().reduce(Entry::better);
    // Who is in no hurry waits for the most accurate tier, whatever the plan means for those who are.
    if let Some(drawn) = planned.filter(|_| limit_us.is_finite()) {
        // A plan is for the demand of the last minute. Where a more accurate one has little to do now, it takes nothing from anybody.
        let meant = field.accuracy_of(&drawn);
        for tier in field.tiers().take_while(|tier| *tier > meant) {
            let free = |e: &Entry| e.is_free && e.is_comfortable(COMFORT, safe, limit_us);
            if let Some(found) = field.drawn(tier, draws).into_iter().flatten().filter(free).reduce(Entry::better) {
                return Ok(field.choice(found));
            }
        }
        if drawn.is_comfortable(COMFORT_PLANNED, safe, limit_us) {
            return Ok(field.choice(if remaining_us.is_none() { field.unhurried(drawn) } else { drawn }));
        }
        // In time where it is meant to be goes before comfort elsewhere: that is time which the plan means for others.
        let comfortable = field.all_planned().filter(|e| e.is_comfortable(COMFORT_PLANNED, safe, limit_us)).reduce(Entry::better);
        let in_time = || field.all_planned().filter(|e| e.fits && e.finish_us <= safe * limit_us).reduce(Entry::better);
        if let Some(found) = comfortable.or_else(in_time) {
            return Ok(field.choice(found));
        }
        earliest = Some(drawn);
    }
    for tier in field.tiers() {
        let comfort = if tier > request.tier { COMFORT_TO_RISE } else { COMFORT };
        let Some(drawn) = field.drawn(tier, draws).into_iter().flatten().reduce(Entry::better) else { continue };
        if drawn.is_comfortable(comfort, safe, limit_us) {
            return Ok(field.choice(if remaining_us.is_none() { field.unhurried(drawn) } else { drawn }));
        }
        earliest = Some(earliest.map_or(drawn, |e| e.better(drawn)));
    }
    let Some(remaining_us) = remaining_us else {
        return Ok(field.choice(field.unhurried(earliest.ok_or(Refusal::NoReplica)?)));
    };
    let allowed_us = safe * remaining_us;
    let in_time = |e: &Entry| e.finish_us <= allowed_us && e.fits;
    let found = earliest.filter(in_time);
    let found = found.or_else(|| field.near().filter(in_time).reduce(Entry::better));
    let found = found.or_else(|| field.open().filter(in_time).reduce(Entry::better));
    match found.or_else(|| field.idle_in_time(remaining_us)) {
        Some(entry) => Ok(field.choice(entry)),
        None => Err(field.refusal(allowed_us)),
    }
}

/// A candidate that may be taken.
#[derive(Debug, Clone, Copy)]
struct Entry {
    index: usize,
    /// What 99 of 100 take.
    finish_us: f64,
    /// What it takes as a rule.
    expected_us: f64,
    cost_us: f64,
    in_flight: u32,
    crosses: bool,
    /// Does it leave others on the device their time?
    fits: bool,
    /// Has an instance nothing to do, now and for most of the time?
    is_free: bool,
}

impl Entry {
    /// Does it leave over half of the time as a rule, and is it in time in 99 of 100 cases?
    fn is_comfortable(&self, comfort: f64, safe: f64, limit_us: f64) -> bool {
        limit_us.is_infinite() || (self.fits && self.expected_us <= comfort * limit_us && self.finish_us <= safe * limit_us)
    }

    /// The one with the lower cost; of equals the one with less in flight, then the first.
    fn better(self, other: Self) -> Self {
        let order = other.cost_us.total_cmp(&self.cost_us).then(other.in_flight.cmp(&self.in_flight));
        if order.is_lt() { other } else { self }
    }
}

/// The candidates of a choice, and which of them count.
struct Field<'c> {
    candidates: &'c [Candidate],
    request: &'c Request,
    /// The best there is.
    standing: Standing,
    /// Do zones count? Not when fewer than half of the replicas of this site are healthy: then they could not bear it.
    zones_count: bool,
}

impl<'c> Field<'c> {
    /// `None` when no candidate may be taken.
    fn new(candidates: &'c [Candidate], request: &'c Request) -> Option<Self> {
        let standing = best_standing(candidates)?;
        let here = || candidates.iter().filter(|c| c.distance != Distance::OtherSite && c.standing != Standing::Excluded);
        let healthy = here().filter(|c| c.standing == Standing::Good).count();
        let zones_count = healthy > 0 && healthy.saturating_mul(2) >= here().count();
        Some(Self { candidates, request, standing, zones_count })
    }

    fn standing(&self) -> impl Iterator<Item = (usize, &'c Candidate)> {
        let standing = self.standing;
        self.candidates.iter().enumerate().filter(move |(_, c)| c.standing == standing)
    }

    fn crosses(&self, candidate: &Candidate) -> bool {
        self.zones_count && candidate.distance == Distance::OtherSite
    }

    fn entry(&self, index: usize, candidate: &Candidate) -> Entry {
        let finish_us = candidate.finish_us(self.request);
        let reluctance_us = if self.zones_count { candidate.reluctance_us() } else { 0.0 };
        let wait_us = finish_us - candidate.idle_us(self.request);
        let expected_us = sane(wait_us + candidate.expected_us(self.request));
        Entry {
            index,
            finish_us,
            expected_us,
            cost_us: finish_us + reluctance_us,
            in_flight: candidate.in_flight,
            crosses: self.crosses(candidate),
            is_free: candidate.spare >= SPARE_MIN && candidate.is_free(self.request),
            fits: wait_us.is_nan() || wait_us <= candidate.wait_us_max,
        }
    }

    /// Those in this site, or all where zones do not count.
    fn near(&self) -> impl Iterator<Item = Entry> {
        self.standing().filter(|(_, c)| !self.crosses(c)).map(|(i, c)| self.entry(i, c))
    }

    /// All that this request may go to.
    fn open(&self) -> impl Iterator<Item = Entry> {
        self.standing().filter(|(_, c)| self.request.may_cross || !self.crosses(c)).map(|(i, c)| self.entry(i, c))
    }

    /// The accuracies there are near, from the best down. One that is no number counts as none.
    fn tiers(&self) -> impl Iterator<Item = f64> + '_ {
        let below = |bound: Option<f64>| {
            let near = self.standing().filter(|(_, c)| !self.crosses(c)).map(|(_, c)| accuracy(c));
            near.filter(|a| bound.is_none_or(|bound| *a < bound)).reduce(f64::max)
        };
        std::iter::successors(below(None), move |tier| below(Some(*tier)))
    }

    /// Without a deadline: only a replica that is late by more than the distance can be worth leaving the site for. Never a worse tier.
    fn unhurried(&self, near: Entry) -> Entry {
        if !self.zones_count || near.cost_us <= OTHER_SITE_US {
            return near;
        }
        self.open().filter(|entry| self.accuracy_of(entry) >= self.accuracy_of(&near)).fold(near, Entry::better)
    }

    fn accuracy_of(&self, entry: &Entry) -> f64 {
        self.candidates.get(entry.index).map_or(0.0, accuracy)
    }

    /// Near ones for which rows are planned.
    fn all_planned(&self) -> impl Iterator<Item = Entry> {
        self.standing().filter(|(_, c)| !self.crosses(c) && c.planned > 0.0).map(|(i, c)| self.entry(i, c))
    }

    /// Near ones in whose shares of the planned rows the draws fall, of whatever tier; none where nothing is planned.
    fn planned(&self, draws: [f64; 2]) -> [Option<Entry>; 2] {
        let planned = |c: &Candidate| if c.planned.is_finite() { c.planned } else { 0.0 };
        let near = || self.standing().filter(|(_, c)| !self.crosses(c) && planned(c) > 0.0).map(|(i, c)| (i, planned(c)));
        draws.map(|draw| pick(near, draw)).map(|picked| {
            let index = picked?;
            Some(self.entry(index, self.candidates.get(index)?))
        })
    }

    /// Near ones of a tier in whose shares of its capacity the draws fall.
    fn drawn(&self, tier: f64, draws: [f64; 2]) -> [Option<Entry>; 2] {
        let of_tier = |c: &Candidate| !self.crosses(c) && accuracy(c) == tier;
        let near = || self.standing().filter(move |(_, c)| of_tier(c)).map(|(i, c)| (i, c.capacity()));
        draws.map(|draw| pick(near, draw)).map(|picked| {
            let index = picked?;
            Some(self.entry(index, self.candidates.get(index)?))
        })
    }

    /// The best of those that do nothing now and would be in time as a rule. To refuse for the one case in a hundred in which they are
    /// not, or for errors of the prediction, would leave them idle; and where a device is uneven enough, it would refuse everything.
    fn idle_in_time(&self, remaining_us: f64) -> Option<Entry> {
        let fits = |e: &Entry| {
            self.candidates.get(e.index).is_some_and(|c| c.is_free(self.request) && c.expected_us(self.request) <= remaining_us)
        };
        self.open().filter(fits).reduce(Entry::better)
    }

    fn choice(&self, entry: Entry) -> Choice {
        Choice { index: entry.index, predicted_us: entry.finish_us as u64, spilled: entry.crosses }
    }

    /// Why nobody is in time.
    fn refusal(&self, allowed_us: f64) -> Refusal {
        let idle_us = self.standing().map(|(_, c)| c.idle_us(self.request)).fold(f64::INFINITY, f64::min);
        if idle_us > allowed_us {
            return Refusal::Hopeless { idle_us: idle_us as u64, allowed_us: allowed_us as u64 };
        }
        let first_us = self.open().map(|e| e.finish_us).fold(f64::INFINITY, f64::min);
        Refusal::Busy { retry_us: (first_us - allowed_us).ceil().max(1.0) as u64 }
    }
}

/// Good while there is a good one, then doubtful; `None` when no candidate may be taken.
fn best_standing(candidates: &[Candidate]) -> Option<Standing> {
    let has = |standing| candidates.iter().any(|c| c.standing == standing);
    [Standing::Good, Standing::Doubtful].into_iter().find(|standing| has(*standing))
}

/// The key in whose share of all weights `draw`, in 0..1, falls; `None` when there are none.
fn pick<K, I: Iterator<Item = (K, f64)>>(weights: impl Fn() -> I, draw: f64) -> Option<K> {
    let mut left = draw.clamp(0.0, 1.0) * weights().map(|(_, weight)| weight).sum::<f64>();
    let mut last = None;
    for (key, weight) in weights() {
        left -= weight;
        if left < 0.0 {
            return Some(key);
        }
        last = Some(key); // rounding may leave a remainder, and draw may be 1
    }
    last
}

#[cfg(test)]
mod tests;
