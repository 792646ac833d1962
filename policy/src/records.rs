//! The records of the registry. Desired state (`models`, `placements`) and observed state (all others) are separate,
//! and each record has one writer.

use crate::demand::Demand;
use crate::profile::{BatchTime, Measured, SpeedVerdict};
use crate::{
    Digest, ExecutionProvider, ImageSpec, ModelName, Padding, PrecisionHint, Signature, VariantId, VariantName, Version, WorkerId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema number written. Readers accept it and the next one.
pub const SCHEMA: u32 = 1;

fn schema() -> u32 {
    SCHEMA
}

fn model_file() -> String {
    "model.onnx".to_owned()
}

/// Fields a newer writer added: kept when an older process rewrites the record.
pub type Unknown = BTreeMap<String, serde_json::Value>;

/// A number that may be missing or none: JSON has no way to say NaN but `null`.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Option::<f64>::deserialize(from).map(Option::unwrap_or_default)
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            /// Schema number.
            #[serde(default = "schema")]
            pub schema: u32,
            $($(#[$field_doc])* pub $field: $type,)*
            /// What this version does not know.
            #[serde(flatten)]
            pub unknown: Unknown,
        }

        impl $name {
            /// Names of its own fields.
            pub const FIELDS: &[&str] = &[$(stringify!($field)),*];
        }
    };
}

// After the macro, which they use.
mod model;
mod rollout;
mod variant;

pub use model::{ModelRecord, Pin, Slo, TenantDefaults};
pub use rollout::{Counted, CountsRecord, Phase, RolloutRecord};
pub use variant::{Runs, VariantRecord};

/// A device of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// `cpu`, `cuda:0`, …
    pub name: String,
    /// What a profile holds for.
    pub class: String,
    /// Bytes that replicas may use.
    pub memory_bytes: u64,
}

/// What a host has, as the worker found it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Capabilities {
    /// Processor model.
    pub cpu_model: String,
    /// Cores this process may use.
    pub cores: u32,
    /// Instruction sets that matter to an engine, such as `avx512_vnni`.
    pub isa: Vec<String>,
    /// Bytes of main memory.
    pub memory_bytes: u64,
    /// Operating system and kernel.
    pub os: String,
    /// Graphics processors: model, bytes of memory, driver version.
    pub gpus: Vec<(String, u64, String)>,
    /// Engine name to version.
    pub engines: BTreeMap<String, String>,
}

record! {
    /// `workers/{id}`: a process that owns devices.
    WorkerRecord {
        /// Stable over restarts.
        id: WorkerId,
        /// Grows with every start of the process; a replica of another incarnation is gone.
        incarnation: u64,
        /// `host:port` of the data port.
        data: String,
        /// `host:port` of the admin port.
        admin: String,
        /// Name of the machine, for spreading replicas.
        host: String,
        /// Data centre.
        site: String,
        /// Failure domain in it.
        zone: String,
        /// What its operator calls workers of its price, such as `spot`; empty where nobody said.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        cost_class: String,
        /// What replicas can be placed on.
        devices: Vec<DeviceRecord>,
        /// What the host has.
        capabilities: Capabilities,
        /// Greatest epoch it has acted on.
        epoch: u64,
        /// It takes no new work.
        #[serde(default)]
        draining: bool,
    }
}

impl WorkerRecord {
    /// Bytes that replicas may use of one of its devices: what that says, and of main memory no more than the host has, where it says so.
    pub fn memory_of(&self, device: &DeviceRecord) -> u64 {
        let host = Some(self.capabilities.memory_bytes).filter(|bytes| device.name == "cpu" && *bytes > 0);
        host.map_or(device.memory_bytes, |host| device.memory_bytes.min(host))
    }
}

/// Where a replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "lowercase")]
pub enum ReplicaState {
    /// Fetching, validating, loading or warming up; the text says which.
    Loading(String),
    /// Warm: the only routable state (I1).
    Ready,
    /// It did not load; the text says why.
    Failed(String),
    /// Finishing what it has.
    Draining,
}

/// A placement that a worker could not load in the place of the one it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadFailure {
    /// The artifact asked for.
    pub artifact: Digest,
    /// The generation asked for.
    pub generation: u64,
    /// Why it did not load.
    pub reason: String,
}

record! {
    /// `replicas/{worker}/{variant}`: a variant on a device, as its worker reports it.
    ReplicaRecord {
        /// Its worker.
        worker: WorkerId,
        /// Incarnation of the worker that wrote this.
        incarnation: u64,
        /// What it runs.
        variant: VariantId,
        /// Device of the worker.
        device: String,
        /// Epoch of the placement it follows.
        epoch: u64,
        /// Where it stands.
        #[serde(flatten)]
        state: ReplicaState,
        /// Measured bytes it holds; 0 until measured.
        bytes_resident: u64,
        /// Engine threads.
        instances: u32,
        /// What really runs it (I6).
        provider: ExecutionProvider,
        /// Why that is not what was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
        /// Artifact it was loaded from.
        artifact: Digest,
        /// Generation of the placement it was loaded for.
        #[serde(default)]
        generation: u64,
        /// What it takes and gives. The version's record may be ahead of it, while a reload is under way and after one that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<Signature>,
        /// A reload that did not work out. What is reported, and routable, is what was loaded before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reload_failed: Option<ReloadFailure>,
        /// Where the load stands that is to take the place of what is reported; none while there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reloading: Option<String>,
        /// What its batches took of late; none before that is known, and some time after the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measured: Option<Measured>,
        /// Microseconds per row, from calibration; 0 in both where there is no number.
        #[serde(default, deserialize_with = "number")]
        alpha_us: f64,
        /// Fixed microseconds per batch, from calibration.
        #[serde(default, deserialize_with = "number")]
        beta_us: f64,
    }
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Path inside the artifact, with `/`.
    pub path: String,
    /// Its own digest.
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
}

/// Names for the classes of an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// The output they belong to.
    pub output: String,
    /// `softmax` when the output holds logits, `none` when it holds probabilities.
    pub activation: String,
    /// One per class, in order.
    pub names: Vec<String>,
}

/// Whether a version can be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "lowercase")]
pub enum VersionState {
    /// A child process loaded it and ran it once.
    Valid,
    /// It cannot be served; the text says why.
    Invalid(String),
}

/// Where a version was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In a worker's model directory.
    #[default]
    Directory,
    /// In a worker's model directory, with a configuration that a load call brought.
    Config,
    /// In files that a load call brought.
    Files,
}

impl Origin {
    /// No load call said anything.
    pub fn is_directory(&self) -> bool {
        *self == Self::Directory
    }
}

record! {
    /// `versions/{model}/{version}`: what the first worker that validated it found.
    VersionRecord {
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
        /// Can it be served?
        #[serde(flatten)]
        state: VersionState,
        /// Variant that is the reference.
        reference: VariantName,
        /// Its artifact.
        artifact: Digest,
        /// The artifact's files.
        files: Vec<ArtifactFile>,
        /// The artifact's file that the engine loads.
        #[serde(default = "model_file")]
        model_file: String,
        /// The completed model configuration (Triton's ModelConfig) as JSON: what a gateway answers, and what a worker loads by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<serde_json::Value>,
        /// What it takes and gives.
        signature: Signature,
        /// Bytes one loaded and run instance held in the validating process.
        bytes_resident: u64,
        /// How pictures become its input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<ImageSpec>,
        /// Requests above the largest batch are answered in parts.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        split: bool,
        /// Which requests of different lengths may share a batch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        padding: Option<Padding>,
        /// Names of classes, at most one list per output.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        labels: Vec<Labels>,
        /// Where it was found.
        #[serde(default, skip_serializing_if = "Origin::is_directory")]
        origin: Origin,
        /// Variants beside the reference, in the order of their names.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        variants: Vec<VariantRecord>,
    }
}

record! {
    /// `artifacts/{sha256}/{worker}`: one place an artifact can be had.
    HolderRecord {
        /// The artifact.
        artifact: Digest,
        /// Who holds it.
        worker: WorkerId,
        /// `host:port` of the holder's admin port.
        admin: String,
        /// It lies in the holder's model directory, not just in its cache.
        #[serde(default)]
        in_directory: bool,
    }
}

/// An artifact as a list of files; its digest is that of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRecord {
    /// Digest of [`ArtifactRecord::manifest`].
    pub digest: Digest,
    /// Its files, ordered by path.
    pub files: Vec<ArtifactFile>,
}

impl ArtifactRecord {
    /// The text whose sha256 names the artifact: a line `sha256 bytes path` per file, ordered by path.
    pub fn manifest(files: &[ArtifactFile]) -> String {
        files.iter().map(|f| format!("{} {} {}\n", f.sha256, f.bytes, f.path)).collect()
    }
}

record! {
    /// `profiles/{artifact}/{engine}-{hint}/{class}`: what a worker measured.
    ProfileRecord {
        /// The artifact.
        artifact: Digest,
        /// Device class.
        class: String,
        /// Engine and its version.
        engine: String,
        /// Intra-op threads of the instance measured.
        threads: u32,
        /// Microseconds per row.
        alpha_us: f64,
        /// Fixed microseconds per batch.
        beta_us: f64,
        /// Bytes a replica held after warm-up.
        bytes_resident: u64,
        /// Milliseconds from open to warm.
        load_ms: u64,
        /// What the engine was told to compute in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<PrecisionHint>,
        /// By rows of a batch, where it was measured beside its reference.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        batches: Vec<BatchTime>,
        /// Whether it pays on this class; none for a reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed: Option<SpeedVerdict>,
    }
}

record! {
    /// `placements/{worker}/{variant}`: a replica the leader wants.
    PlacementRecord {
        /// On which worker.
        worker: WorkerId,
        /// Of what.
        variant: VariantId,
        /// On which of its devices.
        device: String,
        /// Epoch of the leader that wrote it.
        epoch: u64,
        /// From which artifact.
        artifact: Digest,
        /// With which execution provider.
        provider: ExecutionProvider,
        /// Fallback allowed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<ExecutionProvider>,
        /// Engine threads; none lets the worker decide.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instances: Option<u32>,
        /// When it was first wanted, in seconds since 1970 by the leader's clock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_s: Option<u64>,
        /// The model's latency target in microseconds: where the worker decides, it has more threads work on a run that would else be late.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latency_target_us: Option<u64>,
        /// The model record's generation it answers.
        #[serde(default)]
        generation: u64,
    }
}

record! {
    /// `leader`: the controller that plans.
    LeaderRecord {
        /// Which controller.
        id: String,
        /// Its epoch.
        epoch: u64,
    }
}

record! {
    /// `demand/{gateway}`: what is asked of models there, those of which nothing is left out.
    DemandRecord {
        /// Which gateway.
        gateway: String,
        /// By model.
        models: BTreeMap<ModelName, Demand>,
    }
}

/// Why a wanted version has fewer replicas than wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnplacedRecord {
    /// The version, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// In plain words.
    pub reason: String,
    /// It may pass by itself: a worker starts, memory is being freed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// What one replica is meant to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareRecord {
    /// The variant.
    pub variant: VariantId,
    /// On which worker.
    pub worker: WorkerId,
    /// Rows a second.
    pub rate: f64,
}

/// What a model with an `idle_s` does in place of being served as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// Nobody asks, no replica is kept. A request wakes it.
    Asleep,
    /// Somebody asks, its first replica is not routable yet.
    Waking,
}

/// Where a model with an `idle_s` stands; all of it empty for any other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdleRecord {
    /// Since when nobody asks, in seconds since 1970 by the leader's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_s: Option<u64>,
    /// Whether it rests; none while it is served as usual, and after a load that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
    /// Milliseconds that a load takes where it is fastest, while it rests and where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
}

impl IdleRecord {
    /// Nothing is to be said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

record! {
    /// `plan/{model}`: what the leader last decided about a wanted model, so that any process can tell why it is not routable.
    PlanRecord {
        /// The model.
        model: ModelName,
        /// Epoch of the leader that planned.
        epoch: u64,
        /// Registry revision of the model record it planned for.
        revision: i64,
        /// What it could not place; empty when all is placed.
        #[serde(default)]
        unplaced: Vec<UnplacedRecord>,
        /// Rows a second it is planned for, where somebody asks for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<f64>,
        /// Who is meant to answer how much of that.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shares: Vec<ShareRecord>,
        /// Whether anybody asks, where it may be without replicas meanwhile.
        #[serde(default, skip_serializing_if = "IdleRecord::is_empty")]
        idle: IdleRecord,
    }
}
