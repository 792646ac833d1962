//! What stands behind and beside the gateway: a worker without an engine, and a proxy that reads nothing of what it carries.

use crate::ALLOCATOR;
use crate::allocations;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use policy::profile::{Forecast, Latency};
use policy::{Failure, OutputTensor, Reply, Served, Shape};
use proto::call::LoadReport;
use proto::chain::Chain;
use proto::frame::{MessageBody, ReplyBody, refuse, response};
use proto::listen::{Handler, Limits};
use proto::server::Server;
use proto::{envelope, metadata, remote, status};
use std::io::Write as _;
use tokio::net::{TcpListener, TcpStream};

/// Numbers of an answer.
const CLASSES: usize = 10;

/// A worker's data port that gives every inference the same answer, whatever is asked.
#[derive(Clone)]
struct Canned {
    answer: Chain,
    load: Option<HeaderValue>,
}

impl Canned {
    fn new() -> Self {
        let served = Served { variant: "fp32@ort".to_owned(), worker: "worker-0".to_owned(), queue_us: 3, compute_us: 11 };
        let shape = Shape::from_vec(vec![1, CLASSES as i64]);
        let output = OutputTensor { name: "output".to_owned(), datatype: "FP32".to_owned(), shape, parameters: Vec::new() };
        let reply = Reply {
            model: super::fleet::model(0),
            version: "1".to_owned(),
            parameters: served.into_parameters(),
            outputs: vec![output],
            ..Reply::default()
        };
        let raw = Chain::from(vec![0; CLASSES.saturating_mul(size_of::<f32>())]);
        let forecast = Forecast { latency: Latency { alpha_us: 1.0, beta_us: 10.0 }, kappa: 1.1, slow: 2.0 };
        let load = metadata::write_load(&LoadReport { backlog: policy::Backlog::whole(0), forecast: Some(forecast), senders: 1.0 });
        Self { answer: envelope::write_reply(&reply, &[raw]), load }
    }
}

impl Handler for Canned {
    async fn call(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        if request.uri().path() != remote::INFER_PATH {
            let (what, why) = (request.uri().path().to_owned(), "this worker is canned".to_owned());
            return refuse(&Failure::Unsupported { what, why }, "");
        }
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        let mut answer = response(ReplyBody::Message(MessageBody::message(&self.answer, Some(status::ok_trailers()))));
        answer.headers_mut().extend(self.load.clone().map(|load| (HeaderName::from_static(metadata::LOAD), load)));
        answer
    }
}

/// Answers as a worker would, and never returns.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let door = TcpListener::bind("127.0.0.1:0").await?;
    say(&format!("listening: http none, grpc {}, admin none\nready: canned", door.local_addr()?))?;
    let canned = Canned::new();
    let _server = Server::start(vec![door], 1, Limits::INNER, move || canned.clone())?;
    std::future::pending().await
}

/// Carries HTTP/2 requests to `upstream` on one connection, as hyper gives them, and never returns. The port it calls `http` tells what it
/// allocated.
pub(crate) async fn proxy(upstream: &str) -> anyhow::Result<()> {
    let (counts, door) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (stream_window, connection_window) = Limits::INNER.window_bytes;
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(stream_window).initial_connection_window_size(connection_window);
    let (sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    say(&format!("listening: http {}, grpc {}, admin none\nready: proxy", counts.local_addr()?, door.local_addr()?))?;
    tokio::spawn(allocations::tell(counts, &ALLOCATOR));
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let (stream_window, connection_window) = Limits::EDGE.window_bytes;
    server.initial_stream_window_size(stream_window).initial_connection_window_size(connection_window).max_frame_size(64 << 10);
    loop {
        let (stream, _) = door.accept().await?;
        stream.set_nodelay(true)?;
        let sender = sender.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
}

/// Lines for the bench that started this one.
pub(crate) fn say(lines: &str) -> anyhow::Result<()> {
    println!("{lines}");
    Ok(std::io::stdout().flush()?)
}
