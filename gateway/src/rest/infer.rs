//! Inference over REST: the body's JSON becomes an envelope and its binary part stays the slices the socket gave; from there on it is
//! the same request as one over gRPC.

use super::body::{JSON_INLINE_MAX, aside, refuse};
use crate::metrics::Stage;
use crate::service::Front;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response as AxumResponse};
use http::{Request, Response};
use hyper::body::Incoming;
use policy::Failure;
use proto::body::{self, COMPRESS_BYTES_MIN, ContentEncoding};
use proto::call::Tensors;
use proto::frame::{MessageBody, ReadError, ReplyBody};
use proto::rest::{RestReply, read_raw_binary, read_request, write_reply};
use proto::status;
use std::borrow::Cow;

/// Length of the JSON in front of binary tensors (protocol, "binary tensor data").
const JSON_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Is this the path of an inference?
pub(crate) fn is_infer(path: &str) -> bool {
    named(path).is_some()
}

/// Model and version of an inference's path: `/v2/models/{model}[/versions/{version}]/infer`.
fn named(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
    match rest.split_once("/versions/") {
        Some((model, version)) if !model.contains('/') && !version.contains('/') => Some((model, version)),
        None if !rest.contains('/') => Some((rest, "")),
        _ => None,
    }
}

/// The router knows the path so that it can refuse other methods; a POST never reaches it.
pub(super) async fn unreachable() -> AxumResponse {
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

impl Front {
    /// Answers one inference.
    pub(crate) async fn rest_infer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let mut id = String::new();
        match self.rest_answer(head.uri.path(), &head.headers, body, &mut id).await {
            Ok(reply) => respond(reply, ContentEncoding::accepted(&head.headers)).await,
            Err(failure) => refusal(&failure, &id),
        }
    }

    /// `id` is the request's, once it is known.
    async fn rest_answer(&self, path: &str, headers: &HeaderMap, body: Incoming, id: &mut String) -> Result<RestReply, Failure> {
        let core = &self.shard.core;
        let context = self.context(headers);
        let read = async {
            let (model, version) = named(path).unwrap_or_default();
            let (model, version) = (decoded(model)?, decoded(version)?);
            let json_len = json_len(headers)?;
            let (bytes, permit) = match body::read(headers, body, core.config.message_bytes_max, &core.budget).await {
                Ok(read) => read,
                Err(ReadError::Bad(failure)) => return Err(failure),
                Err(ReadError::Gone) => return Err(Failure::Cancelled),
            };
            let request = if json_len == Some(0) {
                let table = core.table.load();
                read_raw_binary(bytes, table.resolve(&model, &version)?.signature(), &model, &version)?
            } else {
                let (model, version) = (model.into_owned(), version.into_owned());
                let large = json_len.unwrap_or(bytes.len()) > JSON_INLINE_MAX;
                aside(large, move || read_request(bytes, json_len, &model, &version)).await??
            };
            Ok((request, permit))
        };
        let at = core.metrics.at(Stage::Receive);
        let read = context.in_time(read).await.flatten();
        at.ended(&read);
        let (request, _permit) = read.inspect_err(|failure| core.metrics.refused(failure.wire().0))?;
        id.clone_from(&request.envelope.id);
        let reply = self.shard.answer(request.envelope, Tensors::Here(request.raw), context).await?;
        let mut named = reply.reply;
        named.id.clone_from(id);
        let as_json = named.outputs.iter().zip(&reply.raw).filter(|(output, _)| !request.reply.is_binary(&output.name));
        let large = as_json.map(|(_, raw)| raw.len()).fold(0, usize::saturating_add) > JSON_INLINE_MAX;
        aside(large, move || write_reply(named, reply.raw, &request.reply)).await?
    }
}

/// A segment of the path.
fn decoded(segment: &str) -> Result<Cow<'_, str>, Failure> {
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8();
    decoded.map_err(|_| Failure::Malformed { what: "the path is not UTF-8".to_owned() })
}

/// The header's value; none when the whole body is JSON.
fn json_len(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let Some(value) = headers.get(&JSON_LEN) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let shown: String = text.chars().take(32).collect();
    let wrong = |_| Failure::Malformed { what: format!("header {JSON_LEN} is {shown:?}, expected the length of the JSON part in bytes") };
    text.trim().parse().map(Some).map_err(wrong)
}

async fn respond(reply: RestReply, accepted: Option<ContentEncoding>) -> Response<ReplyBody> {
    let encoding = accepted.filter(|_| reply.body.len() >= COMPRESS_BYTES_MIN);
    let body = match encoding {
        Some(encoding) => encoding.compressed(reply.body).await,
        None => reply.body,
    };
    let mut response = Response::new(ReplyBody::Message(MessageBody::plain(&body)));
    let headers = response.headers_mut();
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
    }
    let content_type = match reply.json_len {
        Some(len) => {
            headers.insert(JSON_LEN, HeaderValue::from(len));
            "application/octet-stream"
        }
        None => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn refusal(failure: &Failure, id: &str) -> Response<ReplyBody> {
    let refusal = super::Refusal { text: status::message(failure, id), ..refuse(failure) };
    refusal.into_response().map(|body| ReplyBody::Tonic(tonic::body::Body::new(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_inference_are_taken() {
        assert_eq!(named("/v2/models/m/infer"), Some(("m", "")));
        assert_eq!(named("/v2/models/m/versions/3/infer"), Some(("m", "3")));
        for other in
            ["/v2/models/m", "/v2/models/m/x/infer", "/v2/models/m/versions/3/4/infer", "/v1/models/m/infer", "/v2/models//x/infer"]
        {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_length_that_is_none_is_refused_with_its_text() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(JSON_LEN, HeaderValue::from_static(text));
            json_len(&headers)
        };
        assert_eq!(of("12"), Ok(Some(12)));
        for bad in ["-1", "1e3", "99999999999999999999999", ""] {
            let Err(Failure::Malformed { what }) = of(bad) else { panic!("{bad}") };
            assert!(what.contains(&format!("{bad:?}")), "{what}");
        }
        assert_eq!(json_len(&HeaderMap::new()), Ok(None));
    }
}
