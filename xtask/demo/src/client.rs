//! A small client: tensors in, values and times out.

use anyhow::Context as _;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{ModelInferRequest, ModelInferResponse};
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

pub(crate) async fn infer(client: &mut Client, model: &str, tensors: Vec<Tensor>) -> anyhow::Result<Answer> {
    let mut request = ModelInferRequest { model_name: model.to_owned(), ..Default::default() };
    for Tensor { name, datatype, shape, bytes } in tensors {
        request.inputs.push(InferInputTensor { name: name.to_owned(), datatype: datatype.to_owned(), shape, ..Default::default() });
        request.raw_input_contents.push(bytes.into());
    }
    let sent = Instant::now();
    let reply = client.model_infer(request).await.with_context(|| format!("model {model}"))?.into_inner();
    let total = sent.elapsed().as_micros();
    let value = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    let outputs = reply.raw_output_contents.iter().map(|raw| raw.as_chunks::<4>().0.iter().map(value).collect()).collect();
    let [variant, worker, queue, compute] = ["variant", "worker", "queue_us", "compute_us"].map(|name| parameter(&reply, name));
    Ok(Answer { outputs, times: format!("variant {variant} on {worker} · queue {queue} us, compute {compute} us, total {total} us") })
}

fn parameter(reply: &ModelInferResponse, name: &str) -> String {
    match reply.parameters.get(&format!("sluice_{name}")).and_then(|p| p.parameter_choice.as_ref()) {
        Some(ParameterChoice::StringParam(text)) => text.clone(),
        Some(ParameterChoice::Int64Param(number)) => number.to_string(),
        _ => "?".to_owned(),
    }
}
