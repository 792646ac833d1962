//! Devices on which placement decides which variants of which models run, in virtual time: demand counted at gateways, plans made anew
//! and carried out, requests that choose among what is there.
//!
//! Beside what a described fleet takes for granted ([`crate::sim`]): a load takes its time and slows nothing that runs, gateways know of a
//! replica at once when it is warm and at once when it goes, a profile begins with the true line, replicas of one device run beside each
//! other as fast as alone as long as it has engine threads for them.
//!
//! [`Policy`] names who places and chooses; the queues and the router underneath are the same for all.

mod baseline;
mod control;
mod device;
mod fleet;
mod gateway;
pub mod layout;
mod load;
mod outcome;
mod single;
mod stage;
#[cfg(test)]
mod tests;
mod world;

pub use fleet::{Class, DeviceGroup, PlacedFleet, PlacedModel, PlacedVariant};
pub use load::{Stretch, script};
pub use outcome::{Epoch, Outcome, Tally};
pub use single::best_single;

use crate::error::LoadError;
use crate::schedule::Pace;
use crate::script::Script;
use policy::profile::Forecast;
use policy::{Backlog, Moment};
use std::fmt;
use world::World;

/// Who places and chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Ours: a plan of each ten seconds and of each rise, the most accurate variant that leaves time enough.
    Sluice,
    /// One variant of each model wherever there is room: of each model the position of the variant.
    BestSingle(Vec<usize>),
    /// On each device the fastest allowed variant, wherever there is room.
    Fastest,
    /// Our plan for the mean load, once; our choice.
    StaticMean,
    /// The rule of INFaaS: the cheapest variant that keeps target and floor, more or faster ones under load.
    Infaas,
    /// The objective of Proteus, each ten seconds: all rows served, then accuracy; a variant is drawn by the plan's shares.
    Proteus,
    /// Our plan for the mean load, once; a variant is drawn at random.
    Random,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sluice => "sluice",
            Self::BestSingle(_) => "best-single",
            Self::Fastest => "fastest",
            Self::StaticMean => "static-mean",
            Self::Infaas => "infaas",
            Self::Proteus => "proteus",
            Self::Random => "random",
        })
    }
}

/// What comes of `script` at `fleet`, where `policy` places and chooses. Policies that do not plan anew know the mean of the whole script;
/// the others start with what its first seconds need.
///
/// # Errors
/// [`LoadError::Settings`] with all that cannot be.
pub fn simulate(fleet: &PlacedFleet, policy: &Policy, script: &Script) -> Result<Outcome, LoadError> {
    let mut problems = Vec::new();
    fleet.check(&mut problems);
    script.check(&mut problems);
    if let Pace::Closed { .. } = script.pace {
        problems.push("a closed loop cannot be simulated: requests must be due at moments fixed in advance".to_owned());
    }
    for ask in &script.mix.asks {
        match fleet.models.iter().find(|model| model.name == ask.model) {
            None => problems.push(format!("model {}: not one of the fleet's models", ask.model)),
            Some(model) if ask.rows.get() > model.max_batch_size => {
                problems.push(format!("model {}: {} rows are over its max_batch_size {}", ask.model, ask.rows, model.max_batch_size));
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(World::new(fleet, policy, script).run()) } else { Err(LoadError::Settings(problems)) }
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
struct Job {
    model: usize,
    rows: u32,
    due: Moment,
    deadline: Option<Moment>,
    gateway: usize,
    /// Where it goes.
    way: usize,
    predicted_us: u64,
}

/// What a device tells of itself.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// What who comes now waits for.
    backlog: Backlog,
    /// Of the replica that answers.
    forecast: Option<(usize, Forecast)>,
    /// Arrivals from all gateways over those from this one.
    senders: f64,
}
