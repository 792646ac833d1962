//! The serving roles: load, build, wait, drain.

#[cfg(feature = "controller")]
pub(crate) mod controller;
#[cfg(feature = "gateway")]
pub(crate) mod gateway;
#[cfg(feature = "worker")]
pub(crate) mod library;
mod listeners;
#[cfg(all(feature = "gateway", feature = "worker", feature = "controller"))]
pub(crate) mod up;
#[cfg(feature = "worker")]
pub(crate) mod worker;

pub(crate) use listeners::bind;

use crate::args::Etcd;
use registry::{EtcdConfig, Registry, RegistryConfig, TlsConfig};
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

/// Longest drain at the end of a process.
#[cfg(any(feature = "gateway", feature = "worker"))]
pub(crate) const DRAIN_MAX: std::time::Duration = std::time::Duration::from_secs(25);

/// Resolves at SIGTERM or Ctrl-C. A second one ends the process at once.
pub(crate) async fn stop() -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping; a second signal ends at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        std::process::exit(1);
    });
    Ok(())
}

/// The registry behind `--etcd`. It need not be there yet.
pub(crate) fn etcd(args: &Etcd) -> anyhow::Result<Arc<dyn Registry>> {
    let mut config = EtcdConfig::new(args.etcd.clone());
    config.tls = args.etcd_ca.clone().map(|ca| TlsConfig { ca, cert: args.etcd_cert.clone(), key: args.etcd_key.clone(), domain: None });
    Ok(registry::open(RegistryConfig::Etcd(config))?)
}

/// Name of this host.
#[cfg(any(feature = "worker", feature = "controller"))]
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')).take(100).collect();
    if plain.is_empty() { "localhost".to_owned() } else { plain }
}

/// Network threads: what was asked for, else a quarter of the cores.
#[cfg(any(feature = "gateway", feature = "worker"))]
pub(crate) fn network_threads(asked: Option<u16>) -> usize {
    let quarter = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(4));
    asked.map_or(quarter, usize::from)
}
