//! A server of the protocol that answers at once, but for what a test asks of it.

use crate::target::{Protocol, Target};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use policy::Failure;
use prost::Message as _;
use proto::chain::Chain;
use proto::frame::{Encoding, MessageBody, ReplyBody, refuse, reply};
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{InferParameter, ModelInferResponse, ModelMetadataResponse};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the server does, and what it saw.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// How long each answer takes.
    pub(crate) takes: Duration,
    /// Before which request, counted from 1, it stands still once, and for how long.
    pub(crate) stall: Option<(usize, Duration)>,
    /// Refuse every so many requests.
    pub(crate) refuse_every: Option<usize>,
    /// Close a REST connection after each answer.
    pub(crate) close: bool,
    /// Inferences begun, and under way, and the most under way.
    pub(crate) begun: AtomicUsize,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) in_flight_max: AtomicUsize,
    /// Headers of inferences that tests look at: tenant and variant, and timeout.
    pub(crate) seen: Mutex<Vec<(String, String)>>,
    /// What each answer says of who gave it.
    pub(crate) told: Option<(&'static str, f64)>,
    pub(crate) stalled_until: Mutex<Option<Instant>>,
}

/// Serves `behaviour` on a port of its own until the runtime ends. It knows model `m`, with one input of 4 numbers a row.
pub(crate) async fn serve(protocol: Protocol, behaviour: Arc<Behaviour>) -> Target {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let behaviour = behaviour.clone();
            let service = service_fn(move |request| {
                let behaviour = behaviour.clone();
                async move { Ok::<_, std::convert::Infallible>(behaviour.answer(protocol, request).await) }
            });
            match protocol {
                Protocol::Grpc => {
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
                }
                Protocol::Rest => {
                    let connection = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
                }
            }
        }
    });
    Target { url, protocol }
}

impl Behaviour {
    async fn answer(&self, protocol: Protocol, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = head.uri.path();
        if path.ends_with("/ModelMetadata") || head.method == http::Method::GET {
            return self.metadata(protocol, path, &body).await;
        }
        let header = |name: &str| proto::metadata::text(&head.headers, name).unwrap_or_default().to_owned();
        self.seen.lock().unwrap().push((header("sluice-tenant") + &header("sluice-variant"), header("grpc-timeout")));
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.in_flight_max.fetch_max(now, Ordering::SeqCst);
        if let Some((_, length)) = self.stall.filter(|(at, _)| *at == number) {
            *self.stalled_until.lock().unwrap() = Some(Instant::now() + length);
        }
        let stalled_until = *self.stalled_until.lock().unwrap();
        tokio::time::sleep_until((Instant::now() + self.takes).max(stalled_until.unwrap_or(Instant::now())).into()).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let refused = self.refuse_every.is_some_and(|every| number.is_multiple_of(every));
        let failure = Failure::QueueFull { queued: 3, retry_ms: 5 };
        match (protocol, refused) {
            (Protocol::Grpc, true) => refuse(&failure, ""),
            (Protocol::Grpc, false) => message(&self.reply()).await,
            (Protocol::Rest, true) => plain(503, &format!("{{\"error\": \"{failure}\"}}")),
            (Protocol::Rest, false) => {
                let mut answer = plain(200, "{}");
                if self.close {
                    answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                }
                answer
            }
        }
    }

    fn reply(&self) -> ModelInferResponse {
        let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
        let told = self.told.iter().flat_map(|(variant, accuracy)| {
            let variant = ParameterChoice::StringParam((*variant).to_owned());
            [("sluice_variant", variant), ("sluice_accuracy", ParameterChoice::DoubleParam(*accuracy))]
        });
        let parameters = told.map(|(name, choice)| (name.to_owned(), parameter(choice))).collect();
        ModelInferResponse { parameters, ..Default::default() }
    }

    async fn metadata(&self, protocol: Protocol, path: &str, body: &Bytes) -> Response<ReplyBody> {
        match protocol {
            Protocol::Grpc => {
                let asked = proto::inference::ModelMetadataRequest::decode(body.get(5..).unwrap()).unwrap();
                if asked.name != "m" {
                    return refuse(&Failure::BadReply { what: format!("unknown model {}", asked.name) }, "");
                }
                let x = TensorMetadata { name: "x".to_owned(), datatype: "FP32".to_owned(), shape: vec![-1, 4] };
                message(&ModelMetadataResponse { name: "m".to_owned(), inputs: vec![x], ..Default::default() }).await
            }
            Protocol::Rest if path.ends_with("/m") => {
                plain(200, "{\"name\": \"m\", \"inputs\": [{\"name\": \"x\", \"datatype\": \"FP32\", \"shape\": [-1, 4]}]}")
            }
            Protocol::Rest => plain(404, "{\"error\": \"unknown model\"}"),
        }
    }
}

async fn message(message: &impl prost::Message) -> Response<ReplyBody> {
    reply(Chain::from(message.encode_to_vec()), Encoding::Identity).await
}

fn plain(status: u16, text: &str) -> Response<ReplyBody> {
    let body = ReplyBody::Message(MessageBody::plain(&Chain::from(text.as_bytes().to_vec())));
    Response::builder().status(status).body(body).unwrap()
}
