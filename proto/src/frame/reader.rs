//! Reads messages out of a body.

use super::{Encoding, PREFIX_BYTES};
use crate::body::{ContentEncoding, patience, stalled};
use crate::budget::{Budget, Permit};
use crate::chain::Chain;
use crate::inflow::Feeder;
use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use policy::Failure;
use std::pin::Pin;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Shorter messages are here before anything can be done with their beginning.
const STREAM_BYTES_MIN: u64 = 128 << 10;
/// Their beginning: names and shapes take some hundred bytes.
const OPENING_BYTES: usize = 4 << 10;

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
    /// One message is to come and then the end: whoever sends it has no reason to pause before either.
    unary: bool,
    /// When the message began that is being read; of a unary call, when waiting for it or for the end began.
    began: Option<Instant>,
    /// Bytes of it that were handed on.
    passed: usize,
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
            unary: false,
            began: None,
            passed: 0,
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

    /// A reader of one message and the end behind it. A peer that is silent before either for longer than a message may stall is given
    /// up: without this a call that has no deadline would wait for it for as long as the connection lives.
    #[must_use]
    pub(crate) fn unary(mut self) -> Self {
        self.unary = true;
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
        self.unary = true;
        let read = async {
            let Some(message) = self.next().await? else { return Err(malformed("the call has no message")) };
            let permit = self.take_permit();
            if self.next().await?.is_some() {
                return Err(malformed("the call has more than one message"));
            }
            Ok((message, permit))
        };
        read.await.map_err(unary)
    }

    /// Reads as much of a unary call's message as says what it is: none where the message is short or compressed, and is better read
    /// whole. Nothing is taken out: [`only`](Self::only) or [`feed`](Self::feed) goes on from here.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn opening(&mut self) -> Result<Option<(Chain, u64)>, Failure> {
        self.unary = true;
        let read = async {
            while self.buffered.len() < PREFIX_BYTES {
                if !self.fill().await? {
                    return Ok(None);
                }
            }
            let mut prefix = [0; PREFIX_BYTES];
            prefix.iter_mut().zip(self.buffered.slices().flat_map(|slice| slice.iter())).for_each(|(to, from)| *to = *from);
            let [flag, length @ ..] = prefix;
            let len = u64::from(u32::from_be_bytes(length));
            if flag != 0 || len <= STREAM_BYTES_MIN || len > self.limit as u64 {
                return Ok(None);
            }
            while self.buffered.len() < OPENING_BYTES {
                if !self.fill().await? {
                    return Ok(None);
                }
            }
            let mut front = self.buffered.clone();
            front.advance(PREFIX_BYTES);
            Ok(Some((front, len)))
        };
        read.await.map_err(unary)
    }

    /// Brings the records of the message that [`opening`](Self::opening) showed to `feeder`, until they and the call's body are at
    /// their end. `records` are those that had come then.
    ///
    /// # Errors
    /// As [`only`](Self::only), and when the records are not what was promised.
    pub async fn feed(&mut self, mut feeder: Feeder, records: Chain) -> Result<(), Failure> {
        let len = self.buffered.len();
        self.buffered = Chain::default(); // what is buffered is what was shown
        (self.prefix, self.passed) = (Some((0, len)), len);
        let read = async {
            records.slices().try_for_each(|slice| feeder.push(slice.clone())).map_err(ReadError::Bad)?;
            while feeder.missing() > 0 {
                if !self.fill().await? {
                    return Err(cut("before the end of a message"));
                }
                let here = usize::try_from(feeder.missing()).unwrap_or(usize::MAX).min(self.buffered.len());
                let part = self.buffered.split_front(here).unwrap_or_default();
                self.passed = self.passed.saturating_add(here);
                part.slices().try_for_each(|slice| feeder.push(slice.clone())).map_err(ReadError::Bad)?;
            }
            drop(feeder); // all is here
            (self.prefix, self.began, self.passed) = (None, None, 0);
            if self.next().await?.is_some() { Err(malformed("the call has more than one message")) } else { Ok(()) }
        };
        read.await.map_err(unary)
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
            let frame = if self.prefix.is_none() && self.buffered.is_empty() && !self.unary {
                frame.await
            } else {
                let until = patience(*self.began.get_or_insert_with(Instant::now), self.buffered.len().saturating_add(self.passed));
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

/// What a unary call that ends so is answered, if anybody is there.
fn unary(error: ReadError) -> Failure {
    match error {
        ReadError::Bad(failure) => failure,
        ReadError::Gone => Failure::Cancelled,
    }
}

fn malformed(what: &str) -> ReadError {
    ReadError::Bad(Failure::Malformed { what: what.to_owned() })
}

fn cut(where_: &str) -> ReadError {
    ReadError::Bad(Failure::Malformed { what: format!("the body ends {where_}") })
}
