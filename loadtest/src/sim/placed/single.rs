//! The best that one variant a model can do: found by simulating.

use super::fleet::PlacedFleet;
use super::layout::Layout;
use super::{Policy, simulate};
use crate::error::LoadError;
use crate::script::Script;

/// Per cent of each model's requests that must be in time.
const HELD: f64 = 99.0;

/// Of each model the most accurate variant with which all models together hold 99 % in time over `script`, the same on every device.
///
/// Models are moved to faster variants in the order of time saved for accuracy lost, as few as it takes; then each is tried with the
/// variant before, so that none is worse than it must be. Where even the fastest do not hold, those.
///
/// # Errors
/// [`LoadError::Settings`] with all that cannot be.
pub fn best_single(fleet: &PlacedFleet, script: &Script) -> Result<Vec<usize>, LoadError> {
    let ladders = ladders(fleet);
    let steps = steps(fleet, &ladders);
    let at = |taken: usize| {
        let mut rungs = vec![0; ladders.len()];
        for model in steps.iter().take(taken) {
            rungs.iter_mut().skip(*model).take(1).for_each(|rung| *rung += 1);
        }
        rungs
    };
    let variants = |rungs: &[usize]| -> Vec<usize> {
        ladders.iter().zip(rungs).map(|(ladder, rung)| ladder.get(*rung).map_or(0, |step| step.variant)).collect()
    };
    let holds = |rungs: &[usize]| -> Result<bool, LoadError> {
        let outcome = simulate(fleet, &Policy::BestSingle(variants(rungs)), script)?;
        let from_s = usize::try_from(script.warm_up.as_secs()).unwrap_or(usize::MAX);
        Ok((0..fleet.models.len()).all(|model| outcome.of_model(model, from_s).in_time_percent() >= HELD))
    };
    let (mut few, mut many) = (0, steps.len());
    while few < many {
        let middle = few.midpoint(many);
        if holds(&at(middle))? {
            many = middle;
        } else {
            few = middle + 1;
        }
    }
    let mut rungs = at(many);
    for model in 0..rungs.len() {
        let mut raised = rungs.clone();
        let Some(rung) = raised.get_mut(model).filter(|rung| **rung > 0) else { continue };
        *rung -= 1;
        if holds(&raised)? {
            rungs = raised;
        }
    }
    Ok(variants(&rungs))
}

/// A variant that is faster than all that are more accurate.
struct Rung {
    variant: usize,
    accuracy: f64,
    /// Seconds of the whole fleet that a row takes.
    row_s: f64,
}

fn ladders(fleet: &PlacedFleet) -> Vec<Vec<Rung>> {
    let layout = Layout::new(fleet);
    let ladder = |(position, model): (usize, &super::PlacedModel)| {
        let rung = |(variant, described): (usize, &super::PlacedVariant)| {
            let ways = layout.ways.iter().filter(|way| way.model == position && way.variant == variant);
            let rows: f64 = ways.filter_map(|way| layout.estimate(way, 1.0, 1.0)).map(|can| 1.0 / can.service_s).sum();
            (rows > 0.0).then(|| Rung { variant, accuracy: described.accuracy.unwrap_or_default(), row_s: 1.0 / rows })
        };
        let mut rungs: Vec<Rung> = model.variants.iter().enumerate().filter_map(rung).collect();
        rungs.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy).then(a.row_s.total_cmp(&b.row_s)));
        let mut fastest = f64::INFINITY;
        rungs.retain(|rung| {
            let keeps = rung.row_s < fastest;
            fastest = fastest.min(rung.row_s);
            keeps
        });
        rungs
    };
    fleet.models.iter().enumerate().map(ladder).collect()
}

/// The models to move by one rung, one after the other.
fn steps(fleet: &PlacedFleet, ladders: &[Vec<Rung>]) -> Vec<usize> {
    let mut rungs = vec![0usize; ladders.len()];
    let mut steps = Vec::new();
    loop {
        let worth = |model: usize| {
            let (ladder, rung, share) = (ladders.get(model)?, *rungs.get(model)?, fleet.models.get(model)?.share);
            let (now, next) = (ladder.get(rung)?, ladder.get(rung + 1)?);
            Some((share * (now.row_s - next.row_s) / (share * (now.accuracy - next.accuracy)).max(1e-9), model))
        };
        let best = (0..ladders.len()).filter_map(worth).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let Some((_, model)) = best else { return steps };
        rungs.iter_mut().skip(model).take(1).for_each(|rung| *rung += 1);
        steps.push(model);
    }
}
