//! The network side of the call seam: a worker on the other end of an HTTP/2 connection.

use crate::call::{InferCall, InferReply, Offer, ReplicaStatistics, Replies, Tensors, Upstream};
use crate::chain::Chain;
use crate::frame::{CallBody, Encoding, MessageBody, MessageReader, ReadError};
use crate::{control, envelope, metadata, status};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Body;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use policy::{Failure, Version};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between attempts: first, longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often a silent connection is asked whether it lives, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// Largest frame of an answer: fewer of them for large ones.
const FRAME_BYTES: u32 = 64 << 10;
/// Path of the inference call of a worker's data port.
pub const INFER_PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

type Sender = SendRequest<CallBody>;
/// Made once: a name that is given as text is copied into every request.
static VARIANT: HeaderName = HeaderName::from_static(metadata::VARIANT);
static TENANT: HeaderName = HeaderName::from_static(metadata::TENANT);
static TIMEOUT: HeaderName = HeaderName::from_static(metadata::TIMEOUT);
static TRACEPARENT: HeaderName = HeaderName::from_static(metadata::TRACEPARENT);
static TRACESTATE: HeaderName = HeaderName::from_static(metadata::TRACESTATE);
/// Room for a variant's name, so that writing it does not grow the text piece by piece.
const VARIANT_BYTES: usize = 128;

/// Requests over so many bytes go over a connection of their own: on the other one each would hold up a hundred small ones.
const BULK_BYTES_MIN: u64 = 64 << 10;

/// A worker across the network. Connects on its own and again when a connection is lost, until dropped.
pub struct Remote {
    small: Line,
    bulk: Line,
    limit: usize,
    /// Who we are, as `user-agent`.
    agent: HeaderValue,
}

/// One connection, kept up.
struct Line {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

#[derive(Default)]
struct Shared {
    sender: ArcSwapOption<Sender>,
    connected: Notify,
}

impl Line {
    fn to(address: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(keep_connected(address.to_owned(), shared.clone())).abort_handle();
        Self { shared, task }
    }

    /// The connection, if it stands.
    fn sender(&self) -> Option<Sender> {
        self.shared.sender.load().as_ref().filter(|sender| !sender.is_closed()).map(|sender| Sender::clone(sender))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remote {
    /// Starts connecting to `address` (`host:port`) on the current runtime. Replies over `limit` bytes are refused. `gateway` tells this
    /// gateway from others.
    pub fn connect(address: &str, limit: usize, gateway: u64) -> Self {
        let agent = HeaderValue::try_from(format!("sluice-gateway/{gateway:x}")).unwrap_or(HeaderValue::from_static("sluice-gateway"));
        Self { small: Line::to(address), bulk: Line::to(address), limit, agent }
    }

    /// Resolves once a connection stands.
    pub async fn connected(&self) {
        loop {
            let notified = self.small.shared.connected.notified();
            if self.reachable() {
                return;
            }
            notified.await;
        }
    }
}

impl Upstream for Remote {
    fn infer(&self, call: InferCall) -> Replies {
        let bulk = (call.raw.len() > BULK_BYTES_MIN).then(|| self.bulk.sender()).flatten();
        let (sender, limit, agent) = (bulk.or_else(|| self.small.sender()), self.limit, self.agent.clone());
        Replies::one(async move {
            let mut sender = sender.ok_or(Failure::ConnectionLost)?;
            let mut request = request(&call)?;
            request.headers_mut().insert(http::header::USER_AGENT, agent);
            sender.ready().await.map_err(|_| Failure::ConnectionLost)?;
            let response = sender.send_request(request).await.map_err(|_| Failure::ConnectionLost)?;
            read(response, limit).await
        })
    }

    fn reachable(&self) -> bool {
        self.small.shared.sender.load().as_ref().is_some_and(|s| !s.is_closed())
    }

    fn statistics(&self) -> BoxFuture<'static, Result<Vec<ReplicaStatistics>, Failure>> {
        let answer = self.unary(control::STATISTICS_PATH, control::write_statistics_request());
        Box::pin(async move { control::read_statistics(answer.await?) })
    }

    fn offer(&self, offer: Offer) -> BoxFuture<'static, Result<Vec<Version>, Failure>> {
        let answer = self.unary(control::OFFER_PATH, control::write_offer(offer));
        Box::pin(async move { control::read_offered(answer.await?) })
    }
}

impl Remote {
    /// One message for one message, for calls that are not hot.
    fn unary(&self, path: &'static str, message: Chain) -> impl Future<Output = Result<Chain, Failure>> + use<> {
        let (sender, limit) = (self.small.sender(), self.limit);
        async move {
            let mut sender = sender.ok_or(Failure::ConnectionLost)?;
            sender.ready().await.map_err(|_| Failure::ConnectionLost)?;
            let response = sender.send_request(post(path, whole(&message))).await.map_err(|_| Failure::ConnectionLost)?;
            Ok(read_one(response, limit).await?.0)
        }
    }
}

/// A gRPC request to a worker.
fn post(path: &'static str, body: CallBody) -> Request<CallBody> {
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(http::uri::Authority::from_static("worker"));
    uri.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
    *request.uri_mut() = http::Uri::from_parts(uri).unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    request
}

fn whole(message: &Chain) -> CallBody {
    CallBody::Message(MessageBody::message(message, None))
}

fn request(call: &InferCall) -> Result<Request<CallBody>, Failure> {
    let body = match &call.raw {
        Tensors::Here(raw) => whole(&envelope::write_request(&call.envelope, raw)),
        Tensors::Coming(inflow) => CallBody::inflow(&envelope::write_head(&call.envelope), inflow),
    };
    let mut request = post(INFER_PATH, body);
    let headers = request.headers_mut();
    let mut put = |name: &HeaderName, value: &str| -> Result<(), Failure> {
        let value = HeaderValue::from_str(value).map_err(|_| Failure::Malformed { what: format!("{name} is not a header value") })?;
        headers.insert(name, value);
        Ok(())
    };
    let mut variant = String::with_capacity(VARIANT_BYTES);
    let _ = write!(variant, "{}", call.variant); // a String takes everything
    put(&VARIANT, &variant)?;
    put(&TENANT, &call.caller.tenant)?;
    if let Some(remaining) = call.remaining {
        put(&TIMEOUT, &metadata::format_timeout(remaining))?;
    }
    if let Some(trace) = &call.trace {
        put(&TRACEPARENT, &trace.parent)?;
        if !trace.state.is_empty() {
            put(&TRACESTATE, &trace.state)?;
        }
    }
    Ok(request)
}

async fn read<B: Body<Data = Bytes> + Unpin>(response: Response<B>, limit: usize) -> Result<InferReply, Failure> {
    let (message, headers) = read_one(response, limit).await?;
    let load = metadata::load(&headers);
    let (reply, raw) = envelope::read_reply(message)?;
    Ok(InferReply { reply, raw, load })
}

/// The one message of an answer, and its headers. From the header on a loss is no longer [`Failure::ConnectionLost`]: the work may
/// have been done. A worker sends a message only when all went well, so one that dies between the message and its trailers, which leave
/// in two writes, has answered. One that falls silent is as one that dies: a header is sent when the answer is there, so nothing that
/// takes time is left to wait for.
async fn read_one<B: Body<Data = Bytes> + Unpin>(response: Response<B>, limit: usize) -> Result<(Chain, HeaderMap), Failure> {
    let (head, body) = response.into_parts();
    if head.headers.contains_key("grpc-status") {
        status::from_trailers(&head.headers)?; // trailers-only: a refusal
    }
    let mut reader = MessageReader::new(body, Encoding::of(&head.headers)?, limit).unary();
    let message = reader.next().await.map_err(late)?;
    let end = reader.next().await;
    let lost = matches!(&end, Err(ReadError::Gone | ReadError::Bad(Failure::Stalled { .. })));
    if message.is_none() || !lost {
        end.map_err(late)?.map_or(Ok(()), |_| Err(Failure::BadReply { what: "more than one message".to_owned() }))?;
        status::from_trailers(&reader.into_trailers())?;
    }
    Ok((message.ok_or_else(|| Failure::BadReply { what: "no message".to_owned() })?, head.headers))
}

fn late(error: ReadError) -> Failure {
    let what = match error {
        ReadError::Bad(Failure::Stalled { .. }) => "the worker fell silent inside an answer".to_owned(),
        ReadError::Bad(failure) => failure.to_string(),
        ReadError::Gone => "the connection was lost inside an answer".to_owned(),
    };
    Failure::BadReply { what }
}

async fn keep_connected(address: String, shared: Arc<Shared>) {
    let mut pause = BACKOFF.0;
    let mut down = false;
    loop {
        match tokio::time::timeout(CONNECT_TIMEOUT, connect(&address)).await {
            Ok(Ok((sender, connection))) => {
                (pause, down) = (BACKOFF.0, false);
                shared.sender.store(Some(Arc::new(sender)));
                shared.connected.notify_waiters();
                if let Err(error) = connection.await {
                    tracing::debug!(%address, %error, "connection to worker lost");
                }
                shared.sender.store(None);
            }
            failed => {
                if !std::mem::replace(&mut down, true) {
                    let error = failed.err().map_or_else(|| "refused".to_owned(), |e| e.to_string());
                    tracing::warn!(%address, error, "cannot connect to worker, trying on");
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(BACKOFF.1);
            }
        }
    }
}

type Connection = hyper::client::conn::http2::Connection<TokioIo<TcpStream>, CallBody, TokioExecutor>;

async fn connect(address: &str) -> Result<(Sender, Connection), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (stream_window, connection_window) = crate::listen::Limits::INNER.window_bytes;
    let pair = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(FRAME_BYTES)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::STALL_MAX;
    use crate::call::LoadReport;
    use crate::frame::ReplyBody;
    use http_body::Frame;
    use policy::{Envelope, VariantId};
    use tokio::net::TcpListener;

    /// A worker that answers one call with the first `bytes` of its message, and dies before the rest and the trailers.
    async fn dies_after(bytes: usize) -> Result<InferReply, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = Remote::connect(&listener.local_addr().unwrap().to_string(), 1 << 20, 1);
        let worker = async move {
            let (one, other) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
            let (mut one, mut other) = (h2::server::handshake(one).await.unwrap(), h2::server::handshake(other).await.unwrap());
            let (mut connection, accepted) = tokio::select! {
                accepted = one.accept() => (one, accepted),
                accepted = other.accept() => (other, accepted),
            };
            let (_request, mut respond) = accepted.unwrap().unwrap();
            let load = metadata::write_load(&LoadReport { backlog: policy::Backlog::whole(7), ..LoadReport::default() })
                .map(|v| (metadata::LOAD, v));
            let mut head = Response::builder().header("content-type", "application/grpc");
            head.headers_mut().unwrap().extend(load.map(|(name, value)| (http::HeaderName::from_static(name), value)));
            let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
            let message = MessageBody::message(&envelope::write_reply(&policy::Reply::default(), &[]), None);
            let whole = http_body_util::BodyExt::collect(message).await.unwrap().to_bytes();
            stream.send_data(whole.slice(..whole.len().min(bytes)), false).unwrap();
            assert!(futures_util::FutureExt::now_or_never(connection.accept()).is_none()); // writes it
        };
        let answer = async {
            remote.connected().await;
            remote.infer(call()).next().await.unwrap()
        };
        tokio::join!(answer, worker).0
    }

    fn call() -> InferCall {
        InferCall {
            envelope: Arc::new(Envelope::default()),
            raw: Tensors::Here(Vec::new()),
            rows: 1,
            variant: VariantId::parse("m:1:fp32@ort").unwrap(),
            remaining: None,
            caller: crate::call::Caller { tenant: Arc::from("t") },
            trace: None,
        }
    }

    /// Which of two connections a call of so many bytes comes by.
    async fn line_of(remote: &Remote, ends: &mut [h2::server::Connection<tokio::net::TcpStream, bytes::Bytes>; 2], bytes: usize) -> usize {
        let mut call = InferCall { raw: Tensors::Here(vec![Chain::from(vec![0; bytes])]), ..call() };
        Arc::make_mut(&mut call.envelope).inputs.push(policy::InputTensor::default());
        let mut replies = remote.infer(call);
        let [one, other] = ends;
        tokio::select! {
            Some(Ok(_)) = one.accept() => 0,
            Some(Ok(_)) = other.accept() => 1,
            _ = replies.next() => panic!("nobody answers"),
        }
    }

    #[tokio::test]
    async fn large_requests_have_a_connection_of_their_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = Remote::connect(&listener.local_addr().unwrap().to_string(), 1 << 20, 1);
        let (one, other) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
        let (one, other) = tokio::join!(h2::server::handshake(one), h2::server::handshake(other));
        let mut ends = [one.unwrap(), other.unwrap()];
        while remote.small.sender().is_none() || remote.bulk.sender().is_none() {
            tokio::task::yield_now().await;
        }
        let large = line_of(&remote, &mut ends, 100_000).await;
        for (bytes, is_large) in [(100, false), (100_000, true), (60_000, false)] {
            assert_eq!(line_of(&remote, &mut ends, bytes).await == large, is_large, "{bytes}");
        }
    }

    #[tokio::test]
    async fn i5_an_answer_is_whole_with_its_message_and_lost_with_part_of_it() {
        let whole = dies_after(usize::MAX).await.unwrap();
        assert_eq!(whole.load.backlog.all_us(), 7);
        assert!(matches!(dies_after(3).await, Err(Failure::BadReply { .. })));
        assert!(matches!(dies_after(0).await, Err(Failure::BadReply { .. })));
    }
    /// What is made of a worker's answer that has its header and `frames`, and then nothing more comes; and after what time.
    async fn stalls_after(frames: Vec<Frame<Bytes>>) -> (Result<InferReply, Failure>, Duration) {
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        frames.into_iter().for_each(|frame| tx.try_send(frame).unwrap());
        let started = tokio::time::Instant::now();
        let answer = read(Response::new(ReplyBody::Stream(rx)), 1 << 20);
        let answer = tokio::time::timeout(STALL_MAX * 10, answer).await.expect("given up");
        drop(tx);
        (answer, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn i5_a_worker_that_falls_silent_inside_an_answer_is_as_one_that_died_there() {
        let message = MessageBody::message(&envelope::write_reply(&policy::Reply::default(), &[]), None);
        let whole = http_body_util::BodyExt::collect(message).await.unwrap().to_bytes();
        for part in [vec![], vec![Frame::data(whole.slice(..3))]] {
            let (answer, after) = stalls_after(part).await;
            assert!(matches!(answer, Err(Failure::BadReply { .. })), "{answer:?}");
            assert_eq!(after, STALL_MAX);
        }
        let (answer, after) = stalls_after(vec![Frame::data(whole)]).await;
        assert!(answer.is_ok() && after == STALL_MAX, "an answer is whole with its message: {answer:?} after {after:?}");
    }
}
