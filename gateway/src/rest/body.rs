//! JSON bodies of calls that are not inference.

use super::Refusal;
use crate::oip::Oip;
use axum::extract::Request;
use axum::http::StatusCode;
use policy::Failure;
use proto::body;
use proto::frame::ReadError;
use serde::de::DeserializeOwned;

/// Reads a body as JSON; an empty one is the default. Large ones are files of a load call.
pub(super) async fn read_json<T: DeserializeOwned + Default>(oip: &Oip, request: Request) -> Result<T, Refusal> {
    let (head, body) = request.into_parts();
    let core = &oip.0.core;
    let body = http_body_util::BodyExt::map_err(body, std::io::Error::other);
    let read = body::read(&head.headers, std::pin::pin!(body), core.config.message_bytes_max, &core.budget).await;
    let (bytes, _permit) = match read {
        Ok(read) => read,
        Err(ReadError::Bad(failure)) => return Err(refuse(&failure)),
        Err(ReadError::Gone) => return Err(refuse(&Failure::Cancelled)),
    };
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let parsed = serde_json::from_slice(&bytes.into_bytes());
    parsed.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON expected here: {error}")))
}

/// A failure as REST answers it.
pub(super) fn refuse(failure: &Failure) -> Refusal {
    let status = StatusCode::from_u16(failure.wire().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Refusal { status, text: failure.to_string(), retry_ms: failure.retry_ms() }
}
