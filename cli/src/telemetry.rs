//! Logs for people on a terminal and JSON elsewhere; traces by OTLP when configured.

use crate::args::Telemetry;
use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use std::io::{IsTerminal as _, Write as _};
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// Keeps the exporter until the end.
pub(crate) struct Guard {
    provider: Option<SdkTracerProvider>,
    #[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "only a gateway has calls that change it"))]
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Guard {
    /// What can be changed while the process runs.
    #[cfg(feature = "gateway")]
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
#[cfg(feature = "gateway")]
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
    let provider = config.otlp.as_deref().map(exporter).transpose()?;
    let (subscriber, filter) = subscriber(&config.log, provider.as_ref())?;
    subscriber.init();
    Ok(Guard { provider, filter })
}

/// Lines go to standard error, spans of [`proto::trace::TARGET`] to `provider`; the handle changes which lines.
///
/// What nobody reads costs a comparison, on every request and in libraries that tell of every frame. That takes one filter
/// per layer, each with a highest level, and no empty layer: anything else is looked at anew each time.
fn subscriber(
    log: &str,
    provider: Option<&SdkTracerProvider>,
) -> anyhow::Result<(impl Subscriber + Send + Sync, reload::Handle<EnvFilter, Registry>)> {
    let filter = EnvFilter::try_new(log).with_context(|| format!("--log {log:?} is not a filter"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let no_spans = Targets::new().with_default(LevelFilter::TRACE).with_target(proto::trace::TARGET, LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() { lines.boxed() } else { lines.json().boxed() };
    let mut layers = vec![lines.with_filter(filter.and(no_spans)).boxed()];
    if let Some(provider) = provider {
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("sluice"));
        layers.push(spans.with_filter(Targets::new().with_target(proto::trace::TARGET, LevelFilter::INFO)).boxed());
    }
    Ok((tracing_subscriber::registry().with(layers), handle))
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

#[cfg(test)]
#[cfg(feature = "gateway")]
mod tests {
    use super::*;
    use gateway::Telemetry as _;
    use tracing::{Level, enabled};

    fn check(provider: Option<&SdkTracerProvider>) {
        let (subscriber, filter) = subscriber("h2=off,WARN", provider).unwrap();
        let control = Control { filter, exports: provider.is_some() };
        let spans = LevelFilter::from_level(if provider.is_some() { Level::INFO } else { Level::ERROR });
        let highest = |lines| LevelFilter::max(lines, spans);
        tracing::subscriber::with_default(subscriber, || {
            let shown = || [enabled!(target: "gateway", Level::TRACE), enabled!(Level::INFO), enabled!(Level::WARN)];
            let exported = || !tracing::info_span!(target: proto::trace::TARGET, "receive").is_disabled();
            assert_eq!((control.filter().as_str(), shown()), ("h2=off,warn", [false, false, true]));
            assert_eq!(LevelFilter::current(), highest(LevelFilter::WARN), "this is the only test that logs");
            assert_eq!(exported(), provider.is_some());

            control.set_filter("info,gateway=trace").unwrap();
            assert_eq!((shown(), exported()), ([true, true, true], provider.is_some()));
            assert!(control.set_filter("gateway=loud").is_err());
            control.set_filter("error").unwrap();
            assert_eq!((shown(), exported()), ([false, false, false], provider.is_some()));
            assert_eq!(LevelFilter::current(), highest(LevelFilter::ERROR), "this is the only test that logs");
        });
    }

    #[test]
    fn the_log_filter_changes_in_use_and_without_an_exporter_its_spans_are_disabled_whatever_is_logged() {
        check(None);
        check(Some(&SdkTracerProvider::default()));
    }
}
