//! Where a guarded rollout stands, and what gateways count of it.

use super::{SCHEMA, Unknown, schema};
use crate::rollout::{Counts, End, Progress, Rollout, Side};
use crate::{Digest, ModelName, ModelRecord, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

record! {
    /// `rollouts/{model}`: where the rollout that the model's record asks for stands.
    RolloutRecord {
        /// The model.
        model: ModelName,
        /// Tells it from the model's other rollouts: what is counted says for which it was.
        id: i64,
        /// What it is about.
        rollout: Rollout,
        /// Version that is served beside or around the candidate; none until both sides could answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        baseline: Option<Version>,
        /// Artifact of the candidate's reference, or of the variant that it is; none until both sides could answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        artifact: Option<Digest>,
        /// Share of requests that the candidate answers now, 0 to 1.
        weight: f64,
        /// Share of requests that are mirrored now, 0 to 1.
        shadow: f64,
        /// What is waited for; none when it has ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits: Option<String>,
        /// Copies of the look that runs that were not compared.
        #[serde(default)]
        skipped: u64,
        /// Steps, evidence and end.
        progress: Progress,
    }
}

record! {
    /// `counts/{gateway}`: what a gateway counted of the rollouts that run, by model.
    CountsRecord {
        /// Which gateway.
        gateway: String,
        /// By model.
        models: BTreeMap<ModelName, Counted>,
    }
}

/// What was counted of one rollout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// [`RolloutRecord::id`].
    pub rollout: i64,
    /// The counts.
    pub counts: Counts,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its sides could not both answer yet.
    Waits,
    /// Requests are split, and mirrored.
    Runs,
    /// The candidate took over.
    Promoted,
    /// The baseline stays.
    RolledBack,
}

impl Phase {
    /// May this side answer who asks for neither?
    pub fn may_answer(self, side: Side) -> bool {
        match self {
            Self::Runs | Self::Promoted => true,
            Self::Waits | Self::RolledBack => side == Side::Baseline,
        }
    }
}

impl RolloutRecord {
    /// Of the rollout `id`, which nobody has looked at yet.
    pub fn new(model: ModelName, id: i64, rollout: Rollout) -> Self {
        Self {
            schema: SCHEMA,
            model,
            id,
            rollout,
            baseline: None,
            artifact: None,
            weight: 0.0,
            shadow: 0.0,
            waits: None,
            skipped: 0,
            progress: Progress::default(),
            unknown: Unknown::new(),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match (&self.progress.end, self.baseline) {
            (Some(End::Promoted), _) => Phase::Promoted,
            (Some(End::RolledBack(_)), _) => Phase::RolledBack,
            (None, Some(_)) => Phase::Runs,
            (None, None) => Phase::Waits,
        }
    }

    /// This record, if it is about what `model` asks for now.
    pub fn of<'r>(record: Option<&'r Self>, model: &ModelRecord) -> Option<&'r Self> {
        record.filter(|record| model.rollout.as_ref().is_some_and(|rollout| rollout.is(&record.rollout)))
    }
}
