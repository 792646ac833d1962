//! What a gateway is told at its start.

use crate::settings::Telemetry;
use policy::WorkerRecord;
use policy::admit::Budget;
use proto::call::Upstream;
use registry::Keys;
use std::path::PathBuf;
use std::sync::Arc;

/// Makes the way to a worker: a network connection, or the handle of a worker in this process. Called on the network
/// runtime that will use it.
pub type Dial = Arc<dyn Fn(&WorkerRecord) -> Arc<dyn Upstream> + Send + Sync>;

/// May clients load and unload models?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelControl {
    /// No: such calls are refused with UNAVAILABLE, as Triton does.
    None,
    /// Yes.
    Explicit,
}

/// Configuration of a gateway.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Where its cluster's records lie.
    pub keys: Keys,
    /// Data centre it is in.
    pub site: String,
    /// Failure domain it is in.
    pub zone: String,
    /// Largest message in bytes, both ways.
    pub message_bytes_max: usize,
    /// Most bytes of requests held at once.
    pub in_flight_bytes_max: u64,
    /// What a tenant may hold of that, at once and over time.
    pub tenant: Budget,
    /// Believe the `sluice-tenant` header.
    pub trust_tenant: bool,
    /// May clients load and unload models?
    pub model_control: ModelControl,
    /// May clients on this host name shared memory of theirs instead of sending tensors?
    pub allow_client_shm: bool,
    /// File that keeps the last routing table.
    pub snapshot: Option<PathBuf>,
    /// Network runtimes.
    pub runtimes: usize,
    /// How it reaches a worker.
    pub dial: Dial,
    /// This process's logs and traces, for TraceSetting and LogSettings.
    pub telemetry: Arc<dyn Telemetry>,
}

impl GatewayConfig {
    /// 64 MiB of tensors and 1 MiB around them.
    pub const MESSAGE_BYTES_MAX: usize = 65 << 20;
    /// 1 GiB.
    pub const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;
}
