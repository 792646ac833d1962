//! When a plan is made anew, and for what rates.

use super::Policy;
use super::baseline::{self, Infaas};
use super::gateway::Taste;
use super::layout::{Freedom, Layout, Rate, Stand, Wish};
use super::outcome::Epoch;
use super::stage::{Stage, State};
use policy::Moment;
use policy::demand::{Demand, RISE, planned};
use std::rc::Rc;

/// Seconds between two plans when nothing rises.
const EPOCH_S: u64 = 10;
/// Loads of one plan beyond what it needs.
const SPARE_LOADS_MAX: usize = 2;
/// Programs of one plan, in place of its second of time.
const PROGRAMS_MAX: usize = 60;
/// Programs of the first plan, which has no bound on time.
const PROGRAMS_FIRST_MAX: usize = 600;

pub(super) struct Control {
    layout: Rc<Layout>,
    policy: Policy,
    /// Rows a second planned for, of each model.
    planned: Vec<f64>,
    planned_at_s: u64,
    infaas: Infaas,
    loads_before: usize,
}

/// A plan, and how gateways go by it.
pub(super) struct Made {
    pub(super) wish: Wish,
    pub(super) taste: Option<Taste>,
    pub(super) epoch: Epoch,
}

impl Control {
    pub(super) fn new(layout: &Rc<Layout>, policy: &Policy) -> Self {
        Self {
            layout: layout.clone(),
            policy: policy.clone(),
            planned: vec![0.0; layout.models.len()],
            planned_at_s: 0,
            infaas: Infaas::default(),
            loads_before: 0,
        }
    }

    /// What is there at the start: for `first` by who plans anew, for the `mean` of the trace by who does not.
    pub(super) fn begin(&mut self, first: &[f64], mean: &[f64]) -> Made {
        let layout = self.layout.clone();
        let solved = |rates: &[f64], allowed: &dyn Fn(usize) -> bool, full: bool| {
            let rates: Vec<Rate> = rates.iter().map(|rows| Rate { rows: *rows, uneven: 1.0 }).collect();
            let stand = |way: usize| if allowed(way) { Stand::Absent } else { Stand::Barred };
            layout.plan(&rates, &stand, Freedom { full, ..Freedom::FIRST }, PROGRAMS_FIRST_MAX)
        };
        let (wish, taste) = match &self.policy {
            Policy::Sluice | Policy::StaticMean => {
                let sluice = self.policy == Policy::Sluice;
                let mut wish = solved(if sluice { first } else { mean }, &|_| true, false);
                if sluice {
                    layout.add_spares(&mut wish, first, &|_| Stand::Absent, usize::MAX);
                }
                let taste = Taste::Planned(wish.flow.as_slice().into());
                (wish, taste)
            }
            Policy::Random => (solved(mean, &|_| true, false), Taste::Random),
            Policy::BestSingle(variants) => {
                let only = |way: usize| layout.ways.get(way).is_some_and(|way| variants.get(way.model) == Some(&way.variant));
                (baseline::everywhere(&layout, solved(mean, &only, false), mean, &only), Taste::Any)
            }
            Policy::Fastest => {
                let fastest = baseline::fastest(&layout);
                let only = |way: usize| fastest.get(way).copied().unwrap_or_default();
                (baseline::everywhere(&layout, solved(mean, &only, false), mean, &only), Taste::Any)
            }
            Policy::Infaas => (self.infaas.begin(&layout, first), Taste::Any),
            Policy::Proteus => {
                let wish = solved(first, &|_| true, true);
                let shares = wish.flow.as_slice().into();
                (wish, Taste::ByShares(shares))
            }
        };
        self.planned = first.to_vec();
        let placements = wish.placed.iter().filter(|placed| **placed).count();
        let rate = first.iter().sum();
        let epoch = Epoch {
            rate,
            planned: rate,
            placements,
            unserved: wish.unserved,
            accuracy: self.layout.accuracy(&wish),
            programs: wish.programs,
            ..Epoch::default()
        };
        Made { wish, taste: Some(taste), epoch }
    }

    /// A second has passed: is there a new plan?
    pub(super) fn tick(&mut self, now: Moment, demands: &[Demand], busy: &[f64], stage: &Stage) -> Option<Made> {
        let second = now.as_us() / 1_000_000;
        let due = second >= self.planned_at_s.saturating_add(EPOCH_S);
        let (wish, taste) = match self.policy {
            Policy::Sluice => {
                let rises = self.planned.iter().zip(demands).any(|(planned, demand)| demand.rate() > RISE * planned);
                if !due && !rises {
                    return None;
                }
                self.planned.iter_mut().zip(demands).for_each(|(before, demand)| *before = planned(*before, demand.rate()));
                let mut wish = self.plan(now, demands, stage, false);
                let stand = |way: usize| stage.stand(now, way);
                self.layout.add_spares(&mut wish, &self.planned, &stand, SPARE_LOADS_MAX);
                let meant = Taste::Planned(wish.flow.as_slice().into());
                (wish, Some(meant))
            }
            Policy::Proteus if due => {
                self.planned.iter_mut().zip(demands).for_each(|(planned, demand)| *planned = baseline::PROTEUS_MARGIN * demand.fast);
                let wish = self.plan(now, demands, stage, true);
                let shares = wish.flow.as_slice().into();
                (wish, Some(Taste::ByShares(shares)))
            }
            Policy::Infaas => {
                let ready = |way: usize| matches!(stage.state(way), State::Ready(_));
                let there = |way: usize| stage.state(way) != State::Absent;
                (self.infaas.tick(&self.layout, demands, busy, &ready, &there)?, None)
            }
            _ => return None,
        };
        self.planned_at_s = second;
        let epoch = Epoch {
            at_s: now.as_us() as f64 / 1e6,
            rate: demands.iter().map(|demand| demand.fast).sum(),
            planned: self.planned.iter().sum(),
            unserved: wish.unserved,
            accuracy: self.layout.accuracy(&wish),
            placements: wish.placed.iter().filter(|placed| **placed).count(),
            loads: stage.loads.saturating_sub(self.loads_before),
            programs: wish.programs,
        };
        self.loads_before = stage.loads;
        Some(Made { wish, taste, epoch })
    }

    fn plan(&self, now: Moment, demands: &[Demand], stage: &Stage, full: bool) -> Wish {
        let rates: Vec<Rate> = self.planned.iter().zip(demands).map(|(rows, demand)| Rate { rows: *rows, uneven: demand.uneven }).collect();
        let freedom = Freedom { first: false, loading: stage.loading(), full };
        self.layout.plan(&rates, &|way| stage.stand(now, way), freedom, PROGRAMS_MAX)
    }
}
