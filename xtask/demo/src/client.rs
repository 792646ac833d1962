//! A small client: tensors in, values and times out.

use anyhow::Context as _;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use std::time::Instant;
use tonic::transport::Channel;

pub(crate) type Client = GrpcInferenceServiceClient<Channel>;

pub(crate) async fn connect(url: &str) -> anyhow::Result<Client> {
    GrpcInferenceServiceClient::connect(url.to_owned()).await.with_context(|| url.to_owned())
}

/// An input tensor and its little-endian bytes.
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<i64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn fp32(name: &'static str, shape: Vec<i64>, values: &[f32]) -> Tensor {
    Tensor { name, datatype: "FP32", shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

pub(crate) fn int64(name: &'static str, shape: Vec<i64>, values: &[i64]) -> Tensor {
    Tensor { name, datatype: "INT64", shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

/// Outputs as fp32 values, in the model's order, and where the time went.
pub(crate) struct Answer {
    pub(crate) outputs: Vec<Vec<f32>>,
    pub(crate) times: String,
}

pub(crate) fn request(model: &str, tensors: Vec<Tensor>) -> ModelInferRequest {
    let mut request = ModelInferRequest { model_name: model.to_owned(), ..Default::default() };
    for Tensor { name, datatype, shape, bytes } in tensors {
        request.inputs.push(InferInputTensor { name: name.to_owned(), datatype: datatype.to_owned(), shape, ..Default::default() });
        request.raw_input_contents.push(bytes.into());
    }
    request
}

/// A parameter that is a text.
pub(crate) fn text(value: &str) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(value.to_owned())) }
}

/// A parameter that is a number.
pub(crate) fn double(value: f64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::DoubleParam(value)) }
}

pub(crate) async fn infer(client: &mut Client, model: &str, tensors: Vec<Tensor>) -> anyhow::Result<Answer> {
    let request = request(model, tensors);
    let sent = Instant::now();
    let reply = client.model_infer(request).await.with_context(|| format!("model {model}"))?.into_inner();
    let total = sent.elapsed().as_micros();
    let value = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    let outputs = reply.raw_output_contents.iter().map(|raw| raw.as_chunks::<4>().0.iter().map(value).collect()).collect();
    let [variant, worker, queue, compute] = ["variant", "worker", "queue_us", "compute_us"].map(|name| parameter(&reply, name));
    Ok(Answer { outputs, times: format!("variant {variant} on {worker} · queue {queue} us, compute {compute} us, total {total} us") })
}

/// A number among what a reply says of itself; 0 where it does not.
pub(crate) fn number(reply: &ModelInferResponse, name: &str) -> f64 {
    match reply.parameters.get(&format!("sluice_{name}")).and_then(|p| p.parameter_choice.as_ref()) {
        Some(ParameterChoice::DoubleParam(number)) => *number,
        _ => 0.0,
    }
}

pub(crate) fn parameter(reply: &ModelInferResponse, name: &str) -> String {
    match reply.parameters.get(&format!("sluice_{name}")).and_then(|p| p.parameter_choice.as_ref()) {
        Some(ParameterChoice::StringParam(text)) => text.clone(),
        Some(ParameterChoice::Int64Param(number)) => number.to_string(),
        _ => "?".to_owned(),
    }
}
