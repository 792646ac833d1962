//! The data port: decodes a gateway's call, hands it to the replica it names, encodes the answer. It decides nothing.

use crate::handle::LocalWorker;
use http::{HeaderMap, HeaderName, Request, Response};
use hyper::body::Incoming;
use policy::{Failure, VariantId};
use proto::call::{Caller, InferCall, InferReply, Tensors, Upstream as _};
use proto::chain::Chain;
use proto::control::{self, OFFER_PATH, STATISTICS_PATH};
use proto::frame::{Encoding, MessageBody, MessageReader, ReplyBody, refuse, response};
use proto::listen::Handler;
use proto::remote::INFER_PATH;
use proto::{envelope, metadata, status, trace};
use std::sync::Arc;
use std::time::Instant;

/// Answers the requests of the data port.
#[derive(Clone)]
pub(crate) struct DataPort {
    pub(crate) worker: LocalWorker,
    pub(crate) message_bytes_max: usize,
}

impl Handler for DataPort {
    async fn call(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let answer = match request.uri().path() {
            INFER_PATH => self.infer(request).await.map(|reply| {
                let load = metadata::write_load(&reply.load).map(|load| (HeaderName::from_static(metadata::LOAD), load));
                (envelope::write_reply(&reply.reply, &reply.raw), load)
            }),
            STATISTICS_PATH => self.statistics().await.map(|message| (message, None)),
            OFFER_PATH => self.offer(request).await.map(|message| (message, None)),
            path => Err(Failure::Unsupported {
                what: format!("method {:?}", path.chars().take(160).collect::<String>()),
                why: "a worker's data port answers gateways only; ask a gateway".to_owned(),
            }),
        };
        match answer {
            Ok((message, load)) => {
                let mut answer = response(ReplyBody::Message(MessageBody::message(&message, Some(status::ok_trailers()))));
                answer.headers_mut().extend(load);
                answer
            }
            Err(failure) => refuse(&failure, ""),
        }
    }
}

impl DataPort {
    async fn infer(&self, request: Request<Incoming>) -> Result<InferReply, Failure> {
        let received = Instant::now();
        let (head, body) = request.into_parts();
        let variant = variant(&head.headers)?;
        let message = self.message(&head.headers, body).await?;
        let (envelope, raw) = envelope::read_request(message)?;
        let replica = self.worker.handle.replica(&variant)?;
        let senders = replica.arrives(metadata::sender(&head.headers));
        let call = InferCall {
            envelope: Arc::new(envelope),
            raw: Tensors::Here(raw),
            rows: 0, // the replica counts them
            variant,
            remaining: metadata::timeout(&head.headers).map(|length| length.saturating_sub(received.elapsed())),
            caller: Caller { tenant: Arc::from(metadata::text(&head.headers, metadata::TENANT).unwrap_or("default")) },
            trace: trace::of(&head.headers),
        };
        let mut reply = replica.infer(call, &self.worker.lane).await?;
        reply.load.senders = senders;
        Ok(reply)
    }

    async fn statistics(&self) -> Result<Chain, Failure> {
        Ok(control::write_statistics(&self.worker.statistics().await?))
    }

    async fn offer(&self, request: Request<Incoming>) -> Result<Chain, Failure> {
        let (head, body) = request.into_parts();
        let offer = control::read_offer(self.message(&head.headers, body).await?)?;
        let versions = self.worker.offer(offer).await?;
        Ok(control::write_offered(&versions))
    }

    /// The one message of a call.
    async fn message(&self, headers: &HeaderMap, body: Incoming) -> Result<Chain, Failure> {
        let (message, _) = MessageReader::new(body, Encoding::of(headers)?, self.message_bytes_max).only().await?;
        Ok(message)
    }
}

fn variant(headers: &HeaderMap) -> Result<VariantId, Failure> {
    let text = metadata::text(headers, metadata::VARIANT)
        .ok_or_else(|| Failure::Malformed { what: format!("metadata {} is missing: ask a gateway, not a worker", metadata::VARIANT) })?;
    Ok(VariantId::parse(text)?)
}
