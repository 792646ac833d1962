//! Bodies of calls and answers.

use super::{PREFIX_BYTES, framed};
use crate::chain::Chain;
use crate::inflow::{Cut, Inflow, InflowBody};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use smallvec::SmallVec;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

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

    pub(super) fn framed(message: &Chain, compressed: bool, trailers: Option<HeaderMap>) -> Self {
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

/// What a gateway sends to a worker: a message, or one that is still coming.
pub(crate) enum CallBody {
    /// All of it.
    Message(MessageBody),
    /// As it comes.
    Inflow(InflowBody),
}

impl CallBody {
    /// A message that begins with `head` and goes on with what comes.
    pub(crate) fn inflow(head: &[u8], inflow: &Inflow) -> Self {
        let len = inflow.total().saturating_add(head.len() as u64);
        let mut start = Vec::with_capacity(PREFIX_BYTES.saturating_add(head.len()));
        start.push(0);
        start.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        start.extend_from_slice(head);
        Self::Inflow(inflow.body(Bytes::from(start)))
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Message(body) => Pin::new(body).poll_frame(cx).map(|f| f.map(|r| r.map_err(|never| match never {}))),
            Self::Inflow(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Message(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Message(body) => body.size_hint(),
            Self::Inflow(_) => SizeHint::default(),
        }
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
