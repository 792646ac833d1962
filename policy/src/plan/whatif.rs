//! A plan told to a person: what changes, and what would help where something is not as wanted.

use super::{DevicePlan, ModelPlan, Observed, Plan, Unplaced, Wanted, plan};
use crate::{ModelName, ModelRecord, VariantId, WorkerId};
use serde::{Deserialize, Serialize};

/// Most models for which alternatives are computed: each is a plan of its own.
const ALTERNATIVES_MAX: usize = 4;
/// Least gain, in rows a second as a share of what is asked, for which an alternative is worth telling.
const GAIN_MIN: f64 = 0.01;

/// A plan as `sluice plan` tells it. Nothing of it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Models that somebody asks for.
    pub models: Vec<ModelPlan>,
    /// The devices.
    pub devices: Vec<DevicePlan>,
    /// What would be loaded and unloaded now; more may follow.
    pub changes: Vec<Change>,
    /// What is not as wanted, in plain words.
    pub unplaced: Vec<String>,
    /// What would help.
    pub alternatives: Vec<Alternative>,
}

/// A replica that comes or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// It is loaded, else unloaded.
    pub loads: bool,
    /// The variant.
    pub variant: VariantId,
    /// On which worker.
    pub worker: WorkerId,
    /// On which of its devices.
    pub device: String,
}

/// Another wish, and what would come of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The model.
    pub model: ModelName,
    /// In plain words.
    pub wish: String,
    /// Rows a second answered in time then.
    pub served: f64,
    /// Rows a second answered in time as things are wanted.
    pub instead_of: f64,
    /// Accuracy of the answers then.
    pub accuracy: f64,
}

/// Plans without doing anything, and tries for models that are not answered in full what a lower floor, a longer target or more memory would
/// win. `more` is asked as by [`plan`], for all of it.
pub fn tell(observed: &Observed, wanted: &Wanted, more: &mut dyn FnMut() -> bool) -> Told {
    let planned = plan(observed, wanted, 0, more);
    let short = planned.models.iter().filter(|m| m.served < (1.0 - GAIN_MIN) * m.rate || m.feasible_ms.is_some());
    let alternatives = short.take(ALTERNATIVES_MAX).flat_map(|m| alternatives(observed, wanted, m, more)).collect();
    let Plan { unplaced, models, devices, .. } = planned.clone();
    let changes = changes(observed, &planned);
    Told { models, devices, changes, unplaced: unplaced.iter().map(said).collect(), alternatives }
}

fn said(unplaced: &Unplaced) -> String {
    let about = match (&unplaced.variant, &unplaced.version) {
        (Some(variant), _) => variant.to_string(),
        (None, Some(version)) => format!("{}:{version}", unplaced.model),
        (None, None) => unplaced.model.to_string(),
    };
    format!("{about}: {}", unplaced.reason)
}

fn changes(observed: &Observed, planned: &Plan) -> Vec<Change> {
    let change = |loads: bool, p: &crate::PlacementRecord| Change {
        loads,
        variant: p.variant.clone(),
        worker: p.worker.clone(),
        device: p.device.clone(),
    };
    let same = |a: &crate::PlacementRecord, b: &crate::PlacementRecord| {
        (&a.worker, &a.variant, &a.artifact, a.generation) == (&b.worker, &b.variant, &b.artifact, b.generation)
    };
    let new = planned.placements.iter().filter(|p| !observed.placements.iter().any(|before| same(before, p)));
    let gone = observed.placements.iter().filter(|before| !planned.placements.iter().any(|p| same(before, p)));
    new.map(|p| change(true, p)).chain(gone.map(|p| change(false, p))).collect()
}

fn alternatives(observed: &Observed, wanted: &Wanted, short: &ModelPlan, more: &mut dyn FnMut() -> bool) -> Vec<Alternative> {
    let mut found = Vec::new();
    let mut attempt = |wish: String, observed: &Observed, change: &dyn Fn(&mut ModelRecord)| {
        let mut wanted = wanted.clone();
        wanted.models.iter_mut().filter(|m| m.name == short.model).for_each(change);
        // What it would come to after all loads, not after the first few.
        let mut then = observed.clone();
        then.placements.clear();
        then.replicas.clear();
        let planned = plan(&then, &wanted, 0, more);
        let Some(model) = planned.models.iter().find(|m| m.model == short.model) else { return };
        if model.served - short.served >= GAIN_MIN * short.rate || (short.feasible_ms.is_some() && model.feasible_ms.is_none()) {
            let (served, accuracy, instead_of) = (model.served, model.accuracy, short.served);
            found.push(Alternative { model: short.model.clone(), wish, served, instead_of, accuracy });
        }
    };
    let record = wanted.models.iter().find(|m| m.name == short.model);
    if let Some(floor) = record.and_then(|r| r.slo.min_accuracy) {
        attempt(format!("without the floor of {floor}"), observed, &|m| m.slo.min_accuracy = None);
    }
    if let Some(ms) = record.and_then(|r| r.slo.latency_ms) {
        let longer = short.feasible_ms.map_or(ms.saturating_mul(2), |feasible| (feasible * 1.5).ceil() as u32).max(ms);
        attempt(format!("with a target of {longer} ms instead of {ms} ms"), observed, &|m| m.slo.latency_ms = Some(longer));
    }
    let mut roomy = observed.clone();
    for worker in &mut roomy.workers {
        worker.capabilities.memory_bytes = worker.capabilities.memory_bytes.saturating_mul(2);
        worker.devices.iter_mut().for_each(|device| device.memory_bytes = device.memory_bytes.saturating_mul(2));
    }
    attempt("with twice the memory on every device".to_owned(), &roomy, &|_| ());
    found
}
