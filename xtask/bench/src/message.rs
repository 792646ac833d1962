//! The one request that benches send: a row of the smallest model, as gRPC and as REST carry it.

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{ModelInferRequest, ModelMetadataResponse};

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.1 with binary tensors.
    Rest,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Grpc => "gRPC",
            Self::Rest => "REST",
        })
    }
}

/// Rows of 32 numbers, 10 come back.
pub(crate) const MODEL: &str = "mlp";
const FEATURES: usize = 32;

/// What a server says of the model over gRPC.
pub(crate) fn metadata() -> Bytes {
    let input = TensorMetadata { name: "input".into(), datatype: "FP32".into(), shape: vec![-1, FEATURES as i64] };
    framed(&ModelMetadataResponse { name: MODEL.into(), inputs: vec![input], ..Default::default() })
}

/// A message as gRPC frames it.
fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    body.extend(message);
    body.into()
}

/// A request that is encoded once and sent again and again.
#[derive(Debug, Clone)]
pub(crate) struct Canned {
    pub(crate) protocol: Protocol,
    body: Bytes,
    json_len: usize,
}

impl Canned {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let data = vec![0u8; FEATURES * size_of::<f32>()];
        match protocol {
            Protocol::Grpc => {
                let shape = vec![1, FEATURES as i64];
                let input = InferInputTensor { name: "input".into(), datatype: "FP32".into(), shape, ..Default::default() };
                let request = ModelInferRequest {
                    model_name: MODEL.into(),
                    inputs: vec![input],
                    raw_input_contents: vec![data.into()],
                    ..Default::default()
                };
                Self { protocol, body: framed(&request), json_len: 0 }
            }
            Protocol::Rest => {
                let json = serde_json::json!({
                    "inputs": [{ "name": "input", "datatype": "FP32", "shape": [1, FEATURES], "parameters": { "binary_data_size": data.len() } }],
                    "parameters": { "binary_data_output": true },
                });
                let mut body = json.to_string().into_bytes();
                let json_len = body.len();
                body.extend(data);
                Self { protocol, body: body.into(), json_len }
            }
        }
    }

    /// The request for a server at `authority`.
    pub(crate) fn request(&self, authority: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let body = Full::new(self.body.clone());
        let request = match self.protocol {
            Protocol::Grpc => Request::post(format!("http://{authority}/inference.GRPCInferenceService/ModelInfer"))
                .header("content-type", HeaderValue::from_static("application/grpc"))
                .header("te", HeaderValue::from_static("trailers"))
                .body(body)?,
            Protocol::Rest => Request::builder()
                .method(Method::POST)
                .uri(format!("/v2/models/{MODEL}/infer"))
                .header("host", authority)
                .header("inference-header-content-length", HeaderValue::from(self.json_len))
                .body(body)?,
        };
        Ok(request)
    }
}
