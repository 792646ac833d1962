//! gRPC framing over HTTP/2 bodies: each message has a flag byte and a 4-byte big-endian length in front.

use crate::body::{COMPRESS_BYTES_MIN, ContentEncoding, STALL_MAX, patience, stalled};
use crate::budget::{Budget, Permit};
use crate::chain::Chain;
use crate::status;
use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use policy::Failure;
use smallvec::SmallVec;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

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

/// Why a body ended early.
#[derive(Debug)]
pub enum ReadError {
    /// The peer sent something wrong; the answer says what.
    Bad(Failure),
    /// The stream was reset or the connection lost: nobody waits for an answer.
    Gone,
}

/// An inflated message and its share of the budget.
type Inflated = Result<(Chain, Option<Permit>), Failure>;

/// Reads messages from a body.
pub struct MessageReader<B> {
    body: B,
    buffered: Chain,
    /// Flag and length of the message being read, once its prefix is here.
    prefix: Option<(u8, usize)>,
    limit: usize,
    encoding: Encoding,
    /// A large message that another thread inflates. Kept here, so that a dropped `next` loses nothing.
    inflating: Option<JoinHandle<Inflated>>,
    /// When the message began that is being read.
    began: Option<Instant>,
    trailers: Option<HeaderMap>,
    /// For what is buffered, and for the message given out last.
    held: Option<Permit>,
    given: Option<Permit>,
}

impl<B: Body<Data = Bytes> + Unpin> MessageReader<B> {
    /// A reader that refuses messages over `limit` bytes from their prefix alone.
    pub fn new(body: B, encoding: Encoding, limit: usize) -> Self {
        Self {
            body,
            buffered: Chain::default(),
            prefix: None,
            limit,
            encoding,
            inflating: None,
            began: None,
            trailers: None,
            held: None,
            given: None,
        }
    }

    /// Counts what arrives against `budget`.
    #[must_use]
    pub fn with_budget(mut self, budget: &Budget) -> Self {
        self.held = Some(budget.permit());
        self
    }

    /// The bytes of the message given out last: to be held for as long as it is.
    pub fn take_permit(&mut self) -> Option<Permit> {
        self.given.take()
    }

    /// The next message, `None` at the end of the body. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError::Bad`] for a wrong prefix, an oversize message, bad compression or a body that ends inside a message.
    pub async fn next(&mut self) -> Result<Option<Chain>, ReadError> {
        loop {
            if let Some(inflating) = &mut self.inflating {
                let inflated = inflating.await.unwrap_or_else(|error| Err(Failure::thread_ended(&error)));
                self.inflating = None;
                return self.give(inflated).map(Some);
            }
            if self.prefix.is_none() && self.buffered.len() >= PREFIX_BYTES {
                let flag = self.buffered.get_u8();
                let len = usize::try_from(self.buffered.get_u32()).unwrap_or(usize::MAX);
                if len > self.limit {
                    return Err(ReadError::Bad(Failure::MessageTooLarge { got: len as u64, limit: self.limit as u64 }));
                }
                self.prefix = Some((flag, len));
            }
            if let Some((flag, len)) = self.prefix
                && let Some(message) = self.buffered.split_front(len)
            {
                (self.prefix, self.began) = (None, None);
                let mut permit = self.held.as_mut().map(|held| held.split((len as u64).saturating_add(PREFIX_BYTES as u64)));
                let Some(encoding) = self.compression(flag).map_err(ReadError::Bad)? else {
                    return self.give(Ok((message, permit))).map(Some);
                };
                let limit = self.limit;
                let inflate = move || encoding.inflate(message, limit, &mut permit).map(|inflated| (inflated, permit));
                if ContentEncoding::inflates_inline(len) {
                    return self.give(inflate()).map(Some);
                }
                self.inflating = Some(tokio::task::spawn_blocking(inflate));
                continue;
            }
            if !self.fill().await? {
                return match self.prefix {
                    Some(_) => Err(cut("before the end of a message")),
                    None if self.buffered.is_empty() => Ok(None),
                    None => Err(cut("inside a message prefix")),
                };
            }
        }
    }

    /// The one message of a unary call, and its share of the budget, once the caller has ended its side: an answer that comes before that
    /// makes HTTP/2 reset the stream.
    ///
    /// # Errors
    /// As [`next`](Self::next), and [`Failure::Malformed`] for a call without a message or with two.
    pub async fn only(mut self) -> Result<(Chain, Option<Permit>), Failure> {
        let read = async {
            let Some(message) = self.next().await? else { return Err(malformed("the call has no message")) };
            let permit = self.take_permit();
            let ended = tokio::time::timeout(STALL_MAX, self.next()).await.map_err(|_| ReadError::Bad(stalled()))?;
            if ended?.is_some() {
                return Err(malformed("the call has more than one message"));
            }
            Ok((message, permit))
        };
        read.await.map_err(|error| match error {
            ReadError::Bad(failure) => failure,
            ReadError::Gone => Failure::Cancelled,
        })
    }

    /// Gives out a message; its permit is there to be taken.
    fn give(&mut self, message: Inflated) -> Result<Chain, ReadError> {
        let (message, permit) = message.map_err(ReadError::Bad)?;
        self.given = permit;
        Ok(message)
    }

    /// The trailers, once the body has ended; empty when there were none.
    pub fn into_trailers(self) -> HeaderMap {
        self.trailers.unwrap_or_default()
    }

    /// Adds the next data frame; false at the end of the body.
    async fn fill(&mut self) -> Result<bool, ReadError> {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            // Between messages a stream may be silent for as long as it likes.
            let frame = if self.prefix.is_none() && self.buffered.is_empty() {
                frame.await
            } else {
                let until = patience(*self.began.get_or_insert_with(Instant::now), self.buffered.len());
                tokio::time::timeout_at(until, frame).await.map_err(|_| ReadError::Bad(stalled()))?
            };
            match frame.map(|result| result.map(Frame::into_data)) {
                None => return Ok(false),
                Some(Err(_)) => return Err(ReadError::Gone),
                Some(Ok(Ok(data))) if data.is_empty() => {}
                Some(Ok(Ok(data))) => {
                    if let Some(held) = &mut self.held {
                        held.grow(data.len() as u64).map_err(ReadError::Bad)?;
                    }
                    self.buffered.push(data);
                    return Ok(true);
                }
                Some(Ok(Err(frame))) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    /// What a message's flag says of its compression.
    fn compression(&self, flag: u8) -> Result<Option<ContentEncoding>, Failure> {
        let malformed = |what: &str| Failure::Malformed { what: what.to_owned() };
        match (flag, self.encoding.content()) {
            (0, _) => Ok(None),
            (1, None) => Err(malformed("a message is marked compressed but the call names no grpc-encoding")),
            (1, encoding) => Ok(encoding),
            _ => Err(malformed("a message starts with a compression flag that is neither 0 nor 1")),
        }
    }
}

fn malformed(what: &str) -> ReadError {
    ReadError::Bad(Failure::Malformed { what: what.to_owned() })
}

fn cut(where_: &str) -> ReadError {
    ReadError::Bad(Failure::Malformed { what: format!("the body ends {where_}") })
}

/// A body of known slices and trailers: one message, or none.
pub struct MessageBody {
    /// Most messages are one slice, others a head and a tensor.
    data: smallvec::IntoIter<[Bytes; 2]>,
    trailers: Option<HeaderMap>,
    data_len: u64,
    is_message: bool,
}

impl Default for MessageBody {
    fn default() -> Self {
        Self { data: SmallVec::new().into_iter(), trailers: None, data_len: 0, is_message: false }
    }
}

impl MessageBody {
    /// One message; a server adds trailers, a client does not.
    pub fn message(message: &Chain, trailers: Option<HeaderMap>) -> Self {
        Self::framed(message, false, trailers)
    }

    fn framed(message: &Chain, compressed: bool, trailers: Option<HeaderMap>) -> Self {
        let data: SmallVec<[Bytes; 2]> = framed(message, compressed).collect();
        let data_len = data.iter().map(|d| d.len() as u64).sum();
        Self { data: data.into_iter(), trailers, data_len, is_message: true }
    }
}

impl MessageBody {
    /// The bytes as they are, without a frame: the body of an HTTP answer that is not gRPC.
    pub fn plain(bytes: &Chain) -> Self {
        let data: SmallVec<[Bytes; 2]> = bytes.slices().cloned().collect();
        Self { data: data.into_iter(), trailers: None, data_len: bytes.len() as u64, is_message: false }
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

impl Body for MessageBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match self.data.next() {
            Some(data) => {
                self.data_len = self.data_len.saturating_sub(data.len() as u64);
                Some(Frame::data(data))
            }
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.len() == 0 && self.trailers.is_none()
    }

    /// A length is told only of plain bodies: gRPC has no use for it.
    fn size_hint(&self) -> SizeHint {
        if self.is_message { SizeHint::default() } else { SizeHint::with_exact(self.data_len) }
    }
}

/// What a server answers with: a message of ours, a stream of messages, or what tonic made.
pub enum ReplyBody {
    /// One message and its trailers, or trailers only.
    Message(MessageBody),
    /// Frames from a task; it ends with trailers.
    Stream(mpsc::Receiver<Frame<Bytes>>),
    /// A call that tonic served.
    Tonic(tonic::body::Body),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match self.get_mut() {
            Self::Message(body) => Pin::new(body).poll_frame(cx).map(|f| f.map(|r| r.map_err(|never| match never {}))),
            Self::Stream(frames) => frames.poll_recv(cx).map(|f| f.map(Ok)),
            Self::Tonic(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(body) => body.is_end_stream(),
            Self::Stream(_) => false,
            Self::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Message(body) => body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
            Self::Tonic(body) => body.size_hint(),
        }
    }
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

    /// Sends a message; false when the reader has gone.
    pub async fn message(&self, message: Chain) -> bool {
        let (message, is_compressed) = compressed(message, self.encoding).await;
        for data in framed(&message, is_compressed) {
            if self.frames.send(Frame::data(data)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Ends the stream.
    pub async fn finish(&self, trailers: HeaderMap) {
        let _ = self.frames.send(Frame::trailers(trailers)).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    async fn read(encoding: Encoding, bytes: Vec<u8>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
        let body = http_body_util::Full::new(Bytes::from(bytes));
        let mut reader = MessageReader::new(body, encoding, limit);
        let mut out = Vec::new();
        while let Some(message) = reader.next().await? {
            out.push(message.into_bytes().to_vec());
        }
        Ok(out)
    }

    fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
        [&[flag][..], &(payload.len() as u32).to_be_bytes(), payload].concat()
    }

    fn failure(result: Result<Vec<Vec<u8>>, ReadError>) -> Failure {
        match result {
            Err(ReadError::Bad(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn messages_come_out_one_by_one_and_a_cut_is_noticed() {
        let two = [frame(0, b"ab"), frame(0, b"")].concat();
        assert_eq!(read(Encoding::Identity, two, 9).await.unwrap(), [b"ab".to_vec(), vec![]]);
        assert!(matches!(failure(read(Encoding::Identity, vec![0, 0, 0], 9).await), Failure::Malformed { .. }));
        let short = frame(0, b"abc")[..7].to_vec();
        assert!(matches!(failure(read(Encoding::Identity, short, 9).await), Failure::Malformed { .. }));
    }

    #[test]
    fn only_a_plain_body_tells_its_length() {
        let bytes = Chain::from(vec![0; 9]);
        assert_eq!(MessageBody::plain(&bytes).size_hint().exact(), Some(9));
        assert_eq!(MessageBody::message(&bytes, None).size_hint().exact(), None);
        assert_eq!(MessageBody::default().size_hint().exact(), Some(0));
    }

    #[tokio::test]
    async fn an_oversize_message_is_refused_from_its_prefix() {
        let claim = vec![0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(failure(read(Encoding::Identity, claim, 9).await), Failure::MessageTooLarge { got: 0xffff_ffff, limit: 9 });
    }

    #[tokio::test]
    async fn what_arrives_is_counted_and_what_is_only_claimed_is_not() {
        let budget = Budget::new(100);
        let body = http_body_util::Full::new(Bytes::from([frame(0, &[7; 40]), vec![0, 0, 0, 0xff, 0xff, 1, 2]].concat()));
        let mut reader = MessageReader::new(body, Encoding::Identity, 1 << 20).with_budget(&budget);
        let message = reader.next().await.unwrap().unwrap();
        let permit = reader.take_permit().unwrap();
        assert_eq!((message.len(), budget.held()), (40, 52));
        drop(permit);
        assert_eq!(budget.held(), 7, "the cut message behind it, not the 64 KiB it claims");
        drop(reader);
        assert_eq!(budget.held(), 0);
        let body = http_body_util::Full::new(Bytes::from(frame(0, &[7; 200])));
        let mut reader = MessageReader::new(body, Encoding::Identity, 1 << 20).with_budget(&budget);
        assert!(matches!(reader.next().await, Err(ReadError::Bad(Failure::Overloaded { .. }))));
    }

    #[tokio::test]
    async fn an_answer_is_compressed_as_the_call_was_if_the_client_reads_that() {
        let headers = |asked: &'static str, accepted: &'static str| {
            let pairs = [("grpc-encoding", asked), ("grpc-accept-encoding", accepted)];
            pairs.into_iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect::<HeaderMap>()
        };
        assert_eq!(Encoding::of_reply(&headers("gzip", "identity, deflate, gzip")), Encoding::Gzip);
        assert_eq!(Encoding::of_reply(&headers("gzip", "deflate")), Encoding::Identity);
        assert_eq!(Encoding::of_reply(&headers("identity", "identity,gzip")), Encoding::Identity);
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
            let answer = reply(Chain::from(vec![5; 9_000]), encoding).await;
            assert_eq!(Encoding::of(answer.headers()).unwrap(), encoding);
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            assert_eq!(body.len() < 1000, encoding != Encoding::Identity);
            assert_eq!(read(encoding, body.to_vec(), 9_000).await.unwrap(), [vec![5; 9_000]]);
            let short = http_body_util::BodyExt::collect(reply(Chain::from(vec![5; 100]), encoding).await.into_body()).await.unwrap();
            assert_eq!(short.to_bytes(), frame(0, &[5; 100]), "not worth it");
        }
    }

    #[tokio::test]
    async fn a_large_message_is_inflated_aside_and_a_dropped_read_loses_nothing() {
        let noise: Vec<u8> = (0..200_000u64).map(|i| (i.wrapping_mul(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
        let chain = Chain::from(noise.clone());
        let gzip = ContentEncoding::Gzip.compress(&chain).into_bytes();
        assert!(!ContentEncoding::inflates_inline(gzip.len()));
        let budget = Budget::new(1 << 20);
        let body = http_body_util::Full::new(Bytes::from([frame(1, &gzip), frame(0, b"next")].concat()));
        let mut reader = MessageReader::new(body, Encoding::Gzip, 1 << 20).with_budget(&budget);
        let polled = futures_util::FutureExt::now_or_never(reader.next());
        assert!(polled.is_none(), "the other thread has only begun");
        assert_eq!(reader.next().await.unwrap().unwrap().into_bytes(), noise);
        let permit = reader.take_permit();
        assert!(budget.held() >= 200_000, "{}", budget.held());
        drop(permit);
        assert_eq!(reader.next().await.unwrap().unwrap().into_bytes(), "next");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_inside_a_message_is_given_up() {
        let silent = |bytes: Vec<u8>| {
            let (tx, rx) = mpsc::channel(1);
            tx.try_send(Frame::data(Bytes::from(bytes))).unwrap();
            (tx, ReplyBody::Stream(rx))
        };
        let (_open, body) = silent(frame(0, b"abc")[..6].to_vec());
        let Err(ReadError::Bad(failure)) = MessageReader::new(body, Encoding::Identity, 9).next().await else { panic!() };
        assert_eq!(failure, stalled());
        let (_open, body) = silent(frame(0, b"abc"));
        let mut reader = MessageReader::new(body, Encoding::Identity, 9);
        assert!(reader.next().await.unwrap().is_some());
        let longer = tokio::time::timeout(STALL_MAX * 10, reader.next()).await;
        assert!(longer.is_err(), "between messages silence is fine");
    }

    #[tokio::test]
    async fn a_unary_call_is_read_to_the_end_of_its_side() {
        let only = async |bytes: Vec<u8>| {
            let body = http_body_util::Full::new(Bytes::from(bytes));
            MessageReader::new(body, Encoding::Identity, 9).only().await.map(|(message, _)| message.into_bytes())
        };
        assert_eq!(only(frame(0, b"abc")).await.unwrap(), "abc");
        assert!(matches!(only(vec![]).await, Err(Failure::Malformed { .. })));
        assert!(matches!(only([frame(0, b"a"), frame(0, b"b")].concat()).await, Err(Failure::Malformed { .. })));
        let (tx, rx) = mpsc::channel(1);
        tx.try_send(Frame::data(Bytes::from(frame(0, b"abc")))).unwrap();
        let mut open = std::pin::pin!(MessageReader::new(ReplyBody::Stream(rx), Encoding::Identity, 9).only());
        assert!(futures_util::FutureExt::now_or_never(open.as_mut()).is_none(), "the caller may still send");
        drop(tx);
        assert_eq!(open.await.unwrap().0.into_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_compression_bomb_stops_at_the_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 100_000]).unwrap();
        let bomb = frame(1, &gzip.finish().unwrap());
        assert_eq!(failure(read(Encoding::Gzip, bomb.clone(), 9_999).await), Failure::MessageTooLarge { got: 10_000, limit: 9_999 });
        assert_eq!(read(Encoding::Gzip, bomb.clone(), 100_000).await.unwrap()[0].len(), 100_000);
        assert!(matches!(failure(read(Encoding::Identity, bomb, 100_000).await), Failure::Malformed { .. }));
    }
}
