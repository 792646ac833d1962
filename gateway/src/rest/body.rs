//! JSON bodies of calls that are not inference.

use super::Refusal;
use crate::oip::Oip;
use axum::extract::Request;
use axum::http::StatusCode;
use policy::Failure;
use proto::body;
use proto::budget::Permit;
use proto::frame::ReadError;
use serde::de::DeserializeOwned;

/// More JSON than this is read and written on a thread that serves nobody else meanwhile: a mebibyte takes some milliseconds.
pub(super) const JSON_INLINE_MAX: usize = 1 << 20;

/// Reads a body of at most `limit` bytes as JSON; an empty one is the default. The permit is to be kept as long as what was read.
pub(super) async fn read_json<T>(oip: &Oip, request: Request, limit: usize) -> Result<(T, Permit), Refusal>
where
    T: DeserializeOwned + Default + Send + 'static,
{
    let (head, body) = request.into_parts();
    let body = http_body_util::BodyExt::map_err(body, std::io::Error::other);
    let (bytes, permit) = match body::read(&head.headers, std::pin::pin!(body), limit, &oip.0.core.budget).await {
        Ok(read) => read,
        Err(ReadError::Bad(failure)) => return Err(refuse(&failure)),
        Err(ReadError::Gone) => return Err(refuse(&Failure::Cancelled)),
    };
    if bytes.is_empty() {
        return Ok((T::default(), permit));
    }
    let parsed = aside(bytes.len() > JSON_INLINE_MAX, move || serde_json::from_slice(&bytes.into_bytes())).await;
    let parsed = parsed.map_err(|failure| refuse(&failure))?;
    let parsed =
        parsed.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON expected here: {error}")))?;
    Ok((parsed, permit))
}

/// Does `work`, when it is `large` on a thread that serves nobody else meanwhile.
pub(super) async fn aside<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    if !large {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::thread_ended(&error))
}

/// A failure as REST answers it.
pub(super) fn refuse(failure: &Failure) -> Refusal {
    let status = StatusCode::from_u16(failure.wire().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Refusal { status, text: failure.to_string(), retry_ms: failure.retry_ms() }
}
