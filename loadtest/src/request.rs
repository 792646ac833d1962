//! A request made from what the server says of a model.

use crate::LoadError;
use policy::DataType;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{ModelInferRequest, ModelMetadataRequest};
use tonic::transport::Channel;

/// A request for one row of zeros; open dimensions are `size`.
///
/// # Errors
/// When the server does not know the model, or it takes strings.
pub async fn request_of(client: &mut GrpcInferenceServiceClient<Channel>, model: &str, size: i64) -> Result<ModelInferRequest, LoadError> {
    let failed = |reason: String| LoadError::Model { model: model.to_owned(), reason };
    let metadata = ModelMetadataRequest { name: model.to_owned(), version: String::new() };
    let metadata = client.model_metadata(metadata).await.map_err(|s| failed(s.message().to_owned()))?.into_inner();
    let mut request = ModelInferRequest { model_name: model.to_owned(), ..Default::default() };
    for input in metadata.inputs {
        let open = |(i, d): (usize, i64)| {
            if d >= 0 {
                d
            } else if i == 0 {
                1
            } else {
                size
            }
        };
        let shape: Vec<i64> = input.shape.into_iter().enumerate().map(open).collect();
        let bytes = DataType::parse(&input.datatype).and_then(DataType::size);
        let bytes = bytes.ok_or_else(|| failed(format!("input {} is {}: zeros cannot be made of it", input.name, input.datatype)))?;
        let elements = shape.iter().fold(1usize, |n, d| n.saturating_mul(usize::try_from(*d).unwrap_or(0)));
        request.raw_input_contents.push(vec![0; elements.saturating_mul(bytes)].into());
        request.inputs.push(InferInputTensor { name: input.name, datatype: input.datatype, shape, ..Default::default() });
    }
    Ok(request)
}
