//! What a worker is told at its start.

use crate::cores::CorePlan;
use crate::engine::{EngineError, Found};
use crate::runner::Isolation;
use policy::{Capabilities, ExecutionProvider, WorkerId};
use registry::Keys;
use std::path::PathBuf;
use std::time::Duration;

/// Configuration of a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Who it is, over restarts.
    pub id: WorkerId,
    /// Where its cluster's records lie.
    pub keys: Keys,
    /// Data centre it is in.
    pub site: String,
    /// Failure domain it is in.
    pub zone: String,
    /// What its operator calls workers of its price; empty when nobody said.
    pub cost_class: String,
    /// Name of the machine.
    pub host: String,
    /// `host:port` at which gateways reach its data port.
    pub advertise_data: String,
    /// `host:port` at which other workers reach its admin port.
    pub advertise_admin: String,
    /// Model directory it offers.
    pub models: Option<PathBuf>,
    /// The model directory is the whole truth: what is no longer in it is forgotten (`sluice up`).
    pub owns_repository: bool,
    /// Where artifacts and verdicts are kept.
    pub data_dir: PathBuf,
    /// Instances and threads of a replica.
    pub cores: CorePlan,
    /// What the host has.
    pub capabilities: Capabilities,
    /// Devices replicas can be placed on.
    pub devices: Vec<policy::DeviceRecord>,
    /// Provider used where a model's record does not name one.
    pub provider: ExecutionProvider,
    /// Where engines live.
    pub isolation: Isolation,
    /// The `sluice` binary, for validating children and runners.
    pub binary: PathBuf,
    /// The ONNX Runtime library this process loaded, for the same children.
    pub library: PathBuf,
    /// The OpenVINO library for engines of it, wherever they live; else why there is none.
    pub openvino: Result<Found, EngineError>,
    /// Longest a validating child may take.
    pub validate_time_max: Duration,
    /// Most memory a validating child may take, in bytes.
    pub validate_memory_max: u64,
    /// Largest message in bytes, both ways.
    pub message_bytes_max: usize,
}

/// Requests a replica's queue holds at most.
pub(crate) const QUEUE_LEN_MAX: usize = 1_024;
/// Bytes a replica's queue holds at most.
pub(crate) const QUEUE_BYTES_MAX: u64 = 256 << 20;
/// Lease of a worker's records; its end is garbage collection, so it is long.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
