//! The records that make a gateway's routing table, as workers and operators write them; all workers are one canned upstream.

use anyhow::{Context as _, ensure};
use policy::{
    Capabilities, DataType, Digest, ExecutionProvider, ModelName, ModelRecord, Origin, ReplicaRecord, ReplicaState, SCHEMA, Signature, Slo,
    TensorSpec, Unknown, VariantId, VariantName, Version, VersionRecord, VersionState, WorkerId, WorkerRecord,
};
use registry::{EtcdConfig, Keys, Registry, RegistryConfig, TXN_OPS_MAX, Txn, encode};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for etcd.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Replicas of each model, on as many workers where there are so many.
const REPLICAS: usize = 2;
/// What workers and their records call it.
const VARIANT: &str = "fp32@ort";
const INCARNATION: u64 = 1;

/// So many models on so many workers, in a cluster of that name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) cluster: &'static str,
    pub(crate) models: usize,
    pub(crate) workers: usize,
}

/// Name of the `index`th model of any fleet.
pub(crate) fn model(index: usize) -> String {
    format!("model-{index}")
}

/// The registry in etcd at `url`, once it answers.
pub(crate) async fn registry(url: &str) -> anyhow::Result<Arc<dyn Registry>> {
    let registry = registry::open(RegistryConfig::Etcd(EtcdConfig::new([url])))?;
    let answers = async {
        while registry.get("/up").await.is_err_and(|error| error.may_retry()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(ANSWERS_MAX, answers).await.context("etcd does not answer")?;
    Ok(registry)
}

impl Fleet {
    /// Writes its records; `data` is the address of every worker's data port.
    pub(crate) async fn write(self, registry: &dyn Registry, data: &str) -> anyhow::Result<()> {
        let keys = Keys::new(self.cluster);
        let mut records = Vec::new();
        for index in 0..self.workers {
            let worker = worker(index, data)?;
            records.push((keys.worker(worker.id.as_str()), encode(&worker)?));
        }
        for index in 0..self.models {
            let (name, number) = (ModelName::new(model(index))?, Version::parse("1")?);
            records.push((keys.model(name.as_str()), encode(&wanted(name.clone()))?));
            records.push((keys.version(name.as_str(), number.into()), encode(&version(name.clone(), number)?)?));
            for turn in 0..REPLICAS.min(self.workers) {
                let at = index.saturating_add(turn).checked_rem(self.workers).unwrap_or_default();
                let replica = replica(at, &name)?;
                records.push((keys.replica(replica.worker.as_str(), &replica.variant.to_string()), encode(&replica)?));
            }
        }
        for some in records.chunks(TXN_OPS_MAX) {
            let txn = some.iter().fold(Txn::new(), |txn, (key, value)| txn.put(key, value.as_slice()));
            ensure!(registry.txn(txn).await?.applied, "etcd did not take the records");
        }
        Ok(())
    }
}

fn worker_id(index: usize) -> anyhow::Result<WorkerId> {
    Ok(WorkerId::new(format!("worker-{index}"))?)
}

fn digest() -> anyhow::Result<Digest> {
    Ok(Digest::new("0".repeat(64))?)
}

/// One input and one output of numbers, as many as a request brings.
fn signature() -> Signature {
    let numbers = |name: &str| TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: vec![-1, -1],
        optional: false,
        graph_shape: None,
    };
    Signature { max_batch_size: 8, inputs: vec![numbers("input")], outputs: vec![numbers("output")] }
}

fn worker(index: usize, data: &str) -> anyhow::Result<WorkerRecord> {
    Ok(WorkerRecord {
        schema: SCHEMA,
        id: worker_id(index)?,
        incarnation: INCARNATION,
        data: data.to_owned(),
        admin: data.to_owned(),
        host: format!("host-{index}"),
        site: "default".to_owned(),
        zone: "default".to_owned(),
        devices: Vec::new(),
        capabilities: Capabilities::default(),
        epoch: 1,
        draining: false,
        unknown: Unknown::new(),
    })
}

fn wanted(name: ModelName) -> ModelRecord {
    ModelRecord {
        schema: SCHEMA,
        name,
        wanted: true,
        versions: Vec::new(),
        latest: None,
        replicas: None,
        provider: ExecutionProvider::Cpu,
        fallback: None,
        instances: None,
        slo: Slo::default(),
        by_call: false,
        derived: true,
        generation: 0,
        unknown: Unknown::new(),
    }
}

fn version(model: ModelName, version: Version) -> anyhow::Result<VersionRecord> {
    Ok(VersionRecord {
        schema: SCHEMA,
        model,
        version,
        state: VersionState::Valid,
        reference: VariantName::new(VARIANT)?,
        artifact: digest()?,
        files: Vec::new(),
        model_file: "model.onnx".to_owned(),
        config: None,
        signature: signature(),
        bytes_resident: 1,
        image: None,
        split: false,
        padding: None,
        labels: Vec::new(),
        origin: Origin::Directory,
        unknown: Unknown::new(),
    })
}

fn replica(worker: usize, model: &ModelName) -> anyhow::Result<ReplicaRecord> {
    Ok(ReplicaRecord {
        schema: SCHEMA,
        worker: worker_id(worker)?,
        incarnation: INCARNATION,
        variant: VariantId::parse(&format!("{model}:1:{VARIANT}"))?,
        device: "cpu".to_owned(),
        epoch: 1,
        state: ReplicaState::Ready,
        bytes_resident: 1,
        instances: 1,
        provider: ExecutionProvider::Cpu,
        fallback: None,
        artifact: digest()?,
        generation: 0,
        signature: Some(signature()),
        reload_failed: None,
        alpha_us: 1.0,
        beta_us: 10.0,
        unknown: Unknown::new(),
    })
}
