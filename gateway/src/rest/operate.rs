//! What an operator does over REST: the repository, shared memory regions, trace and log settings.

use super::body::{aside, read_json, refuse};
use super::{Answer, Path, Refusal, message, ok};
use crate::oip::Oip;
use crate::runtime::CONTROL_BYTES_MAX;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use proto::inference::grpc_inference_service_server::GrpcInferenceService as _;
use proto::inference::model_repository_parameter::ParameterChoice;
use proto::inference::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::HashMap;
use tonic::Request as Call;
use tonic::metadata::MetadataMap;

pub(super) fn router() -> Router<Oip> {
    Router::new()
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/{repository}/index", post(index_of))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .route("/v2/systemsharedmemory/status", get(shm_status))
        .route("/v2/systemsharedmemory/unregister", post(shm_unregister))
        .route("/v2/systemsharedmemory/region/{region}/status", get(shm_status_of))
        .route("/v2/systemsharedmemory/region/{region}/register", post(shm_register))
        .route("/v2/systemsharedmemory/region/{region}/unregister", post(shm_unregister_one))
        .route("/v2/cudasharedmemory/status", get(cuda_status))
        .route("/v2/cudasharedmemory/unregister", post(cuda_unregister))
        .route("/v2/cudasharedmemory/region/{region}/status", get(cuda_status_of))
        .route("/v2/cudasharedmemory/region/{region}/register", post(cuda_register))
        .route("/v2/cudasharedmemory/region/{region}/unregister", post(cuda_unregister_one))
        .route("/v2/trace/setting", get(trace_get).post(trace_set))
        .route("/v2/models/{model}/trace/setting", get(trace_get_of).post(trace_set_of))
        .route("/v2/logging", get(log_get).post(log_set))
}

/// Reads a body that carries no files.
async fn control<T: DeserializeOwned + Default + Send + 'static>(oip: &Oip, request: Request) -> Result<T, Refusal> {
    Ok(read_json(oip, request, CONTROL_BYTES_MAX).await?.0)
}

/// A value of a client's, cut: it must not fill an answer.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(64).collect()
}

fn empty() -> Answer {
    Ok(StatusCode::OK.into_response())
}

fn wrong(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct IndexBody {
    ready: bool,
}

async fn index(State(oip): State<Oip>, request: Request) -> Answer {
    index_in(&oip, String::new(), request).await
}

async fn index_of(State(oip): State<Oip>, Path(repository): Path<String>, request: Request) -> Answer {
    index_in(&oip, repository, request).await
}

/// A bare array, as Triton answers.
async fn index_in(oip: &Oip, repository_name: String, request: Request) -> Answer {
    let body: IndexBody = control(oip, request).await?;
    let call = RepositoryIndexRequest { repository_name, ready: body.ready };
    let index = oip.repository_index(Call::new(call)).await?.into_inner();
    let mut index = message("inference.RepositoryIndexResponse", &index)?;
    ok(index.get_mut("models").map(Value::take).unwrap_or_default())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Parameters {
    parameters: HashMap<String, Parameter>,
}

/// What a parameter of a load call may be. Files come as base64.
#[derive(Deserialize)]
#[serde(untagged)]
enum Parameter {
    Flag(bool),
    Integer(i64),
    Text(String),
}

async fn load(State(oip): State<Oip>, Path(model_name): Path<String>, request: Request) -> Answer {
    let limit = oip.0.core.config.message_bytes_max;
    let (Parameters { parameters }, held) = read_json(&oip, request, limit).await?;
    let decode = move || parameters.into_iter().map(parameter).collect::<Result<HashMap<_, _>, _>>();
    let parameters = aside(true, decode).await.map_err(|failure| refuse(&failure))??;
    let request = RepositoryModelLoadRequest { model_name, parameters, ..Default::default() };
    oip.load(request, Some(held)).await.map_err(|failure| refuse(&failure))?;
    empty()
}

fn parameter((name, value): (String, Parameter)) -> Result<(String, ModelRepositoryParameter), Refusal> {
    let choice = match value {
        Parameter::Flag(flag) => ParameterChoice::BoolParam(flag),
        Parameter::Integer(number) => ParameterChoice::Int64Param(number),
        Parameter::Text(text) if name.starts_with("file:") => {
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text.as_bytes());
            let bytes = bytes.map_err(|error| wrong(format!("parameter `{name:.128}`: expected the base64 of a file: {error}")))?;
            ParameterChoice::BytesParam(bytes.into())
        }
        Parameter::Text(text) => ParameterChoice::StringParam(text),
    };
    Ok((name, ModelRepositoryParameter { parameter_choice: Some(choice) }))
}

async fn unload(State(oip): State<Oip>, Path(model_name): Path<String>, request: Request) -> Answer {
    let Parameters { parameters } = control(&oip, request).await?;
    let parameters = parameters.into_iter().map(parameter).collect::<Result<HashMap<_, _>, _>>()?;
    oip.repository_model_unload(Call::new(RepositoryModelUnloadRequest { model_name, parameters, ..Default::default() })).await?;
    empty()
}

/// The regions as a bare array, as Triton answers.
fn regions(mut status: Value) -> Answer {
    let regions = status.get_mut("regions").map(Value::take).unwrap_or_default();
    ok(match regions {
        Value::Object(regions) => regions.into_iter().map(|(_, region)| region).collect(),
        _ => Value::Array(Vec::new()),
    })
}

/// A call with the headers of its HTTP request: regions belong to the tenant they name.
fn of_tenant<T>(headers: HeaderMap, message: T) -> Call<T> {
    Call::from_parts(MetadataMap::from_headers(headers), Default::default(), message)
}

async fn shm_status(State(oip): State<Oip>, headers: HeaderMap) -> Answer {
    shm_status_of(State(oip), Path(String::new()), headers).await
}

async fn shm_status_of(State(oip): State<Oip>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let call = of_tenant(headers, SystemSharedMemoryStatusRequest { name });
    let status = oip.system_shared_memory_status(call).await?.into_inner();
    regions(message("inference.SystemSharedMemoryStatusResponse", &status)?)
}

#[derive(Deserialize)]
struct Region {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

async fn shm_register(State(oip): State<Oip>, Path(name): Path<String>, request: Request) -> Answer {
    let headers = request.headers().clone();
    let body: Option<Region> = control(&oip, request).await?;
    let Region { key, offset, byte_size } = body.ok_or_else(|| wrong("expected an object with `key`, `offset` and `byte_size`"))?;
    oip.system_shared_memory_register(of_tenant(headers, SystemSharedMemoryRegisterRequest { name, key, offset, byte_size })).await?;
    empty()
}

async fn shm_unregister(State(oip): State<Oip>, headers: HeaderMap) -> Answer {
    shm_unregister_one(State(oip), Path(String::new()), headers).await
}

async fn shm_unregister_one(State(oip): State<Oip>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    oip.system_shared_memory_unregister(of_tenant(headers, SystemSharedMemoryUnregisterRequest { name })).await?;
    empty()
}

async fn cuda_status(State(oip): State<Oip>) -> Answer {
    cuda_status_of(State(oip), Path(String::new())).await
}

async fn cuda_status_of(State(oip): State<Oip>, Path(name): Path<String>) -> Answer {
    let status = oip.cuda_shared_memory_status(Call::new(CudaSharedMemoryStatusRequest { name })).await?.into_inner();
    regions(message("inference.CudaSharedMemoryStatusResponse", &status)?)
}

/// Refused whatever it says.
async fn cuda_register(State(oip): State<Oip>, Path(name): Path<String>) -> Answer {
    oip.cuda_shared_memory_register(Call::new(CudaSharedMemoryRegisterRequest { name, ..Default::default() })).await?;
    empty()
}

async fn cuda_unregister(State(oip): State<Oip>) -> Answer {
    cuda_unregister_one(State(oip), Path(String::new())).await
}

async fn cuda_unregister_one(State(oip): State<Oip>, Path(name): Path<String>) -> Answer {
    oip.cuda_shared_memory_unregister(Call::new(CudaSharedMemoryUnregisterRequest { name })).await?;
    empty()
}

async fn trace_get(State(oip): State<Oip>) -> Answer {
    trace(&oip, String::new(), Map::new()).await
}

async fn trace_get_of(State(oip): State<Oip>, Path(model): Path<String>) -> Answer {
    trace(&oip, model, Map::new()).await
}

async fn trace_set(State(oip): State<Oip>, request: Request) -> Answer {
    let settings = control(&oip, request).await?;
    trace(&oip, String::new(), settings).await
}

async fn trace_set_of(State(oip): State<Oip>, Path(model): Path<String>, request: Request) -> Answer {
    let settings = control(&oip, request).await?;
    trace(&oip, model, settings).await
}

/// A value is a text or a list of texts; null clears it.
async fn trace(oip: &Oip, model_name: String, settings: Map<String, Value>) -> Answer {
    let text = |name: &str, value: Value| match value {
        Value::String(text) => Ok(text),
        other => Err(wrong(format!("setting `{name}`: expected a text, got {}", shown(&other)))),
    };
    let setting = |(name, value): (String, Value)| {
        let value = match value {
            Value::Null => Vec::new(),
            Value::Array(values) => values.into_iter().map(|value| text(&name, value)).collect::<Result<_, _>>()?,
            value => vec![text(&name, value)?],
        };
        Ok::<_, Refusal>((name, trace_setting_request::SettingValue { value }))
    };
    let settings = settings.into_iter().map(setting).collect::<Result<_, _>>()?;
    let now = oip.trace_setting(Call::new(TraceSettingRequest { settings, model_name })).await?.into_inner().settings;
    let setting = |(name, setting): (String, trace_setting_response::SettingValue)| {
        // Only the level is a list.
        let value = match (name.as_str(), setting.value.as_slice()) {
            ("trace_level", levels) => Value::from(levels),
            (_, [only]) => Value::from(only.as_str()),
            (_, values) => Value::from(values),
        };
        (name, value)
    };
    ok(now.into_iter().map(setting).collect())
}

async fn log_get(State(oip): State<Oip>) -> Answer {
    log(&oip, Map::new()).await
}

async fn log_set(State(oip): State<Oip>, request: Request) -> Answer {
    let settings = control(&oip, request).await?;
    log(&oip, settings).await
}

async fn log(oip: &Oip, settings: Map<String, Value>) -> Answer {
    use log_settings_request::setting_value::ParameterChoice as Asked;
    use log_settings_response::setting_value::ParameterChoice as Now;
    let setting = |(name, value): (String, Value)| {
        let choice = match value {
            Value::Bool(flag) => Asked::BoolParam(flag),
            Value::String(text) => Asked::StringParam(text),
            other => match other.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(number) => Asked::Uint32Param(number),
                None => return Err(wrong(format!("setting `{name}`: expected a flag, a number or a text, got {}", shown(&other)))),
            },
        };
        Ok((name, log_settings_request::SettingValue { parameter_choice: Some(choice) }))
    };
    let settings = settings.into_iter().map(setting).collect::<Result<_, _>>()?;
    let now = oip.log_settings(Call::new(LogSettingsRequest { settings })).await?.into_inner().settings;
    let setting = |(name, setting): (String, log_settings_response::SettingValue)| {
        let value = match setting.parameter_choice {
            Some(Now::BoolParam(flag)) => Value::from(flag),
            Some(Now::Uint32Param(number)) => Value::from(number),
            Some(Now::StringParam(text)) => Value::from(text),
            None => Value::Null,
        };
        (name, value)
    };
    ok(now.into_iter().map(setting).collect())
}
