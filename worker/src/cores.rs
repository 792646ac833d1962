//! Which part of the machine's cores a replica's instances use.

use std::num::NonZeroUsize;

/// Instances of a replica and threads of each; together they never use more than the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorePlan {
    /// Cores the engines may use.
    pub cores: NonZeroUsize,
    /// Engine threads of a replica that does not say otherwise.
    pub instances: NonZeroUsize,
    /// Threads that work on one run, the instance's own among them.
    pub intra_threads: NonZeroUsize,
}

/// A replica with more instances than this holds its weights too often.
const INSTANCES_MAX: usize = 4;

impl CorePlan {
    /// For `cores` cores: instances first, up to four, since one-thread runs are steady and need no hand-off; the rest
    /// of the cores become threads of each.
    pub fn new(cores: NonZeroUsize) -> Self {
        Self::with_instances(cores, cores.get().min(INSTANCES_MAX))
    }

    /// The same with a given number of instances, at most one per core and at least one.
    pub fn with_instances(cores: NonZeroUsize, instances: usize) -> Self {
        let instances = instances.clamp(1, cores.get());
        let intra = cores.get().checked_div(instances).unwrap_or(1);
        let at_least_one = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self { cores, instances: at_least_one(instances), intra_threads: at_least_one(intra) }
    }
}

impl std::fmt::Display for CorePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores: {} instances of {} threads per replica", self.cores, self.instances, self.intra_threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn threads_never_exceed_the_cores(cores in 1usize..256, instances in 0usize..300) {
            let plan = CorePlan::with_instances(NonZeroUsize::new(cores).unwrap(), instances);
            prop_assert!(plan.instances.get() * plan.intra_threads.get() <= cores);
        }
    }
}
