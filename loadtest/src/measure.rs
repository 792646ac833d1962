//! Repeats of a load, at one target or at several in turn.

use crate::error::LoadError;
use crate::live::{Load, run};
use crate::report::Report;
use crate::script::Script;
use crate::stats::Spread;
use crate::target::Target;
use std::fmt;

/// One target's repeats.
#[derive(Debug)]
pub struct Measured {
    /// What answered.
    pub subject: Subject,
    /// What was asked, and when; the seed is the first repeat's.
    pub script: Script,
    /// One a repeat.
    pub reports: Vec<Report>,
}

/// What answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A server.
    Server {
        /// Where and how it was asked.
        target: Target,
        /// Connections to it.
        connections: usize,
    },
    /// A fleet that was computed, not run.
    Simulated {
        /// What it is called.
        fleet: String,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { target, .. } => write!(f, "{} ({})", target.url, target.protocol.as_str()),
            Self::Simulated { fleet } => write!(f, "SIMULATED fleet {fleet}"),
        }
    }
}

/// What came of all targets: one, or two to be compared.
#[derive(Debug)]
pub struct Measurement {
    /// In the order in which they take turns.
    pub targets: Vec<Measured>,
}

/// A figure of a report, and its name in JSON.
pub(crate) type Figure = (&'static str, fn(&Report) -> f64);

/// What is averaged over repeats and compared between targets.
pub(crate) const FIGURES: [Figure; 6] = [
    ("answered_per_second", Report::answered_per_second),
    ("goodput_per_second", |r| r.in_time as f64 / r.seconds()),
    ("latency_us_p50", |r| r.latency_us.value_at_quantile(0.5) as f64),
    ("latency_us_p90", |r| r.latency_us.value_at_quantile(0.9) as f64),
    ("latency_us_p99", |r| r.latency_us.value_at_quantile(0.99) as f64),
    ("latency_us_p999", |r| r.latency_us.value_at_quantile(0.999) as f64),
];

/// Sends every load once, then again, `repeats` times: A B A B. Each repeat has a schedule of its own, the same for all loads.
/// `before` is told which repeat of which load begins, both counted from 0.
///
/// # Errors
/// When nothing can be sent at all, in any turn.
pub async fn measure(loads: Vec<Load>, repeats: usize, mut before: impl FnMut(usize, usize)) -> Result<Measurement, LoadError> {
    let mut reports = vec![Vec::new(); loads.len()];
    for repeat in 0..repeats {
        for (turn, (load, reports)) in loads.iter().zip(&mut reports).enumerate() {
            before(repeat, turn);
            reports.push(run(&Load { script: load.script.repeat(repeat), ..load.clone() }).await?);
        }
    }
    let measured = |(load, reports): (Load, Vec<Report>)| {
        let subject = Subject::Server { target: load.target, connections: load.connections };
        Measured { subject, script: load.script, reports }
    };
    Ok(Measurement { targets: loads.into_iter().zip(reports).map(measured).collect() })
}

impl Measured {
    pub(crate) fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(&self.reports.iter().map(figure.1).collect::<Vec<_>>())
    }
}

impl Measurement {
    /// The second target's figure over the first's, pair by pair; `None` with one target.
    pub(crate) fn ratio(&self, figure: Figure) -> Option<Spread> {
        let [a, b] = self.targets.as_slice() else { return None };
        Spread::of_ratios(a.reports.iter().map(figure.1).zip(b.reports.iter().map(figure.1)))
    }
}
