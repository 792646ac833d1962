//! Listeners on their network runtimes: current-thread runtimes, each owning the connections dealt to it.

use crate::listen::{self, Addresses, Handler, Limits, Runtimes, Sockets};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

/// Threads of a network runtime for what must not stall its connections: inflating, compressing, reading large JSON.
const ASIDE_MAX: usize = 4;

/// Running listeners.
pub struct Server {
    stop: watch::Sender<bool>,
    connections: Arc<Connections>,
}

/// Open connections of all runtimes.
#[derive(Default)]
struct Connections {
    open: AtomicUsize,
    changed: Notify,
}

/// A connection's place in the count; given back on drop.
struct Open(Arc<Connections>);

impl Open {
    fn enter(connections: &Arc<Connections>) -> Self {
        connections.open.fetch_add(1, Ordering::AcqRel);
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

impl Connections {
    async fn all_closed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Server {
    /// Serves `listeners` on `runtimes` threads. `handler` is called once on each, inside its runtime, so that what it
    /// spawns lives there.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<H: Handler>(
        listeners: Vec<TcpListener>,
        runtimes: usize,
        limits: Limits,
        handler: impl Fn() -> H + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Connections::default());
        let (lanes, ends) = Runtimes::new(runtimes);
        let addresses = Addresses::default();
        for sockets in ends {
            let lane = Lane { limits, connections: connections.clone(), addresses: addresses.clone(), stopped: stopped.clone() };
            let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(ASIDE_MAX).enable_all().build()?;
            let handler = handler.clone();
            let run = move || runtime.block_on(async move { lane.run(sockets, handler()).await });
            std::thread::Builder::new().name("sluice-net".to_owned()).spawn(run)?;
        }
        for listener in listeners {
            tokio::spawn(listen::accept(listener, lanes.clone(), limits, stopped.clone()));
        }
        Ok(Self { stop, connections })
    }

    /// Accepts no more, tells every connection to go (GOAWAY), and waits until all are closed; true when they were by
    /// `deadline`. Requests in flight are answered.
    pub async fn drain(self, deadline: Instant) -> bool {
        self.stop.send_replace(true);
        let closed = tokio::time::timeout_at(deadline.into(), self.connections.all_closed()).await.is_ok();
        if !closed {
            tracing::warn!(open = self.connections.open.load(Ordering::Relaxed), "connections cut at the end of the drain");
        }
        closed
    }
}

/// What one network runtime needs.
struct Lane {
    limits: Limits,
    connections: Arc<Connections>,
    addresses: Addresses,
    stopped: watch::Receiver<bool>,
}

impl Lane {
    async fn run(self, mut sockets: Sockets, handler: impl Handler) {
        while let Some((stream, place)) = sockets.next().await {
            let peer = stream.peer_addr().ok();
            let Some(address) = peer.and_then(|peer| self.addresses.enter(peer, self.limits.per_address_max)) else { continue };
            let open = Open::enter(&self.connections);
            let (handler, limits, stopped) = (handler.clone(), self.limits, self.stopped.clone());
            tokio::spawn(async move {
                listen::serve(stream, handler, limits, stopped).await;
                drop((place, address, open));
            });
        }
        // The listener is gone; connections that drain still live on this runtime.
        self.connections.all_closed().await;
    }
}
