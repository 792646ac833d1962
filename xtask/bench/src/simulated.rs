//! What the simulated benches share: many independent runs over the cores of this machine, and what is read off each.

use loadtest::report::{Devices, Place};
use loadtest::sim::{Fleet, simulate};
use loadtest::{LoadError, Report, Script};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Said above every table.
pub(crate) const SIMULATED: &str =
    "SIMULATED in virtual time by the policy code that runs live; devices and networks are computed, nothing was measured";

/// One run to be made.
pub(crate) struct Run {
    pub(crate) fleet: Fleet,
    pub(crate) script: Script,
}

/// What came of one, in per cent of the offered requests where it says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// Not answered in time.
    pub(crate) lost: f64,
    /// Answered too late.
    pub(crate) late: f64,
    /// Answered in time, a second.
    pub(crate) goodput: f64,
    /// Per cent of the devices' time that went into answers that came late.
    pub(crate) wasted: f64,
    /// Requests that began to run after their deadline.
    pub(crate) started_late: f64,
}

impl Outcome {
    fn of(report: &Report) -> Self {
        let share = |count: u64| 100.0 * count as f64 / report.offered.max(1) as f64;
        let devices = if let Place::Simulation(devices) = report.place { devices } else { Devices::default() };
        Self {
            lost: share(report.offered.saturating_sub(report.in_time)),
            late: share(report.answered.saturating_sub(report.in_time)),
            goodput: report.in_time as f64 / report.duration.as_secs_f64(),
            wasted: 100.0 * devices.late_share(),
            started_late: devices.started_late as f64,
        }
    }
}

/// The outcomes of `runs`, in their order.
pub(crate) fn all(runs: &[Run]) -> Result<Vec<Outcome>, LoadError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(run) = runs.get(index) else { return };
            let outcome = simulate(&run.fleet, &run.script).map(|report| Outcome::of(&report));
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
