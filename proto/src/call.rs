//! The seam between gateway and worker: one call, its replies, and who can take it.

use crate::chain::Chain;
use crate::inflow::Inflow;
use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, StreamExt as _};
use policy::profile::Forecast;
use policy::statistics::Statistics;
use policy::{Backlog, Envelope, Failure, ModelName, Reply, VariantId, Version};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Who asks: established from connection and headers before any body byte is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose budget pays.
    pub tenant: Arc<str>,
}

/// W3C trace context, passed on as it came or as our span continues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`, empty when there is none.
    pub state: String,
}

/// One request on its way to a replica. A clone shares tensor bytes and envelope.
#[derive(Debug, Clone)]
pub struct InferCall {
    /// What it says besides tensor bytes; checked.
    pub envelope: Arc<Envelope>,
    /// Little-endian, row-major bytes of each input, in the envelope's order.
    pub raw: Tensors,
    /// Rows it brings to a batch.
    pub rows: u32,
    /// The replica's variant, as chosen.
    pub variant: VariantId,
    /// Time left until nobody wants the answer. A length, never a clock reading, so hosts need not agree on the time.
    pub remaining: Option<Duration>,
    /// Who asks.
    pub caller: Caller,
    /// Its trace.
    pub trace: Option<TraceContext>,
}

/// The tensor bytes of a request.
#[derive(Debug, Clone)]
pub enum Tensors {
    /// All of them, one chain per input.
    Here(Vec<Chain>),
    /// On their way.
    Coming(Inflow),
}

impl Default for Tensors {
    /// None.
    fn default() -> Self {
        Self::Here(Vec::new())
    }
}

impl Tensors {
    /// Their bytes, and for what is on its way a few more.
    pub fn len(&self) -> u64 {
        match self {
            Self::Here(raw) => raw.iter().fold(0, |sum, chain| sum.saturating_add(chain.len() as u64)),
            Self::Coming(inflow) => inflow.total(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until all are here.
    ///
    /// # Errors
    /// [`Failure::Cancelled`] when they stop coming.
    pub async fn collect(self) -> Result<Vec<Chain>, Failure> {
        match self {
            Self::Here(raw) => Ok(raw),
            Self::Coming(inflow) => inflow.collect().await,
        }
    }
}

/// How busy the answering replica is: rides on every reply.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoadReport {
    /// What a request that arrived now would wait for.
    pub backlog: Backlog,
    /// How long its batches take now; none from who does not know.
    pub forecast: Option<Forecast>,
    /// Arrivals at it from all over those from who asked; 0 from who does not know.
    pub senders: f64,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct InferReply {
    /// What it says besides tensor bytes, `sluice_*` parameters included.
    pub reply: Reply,
    /// Bytes of each output, in the reply's order.
    pub raw: Vec<Chain>,
    /// The replica's load.
    pub load: LoadReport,
}

/// The replies of a call: exactly one for ordinary models. Dropping it cancels the call.
pub struct Replies(Pin<Box<dyn Stream<Item = Result<InferReply, Failure>> + Send>>);

impl Replies {
    /// Wraps a stream of replies.
    pub fn new(stream: impl Stream<Item = Result<InferReply, Failure>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The single reply that `future` gives.
    pub fn one(future: impl Future<Output = Result<InferReply, Failure>> + Send + 'static) -> Self {
        Self::new(futures_util::stream::once(future))
    }

    /// The next reply, `None` after the last.
    pub async fn next(&mut self) -> Option<Result<InferReply, Failure>> {
        self.0.next().await
    }
}

/// What one replica counted since it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatistics {
    /// What it runs.
    pub variant: VariantId,
    /// Tells it from other loads of the same variant in the same process: counters start at zero with each.
    pub load: u64,
    /// Generation of the placement it was loaded for.
    pub generation: u64,
    /// Its counters.
    pub statistics: Statistics,
}

/// A model to be looked at anew.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which.
    pub model: ModelName,
    /// A configuration (JSON of Triton's ModelConfig) in place of the directory's config.pbtxt.
    pub config: Option<String>,
    /// Files in place of the directory's, by `<version>/<path>`.
    pub files: Vec<(String, Chain)>,
}

/// Something that answers calls: a worker in this process or one across the network.
///
/// Contract: every call gets at least one item; after an `Err` nothing follows; dropping the replies cancels what has
/// not started. [`Failure::ConnectionLost`] is answered only when no response header was seen.
pub trait Upstream: Send + Sync {
    /// Starts `call`.
    fn infer(&self, call: InferCall) -> Replies;
    /// False while there is reason to believe that calls cannot reach it.
    fn reachable(&self) -> bool;
    /// Counters of every replica it runs.
    fn statistics(&self) -> BoxFuture<'static, Result<Vec<ReplicaStatistics>, Failure>>;
    /// Looks at a model anew and writes what it is to the registry; gives the versions that can be served. None when it has no
    /// such model. What was known of the model stays when the new look fails.
    fn offer(&self, offer: Offer) -> BoxFuture<'static, Result<Vec<Version>, Failure>>;
}
