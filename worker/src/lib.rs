//! Runs replicas on this host's devices and answers inference for them.
//!
//! Invariants, each named by the test that fails without it:
//! * I1: a replica is routable only after its warm-up succeeded.
//! * I3: a placement of an older epoch than the newest seen changes nothing.
//! * I6: a replica states the execution provider that really runs it.
//! * I7: work nobody waits for, or whose deadline has passed, never reaches an engine.
//! * I8: bytes promised on a device never exceed what it has.
//!
//! Not here: choosing a variant or a replica (`policy`, `gateway`), wanting replicas (`controller`). No tokio thread runs an
//! engine, but for models so small that handing them over would take longer (`lane`).

mod admin;
pub mod arena;
mod artifact;
mod config;
mod cores;
pub mod devices;
pub mod engine;
mod error;
mod gate;
mod handle;
pub mod inspect;
pub mod lab;
mod lane;
mod load;
mod manage;
mod memory;
mod metrics;
mod offer;
pub mod onnx;
mod phase;
mod profiler;
mod publish;
mod replica;
mod repository;
pub mod runner;
mod runtime;
mod serve;
#[cfg(feature = "test-util")]
pub mod stand_in;
#[cfg(test)]
mod testing;
pub mod validate;
mod verdict;

pub use config::WorkerConfig;
pub use cores::CorePlan;
pub use error::WorkerError;
pub use handle::{LocalWorker, WorkerHandle};
pub use runtime::{Worker, WorkerPorts};
