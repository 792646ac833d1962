//! The accept loop: the sockets of listeners, dealt to the network runtimes, served over HTTP/2 or HTTP/1.1, drained at the end.

use crate::body::UNREAD_MAX;
use crate::frame::ReplyBody;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

mod greeted;
mod unread;

use greeted::Greeted;
use unread::Unread;

/// Bounds of a listener and of each of its connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most connections at once.
    pub connections_max: usize,
    /// Most connections of one address.
    pub per_address_max: usize,
    /// Most concurrent streams of a connection.
    pub streams_max: u32,
    /// HTTP/2 flow-control windows in bytes: one stream, one connection.
    pub window_bytes: (u32, u32),
    /// Most streams of a connection that its peer opened and reset before we came to look at them; one more ends the connection.
    pub resets_max: usize,
    /// Largest header list in bytes.
    pub header_bytes_max: u32,
    /// How long a connection may take to say what it speaks.
    pub handshake_max: Duration,
    /// How long a peer may take nothing of what waits to be sent to it.
    pub unread_max: Duration,
    /// HTTP/1.1 is spoken too.
    pub http1: bool,
    /// How often a silent connection is asked whether it lives, and how long the answer may take.
    pub keep_alive: (Duration, Duration),
}

impl Limits {
    /// For clients: 1/4 MiB windows.
    pub const EDGE: Self = Self {
        connections_max: 12_000,
        per_address_max: 8_192,
        streams_max: 128,
        window_bytes: (1 << 20, 4 << 20),
        resets_max: 20,
        header_bytes_max: 16 << 10,
        handshake_max: Duration::from_secs(5),
        unread_max: UNREAD_MAX,
        http1: true,
        keep_alive: (Duration::from_secs(30), Duration::from_secs(10)),
    };
    /// Between gateway and worker: 2/16 MiB windows and as many streams as a gateway has requests. All of them may be given up at once, by
    /// clients that the gateway bounds: ending the connection for that would fail everybody else's requests on it.
    pub const INNER: Self = Self { streams_max: 4_096, resets_max: 4_096, window_bytes: (2 << 20, 16 << 20), http1: false, ..Self::EDGE };
}

/// Where a listener's sockets go: the network runtimes, least loaded first.
#[derive(Clone, Default)]
pub struct Runtimes(Arc<Vec<Lane>>);

struct Lane {
    /// Bare sockets: one that is registered with the accepting runtime would be woken there first, for every request.
    sockets: mpsc::Sender<std::net::TcpStream>,
    open: Arc<AtomicUsize>,
}

/// What a network runtime receives: sockets to serve, and the count of open ones it keeps.
pub struct Sockets {
    receiver: mpsc::Receiver<std::net::TcpStream>,
    open: Arc<AtomicUsize>,
}

/// A socket's place in its runtime's count; given back on drop.
pub struct OpenSocket(Arc<AtomicUsize>);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sockets {
    /// The next socket, registered with the runtime that asks; `None` when the listener is gone.
    pub async fn next(&mut self) -> Option<(TcpStream, OpenSocket)> {
        loop {
            let (stream, open) = (self.receiver.recv().await?, OpenSocket(self.open.clone()));
            match TcpStream::from_std(stream) {
                Ok(stream) => return Some((stream, open)),
                Err(error) => tracing::warn!(%error, "a connection cannot be served"),
            }
        }
    }
}

impl Runtimes {
    /// Lanes to `count` runtimes, and the receiving ends.
    pub fn new(count: usize) -> (Self, Vec<Sockets>) {
        // A runtime that does not take 256 sockets is stuck; the accept loop then waits instead of piling up.
        let pair = |_| {
            let (sockets, receiver) = mpsc::channel(256);
            let open = Arc::new(AtomicUsize::new(0));
            (Lane { sockets, open: open.clone() }, Sockets { receiver, open })
        };
        let (lanes, ends): (Vec<_>, Vec<_>) = (0..count.max(1)).map(pair).unzip();
        (Self(Arc::new(lanes)), ends)
    }

    async fn deal(&self, stream: TcpStream) {
        let Ok(stream) = stream.into_std() else { return };
        if let Some(lane) = self.0.iter().min_by_key(|lane| lane.open.load(Ordering::Relaxed)) {
            lane.open.fetch_add(1, Ordering::Relaxed);
            if lane.sockets.send(stream).await.is_err() {
                lane.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Accepts on `listener` until `stop` turns true. Over a limit a socket is closed at once; when the process has no file descriptor left
/// the loop waits 100 ms instead of spinning.
pub async fn accept(listener: TcpListener, runtimes: Runtimes, limits: Limits, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let open: usize = runtimes.0.iter().map(|lane| lane.open.load(Ordering::Relaxed)).sum();
                if open < limits.connections_max {
                    let _ = stream.set_nodelay(true);
                    runtimes.deal(stream).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Connections per client address.
#[derive(Clone, Default)]
pub struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place in [`Addresses`]; given back on drop.
pub struct AddressPlace {
    addresses: Addresses,
    ip: IpAddr,
}

impl Addresses {
    /// A place for a connection from `peer`, unless it has `limit` already.
    pub fn enter(&self, peer: SocketAddr, limit: usize) -> Option<AddressPlace> {
        let mut map = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = map.entry(peer.ip()).or_default();
        if *count >= limit {
            return None;
        }
        *count = count.saturating_add(1);
        Some(AddressPlace { addresses: self.clone(), ip: peer.ip() })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut map = self.addresses.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = map.get_mut(&self.ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                map.remove(&self.ip);
            }
        }
    }
}

/// Answers the requests of a connection. Cloned per request.
pub trait Handler: Clone + Send + 'static {
    /// Answers one request.
    fn call(&self, request: Request<Incoming>) -> impl Future<Output = Response<ReplyBody>> + Send;
}

/// Most header fields of an HTTP/1.1 request.
const HTTP1_HEADERS_MAX: usize = 100;
/// Most streams of a connection that we reset because its peer broke the protocol on them; one more ends the connection. A client that
/// works makes none of them; each costs us an answer and some memory (CVE-2025-8671, "MadeYouReset").
const LOCAL_RESETS_MAX: usize = 1_024;
/// Longest an HTTP/1.1 connection may wait for the end of the next request's head: what clients expect of an idle connection.
const HTTP1_IDLE_MAX: Duration = Duration::from_secs(75);

/// Serves one connection until the peer closes it, or until `stop` turns true and what is in flight is answered. A connection
/// that does not say within its time what it speaks is dropped: hyper would wait for that for ever, through a shutdown too.
pub async fn serve(stream: TcpStream, handler: impl Handler, limits: Limits, mut stop: watch::Receiver<bool>) {
    let stream = tokio::select! {
        greeted = tokio::time::timeout(limits.handshake_max, Greeted::read(stream)) => match greeted {
            Ok(Ok(stream)) => stream,
            _ => return,
        },
        _ = stop.wait_for(|stopped| *stopped) => return,
    };
    let is_http2 = stream.is_http2();
    let stream = TokioIo::new(Unread::new(stream, limits.unread_max, Greeted::abandon));
    let service = hyper::service::service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, std::convert::Infallible>(handler.call(request).await) }
    });
    if is_http2 {
        let connection = http2(limits).serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return log_end(result),
            _ = stop.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
        }
        log_end(connection.await);
    } else if limits.http1 {
        let connection = http1().serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return log_end(result),
            _ = stop.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
        }
        log_end(connection.await);
    }
}

fn http2(limits: Limits) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        // A reset stream no longer counts as concurrent, but is kept until we have looked at it: unbounded, opening and resetting streams
        // is work for us and none for the client (CVE-2023-44487, "rapid reset").
        .max_pending_accept_reset_streams(limits.resets_max)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .initial_stream_window_size(limits.window_bytes.0)
        .initial_connection_window_size(limits.window_bytes.1)
        .max_header_list_size(limits.header_bytes_max)
        .max_frame_size(64 << 10)
        .keep_alive_interval(limits.keep_alive.0)
        .keep_alive_timeout(limits.keep_alive.1);
    builder
}

fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HTTP1_IDLE_MAX).max_headers(HTTP1_HEADERS_MAX);
    builder
}

fn log_end(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
