//! Plain HTTP bodies: read to a limit against the budget, and compressed as HTTP says.

use crate::budget::{Budget, Permit};
use crate::chain::Chain;
use crate::frame::ReadError;
use crate::metadata;
use bytes::{Buf as _, Bytes};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, header};
use http_body::{Body, Frame};
use policy::Failure;
use std::io::Read as _;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// Smaller answers are not worth compressing.
pub const COMPRESS_BYTES_MIN: usize = 1 << 10;
/// Compressed bodies larger than this are inflated on a thread that serves nobody else meanwhile.
const INFLATE_INLINE_MAX: usize = 32 << 10;
/// And larger ones than this are compressed on one.
const COMPRESS_INLINE_MAX: usize = 128 << 10;
/// How long a request may take to come, besides what its bytes take at [`BYTES_PER_S_MIN`].
pub(crate) const STALL_MAX: Duration = Duration::from_secs(30);
/// How long a peer may take nothing of what waits for it.
pub(crate) const UNREAD_MAX: Duration = Duration::from_secs(30);
/// A sender slower than that only holds what others could use.
const BYTES_PER_S_MIN: usize = 16 << 10;

/// Until when more must have come of a request that began at `started` and of which `received` bytes are here.
pub(crate) fn patience(started: Instant, received: usize) -> Instant {
    let seconds = received.checked_div(BYTES_PER_S_MIN).unwrap_or_default();
    let length = STALL_MAX.saturating_add(Duration::from_secs(seconds as u64));
    started.checked_add(length).unwrap_or(started)
}

/// What a sender is told that paused for longer.
pub(crate) fn stalled() -> Failure {
    Failure::Stalled { seconds: STALL_MAX.as_secs() }
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentEncoding {
    /// gzip.
    Gzip,
    /// zlib, which HTTP calls deflate (RFC 9110, 8.4.1.2).
    Deflate,
}

impl ContentEncoding {
    /// The name in headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// Reads `Content-Encoding`; `None` for a body that is not compressed.
    ///
    /// # Errors
    /// [`Failure::Encoding`] naming one we do not have.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let named = metadata::text(headers, header::CONTENT_ENCODING.as_str()).map(|text| text.trim().to_ascii_lowercase());
        match named.as_deref() {
            None | Some("" | "identity") => Ok(None),
            Some("gzip" | "x-gzip") => Ok(Some(Self::Gzip)),
            Some("deflate") => Ok(Some(Self::Deflate)),
            Some(other) => Err(Failure::Encoding { header: "content-encoding", name: other.chars().take(32).collect() }),
        }
    }

    /// The first of ours that `Accept-Encoding` names and does not refuse with `q=0`.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        let list = metadata::text(headers, header::ACCEPT_ENCODING.as_str())?;
        list.split(',').find_map(|item| {
            let (name, weight) = item.split_once(';').map_or((item, ""), |(name, weight)| (name, weight));
            let refused = matches!(weight.trim().strip_prefix("q=").map(str::parse::<f32>), Some(Ok(0.0)));
            match name.trim() {
                "gzip" if !refused => Some(Self::Gzip),
                "deflate" if !refused => Some(Self::Deflate),
                _ => None,
            }
        })
    }

    /// May a body of `len` bytes be inflated where it was read?
    pub(crate) fn inflates_inline(len: usize) -> bool {
        len <= INFLATE_INLINE_MAX
    }

    /// The bytes that `body` was, at most `limit`. One gzip member: a body of a hundred thousand empty ones is no client's.
    ///
    /// # Errors
    /// [`Failure::MessageTooLarge`] beyond the limit, [`Failure::Overloaded`] when `permit` cannot grow with it,
    /// [`Failure::Malformed`] for what cannot be inflated.
    pub(crate) fn inflate(self, body: Chain, limit: usize, permit: &mut Option<Permit>) -> Result<Chain, Failure> {
        let mut source = body.reader();
        let inflated = match self {
            Self::Gzip => bounded(flate2::bufread::GzDecoder::new(&mut source), limit, permit)?,
            Self::Deflate => bounded(flate2::bufread::ZlibDecoder::new(&mut source), limit, permit)?,
        };
        match source.into_inner().len() {
            0 => Ok(inflated),
            left => Err(Failure::Malformed { what: format!("{left} bytes are left behind the compressed body") }),
        }
    }

    /// Compresses `body`, fast rather than small.
    pub fn compress(self, body: &Chain) -> Chain {
        let write = |out: &mut dyn std::io::Write| body.slices().try_for_each(|slice| out.write_all(slice));
        // A Vec takes every write.
        let compressed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                write(&mut encoder).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                write(&mut encoder).and_then(|()| encoder.finish())
            }
        };
        compressed.map(Chain::from).unwrap_or_default()
    }

    /// Compresses `body`, a large one on a thread that serves nobody else meanwhile.
    pub async fn compressed(self, body: Chain) -> Chain {
        if body.len() <= COMPRESS_INLINE_MAX {
            return self.compress(&body);
        }
        // The closure cannot fail; a runtime that is shutting down has nobody to answer.
        tokio::task::spawn_blocking(move || self.compress(&body)).await.unwrap_or_default()
    }
}

/// Bytes that are inflated before the budget is asked for more.
const INFLATE_STEP: usize = 64 << 10;

/// Reads `reader`, which inflates, to `limit` bytes and no further. `permit` grows before the memory does, by what doubling a buffer
/// may take: many small bodies that inflate at once must not be more than the budget.
fn bounded(mut reader: impl std::io::Read, limit: usize, permit: &mut Option<Permit>) -> Result<Chain, Failure> {
    let mut out = Vec::new();
    loop {
        let room = limit.saturating_add(1).saturating_sub(out.len());
        let step = out.len().max(INFLATE_STEP).min(room);
        if let Some(permit) = permit {
            permit.grow(step as u64)?;
        }
        out.reserve_exact(step);
        let read = (&mut reader).take(step as u64).read_to_end(&mut out);
        let read = read.map_err(|_| Failure::Malformed { what: "compressed data cannot be inflated".to_owned() })?;
        if out.len() > limit {
            return Err(Failure::MessageTooLarge { got: out.len() as u64, limit: limit as u64 });
        }
        if read < step {
            if let Some(permit) = permit {
                permit.shrink(step.saturating_sub(read) as u64);
            }
            out.shrink_to_fit();
            return Ok(Chain::from(out));
        }
    }
}

/// Reads a whole body, inflated when its headers say it is compressed: at most `limit` bytes either way. The permit is for what
/// it holds.
///
/// # Errors
/// [`ReadError::Bad`] over the limit or the budget, from `Content-Length` alone where that tells, and for bad compression.
pub async fn read<B>(headers: &HeaderMap, mut body: B, limit: usize, budget: &Budget) -> Result<(Chain, Permit), ReadError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let encoding = ContentEncoding::of(headers).map_err(ReadError::Bad)?;
    let too_large = |got: u64| ReadError::Bad(Failure::MessageTooLarge { got, limit: limit as u64 });
    let claimed = metadata::text(headers, header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
    if let Some(got) = claimed.filter(|got| *got > limit as u64) {
        return Err(too_large(got));
    }
    let (mut bytes, mut permit, started) = (Chain::default(), budget.permit(), Instant::now());
    loop {
        let frame =
            tokio::time::timeout_at(patience(started, bytes.len()), std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))).await;
        let Some(frame) = frame.map_err(|_| ReadError::Bad(stalled()))? else { break };
        let Ok(data) = frame.map_err(|_| ReadError::Gone).map(Frame::into_data)? else { continue };
        permit.grow(data.len() as u64).map_err(ReadError::Bad)?;
        bytes.push(data);
        if bytes.len() > limit {
            return Err(too_large(bytes.len() as u64));
        }
    }
    let Some(encoding) = encoding else { return Ok((bytes, permit)) };
    let inline = ContentEncoding::inflates_inline(bytes.len());
    let inflate = move || {
        let mut permit = Some(permit);
        encoding.inflate(bytes, limit, &mut permit).map(|inflated| (inflated, permit))
    };
    let inflated = if inline {
        inflate()
    } else {
        tokio::task::spawn_blocking(inflate).await.unwrap_or_else(|error| Err(Failure::thread_ended(&error)))
    };
    let (inflated, permit) = inflated.map_err(ReadError::Bad)?;
    Ok((inflated, permit.unwrap_or_else(|| budget.permit())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    async fn run(pairs: &[(&'static str, &'static str)], body: Vec<u8>, limit: usize, budget: u64) -> Result<Vec<u8>, Failure> {
        let budget = Budget::new(budget);
        let body = http_body_util::Full::new(Bytes::from(body));
        match read(&headers(pairs), body, limit, &budget).await {
            Ok((chain, permit)) => {
                assert!(budget.held() >= chain.len() as u64);
                drop(permit);
                assert_eq!(budget.held(), 0);
                Ok(chain.into_bytes().to_vec())
            }
            Err(ReadError::Bad(failure)) => Err(failure),
            Err(ReadError::Gone) => panic!("gone"),
        }
    }

    #[tokio::test]
    async fn a_body_is_read_as_its_headers_say() {
        let plain = vec![7u8; 1000];
        let chain = Chain::from(plain.clone());
        let gzip = ContentEncoding::Gzip.compress(&chain).into_bytes().to_vec();
        let zlib = ContentEncoding::Deflate.compress(&chain).into_bytes().to_vec();
        assert!(gzip.len() < 100 && zlib.len() < 100);
        assert_eq!(run(&[], plain.clone(), 1000, 9999).await, Ok(plain.clone()));
        assert_eq!(run(&[("content-encoding", "gzip")], gzip.clone(), 1000, 9999).await, Ok(plain.clone()));
        assert_eq!(run(&[("content-encoding", "deflate")], zlib, 1000, 9999).await, Ok(plain));
        assert!(matches!(run(&[("content-encoding", "br")], gzip.clone(), 1000, 9999).await, Err(Failure::Encoding { .. })));
        let twice = [gzip.clone(), gzip.clone()].concat();
        let Err(Failure::Malformed { what }) = run(&[("content-encoding", "gzip")], twice, 9999, 99_999).await else { panic!() };
        assert!(what.contains(&format!("{} bytes are left", gzip.len())), "{what}");
        let cut = gzip[..gzip.len() / 2].to_vec();
        assert!(matches!(run(&[("content-encoding", "gzip")], cut, 1000, 9999).await, Err(Failure::Malformed { .. })));
    }

    #[tokio::test]
    async fn no_body_is_larger_than_its_limit_however_it_comes() {
        let bomb = ContentEncoding::Gzip.compress(&Chain::from(vec![0u8; 100_000])).into_bytes().to_vec();
        let inflated = run(&[("content-encoding", "gzip")], bomb, 9_999, 1 << 30).await;
        assert_eq!(inflated, Err(Failure::MessageTooLarge { got: 10_000, limit: 9_999 }));
        assert_eq!(run(&[], vec![0; 11], 10, 99).await, Err(Failure::MessageTooLarge { got: 11, limit: 10 }));
        let claim = run(&[("content-length", "99999999999")], vec![], 10, 99).await;
        assert_eq!(claim, Err(Failure::MessageTooLarge { got: 99_999_999_999, limit: 10 }));
        assert!(matches!(run(&[], vec![0; 11], 99, 10).await, Err(Failure::Overloaded { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        tx.try_send(Frame::data(Bytes::from_static(b"half"))).unwrap();
        let body = crate::frame::ReplyBody::Stream(rx);
        let read = read(&HeaderMap::new(), body, 99, &Budget::new(99)).await;
        assert!(matches!(read, Err(ReadError::Bad(failure)) if failure == stalled()));
    }

    #[test]
    fn the_first_encoding_a_client_accepts_is_used() {
        let accepted = |value: &'static str| ContentEncoding::accepted(&headers(&[("accept-encoding", value)]));
        assert_eq!(accepted("gzip, deflate"), Some(ContentEncoding::Gzip));
        assert_eq!(accepted("br, deflate;q=0.5, gzip"), Some(ContentEncoding::Deflate));
        assert_eq!(accepted("gzip;q=0"), None);
        assert_eq!(accepted("identity"), None);
    }
}
