//! A worker of engines that are given to it, without models, placements or records: its data port, its replica, its queue. For whoever
//! measures or tests what surrounds engines.

use crate::config::{QUEUE_BYTES_MAX, QUEUE_LEN_MAX};
use crate::engine::Engine;
use crate::error::WorkerError;
use crate::gate::Gate;
use crate::handle::WorkerHandle;
use crate::replica::{INLINE_US_MAX, Parts, Replica};
use crate::serve::DataPort;
use policy::batch::{Batching, Limits};
use policy::profile::Latency;
use policy::{Signature, VariantId, WorkerId};
use proto::server::Server;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Largest message of its data port.
const MESSAGE_BYTES_MAX: usize = 65 << 20;

/// What the worker says of its one replica.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its own name.
    pub worker: WorkerId,
    /// What it runs.
    pub variant: VariantId,
    /// What that takes and gives.
    pub signature: Signature,
    /// As measured at load, which is what it believes before its first batch.
    pub latency: Latency,
}

/// A running worker, kept for as long as it should serve.
pub struct StandIn {
    _server: Server,
    _handle: WorkerHandle,
}

impl StandIn {
    /// Serves `engines`, the instances of one replica, on `data`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(described: Described, engines: Vec<Box<dyn Engine>>, data: TcpListener) -> Result<Self, WorkerError> {
        let Described { worker, variant, signature, latency } = described;
        let rows_max = signature.max_batch_size.max(1);
        let parts = Parts {
            variant: variant.clone(),
            worker,
            signature,
            latency,
            limits: Limits { rows_max, queue_len_max: QUEUE_LEN_MAX, queue_bytes_max: QUEUE_BYTES_MAX },
            batching: Batching::default(),
            padding: None,
            load: 0,
            inline_us_max: INLINE_US_MAX,
            generation: 0,
            gate: Gate::of_runs(u32::try_from(engines.len()).unwrap_or(u32::MAX)),
            intra_threads: 1,
            runner: None,
            _memory: None,
            on_failed: Box::new(|reason| tracing::error!(reason, "an engine that was given failed")),
        };
        let replica = Replica::start(parts, engines, None).map_err(WorkerError::Thread)?;
        let handle = WorkerHandle::default();
        handle.insert(variant, Arc::new(replica));
        let serve = handle.clone();
        let port = move || DataPort { worker: serve.local(), message_bytes_max: MESSAGE_BYTES_MAX };
        let server = Server::start(vec![data], 1, proto::listen::Limits::INNER, port).map_err(WorkerError::Thread)?;
        Ok(Self { _server: server, _handle: handle })
    }
}
