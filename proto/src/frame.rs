//! gRPC framing over HTTP/2 bodies: each message has a flag byte and a 4-byte big-endian length in front.

mod bodies;
mod reader;
#[cfg(test)]
mod tests;

pub(crate) use bodies::CallBody;
pub use bodies::{MessageBody, ReplyBody};
pub use reader::{MessageReader, ReadError};

use crate::body::{COMPRESS_BYTES_MIN, ContentEncoding, UNREAD_MAX};
use crate::chain::Chain;
use crate::status;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use policy::Failure;
use tokio::sync::mpsc;

const PREFIX_BYTES: usize = 5;

/// How a peer compressed its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// gzip.
    Gzip,
    /// zlib, which gRPC calls deflate.
    Deflate,
}

impl Encoding {
    /// Reads `grpc-encoding`.
    ///
    /// # Errors
    /// [`Failure::Encoding`] naming one we do not have.
    pub fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(b"deflate") => Ok(Self::Deflate),
            Some(other) => {
                let name = String::from_utf8_lossy(other).chars().take(32).collect();
                Err(Failure::Encoding { header: "grpc-encoding", name })
            }
        }
    }
}

impl Encoding {
    /// How to answer a call that came with these headers: compressed as it came, if the client reads that. A client that does not
    /// compress is not made to inflate.
    pub fn of_reply(headers: &HeaderMap) -> Self {
        let asked = Self::of(headers).unwrap_or(Self::Identity);
        let accepted = headers.get("grpc-accept-encoding").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if accepted.split(',').any(|name| asked.name().is_some_and(|asked| name.trim() == asked)) { asked } else { Self::Identity }
    }

    /// As `grpc-encoding` names it; nothing for what is not compressed.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
        }
    }

    fn content(self) -> Option<ContentEncoding> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some(ContentEncoding::Gzip),
            Self::Deflate => Some(ContentEncoding::Deflate),
        }
    }
}

/// The prefix and the slices of a message. A small first slice is joined to the prefix, so that a small message is one write.
fn framed(message: &Chain, compressed: bool) -> impl Iterator<Item = Bytes> + use<> {
    const JOIN_BYTES: usize = 4096;
    let mut head = Vec::with_capacity(PREFIX_BYTES.saturating_add(message.len().min(JOIN_BYTES)));
    head.push(u8::from(compressed));
    head.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    let mut joined = 0usize;
    for slice in message.slices() {
        if head.len().saturating_add(slice.len()) > JOIN_BYTES {
            break;
        }
        head.extend_from_slice(slice);
        joined = joined.saturating_add(1);
    }
    let rest: Vec<Bytes> = message.slices().skip(joined).cloned().collect();
    std::iter::once(Bytes::from(head)).chain(rest)
}

/// Sends the messages of a streaming answer.
#[derive(Clone)]
pub struct StreamSender {
    frames: mpsc::Sender<Frame<Bytes>>,
    encoding: Encoding,
}

impl StreamSender {
    /// A sender and the body it feeds. `frames` bounds what waits for a slow reader.
    pub fn new(frames: usize, encoding: Encoding) -> (Self, ReplyBody) {
        let (tx, rx) = mpsc::channel(frames);
        (Self { frames: tx, encoding }, ReplyBody::Stream(rx))
    }

    /// Sends a message; false when the reader has gone, or has read nothing for so long that it is taken for gone.
    pub async fn message(&self, message: Chain) -> bool {
        let (message, is_compressed) = compressed(message, self.encoding).await;
        for data in framed(&message, is_compressed) {
            if !self.frame(Frame::data(data)).await {
                return false;
            }
        }
        true
    }

    /// Ends the stream; without trailers, which is an error for any client, if the reader makes no room for them.
    pub async fn finish(&self, trailers: HeaderMap) {
        self.frame(Frame::trailers(trailers)).await;
    }

    /// HTTP/2 keeps what a stream's reader has made no room for from the socket, so that a write does not tell.
    async fn frame(&self, frame: Frame<Bytes>) -> bool {
        matches!(tokio::time::timeout(UNREAD_MAX, self.frames.send(frame)).await, Ok(Ok(())))
    }

    /// Resolves when the reader has gone.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }
}

/// An HTTP answer with gRPC's content type around `body`.
pub fn response(body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// One message as an answer, compressed by `encoding`.
pub async fn reply(message: Chain, encoding: Encoding) -> Response<ReplyBody> {
    let (message, is_compressed) = compressed(message, encoding).await;
    let body = MessageBody::framed(&message, is_compressed, Some(status::ok_trailers()));
    encoded(response(ReplyBody::Message(body)), encoding)
}

/// The message, and whether it is compressed now: a call names one encoding, and each message says whether it uses it. gRPC's C++ client
/// up to perf_analyzer's loses a compressed answer that comes in one read with its trailers, as short ones do.
async fn compressed(message: Chain, encoding: Encoding) -> (Chain, bool) {
    match encoding.content().filter(|_| message.len() >= COMPRESS_BYTES_MIN) {
        None => (message, false),
        Some(encoding) => (encoding.compressed(message).await, true),
    }
}

/// Says in `answer` how its messages are compressed.
pub fn encoded(mut answer: Response<ReplyBody>, encoding: Encoding) -> Response<ReplyBody> {
    if let Some(name) = encoding.name() {
        answer.headers_mut().insert("grpc-encoding", HeaderValue::from_static(name));
    }
    answer
}

/// A trailers-only answer.
pub fn refuse(failure: &Failure, id: &str) -> Response<ReplyBody> {
    let mut answer = response(ReplyBody::Message(MessageBody::default()));
    answer.headers_mut().extend(status::trailers(failure, id));
    answer
}
