//! Records as workers and operators write them, for benches that bring workers of their own.

use policy::profile::Latency;
use policy::{
    Capabilities, DataType, Digest, ExecutionProvider, ModelName, ModelRecord, Origin, ReplicaRecord, ReplicaState, SCHEMA, Signature, Slo,
    TensorSpec, Unknown, VariantId, VariantName, Version, VersionRecord, VersionState, WorkerId, WorkerRecord,
};

/// What all replicas run.
const VARIANT: &str = "fp32@ort";
const INCARNATION: u64 = 1;

fn digest() -> anyhow::Result<Digest> {
    Ok(Digest::new("0".repeat(64))?)
}

/// `name`'s only variant.
pub(crate) fn variant(name: &ModelName) -> anyhow::Result<VariantId> {
    Ok(VariantId::parse(&format!("{name}:1:{VARIANT}"))?)
}

/// FP32 rows, of a length that is `length` or, where that is -1, the request's own.
pub(crate) fn numbers(name: &str, length: i64) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype: DataType::Fp32, shape: vec![-1, length], optional: false, graph_shape: None }
}

/// A worker whose ports are both at `address`, in a site and a zone of it.
pub(crate) fn worker(id: WorkerId, (site, zone): (&str, &str), address: &str) -> WorkerRecord {
    WorkerRecord {
        schema: SCHEMA,
        host: id.to_string(),
        id,
        incarnation: INCARNATION,
        data: address.to_owned(),
        admin: address.to_owned(),
        site: site.to_owned(),
        zone: zone.to_owned(),
        cost_class: String::new(),
        devices: Vec::new(),
        capabilities: Capabilities::default(),
        epoch: 1,
        draining: false,
        unknown: Unknown::new(),
    }
}

/// A model that is wanted, to be answered in `latency_ms` where that is given.
pub(crate) fn model(name: ModelName, latency_ms: Option<u32>) -> ModelRecord {
    ModelRecord { slo: Slo { latency_ms, ..Slo::default() }, derived: true, ..ModelRecord::new(name) }
}

/// Its only version.
pub(crate) fn version(model: ModelName, signature: Signature) -> anyhow::Result<VersionRecord> {
    Ok(VersionRecord {
        schema: SCHEMA,
        model,
        version: Version::try_from(1)?,
        state: VersionState::Valid,
        reference: VariantName::new(VARIANT)?,
        artifact: digest()?,
        files: Vec::new(),
        model_file: String::new(),
        config: None,
        signature,
        bytes_resident: 0,
        image: None,
        split: false,
        padding: None,
        labels: Vec::new(),
        origin: Origin::Directory,
        variants: Vec::new(),
        unknown: Unknown::new(),
    })
}

/// A ready replica.
pub(crate) fn replica(
    worker: WorkerId,
    variant: VariantId,
    signature: Signature,
    latency: Latency,
    instances: u32,
) -> anyhow::Result<ReplicaRecord> {
    Ok(ReplicaRecord {
        schema: SCHEMA,
        worker,
        incarnation: INCARNATION,
        variant,
        device: "cpu".to_owned(),
        epoch: 1,
        state: ReplicaState::Ready,
        bytes_resident: 0,
        instances,
        provider: ExecutionProvider::Cpu,
        fallback: None,
        artifact: digest()?,
        generation: 0,
        signature: Some(signature),
        reload_failed: None,
        reloading: None,
        measured: None,
        alpha_us: latency.alpha_us,
        beta_us: latency.beta_us,
        unknown: Unknown::new(),
    })
}
