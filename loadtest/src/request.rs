//! A request made from what the server says of a model, encoded once.

use crate::client::Prepared;
use crate::error::LoadError;
use crate::mix::Ask;
use crate::target::{Input, Protocol, Target, inputs, model_error, path_segment};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::Full;
use policy::DataType;
use prost::Message as _;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{InferParameter, ModelInferRequest};
use proto::metadata;
use proto::remote::INFER_PATH;
use tonic::transport::Channel;

/// Largest request in bytes, as protobuf has it.
const BYTES_MAX: usize = i32::MAX as usize;

/// Pins a request to a variant.
const VARIANT: HeaderName = HeaderName::from_static("sluice-variant");

/// A request for one row of zeros; open dimensions are `size`.
///
/// # Errors
/// When the server does not know the model, or it cannot be asked so.
pub async fn request_of(client: &mut GrpcInferenceServiceClient<Channel>, model: &str, size: i64) -> Result<ModelInferRequest, LoadError> {
    let inputs = inputs(client, "the server", model).await?;
    zeros(inputs, &Ask::of(model), size).map_err(|reason| model_error("the server", model, reason))
}

/// The request for `ask`, ready to be sent again and again.
pub(crate) fn prepare(target: &Target, inputs: Vec<Input>, ask: &Ask, size: i64) -> Result<Prepared, LoadError> {
    let authority = target.authority()?;
    let message = zeros(inputs, ask, size).map_err(|reason| model_error(&target.url, &ask.model, reason))?;
    let mut request = match target.protocol {
        Protocol::Grpc => grpc(&message, authority),
        Protocol::Rest => rest(&message, &authority),
    }
    .map_err(|reason| model_error(&target.url, &ask.model, reason))?;
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    if let (false, Ok(tenant)) = (ask.tenant.is_empty(), HeaderValue::from_str(&ask.tenant)) {
        headers.insert(metadata::TENANT, tenant);
    }
    if let (false, Ok(variant)) = (ask.variant.is_empty(), HeaderValue::from_str(&ask.variant)) {
        headers.insert(VARIANT, variant);
    }
    if let Some(Ok(timeout)) = ask.deadline().map(|length| HeaderValue::from_str(&metadata::format_timeout(length))) {
        headers.insert(metadata::TIMEOUT, timeout);
    }
    Ok(request)
}

/// The message with all tensors zero, the first open dimension of each `ask.rows` and the others `size`.
fn zeros(inputs: Vec<Input>, ask: &Ask, size: i64) -> Result<ModelInferRequest, String> {
    let mut request = ModelInferRequest { model_name: ask.model.clone(), ..Default::default() };
    if let Some(priority) = ask.priority {
        let choice = ParameterChoice::Uint64Param(priority.into());
        request.parameters.insert("priority".to_owned(), InferParameter { parameter_choice: Some(choice) });
    }
    let rows = i64::from(ask.rows.get());
    for input in inputs {
        let shape: Vec<i64> = match input.shape.split_first() {
            Some((first, rest)) if *first < 0 => std::iter::once(rows).chain(rest.iter().map(|d| if *d < 0 { size } else { *d })).collect(),
            _ if rows > 1 => return Err(format!("input {} has no open first dimension: it cannot have {rows} rows", input.name)),
            _ => input.shape.iter().map(|d| if *d < 0 { size } else { *d }).collect(),
        };
        let datatype =
            DataType::parse(&input.datatype).ok_or_else(|| format!("input {}: type {} is not known", input.name, input.datatype))?;
        // An element of BYTES is its length and, here, one digit.
        let element: &[u8] = if datatype == DataType::Bytes { &[1, 0, 0, 0, b'0'] } else { &[] };
        let bytes = datatype.size().unwrap_or(element.len());
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?));
        let length = elements.and_then(|n| n.checked_mul(bytes)).filter(|n| *n <= BYTES_MAX);
        let length = length.ok_or_else(|| format!("input {} of shape {shape:?} is larger than 2 GiB", input.name))?;
        let raw = if element.is_empty() { vec![0; length] } else { element.repeat(length / element.len().max(1)) };
        request.raw_input_contents.push(raw.into());
        request.inputs.push(InferInputTensor { name: input.name, datatype: input.datatype, shape, ..Default::default() });
    }
    Ok(request)
}

/// The message in its frame: a flag byte, a big-endian length.
fn grpc(message: &ModelInferRequest, authority: Authority) -> Result<Request<Full<Bytes>>, String> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|n| *n as usize <= BYTES_MAX).ok_or("the request is larger than 2 GiB")?;
    let mut body = BytesMut::with_capacity(length.saturating_add(5));
    body.put_u8(0);
    body.put_u32(prefix);
    message.encode(&mut body).map_err(|e| e.to_string())?;
    let mut request = Request::new(Full::new(body.freeze()));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query = Some(PathAndQuery::from_static(INFER_PATH));
    *request.uri_mut() = Uri::from_parts(uri).map_err(|e| e.to_string())?;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

/// A JSON part and behind it the tensors, as the protocol's binary data extension has it.
fn rest(message: &ModelInferRequest, authority: &Authority) -> Result<Request<Full<Bytes>>, String> {
    const JSON_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");
    let input = |(input, raw): (&InferInputTensor, &Bytes)| {
        serde_json::json!({
            "name": input.name, "datatype": input.datatype, "shape": input.shape,
            "parameters": { "binary_data_size": raw.len() },
        })
    };
    let mut parameters = serde_json::Map::new();
    parameters.insert("binary_data_output".to_owned(), true.into());
    if let Some(ParameterChoice::Uint64Param(priority)) = message.parameters.get("priority").and_then(|p| p.parameter_choice.as_ref()) {
        parameters.insert("priority".to_owned(), (*priority).into());
    }
    let inputs: Vec<_> = message.inputs.iter().zip(&message.raw_input_contents).map(input).collect();
    let json = serde_json::json!({ "parameters": parameters, "inputs": inputs }).to_string();
    let mut body = BytesMut::from(json.as_bytes());
    message.raw_input_contents.iter().for_each(|raw| body.extend_from_slice(raw));
    let mut request = Request::new(Full::new(body.freeze()));
    let path = format!("/v2/models/{}/infer", path_segment(&message.model_name));
    *request.uri_mut() = path.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(JSON_LEN, HeaderValue::from(json.len()));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn input(datatype: &str, shape: &[i64]) -> Vec<Input> {
        vec![Input { name: "x".to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec() }]
    }

    fn rows(rows: u32) -> Ask {
        Ask { rows: NonZeroU32::new(rows).unwrap(), ..Ask::of("m") }
    }

    #[test]
    fn rows_go_into_the_first_open_dimension_and_the_size_into_the_others() {
        let request = zeros(input("FP32", &[-1, 3, -1]), &rows(2), 16).unwrap();
        assert_eq!((&request.inputs[0].shape[..], request.raw_input_contents[0].len()), (&[2, 3, 16][..], 2 * 3 * 16 * 4));
        assert_eq!(zeros(input("INT8", &[5]), &rows(1), 16).unwrap().raw_input_contents[0].len(), 5);
        assert_eq!(zeros(input("BYTES", &[-1]), &rows(2), 16).unwrap().raw_input_contents[0], [1, 0, 0, 0, b'0', 1, 0, 0, 0, b'0'][..]);
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        let check = |inputs, ask: Ask, says: &str| {
            let error = zeros(inputs, &ask, i64::MAX).unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        check(input("FP32", &[5]), rows(2), "no open first dimension");
        check(input("FP99", &[-1]), rows(1), "FP99");
        check(input("FP32", &[-1, -1, -1]), rows(1), "larger than 2 GiB");
    }

    #[test]
    fn both_protocols_carry_the_same_tensors() {
        let message = zeros(input("FP32", &[-1, 4]), &Ask { priority: Some(2), ..rows(3) }, 1).unwrap();
        let authority = Authority::from_static("h:1");
        let request = rest(&message, &authority).unwrap();
        let json_len: usize = request.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let body = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(async { http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes() });
        let read = proto::rest::read_request(body.into(), Some(json_len), "m", "").unwrap();
        assert_eq!(read.raw[0].len(), 3 * 4 * 4);
        assert!(grpc(&message, authority).is_ok());
    }
}
