//! How long requests may wait on a device for the sake of each other.

use policy::{ModelRecord, PlanRecord, ReplicaRecord, ReplicaState, WorkerId};
use std::collections::HashMap;

/// Of all devices.
#[derive(Default)]
pub(super) struct Waits {
    /// Shortest latency target in microseconds of the models that are ready there.
    targets_us: HashMap<(WorkerId, String), f64>,
    /// Share of the planned rows that the plan leaves unanswered.
    short: f64,
}

impl Waits {
    pub(super) fn new<'r>(
        replicas: impl Iterator<Item = &'r ReplicaRecord>,
        models: &HashMap<String, ModelRecord>,
        plans: &HashMap<String, PlanRecord>,
    ) -> Self {
        let mut targets_us: HashMap<(WorkerId, String), f64> = HashMap::new();
        for replica in replicas.filter(|replica| matches!(replica.state, ReplicaState::Ready)) {
            let Some(ms) = models.get(replica.variant.model.as_str()).and_then(|model| model.slo.latency_ms) else { continue };
            let shortest = targets_us.entry((replica.worker.clone(), replica.device.clone())).or_insert(f64::INFINITY);
            *shortest = shortest.min(f64::from(ms) * 1e3);
        }
        let sum = |of: fn(&PlanRecord) -> f64| plans.values().map(of).filter(|rate| rate.is_finite()).sum::<f64>();
        let asked = sum(|plan| plan.rate.unwrap_or_default());
        let meant = sum(|plan| plan.shares.iter().map(|share| share.rate).sum());
        Self { targets_us, short: if asked > 0.0 { (1.0 - meant / asked).clamp(0.0, 1.0) } else { 0.0 } }
    }

    /// Longest wait for a replica, in microseconds.
    pub(super) fn max_us(&self, replica: &ReplicaRecord) -> f64 {
        let target_us = self.targets_us.get(&(replica.worker.clone(), replica.device.clone())).copied();
        policy::route::wait_us_max(target_us.unwrap_or(f64::INFINITY), self.short)
    }
}
