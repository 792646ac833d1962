//! The way to a running cluster.

use anyhow::Context as _;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::sluice::admin_client::AdminClient;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

async fn connect(url: &str, what: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned()).with_context(|| format!("{url:?} is not a URL such as http://127.0.0.1:8002"))?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
    channel.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        anyhow::anyhow!("nothing answers at {url} ({what}): {cause}; is `sluice up` or a gateway running there?")
    })
}

/// The operator's service.
pub(crate) async fn admin(url: &str) -> anyhow::Result<AdminClient<Channel>> {
    Ok(AdminClient::new(connect(url, "--server").await?).max_decoding_message_size(usize::MAX))
}

/// The inference service.
pub(crate) async fn inference(url: &str) -> anyhow::Result<GrpcInferenceServiceClient<Channel>> {
    let client = GrpcInferenceServiceClient::new(connect(url, "--grpc").await?);
    Ok(client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX))
}

/// A status as a person reads it.
pub(crate) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{} ({:?})", status.message(), status.code())
}
