//! The records that make a gateway's routing table, as workers and operators write them; all workers are one canned upstream.

use crate::records;
use anyhow::{Context as _, ensure};
use policy::profile::Latency;
use policy::{ModelName, Signature, WorkerId};
use registry::{EtcdConfig, Keys, Registry, RegistryConfig, TXN_OPS_MAX, Txn, encode};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for etcd.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Replicas of each model, on as many workers where there are so many.
const REPLICAS: usize = 2;

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
        let mut written = Vec::new();
        for index in 0..self.workers {
            let worker = records::worker(worker_id(index)?, ("default", "default"), data);
            written.push((keys.worker(worker.id.as_str()), encode(&worker)?));
        }
        for index in 0..self.models {
            let name = ModelName::new(model(index))?;
            let version = records::version(name.clone(), signature())?;
            written.push((keys.model(name.as_str()), encode(&records::model(name.clone(), None))?));
            written.push((keys.version(name.as_str(), version.version.into()), encode(&version)?));
            for turn in 0..REPLICAS.min(self.workers) {
                let at = index.saturating_add(turn).checked_rem(self.workers).unwrap_or_default();
                let latency = Latency { alpha_us: 1.0, beta_us: 10.0 };
                let replica = records::replica(worker_id(at)?, records::variant(&name)?, signature(), latency, 1)?;
                written.push((keys.replica(replica.worker.as_str(), &replica.variant.to_string()), encode(&replica)?));
            }
        }
        for some in written.chunks(TXN_OPS_MAX) {
            let txn = some.iter().fold(Txn::new(), |txn, (key, value)| txn.put(key, value.as_slice()));
            ensure!(registry.txn(txn).await?.applied, "etcd did not take the records");
        }
        Ok(())
    }
}

fn worker_id(index: usize) -> anyhow::Result<WorkerId> {
    Ok(WorkerId::new(format!("worker-{index}"))?)
}

/// One input and one output of numbers, as many as a request brings.
fn signature() -> Signature {
    Signature { max_batch_size: 8, inputs: vec![records::numbers("input", -1)], outputs: vec![records::numbers("output", -1)] }
}
