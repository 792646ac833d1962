//! The floor: a bare hyper server that reads a request and answers with as many bytes as Sluice would.

use crate::message::metadata;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::io::Write as _;
use tokio::net::TcpListener;

/// Serves gRPC on one port and HTTP/1.1 on another, prints both, and never returns.
pub(crate) async fn serve(answer: usize) -> anyhow::Result<()> {
    let (h1, h2) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    println!("listening: http {}, grpc {}, admin none\nready: echo", h1.local_addr()?, h2.local_addr()?);
    std::io::stdout().flush()?;
    let answer = Bytes::from(vec![0; answer]);
    let plain = answer.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = h1.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = plain.clone();
            let service = service_fn(move |request| of_plain(request, answer.clone()));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    loop {
        let (stream, _) = h2.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        let service = service_fn(move |request| of_grpc(request, answer.clone()));
        tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    }
}

async fn of_plain(request: Request<Incoming>, answer: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(answer)))
}

async fn of_grpc(
    request: Request<Incoming>,
    answer: Bytes,
) -> Result<
    Response<http_body_util::combinators::WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>>,
    Infallible,
> {
    // The load generator asks what the model takes before it sends.
    let answer = if request.uri().path().ends_with("/ModelMetadata") { metadata() } else { answer };
    let _ = request.into_body().collect().await;
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(answer).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
