//! What others would place, to compare: one variant a model, the rule of INFaaS, and the objective of Proteus.

use super::layout::{Layout, Wish};
use policy::demand::Demand;

/// What Proteus plans beyond the rate it sees.
pub(super) const PROTEUS_MARGIN: f64 = 1.05;
/// INFaaS: a model whose replicas are busier than this grows ...
const BUSY: f64 = 0.8;
/// ... one that is idler for so many seconds shrinks.
const IDLE: f64 = 0.3;
const IDLE_S: u32 = 10;
/// Requests per second of a replica that are counted on when the first are chosen, as a share of what it could do.
const FILL: f64 = 0.7;

/// Of each way, whether it is the fastest allowed variant of its model there.
pub(super) fn fastest(layout: &Layout) -> Vec<bool> {
    let row_s = |way: &super::layout::Way| layout.estimate(way, 1.0, 1.0).map_or(f64::INFINITY, |can| can.service_s);
    let slower = |way: &super::layout::Way| {
        let others = layout.ways.iter().filter(|other| other.model == way.model && other.device == way.device);
        others.into_iter().any(|other| {
            (row_s(other), other.variant) != (row_s(way), way.variant)
                && (row_s(other) < row_s(way) || (row_s(other) == row_s(way) && other.variant < way.variant))
        })
    };
    layout.ways.iter().map(|way| !slower(way)).collect()
}

/// Adds allowed ways to a plan wherever there is room, of the models that are asked most first.
pub(super) fn everywhere(layout: &Layout, mut wish: Wish, rates: &[f64], allowed: &dyn Fn(usize) -> bool) -> Wish {
    let rate = |model: usize| rates.get(model).copied().unwrap_or_default();
    let mut order: Vec<usize> = (0..layout.ways.len()).filter(|way| allowed(*way)).collect();
    let model_of = |way: usize| layout.ways.get(way).map_or(0, |way| way.model);
    order.sort_by(|a, b| rate(model_of(*b)).total_cmp(&rate(model_of(*a))).then(a.cmp(b)));
    let mut bytes: Vec<u64> = (0..layout.places.len()).map(|device| layout.bytes(device, |way| is(&wish.placed, way))).collect();
    for number in order {
        let Some(way) = layout.ways.get(number).filter(|_| !is(&wish.placed, number)) else { continue };
        let (Some(held), Some(place)) = (bytes.get_mut(way.device), layout.places.get(way.device)) else { continue };
        if held.saturating_add(way.bytes) <= place.bytes {
            *held = held.saturating_add(way.bytes);
            wish.placed.iter_mut().skip(number).take(1).for_each(|placed| *placed = true);
        }
    }
    wish
}

fn is(placed: &[bool], way: usize) -> bool {
    placed.get(way).copied().unwrap_or_default()
}

/// The rule of INFaaS: a model starts with the cheapest variant that meets target and floor; when its replicas are busy, it gets
/// another of the cheapest, or a faster one where that serves more for less; when they are idle, the dearest goes.
#[derive(Debug, Default)]
pub(super) struct Infaas {
    idle_s: Vec<u32>,
}

impl Infaas {
    /// The cheapest of each model, as many as its rate needs.
    pub(super) fn begin(&mut self, layout: &Layout, rates: &[f64]) -> Wish {
        self.idle_s = vec![0; layout.models.len()];
        let mut wish = Wish { placed: vec![false; layout.ways.len()], flow: vec![0.0; layout.ways.len()], ..Wish::default() };
        for (model, rate) in rates.iter().enumerate() {
            let mut rows = 0.0;
            while rows < *rate || rows == 0.0 {
                let Some(way) = next(layout, model, &|way| is(&wish.placed, way)) else { break };
                rows += FILL * capacity(layout, way);
                wish.placed.iter_mut().skip(way).take(1).for_each(|placed| *placed = true);
            }
        }
        wish
    }

    /// A second has passed; `busy` is the share of each device's time that was used in it.
    pub(super) fn tick(
        &mut self,
        layout: &Layout,
        demands: &[Demand],
        busy: &[f64],
        ready: &dyn Fn(usize) -> bool,
        there: &dyn Fn(usize) -> bool,
    ) -> Option<Wish> {
        let mut placed: Vec<bool> = (0..layout.ways.len()).map(there).collect();
        let mut changed = false;
        for model in 0..layout.models.len() {
            let of_model = |way: &usize| layout.ways.get(*way).is_some_and(|way| way.model == model);
            let mine: Vec<usize> = (0..layout.ways.len()).filter(of_model).filter(|way| is(&placed, *way)).collect();
            let loads = mine.iter().any(|way| !ready(*way));
            let capacity_all: f64 = mine.iter().map(|way| capacity(layout, *way)).sum();
            let device_busy = |way: &usize| layout.ways.get(*way).and_then(|way| busy.get(way.device)).copied().unwrap_or_default();
            let least_busy = mine.iter().map(device_busy).fold(1.0, f64::min);
            let rate = demands.get(model).map_or(0.0, |demand| demand.fast);
            let used = (rate / capacity_all.max(1e-9)).max(least_busy);
            let Some(idle_s) = self.idle_s.get_mut(model) else { continue };
            *idle_s = if used < IDLE { idle_s.saturating_add(1) } else { 0 };
            if used > BUSY && !loads {
                if let Some(way) = next(layout, model, &|way| is(&placed, way)) {
                    placed.iter_mut().skip(way).take(1).for_each(|placed| *placed = true);
                    changed = true;
                }
            } else if *idle_s >= IDLE_S && mine.len() > 1 {
                *idle_s = 0;
                let dearest = mine.iter().filter(|way| ready(**way)).max_by(|a, b| price(layout, **a).total_cmp(&price(layout, **b)));
                if let Some(way) = dearest {
                    placed.iter_mut().skip(*way).take(1).for_each(|placed| *placed = false);
                    changed = true;
                }
            }
        }
        changed.then(|| Wish { flow: vec![0.0; layout.ways.len()], placed, ..Wish::default() })
    }
}

/// What an hour of a replica costs: of its device, the share of it that its memory takes, and a little for each byte.
fn price(layout: &Layout, way: usize) -> f64 {
    let Some((way, place)) = layout.ways.get(way).and_then(|way| Some((way, layout.places.get(way.device)?))) else { return f64::INFINITY };
    place.price * (1.0 + way.bytes as f64 / place.bytes.max(1) as f64)
}

/// Rows a second of a replica that has its device alone.
fn capacity(layout: &Layout, way: usize) -> f64 {
    layout.ways.get(way).and_then(|way| layout.estimate(way, 1.0, 1.0)).map_or(0.0, |can| 1.0 / can.service_s)
}

/// The way to grow a model: the cheapest for what it serves that fits, on the device with the fewest bytes in use; at the start, when it
/// has none, simply the cheapest.
fn next(layout: &Layout, model: usize, placed: &dyn Fn(usize) -> bool) -> Option<usize> {
    let of_model = |w: &usize| layout.ways.get(*w).is_some_and(|way| way.model == model);
    let on_device = |device: usize| {
        let mine = (0..layout.ways.len()).filter(of_model).filter(|way| placed(*way));
        mine.filter_map(|way| layout.ways.get(way)).any(|way| way.device == device)
    };
    let has_any = (0..layout.ways.len()).filter(of_model).any(placed);
    let options = layout.ways.iter().enumerate().filter(|(w, way)| of_model(w) && !placed(*w) && !on_device(way.device));
    let fitting = options.filter_map(|(w, way)| {
        let place = layout.places.get(way.device)?;
        let held = layout.bytes(way.device, placed);
        let cost = if has_any { price(layout, w) / capacity(layout, w).max(1e-9) } else { price(layout, w) };
        (held.saturating_add(way.bytes) <= place.bytes).then_some((cost, held as f64 / place.bytes.max(1) as f64, w))
    });
    fitting.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))).map(|(_, _, way)| way)
}
