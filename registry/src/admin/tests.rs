use super::*;
use crate::{Embedded, Txn, encode};
use policy::{ModelName, ModelRecord, PlacementRecord, ReplicaRecord, ReplicaState, VersionRecord, WorkerRecord};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

fn record<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A cluster of one worker `w`, whose records the test writes itself.
struct Cluster {
    registry: Arc<dyn Registry>,
    keys: Keys,
    admin: AdminService,
}

const ARTIFACT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

impl Cluster {
    fn new() -> Self {
        let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
        let keys = Keys::new("test");
        let admin = AdminService::new(registry.clone(), keys.clone());
        Self { registry, keys, admin }
    }

    async fn put(&self, key: String, value: Vec<u8>) {
        assert!(self.registry.txn(Txn::new().put(key, value)).await.unwrap().applied);
    }

    async fn worker(&self) {
        let w: WorkerRecord = record(json!({
            "id": "w", "incarnation": 7, "data": "", "admin": "", "host": "h", "site": "", "zone": "", "epoch": 0,
            "devices": [{"name": "cpu", "class": "c", "memory_bytes": 100}], "capabilities": {},
        }));
        self.put(self.keys.worker("w"), encode(&w).unwrap()).await;
    }

    async fn version(&self, state: Value) {
        let mut v = json!({
            "model": "m", "version": 1, "reference": "fp32@ort", "artifact": ARTIFACT, "files": [],
            "signature": {"max_batch_size": 0, "inputs": [], "outputs": []}, "bytes_resident": 10,
        });
        v.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        self.put(self.keys.version("m", 1), encode(&record::<VersionRecord>(v)).unwrap()).await;
    }

    async fn placed(&self, generation: u64) {
        let p: PlacementRecord = record(json!({
            "worker": "w", "variant": "m:1:fp32@ort", "device": "cpu", "epoch": 1, "artifact": ARTIFACT, "provider": "cpu", "generation": generation,
        }));
        self.put(self.keys.placement("w", "m:1:fp32@ort"), encode(&p).unwrap()).await;
    }

    async fn replica(&self, incarnation: u64, generation: u64, state: ReplicaState) {
        let mut r: ReplicaRecord = record(json!({
            "worker": "w", "incarnation": incarnation, "variant": "m:1:fp32@ort", "device": "cpu", "epoch": 1, "state": "ready",
            "bytes_resident": 10, "instances": 1, "provider": "cpu", "artifact": ARTIFACT, "alpha_us": 1.0, "beta_us": 1.0,
        }));
        (r.state, r.generation) = (state, generation);
        self.put(self.keys.replica("w", "m:1:fp32@ort"), encode(&r).unwrap()).await;
    }

    async fn decided(&self, revision: i64, reason: &str) {
        let plan: policy::PlanRecord =
            record(json!({"model": "m", "epoch": 1, "revision": revision, "unplaced": [{"version": 1, "reason": reason}]}));
        self.put(self.keys.plan("m"), encode(&plan).unwrap()).await;
    }

    async fn apply(&self, model: Value, wait_ms: u32) -> ReceiverStream<Result<ApplyResponse, Status>> {
        let request = ApplyRequest { models: vec![model.to_string()], wait_ms, reload: false };
        self.admin.apply(Request::new(request)).await.unwrap().into_inner()
    }

    async fn model(&self) -> (ModelRecord, i64) {
        let entry = self.registry.get(&self.keys.model("m")).await.unwrap().unwrap();
        (crate::decode(&entry, policy::SCHEMA).unwrap(), entry.revision)
    }
}

async fn last(mut stream: ReceiverStream<Result<ApplyResponse, Status>>) -> (String, String) {
    let mut last = ApplyResponse::default();
    while let Some(answer) = stream.next().await {
        last = answer.unwrap();
    }
    (last.state, last.reason)
}

#[tokio::test(start_paused = true)]
async fn apply_ends_when_the_model_is_routable() {
    let cluster = Cluster::new();
    cluster.worker().await;
    cluster.version(json!({"state": "valid"})).await;
    let mut stream = cluster.apply(json!({"name": "m"}), 60_000).await;
    assert_eq!(stream.next().await.unwrap().unwrap().state, "waiting");
    cluster.placed(0).await;
    cluster.replica(6, 0, ReplicaState::Ready).await; // of the worker's former life
    cluster.replica(7, 0, ReplicaState::Loading("warming up".to_owned())).await;
    let mut seen = Vec::new();
    while !seen.iter().any(|reason: &String| reason.starts_with("version 1 waits for w: warming up")) {
        seen.push(stream.next().await.unwrap().unwrap().reason);
    }
    cluster.replica(7, 0, ReplicaState::Ready).await;
    assert_eq!(last(stream).await, ("ready".to_owned(), String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_not_done_while_the_old_one_serves() {
    let cluster = Cluster::new();
    cluster.worker().await;
    cluster.version(json!({"state": "valid"})).await;
    cluster.apply(json!({"name": "m"}), 0).await;
    cluster.placed(0).await;
    cluster.replica(7, 0, ReplicaState::Ready).await;
    let model = ModelName::new("m").unwrap();
    let load = cluster.admin.change(Change::Load(model.clone()), Duration::from_secs(5));
    let error = load.await.unwrap_err().to_string();
    assert!(error.contains("not ready after 5000 ms: version 1 waits for a controller to plan it; no controller leads"), "{error}");
    let (record, revision) = cluster.model().await;
    assert_eq!(record.generation, 1);
    cluster.placed(1).await;
    cluster.replica(7, 1, ReplicaState::Ready).await;
    let mirror = &cluster.admin.mirror;
    assert_eq!(wait_routable(mirror, &cluster.keys, &model, revision, Duration::from_secs(5)).await, Ok(String::new()));
}

#[tokio::test(start_paused = true)]
async fn apply_ends_with_the_reason_when_it_cannot_be() {
    let cluster = Cluster::new();
    cluster.worker().await;
    let apply = || cluster.apply(json!({"name": "m"}), 20_000);
    let (state, reason) = last(apply().await).await;
    assert_eq!((state.as_str(), reason.as_str()), ("failed", "no worker offers model `m`: put it in a --models directory"));

    cluster.version(json!({"state": "invalid", "reason": "opset 99"})).await;
    assert_eq!(last(apply().await).await, ("failed".to_owned(), "version 1 is invalid: opset 99".to_owned()));

    cluster.version(json!({"state": "valid"})).await;
    cluster.decided(1, "an old plan's reason").await;
    let stream = apply().await;
    let (_, revision) = cluster.model().await;
    cluster.decided(revision, "needs 340 MB, no device has more than 120 MB free").await;
    let (state, reason) = last(stream).await;
    assert_eq!((state.as_str(), reason.as_str()), ("failed", "needs 340 MB, no device has more than 120 MB free"));

    let stream = apply().await;
    cluster.placed(0).await;
    cluster.replica(7, 0, ReplicaState::Failed("no such operator".to_owned())).await;
    let (_, revision) = cluster.model().await;
    cluster.decided(revision, "failed on w: no such operator").await;
    assert_eq!(last(stream).await, ("failed".to_owned(), "failed on w: no such operator".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_model_that_went_to_sleep_is_told_so() {
    let cluster = Cluster::new();
    cluster.worker().await;
    cluster.version(json!({"state": "valid"})).await;
    let stream = cluster.apply(json!({"name": "m", "idle_s": 1}), 60_000).await;
    let (_, revision) = cluster.model().await;
    let asleep = |revision: i64| {
        let plan = json!({"model": "m", "epoch": 1, "revision": revision, "idle": {"since_s": 5, "rest": "asleep"}});
        encode(&record::<policy::PlanRecord>(plan)).unwrap()
    };
    cluster.put(cluster.keys.plan("m"), asleep(revision)).await;
    assert_eq!(last(stream).await, ("ready".to_owned(), "asleep: the next request loads it".to_owned()));
    let read = |state: &State| Records::read(state, &cluster.keys).observed.idle.len();
    assert_eq!(read(&cluster.admin.listed().await.unwrap()), 1);
    let stream = cluster.apply(json!({"name": "m", "idle_s": 2}), 1_000).await;
    assert_eq!(read(&cluster.admin.listed().await.unwrap()), 0, "a changed record begins anew");
    assert_eq!(last(stream).await.0, "failed", "the plan that let it sleep was about another record");
}

#[tokio::test(start_paused = true)]
async fn an_unload_ends_when_nothing_is_left() {
    let cluster = Cluster::new();
    cluster.worker().await;
    cluster.placed(0).await;
    cluster.replica(7, 0, ReplicaState::Ready).await;
    let mut stream = cluster.apply(json!({"name": "m", "wanted": false}), 9_000).await;
    assert_eq!(stream.next().await.unwrap().unwrap().reason, "w to unload it; no controller leads");
    cluster.registry.txn(Txn::new().delete_prefix(cluster.keys.placements()).delete_prefix(cluster.keys.replicas())).await.unwrap();
    assert_eq!(last(stream).await.0, "unloaded");
}

#[tokio::test(start_paused = true)]
async fn a_generation_grows_only_when_something_must_load_anew() {
    let cluster = Cluster::new();
    let mut check = Vec::new();
    for model in [
        json!({"name": "m", "later": 1}),
        json!({"name": "m", "replicas": 1}),
        json!({"name": "m", "generation": 99}),
        json!({"name": "m", "slo": {"percentile": 99.0}}),
        json!({"name": "m", "instances": 2}),
        json!({"name": "m", "instances": 2, "slo": {"latency_ms": 20}}),
    ] {
        cluster.apply(model, 0).await;
        check.push(cluster.model().await.0.generation);
    }
    assert_eq!(check, [0, 0, 0, 0, 1, 2]);
    assert_eq!(cluster.model().await.0.unknown.get("later"), Some(&json!(1)), "what we do not know stays");
}

#[test]
fn a_mistake_in_a_model_names_its_field() {
    let check = |json: &str, expected: &str| {
        let error = parse_model(json).unwrap_err();
        assert_eq!(error.wire().0, policy::Code::InvalidArgument);
        assert!(error.to_string().contains(expected), "{json}: {error}");
    };
    check("{", "not JSON");
    check("[]", "must be a JSON object");
    check("{}", "models[0]: name: missing");
    check(r#"{"name": "../x"}"#, "model name");
    check(r#"{"name": "m", "replicas": "two"}"#, "models[0] (m): replicas: invalid type");
    check(r#"{"name": "m", "versions": [0]}"#, "versions[0]: version");
    check(r#"{"name": "m", "slo": {"latency": 3}}"#, "slo.latency: unknown field `latency`");
    check(r#"{"name": "m", "provider": "tpu"}"#, "provider: unknown variant `tpu`");
    check(r#"{"name": "m", "replicas": 0}"#, "replicas: 0; expected at least 1");
    check(r#"{"name": "m", "schema": 9}"#, "schema: 9; expected 1");
    assert!(parse_model(r#"{"name": "m"}"#).unwrap().wanted);
}

#[tokio::test(start_paused = true)]
async fn one_bad_model_keeps_all_from_being_applied_and_every_problem_is_told() {
    let cluster = Cluster::new();
    let models = [
        json!({"name": "good"}),
        json!({"name": "m", "replicas": "two", "max_rate": -1, "slo": {"latency_ms": "3", "percentile": true}}),
        json!({"name": "resnet", "slo": {"min_accuracy": 1.2}, "later": 1}),
        json!({"name": "good"}),
    ];
    let request =
        ApplyRequest { models: models.iter().map(Value::to_string).chain(["[]".to_owned()]).collect(), wait_ms: 0, reload: false };
    let error = cluster.admin.apply(Request::new(request)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    let lines: Vec<&str> = error.message().lines().collect();
    let starts = [
        "malformed request: models[1] (m): replicas: invalid type",
        "models[1] (m): slo.latency_ms: invalid type",
        "models[1] (m): slo.percentile: invalid type",
        "models[1] (m): max_rate: -1; expected more than 0",
        "models[2] (resnet): slo.min_accuracy: 1.2; expected 0 to 1",
        "models[3] (good): name: named twice",
        "models[4]: a model must be a JSON object",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    starts.iter().for_each(|start| assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {lines:#?}"));
    assert_eq!(cluster.registry.list(&cluster.keys.models()).await.unwrap().entries, [], "nothing is applied");
}

impl Cluster {
    async fn delete(&self, force: bool, wait_ms: u32) -> Result<String, Status> {
        let request = DeleteRequest { model: "m".to_owned(), force, wait_ms };
        self.admin.clone().delete_rpc(request).await
    }

    /// Nothing is placed or runs any more.
    async fn gone(&self) {
        let txn = Txn::new().delete_prefix(self.keys.placements()).delete_prefix(self.keys.replicas());
        assert!(self.registry.txn(txn).await.unwrap().applied);
    }

    async fn has_model(&self) -> bool {
        self.registry.get(&self.keys.model("m")).await.unwrap().is_some()
    }

    /// A wanted model with a routable replica on `w`.
    async fn serving(&self) {
        self.worker().await;
        self.version(json!({"state": "valid"})).await;
        self.apply(json!({"name": "m"}), 0).await;
        self.placed(0).await;
        self.replica(7, 0, ReplicaState::Ready).await;
    }

    async fn holder(&self, in_directory: bool) {
        let holder: policy::HolderRecord = record(json!({"artifact": ARTIFACT, "worker": "w", "admin": "", "in_directory": in_directory}));
        self.put(self.keys.holder(ARTIFACT, "w"), encode(&holder).unwrap()).await;
    }
}

impl AdminService {
    async fn delete_rpc(self, request: DeleteRequest) -> Result<String, Status> {
        Admin::delete(&self, Request::new(request)).await.map(|answer| answer.into_inner().note)
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_in_use_is_not_deleted_unless_it_is_unloaded_or_forced() {
    let cluster = Cluster::new();
    assert_eq!(cluster.delete(true, 0).await.unwrap_err().code(), tonic::Code::NotFound);
    cluster.serving().await;
    let error = cluster.delete(false, 1_000).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert!(error.message().contains("replicas of it answer requests on w: unload it first"), "{}", error.message());
    assert!(cluster.model().await.0.wanted, "a refusal changes nothing");
    // Forced, but nothing drains: there is no controller. Without its record it would be served again.
    for force in [true, false] {
        let error = cluster.delete(force, 1_000).await.unwrap_err();
        assert!(error.message().contains("it is unloaded and still draining"), "{error}");
        assert!(error.message().contains("w to unload it; no controller leads"), "{error}");
        assert!(!cluster.model().await.0.wanted);
    }
    cluster.gone().await;
    assert_eq!(cluster.delete(false, 0).await.unwrap(), "", "unloaded, it goes");
    assert!(!cluster.has_model().await);
}

#[tokio::test(start_paused = true)]
async fn a_forced_delete_drains_before_the_record_goes() {
    let cluster = Cluster::new();
    cluster.serving().await;
    let (admin, request) = (cluster.admin.clone(), DeleteRequest { model: "m".to_owned(), force: true, wait_ms: 60_000 });
    let deleting = tokio::spawn(admin.delete_rpc(request));
    while cluster.model().await.0.wanted {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(cluster.has_model().await && !deleting.is_finished(), "it still drains");
    cluster.gone().await;
    assert_eq!(deleting.await.unwrap().unwrap(), "");
    assert!(!cluster.has_model().await);
}

#[tokio::test(start_paused = true)]
async fn whoever_deletes_a_model_of_a_directory_is_told_that_it_comes_back() {
    let cluster = Cluster::new();
    cluster.serving().await;
    cluster.replica(6, 0, ReplicaState::Ready).await; // of the worker's former life: not in use
    cluster.holder(true).await;
    let note = cluster.delete(false, 0).await.unwrap();
    assert!(note.contains("comes back") && note.contains("w has it in the model directory"), "{note}");
    cluster.holder(false).await; // in its cache only
    cluster.apply(json!({"name": "m"}), 0).await;
    assert_eq!(cluster.delete(false, 0).await.unwrap(), "");
    cluster.version(json!({"state": "valid", "origin": "files"})).await;
    cluster.apply(json!({"name": "m"}), 0).await;
    assert!(cluster.delete(false, 0).await.unwrap().contains("a load call brought its files"));
}

#[test]
fn an_answer_lists_as_many_problems_as_a_header_holds() {
    let models: Vec<String> = (0..100).map(|i| json!({"name": format!("m{i}"), "weight": 0, "replicas": 0}).to_string()).collect();
    let text = parse_models(&models).unwrap_err().to_string();
    let (told, more) = (text.lines().count() - 1, text.lines().last().unwrap());
    assert!(text.len() < 5_000 && told > 10, "{text}");
    assert_eq!(more, format!("and {} more", 200 - told));
}

#[tokio::test(start_paused = true)]
async fn get_and_watch_give_complete_lists() {
    let cluster = Cluster::new();
    cluster.version(json!({"state": "valid"})).await;
    let request = |kind: &str| Request::new(GetRequest { kind: kind.to_owned(), name: String::new() });
    let variants = cluster.admin.get(request("variants")).await.unwrap().into_inner().records;
    assert_eq!(variants.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["variants/m:1:fp32@ort"]);
    let error = cluster.admin.get(request("weather")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);

    let mut watch = cluster.admin.watch(request("models")).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().records, []);
    cluster.apply(json!({"name": "b"}), 0).await;
    cluster.apply(json!({"name": "a"}), 0).await;
    cluster.worker().await; // of another kind: nothing to tell
    let mut keys = Vec::new();
    while keys != ["models/a", "models/b"] {
        keys = watch.next().await.unwrap().unwrap().records.into_iter().map(|r| r.key).collect();
    }
}

#[tokio::test(start_paused = true)]
async fn placements_are_shown_with_how_far_their_replicas_are() {
    let cluster = Cluster::new();
    let request = || Request::new(GetRequest { kind: "placements".to_owned(), name: String::new() });
    let shown = |records: &[Record]| {
        let value: Value = serde_json::from_str(&records[0].json).unwrap();
        (value["worker"].clone(), value["state"].clone(), value["reason"].clone())
    };
    cluster.placed(2).await;
    let mut watch = cluster.admin.watch(request()).await.unwrap().into_inner();
    let mut next = async || shown(&watch.next().await.unwrap().unwrap().records);
    assert_eq!(next().await, (json!("w"), json!("loading"), json!("its worker is gone")));
    cluster.worker().await;
    assert_eq!(next().await.2, "its worker has not begun");
    cluster.replica(7, 2, ReplicaState::Loading("fetching, 1.0 of 5.0 MB are here".to_owned())).await;
    assert_eq!(next().await.2, "fetching, 1.0 of 5.0 MB are here");
    cluster.replica(7, 2, ReplicaState::Failed("no".to_owned())).await;
    assert_eq!(next().await, (json!("w"), json!("failed"), json!("no")));
    cluster.replica(7, 1, ReplicaState::Ready).await;
    assert_eq!(next().await, (json!("w"), json!("loading"), json!("waits behind what serves")));
    cluster.replica(7, 2, ReplicaState::Ready).await;
    assert_eq!(next().await, (json!("w"), json!("ready"), Value::Null));
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_no_longer_holds_is_shown_with_how_far_it_is_off() {
    let cluster = Cluster::new();
    cluster.worker().await;
    cluster.version(json!({"state": "valid"})).await;
    let profile = json!({
        "schema": 1, "artifact": ARTIFACT, "class": "c", "engine": "onnxruntime 1", "threads": 1, "alpha_us": 1_000.0, "beta_us": 0.0,
        "bytes_resident": 0, "load_ms": 1, "later": 5,
    });
    cluster.put(cluster.keys.profile(ARTIFACT, "ort", "fp32", "c"), profile.to_string().into_bytes()).await;
    let off_by = async || {
        let request = Request::new(GetRequest { kind: "profiles".to_owned(), name: String::new() });
        let records = cluster.admin.get(request).await.unwrap().into_inner().records;
        let value: Value = serde_json::from_str(&records[0].json).unwrap();
        assert_eq!(value["later"], 5, "what this version does not know is shown, too");
        value["off_by"].clone()
    };
    cluster.replica(7, 0, ReplicaState::Ready).await;
    assert_eq!(off_by().await, Value::Null);
    let key = cluster.keys.replica("w", "m:1:fp32@ort");
    let entry = cluster.registry.get(&key).await.unwrap().unwrap();
    let mut replica: Value = serde_json::from_slice(&entry.value).unwrap();
    replica["measured"] = json!({"rows": 2.0, "us": 5_000.0, "runs": 600, "threads": 1});
    cluster.put(key, replica.to_string().into_bytes()).await;
    assert_eq!(off_by().await, 2.5);
}

#[test]
fn a_record_that_is_not_at_its_key_is_refused() {
    let keys = Keys::new("test");
    let value = encode(&parse_model(r#"{"name": "m"}"#).unwrap()).unwrap();
    let entry = |key: String| (key.clone(), Entry { key, value: value.clone(), revision: 3, created: 3 });
    let entries = [entry(keys.model("m")), entry(keys.model("other")), entry(keys.worker("w"))].into();
    let records = Records::read(&State { entries, revision: 3, synced: true }, &keys);
    assert_eq!((records.models.len(), records.malformed.len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_told_for_other_wishes_and_nothing_of_it_is_done() {
    let cluster = Cluster::new();
    cluster.worker().await;
    cluster.version(json!({"state": "valid"})).await;
    last(cluster.apply(json!({"name": "m"}), 0).await).await;
    let told = |models: Vec<String>| async {
        let answer = cluster.admin.plan(Request::new(PlanRequest { models })).await?.into_inner();
        Ok::<policy::plan::Told, Status>(serde_json::from_str(&answer.json).unwrap())
    };
    let now = told(vec![]).await.unwrap();
    assert_eq!((now.models.len(), now.changes.len()), (0, 1), "{now:?}");
    let asked = told(vec![json!({"name": "m", "expected_rate": 9.0}).to_string()]).await.unwrap();
    assert!(asked.models[0].served > 8.9 && asked.models[0].rate == 9.0, "{asked:?}");
    // 10 ms a row on one core: far less than is asked.
    let much = json!({"name": "m", "expected_rate": 900.0, "slo": {"latency_ms": 40}}).to_string();
    let much = told(vec![much]).await.unwrap();
    assert!(much.unplaced[0].contains("of 900 rows a second can be answered in time"), "{much:?}");
    assert!(much.alternatives.iter().any(|a| a.wish == "with a target of 80 ms instead of 40 ms" && a.served > a.instead_of), "{much:?}");
    let bad = told(vec![json!({"name": "m", "expected_rate": -1.0}).to_string()]).await.unwrap_err();
    assert!(bad.message().contains("expected_rate"), "{bad}");
    assert_eq!(cluster.registry.list(&cluster.keys.placements()).await.unwrap().entries.len(), 0);
    assert_eq!(cluster.model().await.0.expected_rate, None);
}
