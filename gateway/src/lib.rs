//! The front door: takes inference requests, checks them, chooses a replica, forwards, and answers.
//!
//! Invariants, each named by the test that fails without it:
//! * I2: it serves on the last routing table it knew, kept on disk too, whatever happens to the registry.
//! * I4: that a worker is dead is learned from the connection and from answers, never from a lease.
//! * I5: every request gets exactly one answer; a retry happens before a response header, on another worker, within the deadline.
//!
//! Not here: deciding (`policy`), engines (`worker`), writing anything that is wanted (`registry::admin` does, for an operator).

mod adapt;
mod admin;
mod admit;
mod asked;
mod config;
mod counts;
mod demand;
mod gauge;
mod health;
mod identify;
mod infer;
mod load;
mod metrics;
mod oip;
mod picture;
mod rest;
mod rollout;
mod runtime;
mod service;
mod settings;
mod shadow;
mod shard;
mod shm;
mod snapshot;
mod split;
mod statistics;
mod stream;
mod sync;
mod table;
#[cfg(test)]
mod testing;
mod wake;

pub use config::{Dial, GatewayConfig, ModelControl};
pub use runtime::{Gateway, GatewayError};
pub use settings::Telemetry;
