//! What is asked of the models as a placement problem, and what of its solution is wanted of each target.

use super::choose;
use super::ledger;
use super::target::{Group, Target};
use super::view::View;
use super::{Observed, Unplaced, Wanted};
use crate::demand::{Demand, planned};
use crate::place::{self, Device, Model, Pair, Problem, Solution, estimate};
use crate::profile::waits;
use crate::wanted::{RATE_MAX, WEIGHTS};
use crate::{DeviceRecord, ModelName, VariantId, Version, WorkerId, WorkerRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Share of a device's memory that is planned with: the rest is for what grows.
const MEMORY_SHARE: f64 = 0.85;
/// Microseconds on the way, there and back, in which nothing is computed.
const NET_US: f64 = 500.0;
/// Variance over squared mean of a run's time, where nothing else is known.
const RUN_VARIANCE: f64 = 0.1;
/// Seconds for which a new replica stays whatever is planned.
const YOUNG_S: u64 = 60;
/// Loads of one plan: this share of all replicas, and at least two.
const LOADS_SHARE: usize = 10;
/// Seconds that the loads of one plan may take on a device: the time until the next.
const LOAD_S_MAX: f64 = 10.0;
/// Warm replicas of a variant that nothing flows through.
const SPARES: usize = 2;
/// Share of a rate below which it is nothing.
const NOTHING: f64 = 1e-3;
/// Where no load was measured: bytes of a model read and prepared in a second.
const LOAD_BYTES_PER_S: f64 = 3e8;

/// What is planned for a model that somebody asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelPlan {
    /// The model.
    pub model: ModelName,
    /// The version that takes its requests.
    pub version: Version,
    /// Rows a second planned for.
    pub rate: f64,
    /// Rows a second that will be answered in time, as predicted.
    pub served: f64,
    /// Mean accuracy of those answers, relative to the reference.
    pub accuracy: f64,
    /// Share of answers that may be late, 0 to 1: a hundredth where no percentile is said.
    pub allowance: f64,
    /// Milliseconds in which all but that share of answers come, as predicted; none where nothing flows.
    pub tail_ms: Option<f64>,
    /// Latency target in milliseconds.
    pub target_ms: Option<f64>,
    /// Least latency target in milliseconds that any of its replicas could keep, where the target is under it.
    pub feasible_ms: Option<f64>,
    /// Share of an answer's value that one row a second more would bring; below zero where it would be left out.
    pub row_price: f64,
    /// Who answers how much, most first.
    pub shares: Vec<Share>,
}

/// What one replica answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The variant.
    pub variant: VariantId,
    /// Where.
    pub worker: WorkerId,
    /// On which of its devices.
    pub device: String,
    /// Rows a second.
    pub rate: f64,
}

/// What is planned for a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// The worker.
    pub worker: WorkerId,
    /// The device.
    pub device: String,
    /// Share of its time that is planned for, of what is in time.
    pub busy: f64,
    /// Bytes of its replicas.
    pub bytes: u64,
    /// Bytes they may have.
    pub bytes_max: u64,
    /// Rows a second that one more device like it would win; 0 where it would win none.
    pub time_price: f64,
}

/// Rows a second to plan for, and what is seen, by model.
pub(super) type Rates = BTreeMap<ModelName, (f64, Demand)>;

/// The placement problem of a cluster.
#[derive(Default)]
pub(super) struct Asked<'a> {
    problem: Problem,
    /// Of each model of the problem.
    models: Vec<Row<'a>>,
    /// Of each pair.
    places: Vec<Place>,
    /// Of each device.
    devices: Vec<Host<'a>>,
}

struct Row<'a> {
    name: &'a ModelName,
    version: Version,
    uneven: f64,
    allowance: f64,
    target_us: Option<f64>,
    /// What the fastest replica needs, where that is over the target.
    feasible_us: Option<f64>,
}

struct Place {
    variant: VariantId,
    worker: WorkerId,
    device: String,
    /// Microseconds of one row alone.
    run_us: f64,
}

struct Host<'a> {
    worker: &'a WorkerRecord,
    device: &'a DeviceRecord,
    /// Runs at once.
    servers: f64,
}

/// What comes of it.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) models: Vec<ModelPlan>,
    pub(super) devices: Vec<DevicePlan>,
    /// Where each variant of an asked model is wanted.
    pub(super) wanted: BTreeMap<VariantId, BTreeSet<WorkerId>>,
    /// Models of which no device can have anything, for reasons that are said elsewhere.
    pub(super) nowhere: BTreeSet<ModelName>,
}

impl ModelPlan {
    /// What is not as wanted, and what would be possible.
    pub(super) fn shortfall(&self) -> Option<Unplaced> {
        let say = |reason| Unplaced { model: self.model.clone(), version: Some(self.version), variant: None, reason, waits: true };
        if let (Some(feasible), Some(target)) = (self.feasible_ms, self.target_ms) {
            return Some(say(format!(
                "no replica can keep {target} ms, the fastest needs {feasible:.1} ms: it is served as fast as can be"
            )));
        }
        let short = self.served < 0.99 * self.rate;
        short.then(|| {
            let (served, rate) = (self.served, self.rate);
            say(format!("{served:.0} of {rate:.0} rows a second can be answered in time: ask for less, allow more time or add workers"))
        })
    }
}

/// Rows a second to plan for, by model: what is expected and what is seen, with hysteresis around what was planned last.
pub(super) fn rates(observed: &Observed, wanted: &Wanted) -> Rates {
    let mut seen: BTreeMap<&ModelName, Demand> = BTreeMap::new();
    for (model, demand) in observed.demands.iter().flat_map(|d| &d.models).filter(|(_, d)| d.is_plausible()) {
        seen.entry(model).and_modify(|sum| *sum = sum.and(*demand)).or_insert(*demand);
    }
    let rate = |model: &crate::ModelRecord| {
        let demand = seen.get(&model.name).copied().unwrap_or(Demand { uneven: 1.0, ..Demand::default() });
        // A record can be written past the checks of what may be wanted.
        let believed = |rate: Option<f64>| rate.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
        let wants = demand.rate().max(believed(model.expected_rate).unwrap_or_default()).min(believed(model.max_rate).unwrap_or(RATE_MAX));
        let before = observed.rates.get(&model.name).copied().unwrap_or_default();
        (model.name.clone(), (planned(before, wants), demand))
    };
    wanted.models.iter().filter(|m| m.wanted).map(rate).filter(|(_, (rate, _))| *rate > 0.0).collect()
}

impl<'a> Asked<'a> {
    /// The problem of those models in `groups` for which there is a rate. The memory of all others is taken.
    pub(super) fn new(view: &View<'a>, groups: &BTreeMap<&'a ModelName, Group<'a>>, rates: &Rates, now_s: Option<u64>) -> Self {
        let mut asked = Self::default();
        let (mut zones, mut hosts, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        let one_host = view.workers.values().map(|w| (&w.site, &w.host)).collect::<BTreeSet<_>>().len() < 2;
        for worker in view.workers.values() {
            let zone = position(&mut zones, (&worker.site, &worker.zone));
            // Where there is one host only, its workers are what can be lost.
            let node = position(&mut hosts, (&worker.site, &worker.host, one_host.then_some(&worker.id)));
            for device in &worker.devices {
                let memory_bytes = worker.memory_of(device);
                let kind = position(&mut kinds, (&device.class, worker.capabilities.cores, memory_bytes));
                let planned = (memory_bytes as f64 * MEMORY_SHARE) as u64;
                let bytes = planned.saturating_sub(taken(view, rates, &worker.id, &device.name));
                let cpu = device.name == "cpu";
                asked.problem.devices.push(Device { node, zone, bytes, loads_max: if cpu { 1 } else { 2 }, load_s_max: LOAD_S_MAX, kind });
                let cores = worker.capabilities.cores.max(1);
                asked.devices.push(Host { worker, device, servers: if cpu { f64::from(cores) } else { 1.0 } });
            }
        }
        for (name, group) in groups {
            let Some((rate, demand)) = rates.get(*name) else { continue };
            for (targets, share) in group.shares(view) {
                asked.add_model(view, &targets, rate * share, demand.uneven, now_s);
            }
        }
        let replicas = asked.problem.pairs.iter().filter(|pair| pair.placed).count();
        asked.problem.loads_max = replicas.div_ceil(LOADS_SHARE).max(2);
        asked
    }

    /// The variants of one version, or those of one side of a rollout.
    fn add_model(&mut self, view: &View<'a>, targets: &[&Target<'a>], rate: f64, uneven: f64, now_s: Option<u64>) {
        let Some(first) = targets.first() else { return };
        let (record, version) = (first.model, first.version.version);
        let (target_us, allowance) = (record.slo.latency_ms.map(|ms| f64::from(ms) * 1e3), record.slo.allowance());
        let number = self.problem.models.len();
        let mut pairs: Vec<(Pair, Place, f64)> = Vec::new();
        for (variant, target) in targets.iter().enumerate() {
            let Some(accuracy) = target.accuracy_of_floor() else { continue };
            for (index, host) in self.devices.iter().enumerate().filter(|(_, host)| target.may_be_on(host.worker, host.device, view)) {
                let forecast = view.forecast(&target.runs, &host.device.class).held_to(allowance);
                let asked = estimate::Asked {
                    rows_max: target.version.signature.max_batch_size.max(1),
                    target_us,
                    allowance,
                    net_us: NET_US,
                    instances: host.servers,
                    servers: host.servers / 2.0,
                    uneven,
                    noise: RUN_VARIANCE,
                };
                let can = estimate::estimate(&forecast, &asked);
                let placement = view.placements.get(&(&host.worker.id, &target.variant)).filter(|p| p.device == host.device.name);
                let loading = placement.is_some_and(|p| !view.is_done(p));
                let young = placement.and_then(|p| p.since_s).zip(now_s).is_some_and(|(since, now)| now.abs_diff(since) < YOUNG_S);
                let bytes = target.bytes(view);
                let load_s = view.load_s(&target.runs, &host.device.class).unwrap_or(bytes as f64 / LOAD_BYTES_PER_S);
                let pair = Pair {
                    model: number,
                    device: index,
                    variant,
                    accuracy,
                    service_s: can.service_s,
                    utilisation_max: can.utilisation_max,
                    bytes,
                    load_s,
                    placed: placement.is_some(),
                    fixed: target.is_pinned(&host.worker.id) || loading || young,
                    tie: choose::tie(&target.variant, &host.worker.id),
                };
                let (worker, device) = (host.worker.id.clone(), host.device.name.clone());
                let place = Place { variant: target.variant.clone(), worker, device, run_us: forecast.batch_us(1) };
                pairs.push((pair, place, NET_US + forecast.tail_us(1)));
            }
        }
        // A replica that is late even when idle is of use only where every one is.
        let in_time = |needs_us: f64| target_us.is_none_or(|target| needs_us <= target);
        let fastest_us = pairs.iter().map(|(_, _, needs_us)| *needs_us).fold(f64::INFINITY, f64::min);
        let feasible_us = (!pairs.is_empty() && !in_time(fastest_us)).then_some(fastest_us);
        if feasible_us.is_none() {
            pairs.retain(|(pair, _, needs_us)| pair.fixed || in_time(*needs_us));
        }
        let replicas_min = record.replicas.map_or(2, |n| usize::try_from(n).unwrap_or(usize::MAX));
        self.problem.models.push(Model {
            rate,
            weight: record.weight.filter(|weight| WEIGHTS.contains(weight)).unwrap_or(1.0),
            replicas_min,
        });
        self.models.push(Row { name: &record.name, version, uneven, allowance, target_us, feasible_us });
        for (pair, place, _) in pairs {
            self.problem.pairs.push(pair);
            self.places.push(place);
        }
    }

    /// Solves it.
    pub(super) fn answer(&self, more: &mut dyn FnMut() -> bool) -> Answer {
        let solution = place::solve(&self.problem, more);
        let mut wanted: BTreeMap<VariantId, BTreeSet<WorkerId>> = BTreeMap::new();
        for (place, placed) in self.places.iter().zip(&solution.placed) {
            let of_variant = wanted.entry(place.variant.clone()).or_default();
            if *placed {
                of_variant.insert(place.worker.clone());
            }
        }
        self.add_spares(&solution, &mut wanted);
        let devices: Vec<_> = self.devices.iter().enumerate().map(|(n, host)| self.device_plan(n, host, &solution)).collect();
        let models = self.models.iter().enumerate().map(|(k, row)| self.model_plan(k, row, &solution, &devices)).collect();
        let nowhere = |(k, row): (usize, &Row<'_>)| (!self.problem.pairs.iter().any(|pair| pair.model == k)).then(|| row.name.clone());
        let nowhere = self.models.iter().enumerate().filter_map(nowhere).collect();
        Answer { models, devices, wanted, nowhere }
    }

    /// Keeps variants that nothing flows through warm where there is memory left, those that are there first.
    fn add_spares(&self, solution: &Solution, wanted: &mut BTreeMap<VariantId, BTreeSet<WorkerId>>) {
        let mut left: Vec<u64> = self.problem.devices.iter().map(|d| d.bytes).collect();
        let mut take = |pair: &Pair| {
            let left = left.get_mut(pair.device)?;
            *left = left.checked_sub(pair.bytes)?;
            Some(())
        };
        let all = || self.problem.pairs.iter().zip(&self.places).zip(&solution.placed);
        for ((pair, _), _) in all().filter(|(_, placed)| **placed) {
            take(pair);
        }
        let mut absent: Vec<_> = all().filter(|(_, placed)| !**placed).map(|(both, _)| both).collect();
        absent.sort_by_key(|(pair, _)| (!pair.placed, pair.tie));
        for (pair, place) in absent {
            let of_variant = wanted.entry(place.variant.clone()).or_default();
            if of_variant.len() < SPARES && take(pair).is_some() {
                of_variant.insert(place.worker.clone());
            }
        }
    }

    fn model_plan(&self, number: usize, row: &Row<'_>, solution: &Solution, devices: &[DevicePlan]) -> ModelPlan {
        let model = self.problem.models.get(number).copied().unwrap_or_default();
        let waits = waits(row.allowance) * (row.uneven + RUN_VARIANCE);
        let (mut served, mut accuracy, mut tail_us, mut shares) = (0.0, 0.0, None::<f64>, Vec::new());
        for ((pair, place), rate) in self.problem.pairs.iter().zip(&self.places).zip(&solution.flow) {
            if pair.model != number || *rate <= NOTHING * model.rate {
                continue;
            }
            served += rate;
            accuracy += rate * pair.accuracy;
            let busy = devices.get(pair.device).map_or(0.0, |d| d.busy) * pair.utilisation_max;
            let servers = self.devices.get(pair.device).map_or(1.0, |host| host.servers);
            let waits_us = waits * place.run_us / (2.0 * (servers / 2.0).max(1.0) * (1.0 - busy).max(NOTHING));
            tail_us = Some(tail_us.unwrap_or_default().max(NET_US + waits_us + place.run_us));
            shares.push(Share { variant: place.variant.clone(), worker: place.worker.clone(), device: place.device.clone(), rate: *rate });
        }
        shares.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        ModelPlan {
            model: row.name.clone(),
            version: row.version,
            rate: model.rate,
            served,
            accuracy: if served > 0.0 { accuracy / served } else { 0.0 },
            allowance: row.allowance,
            tail_ms: tail_us.map(|us| us / 1e3),
            target_ms: row.target_us.map(|us| us / 1e3),
            feasible_ms: row.feasible_us.map(|us| us / 1e3),
            row_price: solution.row_prices.get(number).copied().unwrap_or_default() / model.weight,
            shares,
        }
    }

    fn device_plan(&self, number: usize, host: &Host<'_>, solution: &Solution) -> DevicePlan {
        let here = || self.problem.pairs.iter().zip(solution.placed.iter().zip(&solution.flow)).filter(|(p, _)| p.device == number);
        DevicePlan {
            worker: host.worker.id.clone(),
            device: host.device.name.clone(),
            busy: here().map(|(pair, (_, flow))| pair.share() * flow).sum(),
            bytes: here().filter(|(_, (placed, _))| **placed).map(|(pair, _)| pair.bytes).fold(0, u64::saturating_add),
            bytes_max: self.problem.devices.get(number).map_or(0, |d| d.bytes),
            time_price: solution.time_prices.get(number).copied().unwrap_or_default(),
        }
    }
}

/// Position of a key among those seen, which it joins if it is new.
fn position<K: PartialEq>(seen: &mut Vec<K>, key: K) -> usize {
    seen.iter().position(|known| *known == key).unwrap_or_else(|| {
        seen.push(key);
        seen.len().saturating_sub(1)
    })
}

/// Bytes on a device that replicas of models nobody asks for hold, or will.
fn taken(view: &View<'_>, rates: &Rates, worker: &WorkerId, device: &str) -> u64 {
    let idle = |variant: &VariantId| !rates.contains_key(&variant.model);
    let held =
        view.replicas.values().filter(|r| r.worker == *worker && r.device == device && idle(&r.variant)).map(|r| ledger::held(view, r));
    held.fold(0, u64::saturating_add)
}
