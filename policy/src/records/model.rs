//! What is wanted of a model: what it promises, which load it is planned for, and where it may run.

use super::{SCHEMA, Unknown, schema};
use crate::card::Metric;
use crate::rollout::Rollout;
use crate::{Digest, ExecutionProvider, ModelName, VariantName, Version, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an objective without a percentile allows.
const ALLOWANCE: f64 = 0.01;

/// What a model promises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Latency target in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u32>,
    /// Percentile at which it must hold, in per cent; none means 99.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentile: Option<f64>,
    /// Accuracy relative to the reference that every answer must have, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accuracy: Option<f64>,
    /// The floor counts only accuracies measured by this; none: by anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_metric: Option<Metric>,
    /// The floor counts only accuracies measured on the samples of this sha256; none: on any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_data: Option<Digest>,
}

impl Slo {
    /// Share of answers that may be late, 0 to 1: one less the percentile, a hundredth where none is said. A percentile up to 1 is read
    /// as a share, 0.99 as 99.
    ///
    /// Where there is no latency target no answer is late, but one that failed counts as late all the same, and this many may.
    pub fn allowance(&self) -> f64 {
        match self.percentile {
            Some(share) if share > 0.0 && share < 1.0 => 1.0 - share,
            Some(percent) if percent > 1.0 && percent < 100.0 => 1.0 - percent / 100.0,
            _ => ALLOWANCE,
        }
    }
}

/// A replica that must be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Of which variant.
    pub variant: VariantName,
    /// On which worker.
    pub worker: WorkerId,
}

/// What a tenant's request means where it says nothing itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct TenantDefaults {
    /// Latency target in milliseconds; none: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u32>,
    /// Accuracy relative to the reference that an answer must have, 0 to 1; none: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accuracy: Option<f64>,
}

record! {
    /// `models/{model}`: what an operator wants served.
    ModelRecord {
        /// Its name.
        name: ModelName,
        /// Wanted at all; `unload` clears it.
        wanted: bool,
        /// Exactly these versions; none means the latest valid ones.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        versions: Vec<Version>,
        /// How many of the latest valid versions, where none is named; none means one, and more than there are means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latest: Option<u32>,
        /// At least so many replicas per version, on different hosts; none means two on two hosts, or one where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replicas: Option<u32>,
        /// Execution provider its reference runs on.
        #[serde(default)]
        provider: ExecutionProvider,
        /// `cpu`: serve on the processor when the provider does not take the graph, and say so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<ExecutionProvider>,
        /// Engine threads per replica; none lets the worker's core plan decide.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instances: Option<u32>,
        /// What it promises.
        #[serde(default)]
        slo: Slo,
        /// Rows per second that are expected of all callers together; none: what is seen tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_rate: Option<f64>,
        /// Rows per second at most planned for, however many come; none: no bound.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_rate: Option<f64>,
        /// Importance against other models where there is not room for all; none means 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<f64>,
        /// Variants that may be used, the reference included; empty means all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        variants: Vec<VariantName>,
        /// Zones it may run in; empty means all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        zones: Vec<String>,
        /// Cost classes of workers it may use; empty means all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cost_classes: Vec<String>,
        /// Replicas that must be there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pins: Vec<Pin>,
        /// Seconds without requests after which no replica is kept, whatever `replicas` and `expected_rate` say; none means always kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_s: Option<u32>,
        /// By tenant, what its requests mean where they say nothing themselves.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        tenants: BTreeMap<String, TenantDefaults>,
        /// What is to take over from what is served, guarded; none: a newer version takes over as soon as it is routable.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<Rollout>,
        /// Names that requests may say instead of a version's number.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        aliases: BTreeMap<String, Version>,
        /// A load call brought files or a configuration: what it says stands until the next load call.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_call: bool,
        /// Made from a model's files, not by an operator: its settings follow the files when they change.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        derived: bool,
        /// Grows with every load call, so that a load of a loaded model loads it anew.
        #[serde(default)]
        generation: u64,
    }
}

impl ModelRecord {
    /// A wanted model about which nothing else is said.
    pub fn new(name: ModelName) -> Self {
        Self {
            schema: SCHEMA,
            name,
            wanted: true,
            versions: Vec::new(),
            latest: None,
            replicas: None,
            provider: ExecutionProvider::default(),
            fallback: None,
            instances: None,
            slo: Slo::default(),
            expected_rate: None,
            max_rate: None,
            weight: None,
            variants: Vec::new(),
            zones: Vec::new(),
            cost_classes: Vec::new(),
            pins: Vec::new(),
            idle_s: None,
            tenants: BTreeMap::new(),
            rollout: None,
            aliases: BTreeMap::new(),
            by_call: false,
            derived: false,
            generation: 0,
            unknown: Unknown::new(),
        }
    }
}
