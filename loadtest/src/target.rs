//! The server under load, and what it says of a model.

use crate::error::LoadError;
use http::Uri;
use http::uri::Authority;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use proto::inference::ModelMetadataRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use serde::Deserialize;
use std::error::Error;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for a connection.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Largest description of a model.
const METADATA_BYTES_MAX: usize = 16 << 20;

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// REST with binary tensors over HTTP/1.1.
    Rest,
}

impl Protocol {
    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "gRPC",
            Self::Rest => "REST",
        }
    }
}

/// The server under load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Such as `http://127.0.0.1:8001`.
    pub url: String,
    /// How to ask.
    pub protocol: Protocol,
}

/// What a server says of one input.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) datatype: String,
    pub(crate) shape: Vec<i64>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    inputs: Vec<Input>,
}

impl Target {
    /// A gRPC port.
    pub fn grpc(url: &str) -> Self {
        Self { url: url.to_owned(), protocol: Protocol::Grpc }
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> Result<Authority, LoadError> {
        let uri: Option<Uri> = self.url.parse().ok();
        let plain = uri.filter(|uri| uri.scheme_str() == Some("http") && uri.path().trim_matches('/').is_empty() && uri.query().is_none());
        let authority = plain.and_then(|uri| uri.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@')).cloned());
        authority.ok_or_else(|| self.unreachable("expected an address such as http://127.0.0.1:8001 (https is not supported)"))
    }

    /// Inputs of `model`.
    pub(crate) async fn inputs(&self, model: &str) -> Result<Vec<Input>, LoadError> {
        match self.protocol {
            Protocol::Grpc => inputs(&mut connect(&self.url).await?, &self.url, model).await,
            Protocol::Rest => self.inputs_by_rest(model).await,
        }
    }

    async fn inputs_by_rest(&self, model: &str) -> Result<Vec<Input>, LoadError> {
        let authority = self.authority()?;
        let broken = |error: &dyn Error| self.unreachable(&root(error));
        let stream = dial(&authority).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get(format!("/v2/models/{}", path_segment(model))).header(http::header::HOST, authority.as_str());
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| broken(&e))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), METADATA_BYTES_MAX).collect().await;
            Ok::<_, LoadError>((status, body.map_err(|e| broken(&*e))?.to_bytes()))
        };
        let answer = tokio::time::timeout(CONNECT_MAX, answer).await;
        connection.abort();
        let (status, body) = answer.map_err(|_| self.unreachable("it took the request and said nothing for 10 s"))??;
        let failed = |reason: String| model_error(&self.url, model, reason);
        if !status.is_success() {
            return Err(failed(format!("{} ({})", error_text(&body), status.as_u16())));
        }
        let metadata: Metadata = serde_json::from_slice(&body).map_err(|e| failed(format!("its metadata cannot be read: {e}")))?;
        Ok(metadata.inputs)
    }

    fn unreachable(&self, reason: &str) -> LoadError {
        LoadError::Connect { url: self.url.clone(), reason: reason.to_owned() }
    }
}

/// Inputs of `model`, asked over gRPC.
pub(crate) async fn inputs(client: &mut GrpcInferenceServiceClient<Channel>, url: &str, model: &str) -> Result<Vec<Input>, LoadError> {
    let mut request = tonic::Request::new(ModelMetadataRequest { name: model.to_owned(), version: String::new() });
    request.set_timeout(CONNECT_MAX);
    let answer = client.model_metadata(request).await;
    let metadata = answer.map_err(|s| model_error(url, model, format!("{} ({:?})", s.message(), s.code())))?.into_inner();
    let input = |i: proto::inference::model_metadata_response::TensorMetadata| Input { name: i.name, datatype: i.datatype, shape: i.shape };
    Ok(metadata.inputs.into_iter().map(input).collect())
}

pub(crate) fn model_error(url: &str, model: &str, reason: String) -> LoadError {
    LoadError::Model { url: url.to_owned(), model: model.to_owned(), reason }
}

/// A gRPC client of `url`, for calls that are not load.
///
/// # Errors
/// When it cannot be reached.
pub async fn connect(url: &str) -> Result<GrpcInferenceServiceClient<Channel>, LoadError> {
    let failed = |error: tonic::transport::Error| LoadError::Connect { url: url.to_owned(), reason: root(&error) };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(failed)?.connect_timeout(CONNECT_MAX);
    Ok(GrpcInferenceServiceClient::new(endpoint.connect().await.map_err(failed)?))
}

/// A TCP connection, or why there is none.
pub(crate) async fn dial(authority: &Authority) -> Result<TcpStream, String> {
    let host = authority.host().trim_matches(['[', ']']);
    let connect = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let stream =
        tokio::time::timeout(CONNECT_MAX, connect).await.map_err(|_| format!("no connection within {} s", CONNECT_MAX.as_secs()))?;
    let stream = stream.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// The innermost cause: the others say that something failed, it says what.
pub(crate) fn root(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// `name` in a path.
pub(crate) fn path_segment(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The text of a REST error: the protocol's `error` field, else the beginning of the body.
pub(crate) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    let said = serde_json::from_slice::<Said>(body).map(|said| said.error);
    said.unwrap_or_else(|_| String::from_utf8_lossy(body).chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_refused() {
        for url in ["", "127.0.0.1:8001", "https://h:1", "http://", "http://h:1/v2", "http://u@h:1", "ftp://h"] {
            let error = Target::grpc(url).authority().unwrap_err().to_string();
            assert!(error.contains("expected an address such as"), "{url}: {error}");
        }
        assert_eq!(Target::grpc("http://[::1]:80/").authority().unwrap().host(), "[::1]");
    }

    #[test]
    fn the_error_of_a_rest_answer_is_its_error_field() {
        assert_eq!(error_text(b"{\"error\": \"no\"}"), "no");
        assert_eq!(error_text(b"<html>"), "<html>");
    }
}
