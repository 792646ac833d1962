//! What a model's configuration says about its queue: Triton's `dynamic_batching`, in our units.

use std::collections::BTreeMap;

/// How requests of one model wait for each other. The default is work-conserving: nobody waits for company.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batching {
    /// Longest an idle instance waits for company of the request that has waited longest, in microseconds.
    pub max_delay_us: u64,
    /// Rows worth waiting for; a batch of such a size leaves at once. Empty: only a full batch does.
    pub preferred_rows: Vec<u32>,
    /// Answers leave in the order of arrival.
    pub preserve_ordering: bool,
    /// Priorities go from 1, the highest, to this; 0: there are none.
    pub priority_levels: u32,
    /// Priority of a request that names none.
    pub default_priority: u32,
    /// Rules of every priority that has none of its own.
    pub queue: QueuePolicy,
    /// Rules by priority.
    pub queue_by_priority: BTreeMap<u32, QueuePolicy>,
}

/// How long and how many may wait: Triton's `ModelQueuePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueuePolicy {
    /// What happens to who waited too long.
    pub timeout_action: TimeoutAction,
    /// Longest wait in microseconds; 0: no limit.
    pub default_timeout_us: u64,
    /// A request's `timeout` parameter may shorten that.
    pub allow_timeout_override: bool,
    /// Most waiting requests; 0: the worker's own limit.
    pub queue_len_max: u32,
}

/// What happens to a request that waited longer than its queue allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It runs after all that have not waited too long.
    Delay,
}
