//! Which part of the machine's cores a replica's instances use.

use policy::CoreShare;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
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
    /// Somebody said how many instances; what a model takes does not change that.
    pub given: bool,
    /// Does each instance keep to cores of its own?
    pub bound: bool,
}

impl CorePlan {
    /// For `cores` cores and models of which nothing more is known: instances first.
    pub fn new(cores: NonZeroUsize) -> Self {
        let CoreShare { instances, intra_threads } = CoreShare::for_throughput(cores);
        Self { cores, instances, intra_threads, given: false, bound: false }
    }

    /// With a given number of instances, at most one per core and at least one.
    pub fn with_instances(cores: NonZeroUsize, instances: usize) -> Self {
        let CoreShare { instances, intra_threads } = CoreShare::of_instances(cores, instances);
        Self { instances, intra_threads, given: true, ..Self::new(cores) }
    }

    /// For a model of which one row takes `one_row_us` microseconds on one thread, and whose answers should take at most `target_us`.
    pub(crate) fn by_profile(self, one_row_us: f64, target_us: f64) -> Self {
        let CoreShare { instances, intra_threads } = CoreShare::by_profile(self.cores, one_row_us, Some(target_us));
        Self { instances, intra_threads, ..self }
    }

    /// Cores of instance `at` with `threads` threads, by number; none when it is not bound, or when not all instances find cores of
    /// their own.
    pub(crate) fn of_instance(&self, at: usize, threads: NonZeroUsize) -> Vec<usize> {
        let allowed = allowed();
        let all = self.instances.get().saturating_mul(threads.get());
        if !self.bound || all > allowed.len() {
            return Vec::new();
        }
        allowed.into_iter().skip(at.saturating_mul(threads.get())).take(threads.get()).collect()
    }
}

/// Cores this thread may run on, by number.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None);
    set.map(|set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()).unwrap_or_default()
}

/// Binds this thread, and those that it starts from now on, to `cores`; to none in particular when empty. A core that is gone since
/// is no reason not to serve, so nothing is said when the system refuses.
pub(crate) fn bind(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    if set.count() > 0 {
        let _ = sched_setaffinity(None, &set);
    }
}

/// Does `work` while this thread is bound to `cores`, so that the threads it starts are.
pub(crate) fn bound_to<T>(cores: &[usize], work: impl FnOnce() -> T) -> T {
    if cores.is_empty() {
        return work();
    }
    let before = allowed();
    bind(cores);
    let done = work();
    bind(&before);
    done
}

impl std::fmt::Display for CorePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = if self.bound { ", each on cores of its own" } else { "" };
        write!(f, "{} cores: {} instances of {} threads per replica{bound}", self.cores, self.instances, self.intra_threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_instances_share_no_core_and_others_keep_to_none() {
        let here = NonZeroUsize::new(allowed().len()).unwrap();
        let plan = CorePlan::new(here);
        assert!(plan.of_instance(0, plan.intra_threads).is_empty());
        let plan = CorePlan { bound: true, ..plan };
        let mut all: Vec<_> = (0..plan.instances.get()).flat_map(|at| plan.of_instance(at, plan.intra_threads)).collect();
        assert_eq!(all.len(), plan.instances.get() * plan.intra_threads.get());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), plan.instances.get() * plan.intra_threads.get());
        let more = NonZeroUsize::new(plan.intra_threads.get() + here.get()).unwrap();
        assert!(plan.of_instance(0, more).is_empty(), "there are not so many");
    }

    #[test]
    fn threads_started_by_bound_work_keep_its_cores_and_this_one_is_free_again() {
        let before = allowed();
        let last = before[before.len() - 1..].to_vec();
        let (own, child) = bound_to(&last, || (allowed(), std::thread::spawn(allowed).join().unwrap()));
        assert_eq!((own, child), (last.clone(), last));
        assert_eq!(allowed(), before);
    }
}
