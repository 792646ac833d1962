//! Who this controller is, and its times.

use registry::Keys;
use std::time::Duration;

/// Settings of a controller.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Name of this process, for people; leadership hangs on a lease, not on it.
    pub id: String,
    /// The cluster.
    pub keys: Keys,
    /// Longest time between two plans. Changes are planned for at once.
    pub replan_every: Duration,
    /// Longest search for a better plan.
    pub plan_max: Duration,
    /// How long the election key outlives a leader that died.
    pub lease_ttl: Duration,
    /// A leader that heard nothing from the registry for so long steps down. Shorter than the lease, so that it has stopped
    /// before another can start.
    pub silence_max: Duration,
    /// How often a leader that has nothing to write makes sure that it still leads.
    pub confirm_every: Duration,
    /// Changes within this time are planned for together.
    pub settle: Duration,
    /// Pause after the registry failed.
    pub retry_after: Duration,
}

impl ControllerConfig {
    /// The usual times.
    pub fn new(id: impl Into<String>, keys: Keys) -> Self {
        Self {
            id: id.into(),
            keys,
            replan_every: Duration::from_secs(10),
            plan_max: Duration::from_secs(1),
            lease_ttl: Duration::from_secs(15),
            silence_max: Duration::from_secs(10),
            confirm_every: Duration::from_secs(3),
            settle: Duration::from_millis(20),
            retry_after: Duration::from_secs(1),
        }
    }
}
