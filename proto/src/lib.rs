//! What goes over the wire, and the seam between gateway and worker.
//!
//! * `inference` and `sluice`: the protocols, generated.
//! * [`envelope`]: reads and writes infer messages around tensor bytes, which stay the slices the socket gave.
//! * [`frame`]: gRPC message framing over HTTP/2 bodies; [`body`]: plain HTTP bodies.
//! * [`inflow`]: tensor bytes that go on to a worker while they come.
//! * [`call`]: the seam; [`remote`] is its network side.
//! * [`json`]: messages as the REST surface spells them; [`model_config`]: Triton's `config.pbtxt`.
//! * [`server`]: a listener on its network runtimes; [`listen`]: accepting, serving and draining connections.
//!
//! Not here: deciding anything about a request (`policy`).

pub mod body;
pub mod budget;
pub mod call;
pub mod chain;
pub mod control;
pub mod envelope;
pub mod frame;
pub mod inflow;
pub mod json;
pub mod listen;
pub mod metadata;
pub mod model_config;
pub mod remote;
pub mod rest;
pub mod server;
pub mod statistics;
pub mod status;
pub mod trace;

/// `inference`: the Open Inference Protocol with Triton's extensions, generated.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::indexing_slicing, clippy::large_futures)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// `sluice.v1`: what is ours, generated.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::indexing_slicing, clippy::large_futures)]
pub mod sluice {
    include!(concat!(env!("OUT_DIR"), "/ours/sluice.v1.rs"));
}

/// `grpc.health.v1`, generated.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::indexing_slicing, clippy::large_futures)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Descriptors of the three packages, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
