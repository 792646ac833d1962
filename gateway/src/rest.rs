//! The REST surface: Open Inference Protocol v2 and Triton's extensions over HTTP. Inference is served from frames ([`infer`]); every
//! other path is a gRPC call of [`Oip`] with its messages as JSON, so both surfaces answer the same.

use crate::oip::Oip;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use policy::Code;
use proto::inference::grpc_inference_service_server::GrpcInferenceService as _;
use proto::inference::*;
use proto::json;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::{Request as Call, Status};

mod body;
mod infer;
mod operate;

pub(crate) use infer::is_infer;

/// The OpenAPI document of this surface.
const OPENAPI: &str = include_str!("rest/openapi.json");

/// A JSON answer, or the error that becomes one.
type Answer = Result<Response, Refusal>;

/// The routes that are not inference.
pub(crate) fn router(oip: Oip) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/v2/models", get(models))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/config", get(model_config))
        .route("/v2/models/{model}/stats", get(model_statistics))
        .route("/v2/models/{model}/infer", post(infer::unreachable))
        .route("/v2/models/{model}/versions/{version}", get(model_metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/config", get(model_config))
        .route("/v2/models/{model}/versions/{version}/stats", get(model_statistics))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::unreachable))
        .route("/v2/openapi.json", get(|| async { ([("content-type", "application/json")], OPENAPI) }))
        .merge(operate::router())
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .with_state(oip)
}

/// An error as HTTP answers it: an object with one member.
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    retry_ms: Option<u32>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_ms: None }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let code = u8::try_from(i32::from(status.code())).map_or(Code::Unknown, Code::from_number);
        let http = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let hint = status.metadata().get(proto::status::RETRY_PUSHBACK).and_then(|v| v.to_str().ok());
        Self { status: http, text: status.message().to_owned(), retry_ms: hint.and_then(|text| text.parse().ok()) }
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(json!({ "error": self.text }))).into_response();
        if let Some(ms) = self.retry_ms {
            response.headers_mut().insert("retry-after", retry_after(ms));
        }
        response
    }
}

/// Segments of the path, decoded. axum's own answers what cannot be read as plain text.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(segments)| Self(segments)).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// `Retry-After` knows whole seconds only.
pub(crate) fn retry_after(ms: u32) -> axum::http::HeaderValue {
    ms.div_ceil(1_000).into()
}

/// A message as JSON.
fn message<M: prost::Message>(name: &str, message: &M) -> Result<Value, Refusal> {
    json::to_value(name, message).map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn ok(value: Value) -> Answer {
    Ok(axum::Json(value).into_response())
}

async fn nowhere(request: Request) -> Response {
    if is_grpc(request.headers()) {
        return Status::unimplemented(format!("method {} is not known", request.uri().path())).into_http::<Body>();
    }
    Refusal::new(StatusCode::NOT_FOUND, format!("nothing is at {}", request.uri().path())).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let text = format!("method {} is not for {}", request.method(), request.uri().path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text).into_response()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// The model and, where the path has one, the version.
#[derive(serde::Deserialize)]
struct Named {
    model: String,
    #[serde(default)]
    version: String,
}

async fn live() -> Answer {
    ok(json!({ "live": true }))
}

/// KServe's code: Triton answers 400, and probes take neither for ready.
fn ready_or_not(ready: bool, body: Value) -> Answer {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, axum::Json(body)).into_response())
}

async fn ready(State(oip): State<Oip>) -> Answer {
    let ready = oip.server_ready(Call::new(ServerReadyRequest {})).await?.into_inner().ready;
    ready_or_not(ready, json!({ "ready": ready }))
}

async fn model_ready(State(oip): State<Oip>, Path(Named { model, version }): Path<Named>) -> Answer {
    let ready = oip.ready(&model, &version).map_err(|failure| body::refuse(&failure))?;
    ready_or_not(ready, json!({ "name": model, "ready": ready }))
}

async fn server_metadata(State(oip): State<Oip>) -> Answer {
    let metadata = oip.server_metadata(Call::new(ServerMetadataRequest {})).await?.into_inner();
    ok(message("inference.ServerMetadataResponse", &metadata)?)
}

async fn model_metadata(State(oip): State<Oip>, Path(Named { model, version }): Path<Named>) -> Answer {
    let metadata = oip.model_metadata(Call::new(ModelMetadataRequest { name: model, version })).await?.into_inner();
    ok(message("inference.ModelMetadataResponse", &metadata)?)
}

async fn model_config(State(oip): State<Oip>, Path(Named { model, version }): Path<Named>) -> Answer {
    let config = oip.model_config(Call::new(ModelConfigRequest { name: model, version })).await?.into_inner().config;
    ok(message("inference.ModelConfig", &config.unwrap_or_default())?)
}

async fn statistics(oip: &Oip, name: String, version: String) -> Answer {
    let statistics = oip.model_statistics(Call::new(ModelStatisticsRequest { name, version })).await?.into_inner();
    ok(message("inference.ModelStatisticsResponse", &statistics)?)
}

async fn model_statistics(State(oip): State<Oip>, Path(Named { model, version }): Path<Named>) -> Answer {
    statistics(&oip, model, version).await
}

async fn all_statistics(State(oip): State<Oip>) -> Answer {
    statistics(&oip, String::new(), String::new()).await
}

/// KServe's list: the models that can be asked.
async fn models(State(oip): State<Oip>) -> Answer {
    let index = RepositoryIndexRequest { ready: true, ..Default::default() };
    let index = oip.repository_index(Call::new(index)).await?.into_inner().models;
    let mut names: Vec<String> = index.into_iter().map(|model| model.name).collect();
    names.dedup();
    ok(json!({ "models": names }))
}
