//! Triton's TraceSetting and LogSettings: what a client may change of a running gateway's traces and logs.
//!
//! They hold for this gateway only, until it ends: no record keeps them, and no other gateway or worker hears of them.
//! In `up` the log is the whole process's.

use crate::settings::log::LogSettings;
use crate::settings::trace::TraceSettings;
use policy::Failure;
use proto::call::TraceContext;
use std::collections::BTreeMap;
use std::sync::Arc;

mod log;
mod trace;

pub(crate) use log::LogValue;

/// The logs and traces of this process, which only the binary can set up.
pub trait Telemetry: Send + Sync {
    /// The log filter in force: `tracing_subscriber`'s directives, such as `info,h2=warn`.
    fn filter(&self) -> String;

    /// Puts another log filter in force.
    ///
    /// # Errors
    /// Why it is not in force.
    fn set_filter(&self, directives: &str) -> Result<(), String>;

    /// Are traces sent anywhere?
    fn exports_traces(&self) -> bool;
}

/// What of this process's telemetry can be changed while it runs.
pub(crate) struct Settings {
    trace: TraceSettings,
    log: LogSettings,
}

impl Settings {
    pub(crate) fn new(telemetry: Arc<dyn Telemetry>) -> Self {
        Self { trace: TraceSettings::new(telemetry.exports_traces()), log: LogSettings::new(telemetry) }
    }

    /// Under which trace a request for `model` goes on; to be asked once, before its first span. See [`TraceSettings::context`].
    pub(crate) fn trace_context(&self, model: &str, incoming: Option<TraceContext>) -> Option<TraceContext> {
        self.trace.context(model, incoming)
    }

    /// Changes trace settings, of all models (`model` empty) or of one, and gives all that are in force there then.
    /// Without changes it only gives them. Either every change is made or none.
    ///
    /// # Errors
    /// [`Failure::UnknownModel`] when `model` is not `known`; [`Failure::Parameter`] for a setting or value that cannot be.
    pub(crate) fn trace(
        &self,
        model: &str,
        changes: &BTreeMap<String, Vec<String>>,
        known: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        if !model.is_empty() && !known(model) {
            return Err(Failure::UnknownModel { model: excerpt(model) });
        }
        self.trace.update(model, changes)?;
        let settings = self.trace.shown(model);
        if !changes.is_empty() {
            tracing::info!(model, ?settings, "trace settings of this gateway changed");
        }
        Ok(settings)
    }

    /// Changes log settings and gives all that are in force then. Without changes it only gives them.
    /// Either every change is made or none.
    ///
    /// # Errors
    /// [`Failure::Parameter`] for a setting or value that cannot be, or two that contradict each other.
    pub(crate) fn log(&self, changes: &BTreeMap<String, LogValue>) -> Result<BTreeMap<String, LogValue>, Failure> {
        let settings = self.log.update(changes)?;
        if !changes.is_empty() {
            tracing::info!(?settings, "log settings of this gateway changed");
        }
        Ok(settings)
    }
}

fn wrong(name: &str, what: String) -> Failure {
    Failure::Parameter { name: excerpt(name), what }
}

/// As much of a client's text as an error repeats.
fn excerpt(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
pub(crate) mod tests;
