//! Connections to one target that answer prepared requests. What is read of an answer: its status, and the text of an error; over gRPC
//! and where it is asked for, who gave it.
//!
//! A request that never left because its connection had closed is sent once more on a new one, as gRPC libraries do.

use crate::target::{Protocol, dial, error_text, root};
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use policy::{Failure, Param, Served};
use proto::chain::Chain;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Answers are read as fast as they come: windows in bytes of a stream and of a connection.
const WINDOW_BYTES: (u32, u32) = (4 << 20, 64 << 20);
/// Bytes of an error's body that are read; the rest is passed over.
const ERROR_BYTES_MAX: usize = 8 << 10;
/// In front of a message: a flag byte, a length.
const FRAME_BYTES: usize = 5;
/// Text of an error that is kept, in characters.
const ERROR_CHARS_MAX: usize = 300;

/// A prepared request; cloning it is cheap.
pub(crate) type Prepared = Request<Full<Bytes>>;
type Sent = Result<Response<Incoming>, TrySendError<Prepared>>;
type Grpc = http2::SendRequest<Full<Bytes>>;
type Rest = http1::SendRequest<Full<Bytes>>;

/// Connections of one sender thread.
pub(crate) struct Client {
    authority: Authority,
    lanes: Lanes,
    /// Is it read who answered?
    reads: bool,
}

/// What an answer says of where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// Name of the variant.
    pub(crate) variant: String,
    /// Relative to the reference; 0 where it is not told.
    pub(crate) accuracy: f64,
}

enum Lanes {
    /// Requests share all connections in turn. A lock is held while its connection is made, so that many requests make one.
    Grpc { lanes: Vec<tokio::sync::Mutex<Option<Grpc>>>, next: AtomicUsize },
    /// One request at a time each; those without one are made when needed.
    Rest { idle: Mutex<Vec<Rest>>, permits: Semaphore, waited: AtomicU64 },
}

impl Client {
    pub(crate) fn new(authority: Authority, protocol: Protocol, connections: usize, reads: bool) -> Self {
        let lanes = match protocol {
            Protocol::Grpc => {
                let lanes = (0..connections).map(|_| tokio::sync::Mutex::new(None)).collect();
                Lanes::Grpc { lanes, next: AtomicUsize::new(0) }
            }
            Protocol::Rest => Lanes::Rest { idle: Mutex::new(Vec::new()), permits: Semaphore::new(connections), waited: AtomicU64::new(0) },
        };
        Self { authority, lanes, reads }
    }

    /// Makes the connections ahead of the first request. One that fails is tried again by the request that needs it.
    pub(crate) async fn warm(&self) {
        match &self.lanes {
            Lanes::Grpc { lanes, .. } => {
                for lane in lanes {
                    let _ = self.grpc(lane).await;
                }
            }
            Lanes::Rest { idle, permits, .. } => {
                for _ in 0..permits.available_permits() {
                    let Ok(sender) = self.dial_rest().await else { return };
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                }
            }
        }
    }

    /// Requests that found every connection taken (REST only).
    pub(crate) fn waited(&self) -> u64 {
        match &self.lanes {
            Lanes::Grpc { .. } => 0,
            Lanes::Rest { waited, .. } => waited.load(Ordering::Relaxed),
        }
    }

    /// Sends `request` and reads its answer; who gave it, where that is read and told.
    ///
    /// # Errors
    /// What went wrong as a code and a text, such as `Unavailable: no replica` or `connection: refused`.
    pub(crate) async fn ask(&self, request: Prepared) -> Result<Option<Told>, String> {
        match &self.lanes {
            Lanes::Grpc { lanes, next } => {
                let turn = next.fetch_add(1, Ordering::Relaxed).checked_rem(lanes.len()).unwrap_or_default();
                let lane = lanes.get(turn).ok_or("connection: none")?;
                let answer = match self.grpc(lane).await?.try_send_request(request).await {
                    Err(mut error) => match error.take_message() {
                        Some(request) => self.grpc(lane).await?.try_send_request(request).await,
                        None => Err(error),
                    },
                    answer => answer,
                };
                read_grpc(answer.map_err(lost)?, self.reads).await
            }
            Lanes::Rest { idle, permits, waited } => {
                let _permit = match permits.try_acquire() {
                    Ok(permit) => permit,
                    Err(_) => {
                        waited.fetch_add(1, Ordering::Relaxed);
                        permits.acquire().await.map_err(|e| e.to_string())?
                    }
                };
                let (mut sender, answer) = self.send_rest(idle, request).await?;
                let outcome = read_rest(answer.map_err(lost)?).await;
                // Ready again only where the answer was read to its end and the server keeps the connection.
                if sender.ready().await.is_ok() {
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                }
                outcome.map(|()| None)
            }
        }
    }

    /// The connection of `lane`, made anew when there is none.
    async fn grpc(&self, lane: &tokio::sync::Mutex<Option<Grpc>>) -> Result<Grpc, String> {
        let mut lane = lane.lock().await;
        if let Some(sender) = lane.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = self.dial_grpc().await.map_err(|e| format!("connection: {e}"))?;
        *lane = Some(sender.clone());
        Ok(sender)
    }

    async fn dial_grpc(&self) -> Result<Grpc, String> {
        let stream = dial(&self.authority).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW_BYTES.0).initial_connection_window_size(WINDOW_BYTES.1);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| root(&e))?;
        tokio::spawn(connection); // its requests tell of its errors
        Ok(sender)
    }

    async fn send_rest(&self, idle: &Mutex<Vec<Rest>>, request: Prepared) -> Result<(Rest, Sent), String> {
        let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop().filter(|sender| sender.is_ready());
        let (request, error) = match kept {
            None => (request, None),
            Some(mut sender) => match sender.try_send_request(request).await {
                Err(mut error) => match error.take_message() {
                    Some(request) => (request, Some(error)),
                    None => return Ok((sender, Err(error))),
                },
                answer => return Ok((sender, answer)),
            },
        };
        drop(error);
        let mut sender = self.dial_rest().await?;
        let answer = sender.try_send_request(request).await;
        Ok((sender, answer))
    }

    async fn dial_rest(&self) -> Result<Rest, String> {
        let failed = |reason: String| format!("connection: {reason}");
        let stream = dial(&self.authority).await.map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(root(&e)))?;
        tokio::spawn(connection); // its requests tell of its errors
        Ok(sender)
    }
}

fn lost(error: TrySendError<Prepared>) -> String {
    format!("connection: {}", root(&error.into_error()))
}

async fn read_grpc(answer: Response<Incoming>, reads: bool) -> Result<Option<Told>, String> {
    let (head, mut body) = answer.into_parts();
    if head.headers.contains_key("grpc-status") {
        return grpc_status(&head.headers).map(|()| None);
    }
    if !head.status.is_success() {
        return Err(format!("HTTP {}: no gRPC answer", head.status.as_u16()));
    }
    let (mut bytes, mut trailers, mut message) = (0usize, None, Chain::default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("connection: lost inside an answer: {}", root(&e)))?;
        match frame.into_data() {
            Ok(data) => {
                bytes = bytes.saturating_add(data.len());
                if reads {
                    message.push(data);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    grpc_status(&trailers.unwrap_or_default())?;
    if bytes == 0 { Err("Internal: status 0 without a message".to_owned()) } else { Ok(told(message)) }
}

/// Who gave the answer in this frame; none where it does not tell.
fn told(mut frame: Chain) -> Option<Told> {
    frame.split_front(FRAME_BYTES)?;
    let (reply, _) = proto::envelope::read_reply(frame).ok()?;
    let parameter = |name: &str| reply.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let Some(Param::String(variant)) = parameter(Served::VARIANT) else { return None };
    let accuracy = if let Some(Param::Double(accuracy)) = parameter(Served::ACCURACY) { *accuracy } else { 0.0 };
    Some(Told { variant: variant.clone(), accuracy })
}

fn grpc_status(headers: &HeaderMap) -> Result<(), String> {
    proto::status::from_trailers(headers).map_err(|failure| match failure {
        Failure::Remote { code, message, .. } => cut(format!("{code:?}: {message}")),
        other => other.to_string(),
    })
}

async fn read_rest(answer: Response<Incoming>) -> Result<(), String> {
    let (head, mut body) = answer.into_parts();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("connection: lost inside an answer: {}", root(&e)))?;
        if let (false, Ok(data)) = (head.status.is_success() || text.len() > ERROR_BYTES_MAX, frame.into_data()) {
            text.extend_from_slice(&data);
        }
    }
    if head.status.is_success() { Ok(()) } else { Err(cut(format!("HTTP {}: {}", head.status.as_u16(), error_text(&text)))) }
}

fn cut(text: String) -> String {
    if text.len() <= ERROR_CHARS_MAX { text } else { text.chars().take(ERROR_CHARS_MAX).collect() }
}
