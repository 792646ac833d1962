//! Every flag, with its environment variable and default. The configuration file has the same names.

mod load;
#[cfg(feature = "worker")]
mod variants;

pub(crate) use load::{Load, Process, Script, Sim, Wire};
#[cfg(feature = "worker")]
pub(crate) use variants::{Trial, Variants, VariantsCheck, VariantsImport, VariantsMake};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Sluice serves tensor models from many unequal machines behind one address.
#[derive(Debug, Parser)]
#[command(name = "sluice", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
    /// TOML file with the same names as the flags; a table per command may overrule them
    #[arg(long, env = "SLUICE_CONFIG", global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Telemetry {
    /// What to log, such as `info` or `warn,gateway=debug`
    #[arg(long, env = "SLUICE_LOG", default_value = "info", global = true, value_name = "FILTER")]
    pub(crate) log: String,
    /// Send traces to this OTLP gRPC endpoint, such as http://127.0.0.1:4317
    #[arg(long, env = "SLUICE_OTLP", global = true, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cluster in one process: gateway, worker, controller, embedded registry
    #[cfg(all(feature = "gateway", feature = "worker", feature = "controller"))]
    Up(Up),
    /// The front door
    #[cfg(feature = "gateway")]
    Gateway(Gateway),
    /// Runs models on this host's devices
    #[cfg(feature = "worker")]
    Worker(Worker),
    /// Decides which worker runs what; one of several leads
    #[cfg(feature = "controller")]
    Controller(Controller),
    /// Write wanted state from a file and wait until it is routable
    Apply(Apply),
    /// Show what would be placed where and what limits it, without doing it
    Plan(Plan),
    /// Load or unload a model
    #[command(subcommand)]
    Model(Model),
    /// Show records
    Get(Get),
    /// Ask a model
    Infer(Infer),
    /// Tell what a model file is made of, what it costs, and what it would be served as
    #[cfg(feature = "worker")]
    Inspect(Inspect),
    /// Make and check variants of a model: quantized, cast, run by another engine
    #[cfg(feature = "worker")]
    #[command(subcommand)]
    Variants(Variants),
    /// Send load to any server of the Open Inference Protocol and report what came of it
    Load(Box<Load>),
    /// Compute what such a load would come to at a described fleet, or at a running cluster's: the same decisions in virtual time, nothing
    /// is sent
    Sim(Box<Sim>),
    /// Look at this machine and say what is missing
    Doctor(Doctor),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Load a model, anew if it is loaded
    Load(Named),
    /// Unload a model
    Unload(Named),
    /// Forget a model: what is wanted of it, its settings too
    Delete(Delete),
}

/// Which cluster, and where in it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// Name of the cluster: its records lie under it
    #[arg(long, env = "SLUICE_CLUSTER", default_value = "default")]
    pub(crate) cluster: String,
    /// Data centre
    #[arg(long, env = "SLUICE_SITE", default_value = "default")]
    pub(crate) site: String,
    /// Failure domain in it
    #[arg(long, env = "SLUICE_ZONE", default_value = "default")]
    pub(crate) zone: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Etcd {
    /// Endpoints of etcd, separated by commas
    #[arg(long, env = "SLUICE_ETCD_ENDPOINTS", value_delimiter = ',', required = true, value_name = "URL")]
    pub(crate) etcd: Vec<String>,
    /// Certificate authority that signed etcd's certificate (PEM)
    #[arg(long, env = "SLUICE_ETCD_CA", value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Our certificate for etcd (PEM)
    #[arg(long, env = "SLUICE_ETCD_CERT", requires_all = ["etcd_key", "etcd_ca"], value_name = "FILE")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "SLUICE_ETCD_KEY", requires = "etcd_cert", value_name = "FILE")]
    pub(crate) etcd_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Control {
    /// Load and unload calls are refused
    None,
    /// Clients may load and unload models
    Explicit,
}

/// Flags of everything that has a front door.
#[derive(Debug, Clone, Args)]
pub(crate) struct Front {
    /// Address of the HTTP port
    #[arg(long, env = "SLUICE_HTTP", default_value = "127.0.0.1:8000", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) http: String,
    /// Address of the gRPC port
    #[arg(long, env = "SLUICE_GRPC", default_value = "127.0.0.1:8001", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) grpc: String,
    /// Address of the admin port: operator calls, health, metrics
    #[arg(long, env = "SLUICE_ADMIN", default_value = "127.0.0.1:8002", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) admin: String,
    /// Largest request in MiB, and largest reply from a worker in another process
    #[arg(long, env = "SLUICE_MESSAGE_MIB", default_value_t = 65, value_parser = clap::value_parser!(u32).range(1..=2047))]
    pub(crate) message_mib: u32,
    /// Believe the sluice-tenant header of clients
    #[arg(long, env = "SLUICE_TRUST_TENANT")]
    pub(crate) trust_tenant: bool,
    /// Most requests of a tenant at once; without --trust-tenant all callers are one
    #[arg(long, env = "SLUICE_TENANT_REQUESTS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tenant_requests: u32,
    /// Most MiB of a tenant's requests at once; a quarter of the gateway's 1,024 when tenants are told apart
    #[arg(long, env = "SLUICE_TENANT_MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) tenant_mib: Option<u32>,
    /// Most requests of a tenant per second, and as many at once after a quiet time; unbounded when not given
    #[arg(long, env = "SLUICE_TENANT_RATE")]
    pub(crate) tenant_rate: Option<std::num::NonZeroU32>,
    /// Let clients on this host name shared memory of theirs instead of sending tensors; both ports must be on loopback
    #[arg(long, env = "SLUICE_ALLOW_CLIENT_SHM")]
    pub(crate) allow_client_shm: bool,
    /// Network threads; a quarter of the cores when not given
    #[arg(long, env = "SLUICE_NETWORK_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) network_threads: Option<u16>,
}

/// Where engines live.
#[cfg(feature = "worker")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Isolation {
    /// In this process
    None,
    /// In a child process per device
    Process,
}

#[cfg(feature = "worker")]
/// Flags of everything that runs models.
#[derive(Debug, Clone, Args)]
pub(crate) struct Engines {
    /// ONNX Runtime library; the fetched or the system's when not given
    #[arg(long, env = "SLUICE_ONNXRUNTIME", value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// OpenVINO's C library; the fetched or the system's when not given, and where there is none, models that ask for it are refused
    #[arg(long, env = "SLUICE_OPENVINO", value_name = "FILE")]
    pub(crate) openvino: Option<PathBuf>,
    /// Cores engines may use; all when not given
    #[arg(long, env = "SLUICE_CORES")]
    pub(crate) cores: Option<std::num::NonZeroUsize>,
    /// Engine threads per replica; the core plan decides when not given
    #[arg(long, env = "SLUICE_INSTANCES")]
    pub(crate) instances: Option<std::num::NonZeroUsize>,
    /// Give each engine thread of a replica cores of its own. For a machine that does little else: beside other work it only waits
    #[arg(long, env = "SLUICE_BIND_CORES")]
    pub(crate) bind_cores: bool,
    /// Main memory in MiB that replicas may take; what the machine has when not given
    #[arg(long, env = "SLUICE_MEMORY_MIB")]
    pub(crate) memory_mib: Option<u64>,
    /// Where engines live: `process`, a child per device, so that a model that crashes its runtime does not take the worker along, or
    /// `none`, this process; `process` for a worker and `none` for `up` when not given
    #[arg(long, env = "SLUICE_ISOLATION")]
    pub(crate) isolation: Option<Isolation>,
    /// Execution provider of models whose wanted state names none: cpu, cuda, tensorrt
    #[arg(long, env = "SLUICE_PROVIDER", default_value = "cpu")]
    pub(crate) provider: String,
    /// What a worker like this costs, in a word of yours such as `spot`: models can be kept to some of these (`cost_classes`)
    #[arg(long, env = "SLUICE_COST_CLASS", default_value = "", value_name = "NAME")]
    pub(crate) cost_class: String,
    /// Longest first validation of a model, in seconds
    #[arg(long, env = "SLUICE_VALIDATE_SECONDS", default_value_t = 60)]
    pub(crate) validate_seconds: u64,
    /// Most memory of a first validation, in MiB
    #[arg(long, env = "SLUICE_VALIDATE_MEMORY_MB", default_value_t = 8192)]
    pub(crate) validate_memory_mb: u64,
}

#[cfg(all(feature = "gateway", feature = "worker", feature = "controller"))]
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Model directory: DIR/MODEL/VERSION/model.onnx
    #[arg(long, env = "SLUICE_MODELS", value_name = "DIR")]
    pub(crate) models: PathBuf,
    #[command(flatten)]
    pub(crate) front: Front,
    #[command(flatten)]
    pub(crate) engines: Engines,
    #[command(flatten)]
    pub(crate) place: Place,
    /// May clients load and unload models? `explicit` when HTTP and gRPC ports are on loopback, else `none`
    #[arg(long, env = "SLUICE_MODEL_CONTROL")]
    pub(crate) model_control: Option<Control>,
    /// Where the journal and verdicts are kept; a folder of this user's, per model directory, when not given
    #[arg(long, env = "SLUICE_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[cfg(feature = "gateway")]
#[derive(Debug, Args)]
pub(crate) struct Gateway {
    #[command(flatten)]
    pub(crate) etcd: Etcd,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) front: Front,
    /// May clients load and unload models?
    #[arg(long, env = "SLUICE_MODEL_CONTROL", default_value = "none")]
    pub(crate) model_control: Control,
    /// Where the routing snapshot is kept; without it a start needs etcd
    #[arg(long, env = "SLUICE_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[cfg(feature = "worker")]
#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    pub(crate) etcd: Etcd,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) engines: Engines,
    /// Name of this worker, the same over restarts; the host's name when not given
    #[arg(long, env = "SLUICE_ID")]
    pub(crate) id: Option<String>,
    /// Address of the data port
    #[arg(long, env = "SLUICE_LISTEN", default_value = "127.0.0.1:8101", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) listen: String,
    /// Address of the admin port: artifacts, health
    #[arg(long, env = "SLUICE_ADMIN", default_value = "127.0.0.1:8102", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) admin: String,
    /// Host at which others reach this worker; the listening address when not given
    #[arg(long, env = "SLUICE_ADVERTISE", value_name = "HOST")]
    pub(crate) advertise: Option<String>,
    /// Model directory it offers to the cluster
    #[arg(long, env = "SLUICE_MODELS", value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
    /// Where artifacts and verdicts are kept
    #[arg(long, env = "SLUICE_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[cfg(feature = "controller")]
#[derive(Debug, Args)]
pub(crate) struct Controller {
    #[command(flatten)]
    pub(crate) etcd: Etcd,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Name of this controller; the host's name when not given
    #[arg(long, env = "SLUICE_ID")]
    pub(crate) id: Option<String>,
    /// Address of the admin port
    #[arg(long, env = "SLUICE_ADMIN", default_value = "127.0.0.1:8202", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) admin: String,
}

/// Which running cluster to ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// Admin port of `up`, a gateway or a controller
    #[arg(long, env = "SLUICE_SERVER", default_value = "http://127.0.0.1:8002", value_name = "URL")]
    pub(crate) server: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// TOML file with `[[model]]` entries
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Seconds to wait for the models to be routable; 0 does not wait
    #[arg(long, default_value_t = 120)]
    pub(crate) wait: u32,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// TOML file with `[[model]]` entries that stand in for what is wanted of those models, such as another `expected_rate`
    #[arg(long, value_name = "FILE")]
    pub(crate) what_if: Option<PathBuf>,
    /// As JSON
    #[arg(short, long, value_name = "FORM")]
    pub(crate) output: Option<PlanForm>,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanForm {
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The model
    pub(crate) model: String,
    /// Seconds to wait
    #[arg(long, default_value_t = 120)]
    pub(crate) wait: u32,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Unload it first where it is in use; without this that is a reason to refuse
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to show
    pub(crate) kind: Kind,
    /// Only what starts with this name
    #[arg(default_value = "")]
    pub(crate) name: String,
    /// Form of the answer
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Output,
    /// Show every change until stopped
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Models,
    Variants,
    Workers,
    Replicas,
    Placements,
    Profiles,
    Plan,
    Demand,
    Rollouts,
}

#[derive(Debug, Args)]
pub(crate) struct Infer {
    /// The model
    pub(crate) model: String,
    /// Its version, a number or an alias; the latest ready one when not given
    #[arg(long, default_value = "")]
    pub(crate) version: String,
    /// A tensor from a NumPy file: NAME=@FILE.npy
    #[arg(long, value_name = "NAME=@FILE", required_unless_present = "image")]
    pub(crate) input: Vec<String>,
    /// A picture, prepared as the model's sluice.toml says
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pub(crate) image: Option<PathBuf>,
    /// Classes shown for a picture
    #[arg(long, default_value_t = 5)]
    pub(crate) top: usize,
    /// gRPC address of `up` or a gateway
    #[arg(long, env = "SLUICE_GRPC_URL", default_value = "http://127.0.0.1:8001", value_name = "URL")]
    pub(crate) grpc: String,
    /// Longest wait in milliseconds
    #[arg(long)]
    pub(crate) timeout_ms: Option<u64>,
    /// Form of the answer
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[cfg(feature = "worker")]
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The model file
    #[arg(value_name = "FILE.onnx")]
    pub(crate) file: PathBuf,
    /// Shape of an input to count FLOPs at; open dimensions are 1 when not given
    #[arg(long, value_name = "INPUT=1x3x224x224", value_parser = crate::inspect::shape)]
    pub(crate) shape: Vec<(String, Vec<u64>)>,
    /// ONNX Runtime library; the fetched or the system's when not given
    #[arg(long, env = "SLUICE_ONNXRUNTIME", value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Longest trial of the model, in seconds
    #[arg(long, env = "SLUICE_VALIDATE_SECONDS", default_value_t = 60)]
    pub(crate) validate_seconds: u64,
    /// Most memory of a trial, in MiB
    #[arg(long, env = "SLUICE_VALIDATE_MEMORY_MB", default_value_t = 8192)]
    pub(crate) validate_memory_mb: u64,
    /// Form of the answer
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// ONNX Runtime library; the fetched or the system's when not given
    #[arg(long, env = "SLUICE_ONNXRUNTIME", value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// OpenVINO's C library; the fetched or the system's when not given
    #[arg(long, env = "SLUICE_OPENVINO", value_name = "FILE")]
    pub(crate) openvino: Option<PathBuf>,
    /// Endpoints of etcd to try, separated by commas
    #[arg(long, env = "SLUICE_ETCD_ENDPOINTS", value_delimiter = ',', value_name = "URL")]
    pub(crate) etcd: Vec<String>,
}

/// `HOST:PORT`; whether it can be bound is found out later.
fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>())) {
        Some((false, Ok(_))) => Ok(text.to_owned()),
        _ => Err("expected HOST:PORT, such as 127.0.0.1:8001".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
