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

impl Batching {
    /// The level of a request that asks for `priority`: the default for one that names none, or one that is not there; 0 for
    /// all where there are no levels.
    pub(super) fn level(&self, priority: u32) -> u32 {
        match self.priority_levels {
            0 => 0,
            levels if (1..=levels).contains(&priority) => priority,
            levels => self.default_priority.clamp(1, levels),
        }
    }

    /// The rules of a level.
    pub(super) fn policy(&self, level: u32) -> &QueuePolicy {
        self.queue_by_priority.get(&level).unwrap_or(&self.queue)
    }
}

/// How long and how many may wait: Triton's `ModelQueuePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueuePolicy {
    /// What happens to who waited too long.
    pub timeout_action: TimeoutAction,
    /// Longest wait in microseconds; 0: no limit.
    pub default_timeout_us: u64,
    /// A request's `timeout` parameter may shorten that, also where there is no limit.
    pub allow_timeout_override: bool,
    /// Most waiting requests; 0: the worker's own limit.
    pub queue_len_max: u32,
}

impl QueuePolicy {
    /// Can a request time out here?
    pub(super) fn times_out(&self) -> bool {
        self.default_timeout_us > 0 || self.allow_timeout_override
    }

    /// Longest wait in microseconds of a request that asks for `asked`, where 0 asks for nothing; none: no limit.
    pub(super) fn allowed_us(&self, asked: Option<u64>) -> Option<u64> {
        let default = Some(self.default_timeout_us).filter(|us| *us > 0);
        let asked = asked.filter(|us| *us > 0 && self.allow_timeout_override);
        match (default, asked) {
            (Some(default), Some(asked)) => Some(default.min(asked)),
            (default, asked) => default.or(asked),
        }
    }
}

/// What happens to a request that waited longer than its queue allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It runs after all of its own and of higher priority that have not waited too long.
    Delay,
}
