//! Every way to serve a model of a fleet, and the placement problem that a demand makes of it.

use super::fleet::PlacedFleet;
use policy::place::estimate::{Asked, Estimate, estimate};
use policy::place::{Device, Model, Pair, Problem, Solution, solve};
use policy::profile::{Forecast, Latency};
use std::collections::BTreeMap;

/// Seconds that the loads of one plan may take on a device, one after the other: an epoch.
const LOAD_S_MAX: f64 = 10.0;
/// Loads of one plan, as a share of what is there ...
const LOADS_SHARE: f64 = 0.1;
/// ... and at least.
const LOADS_MIN: usize = 2;
/// Share of a device's bytes that is planned with.
const BYTES_SHARE: f64 = 0.85;
/// Nodes that a model is on: one may be lost.
const REPLICAS_MIN: usize = 2;
/// Replicas of a device beyond what the plan needs: each is a column more in the next program.
const SPARES_MAX: usize = 4;
/// Share of answers that may be late.
const ALLOWANCE: f64 = 0.01;
/// Rows a second below which nothing flows.
const FLOW_MIN: f64 = 1e-3;

/// A fleet with its devices one by one.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Of each device.
    pub places: Vec<Place>,
    /// Of each model.
    pub models: Vec<Served>,
    /// Every variant that may answer on every device on which it can be in time.
    pub ways: Vec<Way>,
    /// Squared coefficient of variation of a run.
    pub noise: f64,
    /// Microseconds there and back.
    pub net_us: f64,
}

/// A device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Position of its class.
    pub class: usize,
    /// Position of its zone.
    pub zone: usize,
    /// Engine threads.
    pub instances: u32,
    /// Bytes that replicas may take.
    pub bytes: u64,
    /// Replicas that load at once.
    pub loads: usize,
    /// What it costs beside others.
    pub price: f64,
}

/// A model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Served {
    /// Microseconds in which an answer is worth something.
    pub slo_us: f64,
    /// Least accuracy; below zero where there is none.
    pub floor: f64,
    /// Most rows of one batch.
    pub rows_max: u32,
}

/// A variant on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Position of the model.
    pub model: usize,
    /// Position of the variant in it.
    pub variant: usize,
    /// Position of the device.
    pub device: usize,
    /// Relative to the reference; `NaN` where nobody knows.
    pub accuracy: f64,
    /// Its line there.
    pub latency: Latency,
    /// Bytes it holds.
    pub bytes: u64,
    /// Microseconds until it is warm.
    pub load_us: u64,
}

/// How a way stands when a plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Not there.
    Absent,
    /// There, or on its way.
    Placed,
    /// The same, and it must stay.
    Fixed,
    /// It cannot be used now, and holds its bytes.
    Leaving,
    /// Not to be used.
    Barred,
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Rows a second.
    pub rows: f64,
    /// Variance of arrivals in a tenth of a second over their mean.
    pub uneven: f64,
}

/// How freely a plan may change things.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Freedom {
    /// Loads are not bounded: nothing is served yet.
    pub first: bool,
    /// Loads that are under way.
    pub loading: usize,
    /// Devices are planned to be full, as by who leaves no room for waits.
    pub full: bool,
}

impl Freedom {
    /// Of a first start.
    pub const FIRST: Self = Self { first: true, loading: 0, full: false };
}

/// A plan by ways.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Of each way, whether it is wanted.
    pub placed: Vec<bool>,
    /// Of each way, rows a second that are meant for it.
    pub flow: Vec<f64>,
    /// Rows a second that nobody answers.
    pub unserved: f64,
    /// Linear programs that it took.
    pub programs: usize,
}

impl Layout {
    /// Of a fleet that [`PlacedFleet::check`] finds nothing wrong with. What cannot be is left out.
    pub fn new(fleet: &PlacedFleet) -> Self {
        let zones: Vec<&str> = fleet.devices.iter().map(|group| group.zone.as_str()).collect();
        let mut places = Vec::new();
        for group in &fleet.devices {
            let Some(class) = fleet.classes.iter().position(|class| class.name == group.class) else { continue };
            let Some(kind) = fleet.classes.get(class) else { continue };
            let zone = zones.iter().position(|zone| *zone == group.zone).unwrap_or_default();
            let (instances, bytes, loads, price) = (kind.instances, kind.bytes, kind.loads as usize, kind.price);
            places.extend((0..group.count).map(|_| Place { class, zone, instances, bytes, loads, price }));
        }
        let mut layout = Self {
            places,
            models: Vec::new(),
            ways: Vec::new(),
            noise: (fleet.service_noise * fleet.service_noise).exp_m1(),
            net_us: 2.0 * fleet.one_way_us,
        };
        for (position, model) in fleet.models.iter().enumerate() {
            let served = Served { slo_us: model.slo_ms * 1e3, floor: model.floor.unwrap_or(-1.0), rows_max: model.max_batch_size };
            layout.models.push(served);
            let allowed = model.variants.iter().enumerate().filter(|(_, variant)| model.allows(variant.accuracy));
            for (number, variant) in allowed {
                for (device, place) in layout.places.iter().enumerate() {
                    let class = fleet.classes.get(place.class).map(|class| class.name.as_str()).unwrap_or_default();
                    let Some(latency) = variant.latency(class) else { continue };
                    let way = Way {
                        model: position,
                        variant: number,
                        device,
                        accuracy: variant.accuracy.unwrap_or(f64::NAN),
                        latency,
                        bytes: variant.bytes,
                        load_us: (variant.load_s * 1e6) as u64,
                    };
                    let useful = Forecast::from(latency).rows_useful(served.rows_max, served.slo_us, layout.net_us);
                    if useful > 0 && way.bytes <= place.bytes {
                        layout.ways.push(way);
                    }
                }
            }
        }
        layout
    }

    /// What a way can do, when `servers` engine threads share the model's requests.
    pub fn estimate(&self, way: &Way, uneven: f64, servers: f64) -> Option<Estimate> {
        let (model, place) = (self.models.get(way.model)?, self.places.get(way.device)?);
        let Served { rows_max, slo_us, .. } = *model;
        let asked = Asked {
            rows_max,
            target_us: Some(slo_us),
            allowance: ALLOWANCE,
            net_us: self.net_us,
            instances: f64::from(place.instances),
            servers,
            uneven,
            noise: self.noise,
        };
        Some(estimate(&way.latency.into(), &asked)).filter(|estimate| estimate.rows > 0)
    }

    /// Engine threads that a request of each model may go to, as its router sees them: two draws look at half of them.
    fn servers(&self, stand: &dyn Fn(usize) -> Stand) -> Vec<f64> {
        let mut servers = vec![0.0; self.models.len()];
        for (_, way) in self.ways.iter().enumerate().filter(|(w, _)| matches!(stand(*w), Stand::Placed | Stand::Fixed)) {
            let instances = self.places.get(way.device).map_or(0, |place| place.instances);
            servers.iter_mut().skip(way.model).take(1).for_each(|s| *s += f64::from(instances) / 2.0);
        }
        servers
    }

    /// The problem that `rates` make of what stands where, and of each of its pairs the way.
    pub fn problem(&self, rates: &[Rate], stand: &dyn Fn(usize) -> Stand, freedom: Freedom) -> (Problem, Vec<usize>) {
        let there = (0..self.ways.len()).filter(|w| matches!(stand(*w), Stand::Placed | Stand::Fixed)).count();
        let loads_max = ((there as f64 * LOADS_SHARE) as usize).max(LOADS_MIN).saturating_sub(freedom.loading);
        let mut problem = Problem { loads_max: if freedom.first { usize::MAX } else { loads_max }, ..Problem::default() };
        for (node, place) in self.places.iter().enumerate() {
            let left = |(_, way): &(usize, &Way)| way.device == node;
            let leaving = self.ways.iter().enumerate().filter(left).filter(|(w, _)| stand(*w) == Stand::Leaving);
            let leaving: u64 = leaving.map(|(_, way)| way.bytes).sum();
            problem.devices.push(Device {
                node,
                zone: place.zone,
                bytes: ((place.bytes as f64 * BYTES_SHARE) as u64).saturating_sub(leaving),
                loads_max: usize::MAX,
                load_s_max: if freedom.first { f64::INFINITY } else { LOAD_S_MAX * place.loads as f64 },
                kind: place.class,
            });
        }
        let rate = |model: usize| rates.get(model).copied().unwrap_or(Rate { rows: 0.0, uneven: 1.0 });
        problem.models = (0..self.models.len())
            .map(|model| Model { rate: rate(model).rows, weight: 1.0, replicas_min: if rate(model).rows > 0.0 { REPLICAS_MIN } else { 1 } })
            .collect();
        let servers = self.servers(stand);
        let mut index = Vec::new();
        for (w, way) in self.ways.iter().enumerate() {
            let stands = stand(w);
            if matches!(stands, Stand::Leaving | Stand::Barred) {
                continue;
            }
            let servers = servers.get(way.model).copied().unwrap_or_default();
            let Some(can) = self.estimate(way, rate(way.model).uneven, servers) else { continue };
            problem.pairs.push(Pair {
                model: way.model,
                device: way.device,
                variant: way.variant,
                accuracy: if way.accuracy.is_nan() { 0.0 } else { way.accuracy },
                service_s: can.service_s,
                utilisation_max: if freedom.full { 1.0 } else { can.utilisation_max },
                bytes: way.bytes,
                load_s: way.load_us as f64 / 1e6,
                placed: matches!(stands, Stand::Placed | Stand::Fixed),
                fixed: stands == Stand::Fixed,
                tie: (w as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            });
            index.push(w);
        }
        (problem, index)
    }

    /// The plan for `rates`, in at most `programs_max` programs, so that it is the same on every machine.
    pub fn plan(&self, rates: &[Rate], stand: &dyn Fn(usize) -> Stand, freedom: Freedom, programs_max: usize) -> Wish {
        let (problem, index) = self.problem(rates, stand, freedom);
        let mut left = programs_max;
        let found = solve(&problem, &mut || {
            left = left.saturating_sub(1);
            left > 0
        });
        self.wish(found, &index)
    }

    /// Fills the memory that a plan leaves, up to `SPARES_MAX` replicas a device: with what is there already, then with the fastest
    /// variants of the models that have fewest replicas for their rate, in at most `loads_max` loads. Nothing is meant for them, but whoever
    /// comes unplanned finds them warm; and they are the first to go.
    pub fn add_spares(&self, wish: &mut Wish, rates: &[f64], stand: &dyn Fn(usize) -> Stand, loads_max: usize) {
        let mut best: BTreeMap<(usize, usize), (f64, usize)> = BTreeMap::new();
        for (w, way) in self.ways.iter().enumerate() {
            let Some(can) = self.estimate(way, 1.0, 1.0) else { continue };
            let fastest = best.entry((way.device, way.model)).or_insert((can.service_s, w));
            if can.service_s < fastest.0 {
                *fastest = (can.service_s, w);
            }
        }
        let mut replicas = vec![0.0; self.models.len()];
        let placed = self.ways.iter().zip(&wish.placed).filter(|(_, placed)| **placed);
        placed.for_each(|(way, _)| replicas.iter_mut().skip(way.model).take(1).for_each(|count| *count += 1.0));
        let mut loads = 0;
        for (device, place) in self.places.iter().enumerate() {
            let mut options: Vec<usize> = best.range((device, 0)..=(device, usize::MAX)).map(|(_, (_, w))| *w).collect();
            options.retain(|w| !wish.placed.get(*w).copied().unwrap_or_default());
            let mut held = self.bytes(device, |w| wish.placed.get(w).copied().unwrap_or_default() || stand(w) == Stand::Leaving);
            for _ in 0..SPARES_MAX {
                let there = |w: usize| matches!(stand(w), Stand::Placed | Stand::Fixed);
                let fits = |w: usize| {
                    let bytes = self.ways.get(w).map_or(u64::MAX, |way| way.bytes);
                    held.saturating_add(bytes) <= (place.bytes as f64 * BYTES_SHARE) as u64
                        && (there(w) || (stand(w) == Stand::Absent && loads < loads_max))
                };
                let need = |w: usize| {
                    let model = self.ways.get(w).map_or(0, |way| way.model);
                    rates.get(model).copied().unwrap_or_default() / (1.0 + replicas.get(model).copied().unwrap_or_default())
                };
                let possible = options.iter().copied().filter(|w| fits(*w));
                let chosen = possible.max_by(|a, b| there(*a).cmp(&there(*b)).then(need(*a).total_cmp(&need(*b))).then(b.cmp(a)));
                let Some(w) = chosen else { break };
                let Some(way) = self.ways.get(w) else { break };
                loads += usize::from(!there(w));
                held = held.saturating_add(way.bytes);
                options.retain(|option| *option != w);
                replicas.iter_mut().skip(way.model).take(1).for_each(|count| *count += 1.0);
                wish.placed.iter_mut().skip(w).take(1).for_each(|placed| *placed = true);
            }
        }
    }

    fn wish(&self, found: Solution, index: &[usize]) -> Wish {
        let mut wish = Wish {
            placed: vec![false; self.ways.len()],
            flow: vec![0.0; self.ways.len()],
            unserved: found.unserved.iter().sum(),
            programs: found.programs,
        };
        for ((w, placed), flow) in index.iter().zip(found.placed).zip(found.flow) {
            wish.placed.iter_mut().skip(*w).take(1).for_each(|p| *p = placed);
            wish.flow.iter_mut().skip(*w).take(1).for_each(|f| *f = if flow > FLOW_MIN { flow } else { 0.0 });
        }
        wish
    }

    /// Mean accuracy of the rows that a plan answers.
    pub fn accuracy(&self, wish: &Wish) -> f64 {
        let rows = self.ways.iter().zip(&wish.flow).filter(|(_, flow)| **flow > 0.0);
        let (sum, all) = rows.fold((0.0, 0.0), |(sum, all), (way, flow)| (sum + flow * way.accuracy, all + flow));
        if all > 0.0 { sum / all } else { 0.0 }
    }

    /// Bytes of a device that `held` ways take.
    pub fn bytes(&self, device: usize, held: impl Fn(usize) -> bool) -> u64 {
        let here = self.ways.iter().enumerate().filter(|(w, way)| way.device == device && held(*w));
        here.map(|(_, way)| way.bytes).fold(0, u64::saturating_add)
    }
}
