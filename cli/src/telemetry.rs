//! Logs for people on a terminal and JSON elsewhere; traces by OTLP when configured.

use crate::args::Telemetry;
use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use std::io::{IsTerminal as _, Write as _};
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// Keeps the exporter until the end.
pub(crate) struct Guard {
    provider: Option<SdkTracerProvider>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Guard {
    /// What can be changed while the process runs.
    pub(crate) fn control(&self) -> Control {
        Control { filter: self.filter.clone(), exports: self.provider.is_some() }
    }

    /// Sends what is not sent yet.
    pub(crate) fn flush(self) {
        if let Some(Err(error)) = self.provider.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The log filter of this process, to be read and changed while it runs.
#[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "only a gateway has calls for it"))]
pub(crate) struct Control {
    filter: reload::Handle<EnvFilter, Registry>,
    exports: bool,
}

#[cfg(feature = "gateway")]
impl gateway::Telemetry for Control {
    fn filter(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default() // an error only when the subscriber is gone
    }

    fn set_filter(&self, directives: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
        self.filter.reload(filter).map_err(|error| error.to_string())
    }

    fn exports_traces(&self) -> bool {
        self.exports
    }
}

/// Sets up logging and tracing for this process.
pub(crate) fn init(config: &Telemetry) -> anyhow::Result<Guard> {
    let (lines, filter) = lines(&config.log)?;
    let provider = config.otlp.as_deref().map(exporter).transpose()?;
    let otlp = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sluice"));
        layer.with_filter(FilterFn::new(|meta| meta.target() == proto::trace::TARGET))
    });
    tracing_subscriber::registry().with(lines).with(otlp).init();
    Ok(Guard { provider, filter })
}

/// The log on standard error, and what changes its filter.
fn lines(filter: &str) -> anyhow::Result<(impl Layer<Registry> + Send + Sync, reload::Handle<EnvFilter, Registry>)> {
    let parsed = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a filter"))?;
    let (filter, handle) = reload::Layer::new(parsed);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() { lines.boxed() } else { lines.json().boxed() };
    // Outermost, so that an exporter's span costs nothing without an exporter.
    let not_spans = FilterFn::new(|meta| meta.target() != proto::trace::TARGET);
    Ok((lines.with_filter(filter).with_filter(not_spans), handle))
}

fn exporter(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp {endpoint:?} cannot be used"))?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("sluice").build();
    // Said here, so that no OTEL_ variable makes a worker record what a caller or a gateway did not sample.
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).with_sampler(sampler).build())
}

/// A line on standard error, whether or not there is a logger yet.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "sluice: {text}");
}

/// A line on standard output: what a person or a script asked for. A closed pipe is not an error.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(all(test, feature = "gateway"))]
mod tests {
    use super::*;
    use gateway::Telemetry as _;
    use tracing::{Level, enabled};

    #[test]
    fn the_log_filter_is_read_and_changed_while_it_is_in_use() {
        let (lines, filter) = lines("h2=off,WARN").unwrap();
        let control = Control { filter, exports: false };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let shown = || [enabled!(target: "gateway", Level::TRACE), enabled!(Level::INFO), enabled!(Level::WARN)];
            assert_eq!((control.filter().as_str(), shown()), ("h2=off,warn", [false, false, true]));
            control.set_filter("info,gateway=trace").unwrap();
            assert_eq!(shown(), [true, true, true]);
            assert!(control.set_filter("gateway=loud").is_err());
            control.set_filter("off").unwrap();
            assert_eq!(shown(), [false, false, false]);
        });
    }

    #[test]
    fn without_an_exporter_its_spans_are_disabled_whatever_is_logged() {
        let (lines, filter) = lines("trace").unwrap();
        let control = Control { filter, exports: false };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let span = || tracing::info_span!(target: proto::trace::TARGET, "receive");
            assert!(span().is_disabled());
            control.set_filter("debug").unwrap();
            assert!(span().is_disabled());
        });
    }
}
