//! The serving roles: load, build, wait, drain.

#[cfg(feature = "controller")]
pub(crate) mod controller;
#[cfg(feature = "gateway")]
pub(crate) mod gateway;
#[cfg(feature = "worker")]
pub(crate) mod library;
#[cfg_attr(not(all(feature = "gateway", feature = "worker")), allow(dead_code, reason = "each role takes what it needs"))]
mod listeners;
#[cfg(all(feature = "gateway", feature = "worker", feature = "controller"))]
pub(crate) mod up;
#[cfg(feature = "worker")]
pub(crate) mod worker;

#[cfg_attr(not(all(feature = "gateway", feature = "worker")), allow(unused_imports, reason = "as above"))]
pub(crate) use listeners::{Doors, bind, doors, raise_descriptors};

use crate::args::Etcd;
use registry::{EtcdConfig, Registry, RegistryConfig, TlsConfig};
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// From a stop to the end of what is still in flight; with the few seconds around it a stop takes less than 30.
#[cfg(any(feature = "gateway", feature = "worker"))]
const DRAIN_MAX: std::time::Duration = std::time::Duration::from_secs(25);

/// Until when everything that stops now must have finished: one moment for all parts of a process.
#[cfg(any(feature = "gateway", feature = "worker"))]
pub(crate) fn drain_deadline() -> std::time::Instant {
    let now = std::time::Instant::now();
    now.checked_add(DRAIN_MAX).unwrap_or(now)
}

/// SIGTERM and Ctrl-C, listened for from the start of a process to its end: a signal that comes between two waits is kept.
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Starts listening. A second signal ends the process at once.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (tx, rx) = watch::channel(false);
        tokio::spawn(async move {
            for first in [true, false] {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if first {
                    tracing::info!("stopping; a second signal ends at once");
                    tx.send_replace(true);
                }
            }
            std::process::exit(1);
        });
        Ok(Self(rx))
    }

    /// Resolves once a signal has come.
    pub(crate) async fn wait(&self) {
        let _ = self.0.clone().wait_for(|stopped| *stopped).await; // the sender lives as long as the process
    }
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
