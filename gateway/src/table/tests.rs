use super::*;
use policy::{Capabilities, Code, Digest, ExecutionProvider, ModelName, SCHEMA, Signature, Slo, Unknown, VariantName};

fn digest() -> Digest {
    Digest::new("0".repeat(64)).unwrap()
}

fn worker(id: &str, incarnation: u64) -> WorkerRecord {
    WorkerRecord {
        schema: SCHEMA,
        id: WorkerId::new(id).unwrap(),
        incarnation,
        data: "127.0.0.1:1".into(),
        admin: "127.0.0.1:2".into(),
        host: "h".into(),
        site: "s".into(),
        zone: "z".into(),
        devices: vec![],
        capabilities: Capabilities::default(),
        epoch: 1,
        draining: false,
        unknown: Unknown::new(),
    }
}

fn replica(worker: &str, incarnation: u64, version: u64, state: ReplicaState) -> ReplicaRecord {
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
        reload_failed: None,
        alpha_us: 10.0,
        beta_us: 1.0,
        unknown: Unknown::new(),
    }
}

fn version(number: u64, state: VersionState) -> VersionRecord {
    VersionRecord {
        schema: SCHEMA,
        model: ModelName::new("m").unwrap(),
        version: Version::try_from(number).unwrap(),
        state,
        reference: VariantName::new("fp32@ort").unwrap(),
        artifact: digest(),
        files: vec![],
        signature: Signature::default(),
        bytes_resident: 1,
        image: None,
        labels: None,
        unknown: Unknown::new(),
    }
}

fn model(wanted: bool) -> ModelRecord {
    ModelRecord {
        schema: SCHEMA,
        name: ModelName::new("m").unwrap(),
        wanted,
        versions: vec![],
        replicas: None,
        provider: ExecutionProvider::Cpu,
        fallback: None,
        instances: None,
        slo: Slo::default(),
        generation: 0,
        unknown: Unknown::new(),
    }
}

/// A registry's content, as the table reads it.
#[derive(Default)]
struct Content(BTreeMap<String, Entry>);

impl Content {
    fn keys() -> Keys {
        Keys::new("c")
    }

    fn put(mut self, key: String, record: &impl serde::Serialize) -> Self {
        let value = registry::encode(record).unwrap();
        self.0.insert(key.clone(), Entry { key, value, revision: 1, created: 1 });
        self
    }

    fn worker(self, record: &WorkerRecord) -> Self {
        self.put(Self::keys().worker(record.id.as_str()), record)
    }

    fn replica(self, record: &ReplicaRecord) -> Self {
        self.put(Self::keys().replica(record.worker.as_str(), &record.variant.to_string()), record)
    }

    fn version(self, record: &VersionRecord) -> Self {
        self.put(Self::keys().version("m", record.version.into()), record)
    }

    fn table(&self) -> Table {
        Table::build(&self.0, &Self::keys(), ("s", "z"), &Metrics::new(), &Table::default())
    }
}

#[test]
fn i1_only_a_ready_replica_of_a_living_incarnation_is_routable() {
    let states = [ReplicaState::Loading("x".into()), ReplicaState::Failed("x".into()), ReplicaState::Draining];
    for state in states {
        let content = Content::default().worker(&worker("w", 7)).version(&version(1, VersionState::Valid)).replica(&replica(
            "w",
            7,
            1,
            state.clone(),
        ));
        assert!(matches!(content.table().resolve("m", ""), Err(Failure::NotReady { .. })), "{state:?}");
    }
    let ready = Content::default().version(&version(1, VersionState::Valid)).replica(&replica("w", 7, 1, ReplicaState::Ready));
    assert!(ready.table().resolve("m", "").is_err(), "its worker is not there");
    let ready = ready.worker(&worker("w", 8));
    assert!(ready.table().resolve("m", "").is_err(), "it went with the incarnation before");
    let ready = ready.worker(&worker("w", 7));
    assert!(ready.table().resolve("m", "").is_ok());
    let ready = ready.worker(&WorkerRecord { draining: true, ..worker("w", 7) });
    assert!(ready.table().resolve("m", "").is_err(), "its worker is going");
}

#[test]
fn without_a_version_the_highest_ready_one_answers() {
    let content = Content::default()
        .worker(&worker("w", 1))
        .version(&version(1, VersionState::Valid))
        .version(&version(2, VersionState::Valid))
        .version(&version(10, VersionState::Invalid("bad graph".into())))
        .replica(&replica("w", 1, 1, ReplicaState::Ready))
        .replica(&replica("w", 1, 2, ReplicaState::Ready));
    let table = content.table();
    assert_eq!(table.resolve("m", "").unwrap().record.version.to_string(), "2");
    assert_eq!(table.resolve("m", "1").unwrap().record.version.to_string(), "1");
    let code = |name: &str, version: &str| table.resolve(name, version).err().map(|f| (f.wire().0, f.to_string())).unwrap();
    assert_eq!(code("m", "3"), (Code::NotFound, "model `m` has no version 3".into()));
    assert_eq!(code("n", "").0, Code::NotFound);
    assert_eq!(code("../n", "").0, Code::InvalidArgument);
    assert_eq!(code("m", "x").0, Code::InvalidArgument);
    assert_eq!(code("m", "10"), (Code::Unavailable, "model `m` version 10 is not ready: bad graph".into()));
}

#[test]
fn an_unwanted_model_says_so_and_one_bad_record_hides_no_other() {
    let mut content = Content::default().version(&version(1, VersionState::Valid)).put(Content::keys().model("m"), &model(false));
    let bad = Content::keys().worker("bad");
    content.0.insert(bad.clone(), Entry { key: bad, value: b"junk".to_vec(), revision: 1, created: 1 });
    let table = content.table();
    assert_eq!(table.unreadable, 1);
    assert!(table.resolve("m", "").err().unwrap().to_string().contains("unloaded"));
}

#[test]
fn what_was_learned_of_a_replica_survives_a_new_table() {
    let content = Content::default().worker(&worker("w", 1)).version(&version(1, VersionState::Valid)).replica(&replica(
        "w",
        1,
        1,
        ReplicaState::Ready,
    ));
    let before = content.table();
    before.resolve("m", "").unwrap().replicas[0].gauge.doubt(Moment::from_us(9));
    let after = Table::build(&content.0, &Content::keys(), ("s", "z"), &Metrics::new(), &before);
    assert!(after.resolve("m", "").unwrap().replicas[0].gauge.is_doubtful(Moment::from_us(8)));
}
