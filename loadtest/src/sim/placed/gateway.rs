//! A simulated gateway before a fleet whose replicas come and go: real choices among variants.

use super::layout::{Layout, Served};
use super::{Job, Word};
use fastrand::Rng;
use policy::demand::{Demand, Offered};
use policy::profile::{FORECAST_US_MAX, Forecast};
use policy::route::{self, Candidate, Distance, Headroom, Refusal, Standing, choose};
use policy::{Backlog, Failure, Moment};
use std::rc::Rc;

/// How a gateway goes about accuracy.
#[derive(Debug, Clone, Default)]
pub(super) enum Taste {
    /// By the rows that the plan means for each way, and the earliest where that leaves too little time.
    Planned(Rc<[f64]>),
    /// All tiers are one.
    #[default]
    Any,
    /// A variant drawn by the share of rows that the plan means for it; of each way.
    ByShares(Rc<[f64]>),
    /// A variant drawn, each as likely.
    Random,
}

pub(super) struct Gateway {
    layout: Rc<Layout>,
    /// One a model.
    routes: Vec<Route>,
    /// One a way.
    gauges: Vec<Gauge>,
    /// One a device.
    hosts: Vec<Host>,
    taste: Taste,
    /// Share of the planned rows that the plan leaves unanswered.
    short: f64,
    /// Their room is reused.
    candidates: Vec<Candidate>,
    variants: Vec<(usize, f64)>,
}

#[derive(Default)]
struct Route {
    /// Who is routable.
    ways: Vec<usize>,
    headroom: Headroom,
    /// Accuracy of the tier taken last.
    tier: f64,
    offered: Offered,
}

struct Gauge {
    in_flight: u32,
    rows_sent: u32,
    forecast: Forecast,
    forecast_at: Moment,
    routable_at: Moment,
}

/// What it knows of a device.
#[derive(Default)]
struct Host {
    backlog: Backlog,
    /// Share of its words of late with nothing to wait for.
    spare: f64,
    reported: Moment,
    senders: f64,
    /// Ways of it to which rows went since.
    sent: Vec<usize>,
    in_flight: u32,
    /// Microseconds of the shortest target of a model that is routable there.
    slo_us_min: f64,
}

/// Where a request goes.
pub(super) struct Chosen {
    pub(super) way: usize,
    pub(super) predicted_us: u64,
}

impl Gateway {
    pub(super) fn new(layout: &Rc<Layout>) -> Self {
        let gauge = |way: &super::layout::Way| Gauge {
            in_flight: 0,
            rows_sent: 0,
            forecast: way.latency.into(),
            forecast_at: Moment::default(),
            routable_at: Moment::default(),
        };
        Self {
            routes: layout.models.iter().map(|_| Route::default()).collect(),
            gauges: layout.ways.iter().map(gauge).collect(),
            hosts: layout.places.iter().map(|_| Host { senders: 1.0, spare: 1.0, slo_us_min: f64::INFINITY, ..Host::default() }).collect(),
            layout: layout.clone(),
            taste: Taste::default(),
            short: 0.0,
            candidates: Vec::new(),
            variants: Vec::new(),
        }
    }

    pub(super) fn prefer(&mut self, taste: Taste, short: f64) {
        (self.taste, self.short) = (taste, short);
    }

    /// A replica is routable, or no longer.
    pub(super) fn set_routable(&mut self, now: Moment, way: usize, routable: bool) {
        let Some(model) = self.layout.ways.get(way).map(|way| way.model) else { return };
        let (Some(route), Some(gauge)) = (self.routes.get_mut(model), self.gauges.get_mut(way)) else { return };
        route.ways.retain(|other| *other != way);
        if routable {
            route.ways.push(way);
            let latency = self.layout.ways.get(way).map(|way| way.latency).unwrap_or_default();
            (gauge.forecast, gauge.forecast_at, gauge.routable_at) = (latency.into(), now, now);
        }
        let Some(device) = self.layout.ways.get(way).map(|way| way.device) else { return };
        let routable = self
            .routes
            .iter()
            .zip(&self.layout.models)
            .filter(|(route, _)| route.ways.iter().filter_map(|way| self.layout.ways.get(*way)).any(|way| way.device == device));
        let slo_us_min = routable.map(|(_, model)| model.slo_us).fold(f64::INFINITY, f64::min);
        self.hosts.iter_mut().skip(device).take(1).for_each(|host| host.slo_us_min = slo_us_min);
    }

    /// What is asked of a model here.
    pub(super) fn demand(&mut self, now: Moment, model: usize) -> Demand {
        self.routes.get_mut(model).map(|route| route.offered.demand(now)).unwrap_or_default()
    }

    /// Who takes a request that is due now.
    pub(super) fn choose(&mut self, now: Moment, job: &Job, draws: [f64; 2], random: &mut Rng) -> Result<Chosen, Failure> {
        let none = || Failure::NoReplica { model: String::new(), retry_ms: 0 };
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let (Some(route), Some(served)) = (self.routes.get_mut(job.model), self.layout.models.get(job.model).copied()) else {
            return Err(none());
        };
        route.offered.arrive(now, job.rows);
        let tier = route.tier;
        let variant = self.variant(job.model, random);
        let ways = self.routes.get(job.model).map(|route| route.ways.as_slice()).unwrap_or_default();
        let remaining_us = job.deadline.map(|deadline| deadline.us_since(now));
        candidates.extend(ways.iter().map(|way| self.candidate(now, *way, &served, variant, remaining_us)));
        let request = route::Request { now, rows: job.rows, bytes: 0, remaining_us, slo_us: Some(served.slo_us), tier, may_cross: false };
        let headroom = self.routes.get(job.model).map(|route| &route.headroom).ok_or_else(none)?;
        let choice = choose(&candidates, &request, headroom, draws);
        // A forecast that refuses everything would stand for ever: a device that is idle and silent for a while is tried.
        let silent = |way: &usize| self.is_untried(now, *way, variant);
        let found = match choice {
            Ok(choice) => ways.get(choice.index).map(|way| (*way, choice.predicted_us)).ok_or_else(none),
            Err(refusal) => match ways.iter().find(|way| silent(way)) {
                Some(way) if !matches!(refusal, Refusal::NoReplica) => Ok((*way, remaining_us.unwrap_or_default())),
                _ => Err(refused(refusal)),
            },
        };
        self.candidates = candidates;
        let (way, predicted_us) = found?;
        self.send(way, job);
        Ok(Chosen { way, predicted_us })
    }

    fn send(&mut self, way: usize, job: &Job) {
        let Some(there) = self.layout.ways.get(way) else { return };
        if let Some(route) = self.routes.get_mut(job.model) {
            route.tier = there.accuracy;
        }
        if let (Some(gauge), Some(host)) = (self.gauges.get_mut(way), self.hosts.get_mut(there.device)) {
            if gauge.rows_sent == 0 {
                host.sent.push(way);
            }
            gauge.rows_sent = gauge.rows_sent.saturating_add(job.rows);
            gauge.in_flight = gauge.in_flight.saturating_add(1);
            host.in_flight = host.in_flight.saturating_add(1);
        }
    }

    /// The only variant that may answer, by the taste.
    fn variant(&mut self, model: usize, random: &mut Rng) -> Option<usize> {
        let ways = self.routes.get(model).map(|route| route.ways.as_slice()).unwrap_or_default();
        let shares = match &self.taste {
            Taste::Planned(_) | Taste::Any => return None,
            Taste::ByShares(shares) => Some(shares),
            Taste::Random => None,
        };
        let mut variants = std::mem::take(&mut self.variants);
        variants.clear();
        for way in ways {
            let Some(variant) = self.layout.ways.get(*way).map(|way| way.variant) else { continue };
            let share = shares.map_or(0.0, |shares| shares.get(*way).copied().unwrap_or_default());
            match variants.iter_mut().find(|(known, _)| *known == variant) {
                Some((_, sum)) => *sum += share,
                None => variants.push((variant, share)),
            }
        }
        // Nothing was meant for any: each is as good.
        if variants.iter().map(|(_, share)| share).sum::<f64>() <= 0.0 {
            variants.iter_mut().for_each(|(_, share)| *share = 1.0);
        }
        let mut left = random.f64() * variants.iter().map(|(_, share)| share).sum::<f64>();
        let drawn = variants.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        let drawn = drawn.or(variants.last()).map(|(variant, _)| *variant);
        self.variants = variants;
        drawn
    }

    fn candidate(&self, now: Moment, number: usize, served: &Served, only: Option<usize>, remaining_us: Option<u64>) -> Candidate {
        let (way, gauge) = (self.layout.ways.get(number), self.gauges.get(number));
        let host = way.and_then(|way| self.hosts.get(way.device));
        let place = way.and_then(|way| self.layout.places.get(way.device));
        let forecast = gauge.map(|gauge| gauge.forecast.aged(now.us_since(gauge.forecast_at)));
        let forecast = forecast.unwrap_or_else(|| Forecast::from(policy::profile::Latency::UNKNOWN));
        let instances = place.map_or(1, |place| place.instances);
        let accuracy = way.map_or(f64::NAN, |way| way.accuracy);
        let kept = accuracy >= served.floor || served.floor < 0.0;
        let planned = match &self.taste {
            Taste::Planned(rows) => rows.get(number).copied().unwrap_or_default(),
            _ => 0.0,
        };
        let meant = only.is_none_or(|only| way.is_some_and(|way| way.variant == only));
        Candidate {
            alpha_us: forecast.latency.alpha_us,
            beta_us: forecast.latency.beta_us,
            kappa: forecast.kappa,
            slow: forecast.slow,
            rows_max: forecast.rows_max(served.rows_max),
            rows_useful: forecast.rows_useful(served.rows_max, served.slo_us, self.layout.net_us),
            instances,
            backlog_us: host.map_or(0, |host| host.backlog.before_us(remaining_us)),
            reported: host.map(|host| host.reported).unwrap_or_default(),
            rows_since_report: gauge.map_or(0, |gauge| gauge.rows_sent),
            senders: host.map_or(1.0, |host| host.senders),
            beside_us: host.map_or(0.0, |host| self.beside_us(host, number)) / f64::from(instances),
            accuracy: if matches!(self.taste, Taste::Any) { 1.0 } else { accuracy },
            wait_us_max: route::wait_us_max(host.map_or(f64::INFINITY, |host| host.slo_us_min), self.short),
            planned,
            spare: host.map_or(1.0, |host| host.spare),
            in_flight: host.map_or(0, |host| host.in_flight),
            rtt_us: self.layout.net_us,
            bytes_per_us: f64::INFINITY,
            distance: Distance::SameZone,
            age_us: gauge
                .map_or(0, |gauge| if gauge.routable_at == Moment::default() { u64::MAX } else { now.us_since(gauge.routable_at) }),
            standing: if kept && meant { Standing::Good } else { Standing::Excluded },
        }
    }

    /// Microseconds of one engine that went since to others of the device.
    fn beside_us(&self, host: &Host, but: usize) -> f64 {
        let others = host.sent.iter().filter(|way| **way != but);
        let work_us = |way: &usize| {
            let (gauge, rows_max) = (self.gauges.get(*way)?, self.rows_max(*way));
            let batches = gauge.rows_sent.div_ceil(gauge.forecast.rows_max(rows_max).max(1));
            let latency = gauge.forecast.latency;
            Some(gauge.forecast.slow * (latency.alpha_us * f64::from(gauge.rows_sent) + latency.beta_us * f64::from(batches)))
        };
        others.filter_map(work_us).sum()
    }

    fn rows_max(&self, way: usize) -> u32 {
        self.layout.ways.get(way).and_then(|way| self.layout.models.get(way.model)).map_or(1, |model| model.rows_max)
    }

    fn is_untried(&self, now: Moment, number: usize, only: Option<usize>) -> bool {
        let Some(way) = self.layout.ways.get(number) else { return false };
        let (Some(gauge), Some(host), Some(model)) =
            (self.gauges.get(number), self.hosts.get(way.device), self.layout.models.get(way.model))
        else {
            return false;
        };
        let allowed = (way.accuracy >= model.floor || model.floor < 0.0) && only.is_none_or(|only| way.variant == only);
        let doubted = gauge.forecast.slow > 1.0 && now.us_since(gauge.forecast_at) > FORECAST_US_MAX;
        allowed && doubted && host.in_flight == 0 && now.us_since(host.reported) >= host.backlog.all_us()
    }

    /// A device tells of itself.
    pub(super) fn hear(&mut self, now: Moment, device: usize, word: Word) {
        let Some(host) = self.hosts.get_mut(device) else { return };
        host.spare = route::spare(host.spare, now.us_since(host.reported), word.backlog.all_us() == 0);
        (host.backlog, host.reported, host.senders) = (word.backlog, now, word.senders);
        for way in host.sent.drain(..) {
            self.gauges.iter_mut().skip(way).take(1).for_each(|gauge| gauge.rows_sent = 0);
        }
        if let Some((way, forecast)) = word.forecast
            && let Some(gauge) = self.gauges.get_mut(way)
        {
            (gauge.forecast, gauge.forecast_at) = (forecast, now);
        }
    }

    /// A device answers a request, or says why not.
    pub(super) fn end(&mut self, now: Moment, job: &Job, outcome: &Result<(), Failure>) {
        let device = self.layout.ways.get(job.way).map(|way| way.device);
        if let Some(gauge) = self.gauges.get_mut(job.way) {
            gauge.in_flight = gauge.in_flight.saturating_sub(1);
        }
        if let Some(host) = device.and_then(|device| self.hosts.get_mut(device)) {
            host.in_flight = host.in_flight.saturating_sub(1);
        }
        let Some(route) = self.routes.get_mut(job.model) else { return };
        if let (Some(deadline), Ok(()) | Err(Failure::DeadlineExceeded { .. })) = (job.deadline, outcome) {
            route.headroom.record(job.predicted_us, now.us_since(job.due), deadline.us_since(job.due));
        }
    }
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::NoReplica => Failure::NoReplica { model: String::new(), retry_ms: 0 },
        Refusal::Hopeless { idle_us, allowed_us } => Failure::Hopeless { late_us: idle_us.saturating_sub(allowed_us) },
        Refusal::Busy { retry_us } => {
            Failure::Busy { model: String::new(), retry_ms: u32::try_from(retry_us.div_ceil(1_000)).unwrap_or(u32::MAX) }
        }
    }
}
