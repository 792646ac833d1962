//! The HTTP/2 service of a listener: the two infer calls from frames, everything else through tonic.

use crate::identify::identify;
use crate::infer::Context;
use crate::shard::Shard;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use policy::{Failure, Reply};
use proto::budget::Permit;
use proto::chain::Chain;
use proto::frame::{Encoding, MessageBody, MessageReader, ReadError, ReplyBody, refuse, response};
use proto::listen::Handler;
use proto::{envelope, metadata, status, trace};
use std::time::Instant;
use tonic::service::Routes;
use tower::Service as _;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Answers the requests of the gRPC listener.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) shard: Shard,
    pub(crate) rest: Routes,
}

impl Handler for Front {
    async fn call(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        match request.uri().path() {
            INFER => self.infer(request).await,
            STREAM_INFER => self.stream_infer(request),
            _ => {
                let Ok(answer) = self.rest.clone().call(request.map(tonic::body::Body::new)).await;
                answer.map(ReplyBody::Tonic)
            }
        }
    }
}

impl Front {
    async fn infer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let context = self.context(&head.headers);
        match self.read_one(&head.headers, body).await {
            Ok((message, _held)) => self.infer_message(message, context).await,
            Err(failure) => self.refuse(&failure),
        }
    }

    async fn infer_message(&self, message: Chain, context: Context) -> Response<ReplyBody> {
        let (envelope, raw) = match envelope::read_request(message) {
            Ok(read) => read,
            Err(failure) => return self.refuse(&failure),
        };
        let id = envelope.id.clone();
        match self.shard.answer(envelope, raw, context).await {
            Ok(mut reply) => {
                reply.reply.id = id;
                let message = envelope::write_reply(reply.reply, &reply.raw);
                response(ReplyBody::Message(MessageBody::message(&message, Some(status::ok_trailers()))))
            }
            Err(failure) => refuse(&failure, &id),
        }
    }

    /// An error before a request is known.
    fn refuse(&self, failure: &Failure) -> Response<ReplyBody> {
        self.shard.core.metrics.refused(failure.wire().0);
        refuse(failure, "")
    }

    /// The one message of a unary call, and its share of the budget.
    async fn read_one(&self, headers: &HeaderMap, body: Incoming) -> Result<(Chain, Option<Permit>), Failure> {
        let core = &self.shard.core;
        let mut reader = MessageReader::new(body, Encoding::of(headers)?, core.config.message_bytes_max).with_budget(&core.budget);
        match reader.next().await {
            Ok(Some(message)) => Ok((message, reader.take_permit())),
            Ok(None) => Err(Failure::Malformed { what: "the call has no message".to_owned() }),
            Err(ReadError::Bad(failure)) => Err(failure),
            Err(ReadError::Gone) => Err(Failure::Cancelled),
        }
    }

    /// Who asks, until when, and under which trace: known before any body byte.
    pub(crate) fn context(&self, headers: &HeaderMap) -> Context {
        let core = &self.shard.core;
        Context {
            caller: identify(core.config.trust_tenant, &core.default_tenant, headers),
            trace: trace::of(headers),
            deadline: metadata::timeout(headers).and_then(|length| Instant::now().checked_add(length)),
        }
    }
}

/// A reply that only names what it is about, for an error inside a stream.
pub(crate) fn named_reply(model: String, version: String, id: String) -> Reply {
    Reply { model, version, id, ..Reply::default() }
}
