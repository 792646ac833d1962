//! The worker's admin port: liveness, readiness, metrics, and its artifacts for other workers.

use crate::artifact::Artifacts;
use crate::handle::WorkerHandle;
use crate::metrics;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use policy::Digest;
use std::io::SeekFrom;
use std::sync::Arc;
use tokio::io::AsyncSeekExt as _;
use tokio::net::TcpListener;
use tokio_util::io::ReaderStream;

/// Serves the admin port.
pub(crate) async fn serve(listener: TcpListener, artifacts: Arc<Artifacts>, handle: WorkerHandle) {
    let files = move |Path(digest): Path<String>, headers: HeaderMap| {
        let artifacts = artifacts.clone();
        async move { file(&artifacts, digest, &headers).await }
    };
    let router = axum::Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .route(
            "/metrics",
            get(move || async move {
                ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics::render(&handle))
            }),
        )
        .route("/artifacts/{digest}", get(files));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(%error, "the admin port stopped");
    }
}

/// A file by its digest: no path ever comes from a request. `Range: bytes=N-` gives the rest from N.
async fn file(artifacts: &Artifacts, digest: String, headers: &HeaderMap) -> Response {
    let Ok(digest) = Digest::new(digest) else { return (StatusCode::BAD_REQUEST, "expected a sha256\n").into_response() };
    let Some(path) = artifacts.file(&digest) else { return (StatusCode::NOT_FOUND, "no such artifact here\n").into_response() };
    let from = range_start(headers);
    let opened = async {
        let mut file = tokio::fs::File::open(&path).await?;
        let len = file.metadata().await?.len();
        file.seek(SeekFrom::Start(from.unwrap_or(0).min(len))).await?;
        std::io::Result::Ok((file, len))
    };
    match opened.await {
        Ok((_, len)) if from.is_some_and(|from| from >= len) => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
        Ok((file, len)) => {
            let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
            let left = len.saturating_sub(from.unwrap_or(0));
            (status, [(header::CONTENT_LENGTH, left.to_string())], Body::from_stream(ReaderStream::new(file))).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, %digest, "artifact cannot be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
