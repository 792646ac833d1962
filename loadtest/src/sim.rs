//! A described fleet in virtual time: the decisions are those of [`policy`], the same code that a gateway and a worker run; only
//! networks and devices are computed.
//!
//! Deterministic: nothing in here reads a clock or a random device, or does I/O. One loop takes events from a heap in the order of
//! their time, and of those at the same time the one that was made first. The seed decides arrivals, which gateway a request comes
//! to, the draws of the router and the noise of the devices, each by a stream of its own: with the same seed two policies see the
//! same requests and devices of the same mood.
//!
//! What it takes for granted: gateways and the network cost a fixed time and never fail, a batch takes its line times its slow factor
//! times log-normal noise of mean 1, a worker's word reaches its gateway with every answer and refusal and, where `push_ms` says so,
//! in between. A deadline reaches the worker less the way back. Models of one worker share its queue but no batch.
//!
//! Ahead of what runs live: a replica's word of its backlog comes with refusals and unasked, too. Not here:
//! retries, failures, slow start, tenants' budgets. Who runs what is described; where placement decides it, and among variants of other
//! accuracy, is [`placed`].

mod cluster;
mod fleet;
mod gateway;
pub mod placed;
mod worker;
mod world;

#[cfg(test)]
mod tests;

pub use fleet::{Fleet, FleetModel, FleetWorker};
pub use worker::noise;

use crate::error::LoadError;
use crate::measure::{Measured, Measurement, Subject};
use crate::report::Report;
use crate::schedule::Pace;
use crate::script::Script;
use policy::Moment;
use world::World;

/// What comes of `script` at `fleet`.
///
/// # Errors
/// [`LoadError::Settings`] with all that cannot be.
pub fn simulate(fleet: &Fleet, script: &Script) -> Result<Report, LoadError> {
    let mut problems = Vec::new();
    check(fleet, script, &mut problems);
    if !problems.is_empty() {
        return Err(LoadError::Settings(problems));
    }
    Ok(World::new(fleet, script).run())
}

/// The same `repeats` times, each with a schedule of its own, as a fleet called `name`.
///
/// # Errors
/// [`LoadError::Settings`] with all that cannot be.
pub fn measure(name: &str, fleet: &Fleet, script: &Script, repeats: usize) -> Result<Measurement, LoadError> {
    let reports = (0..repeats).map(|repeat| simulate(fleet, &script.repeat(repeat))).collect::<Result<_, _>>()?;
    let subject = Subject::Simulated { fleet: name.to_owned() };
    Ok(Measurement { targets: vec![Measured { subject, script: script.clone(), reports }] })
}

fn check(fleet: &Fleet, script: &Script, problems: &mut Vec<String>) {
    fleet.check(problems);
    script.check(problems);
    if let Pace::Closed { .. } = script.pace {
        problems.push("a closed loop cannot be simulated: requests must be due at moments fixed in advance".to_owned());
    }
    for ask in &script.mix.asks {
        match fleet.models.iter().find(|model| model.name == ask.model) {
            None => problems.push(format!("model {}: not one of the fleet's models {}", ask.model, fleet.model_names())),
            Some(model) if ask.rows.get() > model.max_batch_size => {
                let (rows, most) = (ask.rows, model.max_batch_size);
                problems.push(format!("model {}: {rows} rows of one request are over its max_batch_size {most}", ask.model));
            }
            Some(_) => {}
        }
    }
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
struct Job {
    /// Which kind of the mix.
    ask: usize,
    /// Which of the fleet's models.
    model: usize,
    rows: u32,
    priority: u32,
    due: Moment,
    deadline: Option<Moment>,
    /// Where it came in.
    gateway: usize,
    /// Microseconds from sending to the answer, as the gateway predicted.
    predicted_us: u64,
}

/// What a worker tells of itself.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// What who comes now waits for.
    backlog: policy::Backlog,
    /// What it expects of its batches; only with answers and refusals.
    forecast: Option<policy::profile::Forecast>,
    /// Arrivals from all gateways over those from this one.
    senders: f64,
}

/// `moment`, `us` microseconds later.
fn later(moment: Moment, us: u64) -> Moment {
    Moment::from_us(moment.as_us().saturating_add(us))
}
