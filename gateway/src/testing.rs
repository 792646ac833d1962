//! Records for tests of this crate.

use crate::metrics::Metrics;
use crate::table::Table;
use policy::{Capabilities, Digest, ExecutionProvider, ModelName, SCHEMA, Signature, Unknown, VariantName};
use policy::{ModelRecord, ReplicaRecord, ReplicaState, VariantId, Version, VersionRecord, VersionState, WorkerId, WorkerRecord};
use registry::{Entry, Keys};
use std::collections::BTreeMap;

pub(crate) fn digest() -> Digest {
    Digest::new("0".repeat(64)).unwrap()
}

pub(crate) fn worker(id: &str, incarnation: u64) -> WorkerRecord {
    WorkerRecord {
        schema: SCHEMA,
        id: WorkerId::new(id).unwrap(),
        incarnation,
        data: "127.0.0.1:1".into(),
        admin: "127.0.0.1:2".into(),
        host: "h".into(),
        site: "s".into(),
        zone: "z".into(),
        cost_class: String::new(),
        devices: vec![],
        capabilities: Capabilities::default(),
        epoch: 1,
        draining: false,
        unknown: Unknown::new(),
    }
}

pub(crate) fn replica(worker: &str, incarnation: u64, version: u64, state: ReplicaState) -> ReplicaRecord {
    ReplicaRecord {
        schema: SCHEMA,
        worker: WorkerId::new(worker).unwrap(),
        incarnation,
        variant: VariantId::parse(&format!("m:{version}:fp32@ort")).unwrap(),
        device: "cpu".into(),
        epoch: 1,
        state,
        bytes_resident: 1,
        instances: 1,
        provider: ExecutionProvider::Cpu,
        fallback: None,
        artifact: digest(),
        generation: 0,
        signature: None,
        reload_failed: None,
        reloading: None,
        measured: None,
        alpha_us: 10.0,
        beta_us: 1.0,
        unknown: Unknown::new(),
    }
}

pub(crate) fn version(number: u64, state: VersionState) -> VersionRecord {
    VersionRecord {
        schema: SCHEMA,
        model: ModelName::new("m").unwrap(),
        version: Version::try_from(number).unwrap(),
        state,
        reference: VariantName::new("fp32@ort").unwrap(),
        artifact: digest(),
        files: vec![],
        model_file: "model.onnx".to_owned(),
        config: None,
        signature: Signature::default(),
        bytes_resident: 1,
        image: None,
        split: false,
        padding: None,
        labels: Vec::new(),
        origin: policy::Origin::Directory,
        variants: Vec::new(),
        unknown: Unknown::new(),
    }
}

pub(crate) fn model(wanted: bool) -> ModelRecord {
    ModelRecord { wanted, ..ModelRecord::new(ModelName::new("m").unwrap()) }
}

/// A registry's content, as the table reads it.
#[derive(Default)]
pub(crate) struct Content(pub(crate) BTreeMap<String, Entry>);

impl Content {
    pub(crate) fn keys() -> Keys {
        Keys::new("c")
    }

    pub(crate) fn put(mut self, key: String, record: &impl serde::Serialize) -> Self {
        let value = registry::encode(record).unwrap();
        self.0.insert(key.clone(), Entry { key, value, revision: 1, created: 1 });
        self
    }

    pub(crate) fn worker(self, record: &WorkerRecord) -> Self {
        self.put(Self::keys().worker(record.id.as_str()), record)
    }

    pub(crate) fn replica(self, record: &ReplicaRecord) -> Self {
        self.put(Self::keys().replica(record.worker.as_str(), &record.variant.to_string()), record)
    }

    pub(crate) fn version(self, record: &VersionRecord) -> Self {
        self.put(Self::keys().version("m", record.version.into()), record)
    }

    pub(crate) fn table(&self) -> Table {
        self.table_after(&Table::default())
    }

    pub(crate) fn table_after(&self, before: &Table) -> Table {
        Table::build(&self.0, &Self::keys(), ("s", "z"), &Metrics::new(), before)
    }
}
