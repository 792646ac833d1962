//! ModelStreamInfer: many requests over one stream, each routed on its own, answered as they finish.

use crate::infer::Context;
use crate::service::{Front, named_reply};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Incoming};
use policy::{Failure, Param};
use proto::budget::Permit;
use proto::call::Tensors;
use proto::chain::Chain;
use proto::frame::{Encoding, MessageReader, ReadError, ReplyBody, StreamSender, encoded, refuse, response};
use proto::{envelope, metadata, status};
use tokio::sync::watch;

/// Request parameter: mark the last response.
const EMPTY_FINAL: &str = "triton_enable_empty_final_response";
/// Response parameter: this is the last.
const FINAL: &str = "triton_final_response";
/// Requests of one stream worked on at once; further ones wait in the socket, which slows the sender down.
const IN_FLIGHT_MAX: usize = 128;
/// Answer frames that wait for a slow reader.
const FRAMES_MAX: usize = 16;

/// Resolves when the flag is true.
async fn turned(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|on| *on).await; // a dropped sender means the same
}

/// A request's end: its message, or why there is none (with the reply that names it).
type Outcome = Result<Chain, (Failure, policy::Reply)>;

impl Front {
    /// Answers at once; a task works through the stream and ends when the client does.
    pub(crate) fn stream_infer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let core = &self.shard.core;
        let reader = match Encoding::of(&head.headers) {
            Ok(encoding) => MessageReader::new(body, encoding, core.config.message_bytes_max).with_budget(&core.budget),
            Err(failure) => return refuse(&failure, ""),
        };
        let encoding = Encoding::of_reply(&head.headers);
        let (sender, answer) = StreamSender::new(FRAMES_MAX, encoding);
        let front = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {} // the client has gone: every request of the stream is dropped, and with it cancelled
                trailers = front.work(reader, &head.headers, &sender) => sender.finish(trailers).await,
            }
        });
        encoded(response(answer), encoding)
    }

    /// Reads, answers, and gives the trailers that end the stream.
    async fn work<B>(&self, mut reader: MessageReader<B>, headers: &HeaderMap, sender: &StreamSender) -> HeaderMap
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let fail_stream = metadata::text(headers, metadata::TRITON_GRPC_ERROR) == Some("true");
        let context = self.context(headers);
        let mut running = FuturesUnordered::new();
        let core = &self.shard.core;
        let (mut open, mut draining) = (true, core.draining.subscribe());
        let mut end = status::ok_trailers();
        loop {
            tokio::select! {
                () = turned(&mut draining), if open => {
                    // What is in flight is still answered; then the client is told to ask elsewhere.
                    open = false;
                    end = status::trailers(&Failure::Draining { retry_ms: 0 }, "");
                }
                message = reader.next(), if open && running.len() < IN_FLIGHT_MAX => match message {
                    Ok(Some(message)) => {
                        let held = reader.take_permit();
                        running.push(self.one(message, held, context.clone()));
                    }
                    Ok(None) => open = false,
                    // Nothing behind a bad frame can be read; what came before it is still answered.
                    Err(ReadError::Bad(failure)) => {
                        core.metrics.refused(failure.wire().0);
                        open = false;
                        end = status::trailers(&failure, "");
                    }
                    Err(ReadError::Gone) => return status::trailers(&Failure::Cancelled, ""),
                },
                Some(outcome) = running.next() => {
                    let message = match outcome {
                        Ok(message) => message,
                        Err((failure, reply)) if fail_stream => return status::trailers(&failure, &reply.id),
                        Err((failure, reply)) => {
                            let text = status::message(&failure, &reply.id);
                            envelope::write_stream_reply(&reply, &[], &text)
                        }
                    };
                    if !sender.message(message).await {
                        // Not the end of a stream that went well: should the client read on after all, answers are missing.
                        return status::trailers(&Failure::Cancelled, "");
                    }
                }
                else => return end, // nothing more comes, and all is answered
            }
        }
    }

    /// Answers one request; `_held` is its share of the budget.
    async fn one(&self, message: Chain, _held: Option<Permit>, context: Context) -> Outcome {
        let (envelope, raw) = envelope::read_request(message).map_err(|failure| (failure, policy::Reply::default()))?;
        let named = named_reply(envelope.model.clone(), envelope.version.clone(), envelope.id.clone());
        let marks_end = envelope.parameter(EMPTY_FINAL) == Some(&Param::Bool(true));
        match self.shard.answer(envelope, Tensors::Here(raw), context).await {
            Ok(mut reply) => {
                reply.reply.id = named.id;
                if marks_end {
                    // The one reply of a model that is not decoupled is its last, and not empty.
                    reply.reply.parameters.push((FINAL.to_owned(), Param::Bool(true)));
                }
                Ok(envelope::write_stream_reply(&reply.reply, &reply.raw, ""))
            }
            Err(failure) => Err((failure, named)),
        }
    }
}

#[cfg(test)]
mod tests;
