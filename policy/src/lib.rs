//! The words of Sluice as types, and every decision it takes as a pure function or state machine.
//!
//! Nothing in this crate does I/O, spawns, sleeps, reads a clock or a random device: time ([`Moment`]) and
//! randomness are arguments. The live processes and the simulator run the same code, so a decision can be
//! replayed from its inputs.
//!
//! Not here: bytes on the wire (`proto`), where records are kept (`registry`), threads and sockets (the roles).

pub mod admit;
pub mod backlog;
pub mod batch;
pub mod bytes_tensor;
pub mod card;
pub mod check;
pub mod classify;
mod cores;
pub mod demand;
mod engine;
mod envelope;
mod failure;
pub mod gate;
mod image;
mod names;
pub mod offer;
pub mod padding;
pub mod place;
pub mod plan;
pub mod profile;
pub mod reconcile;
mod records;
mod reshape;
pub mod rollout;
pub mod route;
mod shared_memory;
pub mod statistics;
mod tensor;
mod time;
pub mod wanted;

pub use backlog::Backlog;
pub use cores::CoreShare;
pub use engine::{EngineName, PrecisionHint};
pub use envelope::{Envelope, InputTensor, OutputTensor, Param, Parameters, Reply, RequestedOutput, Served};
pub use failure::{Code, Dims, Failure, Retry};
pub use image::{ImageChannels, ImageLayout, ImageResize, ImageSpec};
pub use names::{Digest, ModelName, NameError, VariantId, VariantName, Version, WorkerId};
pub use padding::{PadInput, PadOutput, Padding};
pub use records::{
    ArtifactFile, ArtifactRecord, Capabilities, Counted, CountsRecord, DemandRecord, DeviceRecord, HolderRecord, IdleRecord, Labels,
    LeaderRecord, ModelRecord, Origin, Phase, Pin, PlacementRecord, PlanRecord, ProfileRecord, ReloadFailure, ReplicaRecord, ReplicaState,
    Rest, RolloutRecord, Runs, SCHEMA, ShareRecord, Slo, TenantDefaults, Unknown, UnplacedRecord, VariantRecord, VersionRecord,
    VersionState, WorkerRecord,
};
pub use reshape::reshape;
pub use shared_memory::SharedMemory;
pub use tensor::{DataType, ExecutionProvider, Shape, Signature, TensorSpec};
pub use time::Moment;
