//! Logs for people on a terminal and JSON elsewhere; traces by OTLP when configured.

use crate::args::Telemetry;
use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::{IsTerminal as _, Write as _};
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Keeps the exporter until the end.
pub(crate) struct Guard(Option<SdkTracerProvider>);

impl Guard {
    /// Sends what is not sent yet.
    pub(crate) fn flush(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Sets up logging and tracing for this process.
pub(crate) fn init(config: &Telemetry) -> anyhow::Result<Guard> {
    let filter = || EnvFilter::try_new(&config.log).with_context(|| format!("--log {:?} is not a filter", config.log));
    let not_spans = || FilterFn::new(|meta| meta.target() != proto::trace::TARGET);
    let terminal = std::io::stderr().is_terminal();
    let human = if terminal {
        Some(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter()?).with_filter(not_spans()))
    } else {
        None
    };
    let json = if terminal {
        None
    } else {
        Some(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).with_filter(filter()?).with_filter(not_spans()))
    };
    let provider = config.otlp.as_deref().map(exporter).transpose()?;
    let otlp = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sluice"));
        layer.with_filter(FilterFn::new(|meta| meta.target() == proto::trace::TARGET))
    });
    tracing_subscriber::registry().with(human).with(json).with(otlp).init();
    Ok(Guard(provider))
}

fn exporter(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp {endpoint:?} cannot be used"))?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("sluice").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
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
