//! A simulated gateway: real choices from what it sent and what workers told it.

use super::fleet::Fleet;
use super::{Job, Word};
use policy::profile::{FORECAST_US_MAX, Forecast};
use policy::route::baseline::Baseline;
use policy::route::{self, Candidate, Choice, Distance, Headroom, Refusal, Spill, Standing, choose};
use policy::{Backlog, Failure, Moment};

/// Age of a replica that has its whole share of requests: the fleet does not begin at the start of the simulation.
const AGE_US: u64 = u64::MAX;
/// Of every replica: a described worker says nothing of variants.
const ACCURACY: f64 = 1.0;

pub(super) struct Gateway {
    /// One a model.
    routes: Vec<Route>,
    /// One a worker.
    gauges: Vec<Gauge>,
    /// Its room is reused.
    candidates: Vec<Candidate>,
}

/// What this gateway learned of a model's choices.
struct Route {
    name: String,
    /// Who serves it.
    workers: Vec<usize>,
    slo_us: Option<f64>,
    /// None: ours.
    baseline: Option<Baseline>,
    headroom: Headroom,
    spill: Spill,
}

/// What it saw of a worker.
struct Gauge {
    rows_max: u32,
    instances: u32,
    distance: Distance,
    rtt_us: f64,
    in_flight: u32,
    rows_sent: u32,
    backlog: Backlog,
    reported: Moment,
    senders: f64,
    forecast: Forecast,
    /// When that came.
    forecast_at: Moment,
}

impl Gateway {
    /// The `number`th of a fleet.
    pub(super) fn new(fleet: &Fleet, number: usize) -> Self {
        let zones = fleet.zones();
        let here = number.checked_rem(zones.len()).and_then(|zone| zones.get(zone)).copied().unwrap_or_default();
        let workers = || fleet.workers.iter().flat_map(|worker| (0..worker.count).map(move |_| worker));
        let route = |model: &super::FleetModel| {
            let serves = workers().enumerate().filter(|(_, worker)| worker.models.contains(&model.name));
            let workers: Vec<usize> = serves.map(|(index, _)| index).collect();
            Route {
                name: model.name.clone(),
                slo_us: model.slo_us(),
                baseline: Baseline::new(fleet.route, workers.len()),
                workers,
                headroom: Headroom::default(),
                spill: Spill::default(),
            }
        };
        let gauge = |worker: &super::FleetWorker| Gauge {
            rows_max: fleet.rows_max(worker),
            instances: worker.instances,
            distance: Distance::between(("", here), ("", &worker.zone)),
            rtt_us: 2.0 * fleet.one_way_us,
            in_flight: 0,
            rows_sent: 0,
            backlog: Backlog::default(),
            reported: Moment::default(),
            senders: 1.0,
            forecast: worker.latency().into(),
            forecast_at: Moment::default(),
        };
        Self { routes: fleet.models.iter().map(route).collect(), gauges: workers().map(gauge).collect(), candidates: Vec::new() }
    }

    /// The worker that takes a request that is due now, and what its answer is predicted to take, in microseconds.
    pub(super) fn choose(&mut self, now: Moment, job: &Job, draws: [f64; 2]) -> Result<(usize, u64), Failure> {
        let none = || Failure::NoReplica { model: String::new(), retry_ms: 0 };
        let route = self.routes.get_mut(job.model).ok_or_else(none)?;
        self.candidates.clear();
        let remaining_us = job.deadline.map(|deadline| deadline.us_since(now));
        let seen = route.workers.iter().filter_map(|worker| self.gauges.get(*worker));
        self.candidates.extend(seen.map(|gauge| gauge.candidate(now, route.slo_us, remaining_us)));
        let may_cross = route.spill.may_cross();
        // Replicas here are all as accurate as each other: there is one tier.
        let request = route::Request { now, rows: job.rows, bytes: 0, remaining_us, slo_us: route.slo_us, tier: ACCURACY, may_cross };
        let choice = match &mut route.baseline {
            Some(baseline) => {
                let index = baseline.choose(&self.candidates, now, draws).ok_or_else(none)?;
                Choice { index, predicted_us: 0, spilled: false }
            }
            None => {
                let choice = choose(&self.candidates, &request, &route.headroom, draws);
                // A forecast that refuses everything would stand for ever: an idle worker that has said none for a while is tried.
                let silent = |worker: &usize| self.gauges.get(*worker).is_some_and(|gauge| gauge.is_untried(now));
                choice.or_else(|refusal| match route.workers.iter().position(silent) {
                    Some(index) => Ok(Choice { index, predicted_us: remaining_us.unwrap_or_default(), spilled: false }),
                    None => Err(refused(refusal, &route.name)),
                })?
            }
        };
        route.spill.record(choice.spilled);
        let worker = route.workers.get(choice.index).copied().ok_or_else(none)?;
        if let Some(gauge) = self.gauges.get_mut(worker) {
            gauge.in_flight = gauge.in_flight.saturating_add(1);
            gauge.rows_sent = gauge.rows_sent.saturating_add(job.rows);
        }
        Ok((worker, choice.predicted_us))
    }

    /// A worker tells of itself.
    pub(super) fn hear(&mut self, now: Moment, worker: usize, word: Word) {
        let Some(gauge) = self.gauges.get_mut(worker) else { return };
        gauge.rows_sent = 0;
        gauge.backlog = word.backlog;
        gauge.reported = now;
        gauge.senders = word.senders;
        if let Some(forecast) = word.forecast {
            (gauge.forecast, gauge.forecast_at) = (forecast, now);
        }
    }

    /// A worker answers a request, or says why not.
    pub(super) fn end(&mut self, now: Moment, worker: usize, job: &Job, outcome: &Result<(), Failure>) {
        if let Some(gauge) = self.gauges.get_mut(worker) {
            gauge.in_flight = gauge.in_flight.saturating_sub(1);
        }
        let Some(route) = self.routes.get_mut(job.model) else { return };
        let took_us = now.us_since(job.due);
        match (&mut route.baseline, job.deadline, outcome) {
            (Some(baseline), ..) => {
                if let Some(index) = route.workers.iter().position(|index| *index == worker) {
                    baseline.answered(index, now, took_us);
                }
            }
            (None, Some(deadline), Ok(()) | Err(Failure::DeadlineExceeded { .. })) => {
                route.headroom.record(job.predicted_us, took_us, deadline.us_since(job.due));
            }
            (None, ..) => {}
        }
    }
}

impl Gauge {
    fn candidate(&self, now: Moment, slo_us: Option<f64>, remaining_us: Option<u64>) -> Candidate {
        let forecast = self.forecast.aged(now.us_since(self.forecast_at));
        let rows_max = forecast.rows_max(self.rows_max);
        Candidate {
            alpha_us: forecast.latency.alpha_us,
            beta_us: forecast.latency.beta_us,
            kappa: forecast.kappa,
            slow: forecast.slow,
            rows_max,
            rows_useful: slo_us.map_or(rows_max, |slo_us| forecast.rows_useful(self.rows_max, slo_us, self.rtt_us)),
            instances: self.instances,
            backlog_us: self.backlog.before_us(remaining_us),
            reported: self.reported,
            rows_since_report: self.rows_sent,
            beside_us: 0.0,
            accuracy: ACCURACY,
            planned: 0.0,
            spare: 1.0,
            wait_us_max: f64::INFINITY,
            senders: self.senders,
            in_flight: self.in_flight,
            rtt_us: self.rtt_us,
            bytes_per_us: f64::INFINITY,
            distance: self.distance,
            age_us: AGE_US,
            standing: Standing::Good,
        }
    }

    fn is_untried(&self, now: Moment) -> bool {
        self.in_flight == 0 && now.us_since(self.forecast_at) > FORECAST_US_MAX
    }
}

fn refused(refusal: Refusal, model: &str) -> Failure {
    match refusal {
        Refusal::NoReplica => Failure::NoReplica { model: model.to_owned(), retry_ms: 0 },
        Refusal::Hopeless { idle_us, allowed_us } => Failure::Hopeless { late_us: idle_us.saturating_sub(allowed_us) },
        Refusal::Busy { retry_us } => {
            let retry_ms = u32::try_from(retry_us.div_ceil(1_000)).unwrap_or(u32::MAX);
            Failure::Busy { model: model.to_owned(), retry_ms }
        }
    }
}
