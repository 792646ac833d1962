use super::*;
use crate::engine::ProviderReport;
use crate::publish::{self, Who};
use crate::validate::{Facts, Verdict};
use policy::{DataType, ExecutionProvider, ModelRecord, TensorSpec, WorkerId};
use proto::call;
use proto::chain::Chain;
use registry::Embedded;
use std::path::Path;

/// What validation would say of any file here.
fn valid() -> Verdict {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 2], optional: false, graph_shape: None };
    let provider = ProviderReport { asked: ExecutionProvider::Cpu, used: vec![], summary: ExecutionProvider::Cpu, fallback: None };
    Verdict::Valid(Box::new(Facts {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        provider,
        engine_version: "1".into(),
        bytes_resident: 1,
        load_ms: 1,
        first_run_ms: Some(1),
        not_exercised: None,
        external_files: vec![],
    }))
}

/// What a process of the worker has, and what ends it.
fn process(config: Arc<WorkerConfig>, registry: Arc<dyn Registry>) -> (Arc<Offers>, watch::Sender<bool>) {
    let artifacts = Arc::new(Artifacts::open(&config.data_dir).unwrap());
    let verdicts = Verdicts::new(config.clone());
    let ((publisher, records), (stop, stopped)) = (Publisher::new(), watch::channel(false));
    let who = Who { keys: config.keys.clone(), worker: config.id.to_string(), incarnation: 1 };
    tokio::spawn(publish::run(registry.clone(), who, records, stopped));
    let offers = Offers { artifacts, verdicts, publisher, registry, turns: Turns::default(), described: Default::default(), config };
    (Arc::new(offers), stop)
}

struct Bench {
    offers: Arc<Offers>,
    stop: watch::Sender<bool>,
    registry: Arc<dyn Registry>,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A worker that owns an empty model directory.
    fn new() -> Self {
        Self::with("w", true, Arc::new(Embedded::open(None).unwrap()))
    }

    /// A worker, perhaps one of several, with an empty model directory.
    fn with(id: &str, owns_repository: bool, registry: Arc<dyn Registry>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("models")).unwrap();
        let config = Arc::new(WorkerConfig {
            id: WorkerId::new(id).unwrap(),
            models: Some(dir.path().join("models")),
            owns_repository,
            ..crate::testing::config(dir.path())
        });
        let (offers, stop) = process(config, registry.clone());
        Self { offers, stop, registry, dir }
    }

    /// Its process ends, and with it what it held; another begins.
    async fn restart(&mut self) {
        self.end().await;
        (self.offers, self.stop) = process(self.offers.config.clone(), self.registry.clone());
        self.start().await;
    }

    async fn end(&self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }

    /// Puts a model file into the directory, and knows it to be valid.
    fn add(&self, version: &str, content: &str) {
        let folder = self.dir.path().join("models/m").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), content).unwrap();
        self.know(&folder);
    }

    fn know(&self, folder: &Path) {
        let digest = hash_folder(folder).unwrap().digest;
        self.offers.verdicts.remember(&digest, &folder.join("model.onnx"), How::CPU, &valid()).unwrap();
    }

    async fn load(&self, config: Option<&str>, files: &[(&str, &str)]) -> Result<Vec<u64>, String> {
        let files = files.iter().map(|(path, content)| (path.to_string(), Chain::from(content.as_bytes().to_vec()))).collect();
        let offer = call::Offer { model: ModelName::new("m").unwrap(), config: config.map(str::to_owned), files };
        let versions = self.offers.anew(offer).await.map_err(|failure| failure.to_string())?;
        Ok(versions.into_iter().map(u64::from).collect())
    }

    /// Versions in the registry.
    async fn versions(&self) -> Vec<String> {
        let entries = self.registry.list(&format!("{}m/", self.offers.config.keys.versions())).await.unwrap().entries;
        entries.iter().map(|e| e.key.rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// What version 1 is, and what the registry would be told of who has its files.
    async fn version(&self) -> VersionRecord {
        let entry = self.registry.get(&self.offers.config.keys.version("m", 1)).await.unwrap().unwrap();
        registry::decode(&entry, SCHEMA).unwrap()
    }

    /// What is wanted of the model.
    async fn model(&self) -> ModelRecord {
        let entry = self.registry.get(&self.offers.config.keys.model("m")).await.unwrap().unwrap();
        registry::decode(&entry, SCHEMA).unwrap()
    }

    /// Starts it, to the end of its first offers.
    async fn start(&self) {
        let (offered_tx, mut offered) = watch::channel(None);
        let run = tokio::spawn(self.offers.clone().run(self.dir.path().join("models"), offered_tx));
        offered.wait_for(Option::is_some).await.unwrap();
        run.abort();
    }

    fn cached(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("data/artifacts")).unwrap().count()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_models_settings_want_is_what_its_record_says() {
    let bench = Bench::new();
    bench.add("1", "one");
    let text = "instances = 3\nmax_rate = 50\nidle_s = 60\n[slo]\nmin_accuracy = 0.98\n";
    std::fs::write(bench.dir.path().join("models/m/sluice.toml"), text).unwrap();
    bench.start().await;
    let record = bench.model().await;
    let slo = policy::Slo { min_accuracy: Some(0.98), ..policy::Slo::default() };
    let expected = ModelRecord {
        instances: Some(3),
        max_rate: Some(50.0),
        idle_s: Some(60),
        slo,
        derived: true,
        ..ModelRecord::new(record.name.clone())
    };
    assert_eq!(record, expected);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_a_load_call_found_gone_does_not_come_back() {
    let bench = Bench::new();
    bench.add("1", "one");
    bench.add("2", "two");
    let (offered_tx, mut offered) = watch::channel(None);
    let run = tokio::spawn(bench.offers.clone().run(bench.dir.path().join("models"), offered_tx));
    offered.wait_for(Option::is_some).await.unwrap();
    assert_eq!(bench.versions().await, ["1", "2"]);
    std::fs::remove_dir_all(bench.dir.path().join("models/m/2")).unwrap();
    assert_eq!(bench.load(None, &[]).await, Ok(vec![1]));
    assert_eq!(bench.versions().await, ["1"]);
    tokio::time::sleep(AGAIN * 3).await; // virtual time: everything is written again meanwhile
    assert_eq!(bench.versions().await, ["1"]);
    let key = bench.offers.config.keys.version("m", 1);
    bench.registry.txn(Txn::new().delete(&key)).await.unwrap();
    tokio::time::sleep(AGAIN * 2).await;
    assert_eq!(bench.versions().await, ["1"], "what the registry lost is written again");
    run.abort();
}

#[tokio::test]
async fn files_of_a_load_call_that_cannot_be_served_leave_nothing_behind() {
    let bench = Bench::new();
    let aside = tempfile::tempdir().unwrap();
    std::fs::write(aside.path().join("model.onnx"), "fine").unwrap();
    bench.know(aside.path());
    let unlike = r#"{"input": [{"name": "z", "data_type": "TYPE_FP32", "dims": [2]}]}"#;
    for (config, content, needle) in
        [(unlike, "fine", "`z`"), ("{}", "never seen, and there is nothing to look with", "could not be validated")]
    {
        let refused = bench.load(Some(config), &[("1/model.onnx", content)]).await.unwrap_err();
        assert!(refused.contains("model `m` failed to load") && refused.contains(needle), "{refused}");
    }
    assert_eq!((bench.versions().await.len(), bench.cached()), (0, 0));
    for (files, needle) in [
        (vec![("model.onnx", "")], "expected <version>/<file name>"),
        (vec![("1/../model.onnx", "")], "expected <version>/<file name>"),
        (vec![("1/.model.onnx", "")], "expected <version>/<file name>"),
        (vec![("1/variants/model.onnx", "")], "expected <version>/<file name>"),
        (vec![("1/other.onnx", "")], "has no model.onnx"),
        (vec![("1/model.onnx", ""); 65], "65 files, the limit of a load call is 64"),
    ] {
        let refused = bench.load(Some("{}"), &files).await.unwrap_err();
        assert!(refused.contains(needle) && !refused.contains("/uploads/"), "{refused}");
    }
    let hidden = bench.load(Some(r#"{"default_model_filename": ".m.onnx"}"#), &[("1/model.onnx", "x")]).await.unwrap_err();
    assert!(hidden.contains(".m.onnx"), "{hidden}");
    assert_eq!((bench.versions().await.len(), bench.cached()), (0, 0));
}

/// Workers of a cluster, each with a directory of its own.
fn cluster() -> [Bench; 2] {
    let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
    ["a", "b"].map(|id| Bench::with(id, false, registry.clone()))
}

fn digest(bench: &Bench) -> policy::Digest {
    hash_folder(&bench.dir.path().join("models/m/1")).unwrap().digest
}

#[tokio::test]
async fn of_two_directories_that_differ_a_load_call_takes_the_one_that_was_changed() {
    let [first, second] = cluster();
    first.add("1", "one");
    second.add("1", "another");
    first.start().await;
    second.start().await;
    let one = digest(&first);
    assert_eq!(first.version().await.artifact, one, "the first stands");
    for config in [None, Some(r#"{"max_batch_size": 2}"#)] {
        assert_eq!(first.load(config, &[]).await, Ok(vec![1]));
        let refused = second.load(config, &[]).await.unwrap_err();
        assert!(refused.contains("another worker offers other files under version 1"), "{refused}");
        assert_eq!(first.version().await.artifact, one);
    }
    first.add("1", "changed");
    assert_eq!((second.load(None, &[]).await.is_err(), first.load(None, &[]).await), (true, Ok(vec![1])));
    assert!(second.load(None, &[]).await.is_err(), "unchanged here");
    assert_eq!(first.version().await.artifact, digest(&first));
}

#[tokio::test]
async fn what_is_in_nobodys_directory_any_more_does_not_keep_others_out() {
    let [first, mut second] = cluster();
    second.add("1", "one");
    second.start().await;
    // The first has no directory with it, but fetched it to run it.
    let keys = &first.offers.config.keys;
    let holder = keys.holder(digest(&second).as_str(), "a");
    publish_holder(&first.offers.config, &first.offers.publisher, &first.offers.artifacts, &digest(&second));
    first.offers.publisher.written(&holder).await;
    second.add("1", "edited while it was down");
    second.restart().await;
    assert_eq!(second.version().await.artifact, digest(&second));
}

#[tokio::test]
async fn a_load_call_forgets_no_version_of_another_directory() {
    let [first, second] = cluster();
    first.add("1", "one");
    second.add("1", "one");
    second.add("2", "two");
    for bench in [&first, &second] {
        bench.start().await;
    }
    for config in [None, Some("{}")] {
        second.load(config, &[]).await.unwrap();
        first.load(config, &[]).await.unwrap();
        assert_eq!(first.versions().await, ["1", "2"], "{config:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn files_of_a_load_call_that_a_later_one_undid_do_not_come_back() {
    let [first, second] = cluster();
    first.add("1", "one");
    first.start().await;
    let (offered_tx, mut offered) = watch::channel(None);
    let run = tokio::spawn(second.offers.clone().run(second.dir.path().join("models"), offered_tx));
    offered.wait_for(Option::is_some).await.unwrap();
    let aside = tempfile::tempdir().unwrap();
    std::fs::write(aside.path().join("model.onnx"), "brought").unwrap();
    second.know(aside.path());
    second.load(Some("{}"), &[("2/model.onnx", "brought")]).await.unwrap();
    assert_eq!(first.versions().await, ["1", "2"]);
    first.load(None, &[]).await.unwrap();
    second.load(None, &[]).await.unwrap();
    tokio::time::sleep(AGAIN * 3).await; // virtual time
    assert_eq!(first.versions().await, ["1"]);
    run.abort();
}

#[tokio::test]
async fn what_a_load_call_brought_stands_over_a_restart_and_goes_with_the_next_plain_load() {
    let mut bench = Bench::with("a", false, Arc::new(Embedded::open(None).unwrap()));
    bench.add("1", "one");
    bench.start().await;
    let rows = |record: VersionRecord| record.config.unwrap()["max_batch_size"].as_u64();
    let before = rows(bench.version().await);
    bench.load(Some(r#"{"max_batch_size": 3, "version_policy": {"all": {}}}"#), &[]).await.unwrap();
    bench.restart().await;
    assert_eq!(rows(bench.version().await), Some(3), "the same files, but another configuration");
    assert_eq!(bench.model().await.latest, Some(u32::MAX));
    let aside = tempfile::tempdir().unwrap();
    std::fs::write(aside.path().join("model.onnx"), "brought").unwrap();
    bench.know(aside.path());
    bench.load(Some("{}"), &[("2/model.onnx", "brought")]).await.unwrap();
    bench.restart().await;
    assert_eq!(bench.versions().await, ["1", "2"]);
    assert_eq!(bench.model().await.versions, [Version::parse("2").unwrap()]);
    bench.load(None, &[]).await.unwrap();
    assert_eq!((rows(bench.version().await), bench.versions().await), (before, vec!["1".to_owned()]));
    assert_eq!((bench.model().await.versions, bench.model().await.latest), (vec![], None));
}
