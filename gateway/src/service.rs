//! The service of both front doors: the infer calls of gRPC and REST from frames, everything else through tonic and axum.

use crate::asked::Headers;
use crate::identify::identify;
use crate::infer::Context;
use crate::metrics::Stage;
use crate::oip::Oip;
use crate::rest;
use crate::shard::Shard;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use policy::{Envelope, Failure, Reply};
use prost::Message as _;
use proto::budget::Permit;
use proto::call::Tensors;
use proto::chain::Chain;
use proto::frame::{Encoding, MessageReader, ReplyBody, refuse, reply as reply_with};
use proto::inference::RepositoryModelLoadRequest;
use proto::inflow::inflow;
use proto::listen::Handler;
use proto::{envelope, metadata, trace};
use std::pin::pin;
use std::time::Instant;
use tower::Service as _;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";

/// Answers requests. Both ports speak both protocols; there are two because clients of Triton expect them.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) shard: Shard,
    /// What is not hot.
    pub(crate) router: axum::Router,
}

impl Handler for Front {
    async fn call(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        // Boxed: the server moves what this returns several times, and each of these is kilobytes.
        match request.uri().path() {
            INFER => Box::pin(self.infer(request)).await,
            STREAM_INFER => self.stream_infer(request),
            LOAD => Box::pin(self.load(request)).await,
            path if request.method() == Method::POST && rest::is_infer(path) => Box::pin(self.rest_infer(request)).await,
            _ => {
                let Ok(answer) = Box::pin(self.router.clone().call(request)).await;
                answer.map(|body| ReplyBody::Tonic(tonic::body::Body::new(body)))
            }
        }
    }
}

impl Front {
    async fn infer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let (context, encoding) = (self.context(&head.headers), Encoding::of_reply(&head.headers));
        let mut reader = match self.reader(&head.headers, body) {
            Ok(reader) => reader,
            Err(failure) => return self.refuse(&failure),
        };
        let at = self.shard.core.metrics.at(Stage::Receive);
        let opening = match context.in_time(reader.opening()).await.flatten() {
            Ok(opening) => opening,
            Err(failure) => {
                at.ended(&Err::<(), _>(failure.clone()));
                return self.refuse(&failure);
            }
        };
        if let Some((envelope, layout, records)) = opening.and_then(|(front, len)| envelope::read_opening(&front, len)) {
            let (feeder, inflow) = inflow(layout);
            at.ended(&Ok(())); // it goes on from here while the rest comes
            let coming = reader.feed(feeder, records);
            // Boxed: what is kept for a large request must not make the future of every small one larger.
            return Box::pin(self.infer_coming(coming, envelope, Tensors::Coming(inflow), context, encoding)).await;
        }
        let read = async {
            let (message, held) = reader.only().await?;
            let (envelope, raw) = envelope::read_request(message)?;
            Ok((envelope, raw, held))
        };
        let read = context.in_time(read).await.flatten();
        at.ended(&read);
        match read {
            Ok((envelope, raw, _held)) => self.infer_read(envelope, Tensors::Here(raw), context, encoding).await,
            Err(failure) => self.refuse(&failure),
        }
    }

    /// Answers a request while the rest of it comes.
    async fn infer_coming(
        &self,
        coming: impl Future<Output = Result<(), Failure>>,
        envelope: Envelope,
        raw: Tensors,
        context: Context,
        encoding: Encoding,
    ) -> Response<ReplyBody> {
        let mut coming = pin!(coming);
        let mut answer = pin!(self.infer_read(envelope, raw, context.clone(), encoding));
        tokio::select! {
            came = &mut coming => match came {
                Ok(()) => answer.await,
                Err(failure) => self.refuse(&failure), // and what was sent of it is taken back
            },
            refusal = &mut answer => {
                // Clients take a stream that is answered before they are done for a broken one.
                let _ = context.in_time(coming).await;
                refusal
            }
        }
    }

    async fn infer_read(&self, envelope: Envelope, raw: Tensors, context: Context, encoding: Encoding) -> Response<ReplyBody> {
        let id = envelope.id.clone();
        match self.shard.answer(envelope, raw, context).await {
            Ok(mut reply) => {
                reply.reply.id = id;
                reply_with(envelope::write_reply(&reply.reply, &reply.raw), encoding).await
            }
            Err(failure) => refuse(&failure, &id),
        }
    }

    /// A load call may bring files, so its bytes are counted as those of requests are.
    async fn load(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let work = async {
            let (message, held) = self.read_one(&head.headers, body).await?;
            let request = RepositoryModelLoadRequest::decode(message).map_err(|error| Failure::Malformed { what: error.to_string() })?;
            Oip(self.shard.clone()).load(request, held).await
        };
        match self.context(&head.headers).in_time(work).await.flatten() {
            Ok(()) => reply_with(Chain::default(), Encoding::Identity).await,
            Err(failure) => self.refuse(&failure),
        }
    }

    /// An error before a request is known.
    fn refuse(&self, failure: &Failure) -> Response<ReplyBody> {
        self.shard.core.metrics.refused(failure.wire().0);
        refuse(failure, "")
    }

    /// The one message of a unary call, and its share of the budget.
    async fn read_one(&self, headers: &HeaderMap, body: Incoming) -> Result<(Chain, Option<Permit>), Failure> {
        self.reader(headers, body)?.only().await
    }

    fn reader(&self, headers: &HeaderMap, body: Incoming) -> Result<MessageReader<Incoming>, Failure> {
        let core = &self.shard.core;
        Ok(MessageReader::new(body, Encoding::of(headers)?, core.config.message_bytes_max).with_budget(&core.budget))
    }

    /// Who asks, until when, and under which trace: known before any body byte.
    pub(crate) fn context(&self, headers: &HeaderMap) -> Context {
        let core = &self.shard.core;
        Context {
            caller: identify(core.config.trust_tenant, &core.default_tenant, headers),
            trace: trace::of(headers),
            asked: Headers::of(headers),
            deadline: metadata::timeout(headers).and_then(|length| Instant::now().checked_add(length)),
            part: None,
        }
    }
}

/// A reply that only names what it is about, for an error inside a stream.
pub(crate) fn named_reply(model: String, version: String, id: String) -> Reply {
    Reply { model, version, id, ..Reply::default() }
}

#[cfg(test)]
mod tests;
