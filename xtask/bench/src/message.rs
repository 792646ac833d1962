//! The requests that benches send: a row of the smallest model, as gRPC and as REST carry it, or of others over gRPC.

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

/// Requests that are encoded once and sent again and again, in turn.
#[derive(Debug, Clone)]
pub(crate) struct Canned {
    pub(crate) protocol: Protocol,
    bodies: Vec<Bytes>,
    json_len: usize,
}

impl Canned {
    pub(crate) fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Grpc => Self::rows([MODEL.to_owned()], FEATURES),
            Protocol::Rest => {
                let data = vec![0u8; FEATURES * size_of::<f32>()];
                let json = serde_json::json!({
                    "inputs": [{ "name": "input", "datatype": "FP32", "shape": [1, FEATURES], "parameters": { "binary_data_size": data.len() } }],
                    "parameters": { "binary_data_output": true },
                });
                let mut body = json.to_string().into_bytes();
                let json_len = body.len();
                body.extend(data);
                Self { protocol, bodies: vec![body.into()], json_len }
            }
        }
    }

    /// A row of so many numbers over gRPC, for each of `models`.
    pub(crate) fn rows(models: impl IntoIterator<Item = String>, numbers: usize) -> Self {
        let data = Bytes::from(vec![0u8; numbers.saturating_mul(size_of::<f32>())]);
        let body = |model_name| {
            let shape = vec![1, numbers as i64];
            let input = InferInputTensor { name: "input".into(), datatype: "FP32".into(), shape, ..Default::default() };
            let raw_input_contents = vec![data.clone()];
            framed(&ModelInferRequest { model_name, inputs: vec![input], raw_input_contents, ..Default::default() })
        };
        Self { protocol: Protocol::Grpc, bodies: models.into_iter().map(body).collect(), json_len: 0 }
    }

    /// The requests for a server at `authority`.
    pub(crate) fn requests(&self, authority: &str) -> anyhow::Result<Vec<Request<Full<Bytes>>>> {
        self.bodies.iter().map(|body| self.request(authority, body)).collect()
    }

    fn request(&self, authority: &str, body: &Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let body = Full::new(body.clone());
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
