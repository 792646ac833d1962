//! A closed loop: so many callers, each sends its next request when the last is answered.

use crate::message::{Canned, Protocol};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Callers that share an HTTP/2 connection; a client of HTTP/1.1 has one for each.
const CALLERS_PER_CONNECTION: usize = 4;

/// What a slice gave.
#[derive(Debug)]
pub(crate) struct Slice {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Answers.
    pub(crate) answers: u64,
    /// Their latencies.
    pub(crate) latency_ns: Histogram<u64>,
    /// Bytes of the last answer's body.
    pub(crate) answer_bytes: usize,
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn connect(protocol: Protocol, authority: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(authority).await.with_context(|| authority.to_owned())?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Rest => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::task::spawn_local(connection);
                Self::H1(sender)
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(io).await?;
                tokio::task::spawn_local(connection);
                Self::H2(sender)
            }
        })
    }

    /// The length of the answer's body.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<usize> {
        let response = match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2(sender) => sender.send_request(request).await?,
        };
        let (head, mut body) = response.into_parts();
        let (mut bytes, mut status) = (0usize, head.headers.get("grpc-status").cloned());
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => bytes = bytes.saturating_add(data.len()),
                Err(frame) => status = frame.into_trailers().ok().and_then(|t| t.get("grpc-status").cloned()),
            }
        }
        let well = head.status == StatusCode::OK && status.is_none_or(|status| status == "0");
        ensure!(well, "the server answered {} {:?}", head.status, head.headers);
        Ok(bytes)
    }
}

/// Sends each of the requests once, one after the other.
pub(crate) async fn each_once(canned: &Canned, authority: &str) -> anyhow::Result<()> {
    let send = async {
        let mut sender = Sender::connect(canned.protocol, authority).await?;
        for request in canned.requests(authority)? {
            sender.send(request).await?;
        }
        Ok(())
    };
    LocalSet::new().run_until(send).await
}

/// Sends to `authority` for `length` from `concurrency` callers.
pub(crate) async fn closed_loop(canned: &Canned, authority: &str, concurrency: usize, length: Duration) -> anyhow::Result<Slice> {
    let set = LocalSet::new();
    set.run_until(async {
        let mut senders = Vec::new();
        while senders.len() < concurrency {
            match Sender::connect(canned.protocol, authority).await? {
                Sender::H2(sender) => senders.extend((0..CALLERS_PER_CONNECTION).map(|_| Sender::H2(sender.clone()))),
                sender => senders.push(sender),
            }
        }
        senders.truncate(concurrency);
        let requests = Rc::new((canned.requests(authority)?, Cell::new(0usize)));
        let latencies = Rc::new(RefCell::new(Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?));
        let (started, mut callers) = (Instant::now(), Vec::new());
        for mut sender in senders {
            let (requests, latencies) = (requests.clone(), latencies.clone());
            callers.push(tokio::task::spawn_local(async move {
                let mut bytes = 0;
                let (requests, turns) = &*requests;
                while started.elapsed() < length {
                    let turn = turns.replace(turns.get().wrapping_add(1)).checked_rem(requests.len()).unwrap_or_default();
                    let request = requests.get(turn).context("nothing to send")?.clone();
                    let sent = Instant::now();
                    bytes = sender.send(request).await?;
                    latencies.borrow_mut().saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
                anyhow::Ok(bytes)
            }));
        }
        let mut answer_bytes = 0;
        for caller in callers {
            answer_bytes = caller.await??;
        }
        let latency_ns = latencies.borrow().clone();
        let answers = latency_ns.len();
        Ok(Slice { rate: answers as f64 / started.elapsed().as_secs_f64(), answers, latency_ns, answer_bytes })
    })
    .await
}
