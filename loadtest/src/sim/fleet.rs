//! What a simulated fleet is made of, and what cannot be.

use crate::error::LoadError;
use policy::batch::{BatchPolicy, Batching};
use policy::profile::{Forecast, Latency};
use policy::route::baseline::RoutePolicy;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

/// Most workers: each gateway keeps what it knows of each.
const WORKERS_MAX: usize = 10_000;
/// Most gateways.
const GATEWAYS_MAX: u32 = 1_000;
/// Most rows of one batch.
pub(super) const ROWS_MAX: u32 = 65_536;
/// Most engine threads of one worker.
const INSTANCES_MAX: u32 = 1_024;
/// Longest length of time anywhere, in microseconds: an hour.
pub(super) const US_MAX: f64 = 3.6e9;

/// A fleet to simulate, as a TOML file describes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Front doors; each knows only what it sent and what workers told it.
    #[serde(default = "one")]
    pub gateways: u32,
    /// Microseconds from a gateway to a worker, and back.
    #[serde(default)]
    pub one_way_us: f64,
    /// Milliseconds between two words of a worker that has nothing to answer; 0: it says none.
    #[serde(default)]
    pub push_ms: f64,
    /// Who chooses replicas.
    #[serde(default, deserialize_with = "by_name")]
    pub route: RoutePolicy,
    /// Who forms batches.
    #[serde(default, deserialize_with = "by_name")]
    pub batch: BatchPolicy,
    /// Rule of every queue: longest wait for company, in microseconds.
    #[serde(default)]
    pub max_delay_us: u64,
    /// Rule of every queue: rows worth waiting for.
    #[serde(default)]
    pub preferred_rows: Vec<u32>,
    /// Sigma of the log-normal noise on a batch's time.
    #[serde(default)]
    pub service_noise: f64,
    /// What it serves.
    #[serde(rename = "model")]
    pub models: Vec<FleetModel>,
    /// What serves it.
    #[serde(rename = "worker")]
    pub workers: Vec<FleetWorker>,
}

/// A model of a fleet.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetModel {
    /// What requests call it.
    pub name: String,
    /// Milliseconds that an answer should take at most; decides which batches are useful.
    pub slo_ms: Option<f64>,
    /// Most rows of one batch.
    #[serde(default = "one")]
    pub max_batch_size: u32,
}

/// Equal workers of a fleet.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetWorker {
    /// How many of them.
    #[serde(default = "one")]
    pub count: u32,
    /// What each serves.
    pub models: Vec<String>,
    /// Microseconds of a batch for each of its rows, as measured at load.
    #[serde(default)]
    pub alpha_us: f64,
    /// Microseconds of a batch whatever its rows.
    #[serde(default)]
    pub beta_us: f64,
    /// Most rows of one batch here, if less than the models'.
    pub rows_max: Option<u32>,
    /// Engine threads.
    #[serde(default = "one")]
    pub instances: u32,
    /// How much slower it really is than measured; nobody is told, the fleet must find out.
    #[serde(default = "as_measured")]
    pub slow: f64,
    /// Failure domain. Gateways stand in the zones in turn, in the order in which workers name them.
    #[serde(default)]
    pub zone: String,
}

/// With nothing in it; all else as in a file that does not say it.
impl Default for Fleet {
    fn default() -> Self {
        Self {
            gateways: one(),
            one_way_us: 0.0,
            push_ms: 0.0,
            route: RoutePolicy::default(),
            batch: BatchPolicy::default(),
            max_delay_us: 0,
            preferred_rows: Vec::new(),
            service_noise: 0.0,
            models: Vec::new(),
            workers: Vec::new(),
        }
    }
}

const fn one() -> u32 {
    1
}

const fn as_measured() -> f64 {
    1.0
}

fn by_name<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Fleet {
    /// Reads a fleet file.
    ///
    /// # Errors
    /// [`LoadError::Fleet`]: with line and column for what is not TOML, an unknown name or a value of the wrong kind, else with every
    /// value that cannot be.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        let fleet: Self = toml::from_str(text).map_err(|e| LoadError::Fleet(vec![e.to_string().trim_end().to_owned()]))?;
        let mut problems = Vec::new();
        fleet.check(&mut problems);
        if problems.is_empty() { Ok(fleet) } else { Err(LoadError::Fleet(problems)) }
    }

    /// What cannot be, all of it.
    pub fn check(&self, problems: &mut Vec<String>) {
        let mut found = Problems(problems);
        found.number("", "gateways", self.gateways, 1, GATEWAYS_MAX);
        found.number("", "one_way_us", self.one_way_us, 0.0, US_MAX);
        if self.push_ms != 0.0 {
            found.number("", "push_ms", self.push_ms, 1.0, US_MAX / 1e3);
        }
        found.number("", "service_noise", self.service_noise, 0.0, 3.0);
        found.number("", "max_delay_us", self.max_delay_us, 0, US_MAX as u64);
        for rows in &self.preferred_rows {
            found.number("", "preferred_rows", *rows, 1, ROWS_MAX);
        }
        self.check_models(&mut found);
        self.check_workers(&mut found);
    }

    fn check_models(&self, found: &mut Problems) {
        if self.models.is_empty() {
            found.say("", "model", "none is described; expected at least one [[model]]");
        }
        let mut names = BTreeSet::new();
        for (number, model) in (1..).zip(&self.models) {
            let place = format!("model {number} ({:?}): ", model.name);
            if model.name.is_empty() || !names.insert(&model.name) {
                found.say(&place, "name", "expected one that no other model has");
            }
            if let Some(slo_ms) = model.slo_ms {
                found.number(&place, "slo_ms", slo_ms, 1e-3, US_MAX / 1e3);
            }
            found.number(&place, "max_batch_size", model.max_batch_size, 1, ROWS_MAX);
            if !self.workers.iter().any(|worker| worker.models.contains(&model.name)) {
                found.say(&place, "name", "no worker serves it; expected it in the models of a [[worker]]");
            }
        }
    }

    fn check_workers(&self, found: &mut Problems) {
        let count = self.workers.iter().map(|worker| worker.count as usize).fold(0, usize::saturating_add);
        found.number("", "workers", count, 1, WORKERS_MAX);
        for (number, worker) in (1..).zip(&self.workers) {
            let place = format!("worker {number}: ");
            found.number(&place, "count", worker.count as usize, 1, WORKERS_MAX);
            found.number(&place, "alpha_us", worker.alpha_us, 0.0, US_MAX);
            found.number(&place, "beta_us", worker.beta_us, 0.0, US_MAX);
            // Virtual time goes by microseconds.
            found.number(&place, "alpha_us + beta_us", worker.alpha_us + worker.beta_us, 1.0, US_MAX);
            found.number(&place, "instances", worker.instances, 1, INSTANCES_MAX);
            found.number(&place, "slow", worker.slow, 0.01, 1_000.0);
            if let Some(rows) = worker.rows_max {
                found.number(&place, "rows_max", rows, 1, ROWS_MAX);
            }
            if worker.models.is_empty() {
                found.say(&place, "models", "it serves none; expected at least one");
            }
            let mut names = BTreeSet::new();
            for name in &worker.models {
                if self.models.iter().all(|model| model.name != *name) || !names.insert(name) {
                    let known = self.model_names();
                    found.say(&place, "models", &format!("{name:?}; expected each at most once, of {known}"));
                }
            }
        }
    }

    /// Rows a second of all workers in their largest useful batches, if each were as fast as it says.
    pub fn capacity(&self) -> f64 {
        self.workers.iter().map(|worker| f64::from(worker.count) * f64::from(worker.instances) * self.rows_per_second(worker)).sum()
    }

    fn rows_per_second(&self, worker: &FleetWorker) -> f64 {
        let forecast = Forecast::from(worker.latency());
        let models = self.models.iter().filter(|model| worker.models.contains(&model.name));
        let slo_us = models.filter_map(|model| model.slo_us()).reduce(f64::min);
        let rows_max = self.rows_max(worker);
        let rows = slo_us.map_or_else(|| forecast.rows_max(rows_max), |slo_us| forecast.rows_useful(rows_max, slo_us, 0.0)).max(1);
        f64::from(rows) * 1e6 / forecast.batch_us(rows)
    }

    /// Most rows of one batch of `worker`.
    pub(super) fn rows_max(&self, worker: &FleetWorker) -> u32 {
        let models = self.models.iter().filter(|model| worker.models.contains(&model.name));
        let most = models.map(|model| model.max_batch_size).max().unwrap_or(1);
        worker.rows_max.map_or(most, |rows| rows.min(most))
    }

    /// The rules of every queue.
    pub(super) fn batching(&self) -> Batching {
        Batching { max_delay_us: self.max_delay_us, preferred_rows: self.preferred_rows.clone(), ..Batching::default() }
    }

    /// Its zones, in the order in which workers name them.
    pub(super) fn zones(&self) -> Vec<&str> {
        let mut zones: Vec<&str> = Vec::new();
        for worker in &self.workers {
            if !zones.contains(&worker.zone.as_str()) {
                zones.push(&worker.zone);
            }
        }
        zones
    }

    pub(super) fn model_names(&self) -> String {
        self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl FleetModel {
    pub(super) fn slo_us(&self) -> Option<f64> {
        self.slo_ms.map(|ms| ms * 1e3)
    }
}

impl FleetWorker {
    pub(super) fn latency(&self) -> Latency {
        Latency { alpha_us: self.alpha_us, beta_us: self.beta_us }
    }
}

/// Each names the place, the field, its value and what was expected.
pub(super) struct Problems<'p>(pub(super) &'p mut Vec<String>);

impl Problems<'_> {
    /// A number that is none is outside of every range.
    pub(super) fn number<N: PartialOrd + Display>(&mut self, place: &str, field: &str, value: N, low: N, high: N) {
        if !(value >= low && value <= high) {
            self.say(place, field, &format!("{value}; expected {low} to {high}"));
        }
    }

    pub(super) fn say(&mut self, place: &str, field: &str, what: &str) {
        self.0.push(format!("{place}{field}: {what}"));
    }
}
