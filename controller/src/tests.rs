use crate::{Controller, ControllerConfig, Handle};
use async_trait::async_trait;
use policy::rollout::End;
use policy::{LeaderRecord, ModelRecord, Phase, PlacementRecord, PlanRecord, RolloutRecord, SCHEMA, WorkerRecord};
use registry::admin::{Change, parse_model, set_models};
use registry::{Embedded, Entry, Keys, Lease, Listing, Mirror, Op, Registry, RegistryError, Txn, TxnOutcome, Watch, decode, encode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const ARTIFACT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What one process sees of the registry: it can be cut off, and its writes can be held back.
struct Link {
    inner: Arc<dyn Registry>,
    cut: AtomicBool,
    /// Writes of placements wait while this is true.
    held: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    writes: AtomicUsize,
    /// So many writes of placements come through, and none after that.
    writes_max: AtomicUsize,
}

impl Link {
    fn new(inner: &Arc<dyn Registry>) -> Arc<Self> {
        let (held, waiting) = (watch::Sender::new(false), watch::Sender::new(0));
        Arc::new(Self {
            inner: inner.clone(),
            cut: AtomicBool::new(false),
            held,
            waiting,
            writes: AtomicUsize::new(0),
            writes_max: AtomicUsize::new(usize::MAX),
        })
    }

    fn check(&self) -> Result<(), RegistryError> {
        let error = || RegistryError::Unavailable { endpoints: vec!["test".to_owned()], cause: "cut".to_owned() };
        if self.cut.load(Ordering::SeqCst) { Err(error()) } else { Ok(()) }
    }
}

#[async_trait]
impl Registry for Link {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        self.check()?;
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, RegistryError> {
        self.check()?;
        self.inner.list(prefix).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, RegistryError> {
        self.check()?;
        if txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.contains("/placements/"))) {
            self.waiting.send_modify(|n| *n += 1);
            let _ = self.held.subscribe().wait_for(|held| !held).await;
            if self.writes.load(Ordering::SeqCst) >= self.writes_max.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            self.writes.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.txn(txn).await
    }
    async fn lease(&self, ttl: Duration) -> Result<Lease, RegistryError> {
        self.check()?;
        self.inner.lease(ttl).await
    }
    fn watch(&self, prefix: &str) -> Watch {
        self.inner.watch(prefix)
    }
}

struct Cluster {
    registry: Arc<dyn Registry>,
    keys: Keys,
    mirror: Mirror,
}

struct Running {
    handle: Handle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Cluster {
    fn new() -> Self {
        let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
        let keys = Keys::new("test");
        let mirror = Mirror::spawn(registry.clone(), keys.root());
        Self { registry, keys, mirror }
    }

    fn start(&self, id: &str, registry: Arc<dyn Registry>) -> Running {
        let (controller, handle) = Controller::new(registry, ControllerConfig::new(id, self.keys.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(controller.run(async move {
            let _ = stopped.await;
        }));
        Running { handle, stop, task }
    }

    async fn put(&self, key: String, value: Vec<u8>) {
        assert!(self.registry.txn(Txn::new().put(key, value)).await.unwrap().applied);
    }

    async fn worker(&self, id: &str, epoch: u64) {
        let record: WorkerRecord = serde_json::from_value(json!({
            "id": id, "incarnation": 1, "data": "", "admin": "", "host": id, "site": "", "zone": "", "epoch": epoch,
            "devices": [{"name": "cpu", "class": "c", "memory_bytes": 100}], "capabilities": {},
        }))
        .unwrap();
        self.put(self.keys.worker(id), encode(&record).unwrap()).await;
    }

    async fn version(&self, model: &str, bytes: u64) {
        self.version_number(model, 1, bytes).await;
    }

    async fn version_number(&self, model: &str, number: u64, bytes: u64) {
        let record: policy::VersionRecord = serde_json::from_value(json!({
            "model": model, "version": number, "state": "valid", "reference": "fp32@ort", "artifact": ARTIFACT, "files": [],
            "signature": {"max_batch_size": 0, "inputs": [], "outputs": []}, "bytes_resident": bytes,
        }))
        .unwrap();
        self.put(self.keys.version(model, number), encode(&record).unwrap()).await;
    }

    /// Worker `a` reports a replica as ready.
    async fn ready(&self, variant: &str) {
        let record: policy::ReplicaRecord = serde_json::from_value(json!({
            "worker": "a", "incarnation": 1, "variant": variant, "device": "cpu", "epoch": 1, "state": "ready", "bytes_resident": 10,
            "instances": 1, "provider": "cpu", "artifact": ARTIFACT, "alpha_us": 1.0, "beta_us": 1.0,
        }))
        .unwrap();
        self.put(self.keys.replica("a", variant), encode(&record).unwrap()).await;
    }

    /// A gateway tells that it compared so many pairs.
    async fn count(&self, rollout: i64, look: u32, compared: u64, disagreed: u64) {
        let record: policy::CountsRecord = serde_json::from_value(json!({
            "gateway": "g", "models": { "m": { "rollout": rollout, "counts": {
                "look": look, "pairs": { "compared": compared, "disagreed": disagreed }, "latency": policy::rollout::Latency::default(),
            } } },
        }))
        .unwrap();
        self.put(self.keys.counts("g"), encode(&record).unwrap()).await;
    }

    /// Waits until the record of the rollout of `m` is so.
    async fn rollout(&mut self, is: impl Fn(&RolloutRecord) -> bool) -> RolloutRecord {
        loop {
            let entry = self.registry.get(&self.keys.rollout("m")).await.unwrap();
            let record = entry.map(|e| decode::<RolloutRecord>(&e, SCHEMA).unwrap());
            if let Some(record) = record.as_ref().filter(|r| is(r)) {
                return record.clone();
            }
            tokio::time::timeout(Duration::from_secs(60), self.mirror.changed()).await.unwrap_or_else(|_| panic!("{record:?}"));
        }
    }

    /// Variants that are placed.
    async fn variants(&self) -> Vec<String> {
        self.placements().await.iter().map(|p| p.variant.to_string()).collect()
    }

    async fn want(&self, model: Value) {
        let record: ModelRecord = parse_model(&model.to_string()).unwrap();
        set_models(&*self.registry, &self.keys, &[Change::Apply { record: Box::new(record), reload: false }]).await.unwrap();
    }

    async fn placements(&self) -> Vec<PlacementRecord> {
        let listing = self.registry.list(&self.keys.placements()).await.unwrap();
        listing.entries.iter().map(|e| decode(e, SCHEMA).unwrap()).collect()
    }

    async fn leader(&self) -> Option<LeaderRecord> {
        self.registry.get(&self.keys.leader()).await.unwrap().map(|e| decode(&e, SCHEMA).unwrap())
    }

    /// Waits for the next change, but not for ever.
    async fn changed(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.mirror.changed()).await.expect("nothing changes");
    }

    /// Waits until the placements are on these workers, all of one epoch.
    async fn placed(&mut self, workers: &[&str]) -> u64 {
        self.placed_since(workers, 0).await
    }

    /// The same, of this epoch or a later one.
    async fn placed_since(&mut self, workers: &[&str], epoch_min: u64) -> u64 {
        loop {
            let now = self.placements().await;
            let on: Vec<_> = now.iter().map(|p| p.worker.as_str()).collect();
            let epoch = now.first().map_or(0, |p| p.epoch);
            if on == workers && epoch >= epoch_min && now.iter().all(|p| p.epoch == epoch) {
                return epoch;
            }
            tokio::time::timeout(Duration::from_secs(60), self.mirror.changed()).await.unwrap_or_else(|_| panic!("{on:?}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wanted_model_is_placed_and_an_unwanted_one_is_not() {
    let mut cluster = Cluster::new();
    let running = cluster.start("c1", cluster.registry.clone());
    cluster.want(json!({"name": "m"})).await;
    cluster.version("m", 10).await;
    cluster.worker("a", 0).await;
    cluster.placed(&["a"]).await;
    cluster.worker("b", 0).await;
    cluster.placed(&["a", "b"]).await;
    cluster.want(json!({"name": "m", "wanted": false})).await;
    cluster.placed(&[]).await;
    assert_eq!(cluster.registry.get(&cluster.keys.plan("m")).await.unwrap(), None);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_reason_can_be_read_by_any_process() {
    let cluster = Cluster::new();
    let mut running = cluster.start("c1", cluster.registry.clone());
    cluster.worker("a", 0).await;
    cluster.version("m", 340).await;
    cluster.want(json!({"name": "m"})).await;
    let status = running.handle.wait_for(|s| s.unplaced.iter().any(|u| u.reason.contains("needs 340 B"))).await;
    assert_eq!((status.is_leader, status.leader.as_deref(), status.placements), (true, Some("c1"), 0));
    let entry = cluster.registry.get(&cluster.keys.plan("m")).await.unwrap().unwrap();
    let plan: PlanRecord = decode(&entry, SCHEMA).unwrap();
    let model = cluster.registry.get(&cluster.keys.model("m")).await.unwrap().unwrap();
    assert_eq!((plan.epoch, plan.revision), (status.epoch, model.revision));
    assert_eq!(plan.unplaced[0].reason, "needs 340 B, no device it may use has more than 100 B free");
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_is_not_written_to() {
    let mut cluster = Cluster::new();
    let link = Link::new(&cluster.registry);
    let _running = cluster.start("c1", link.clone());
    cluster.worker("a", 0).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m"})).await;
    cluster.placed(&["a"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // virtual: lets the loop see its own write
    let revision = cluster.registry.list("").await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(cluster.registry.list("").await.unwrap().revision, revision);
}

#[tokio::test(start_paused = true)]
async fn a_model_nobody_asks_for_sleeps_under_the_next_leader_too_and_wakes_when_a_gateway_names_it() {
    let mut cluster = Cluster::new();
    let first = cluster.start("c1", cluster.registry.clone());
    cluster.worker("a", 0).await;
    cluster.worker("b", 0).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m", "idle_s": 1})).await;
    cluster.placed(&["a", "b"]).await;
    let ready = |worker: &str| {
        let replica: policy::ReplicaRecord = serde_json::from_value(json!({
            "worker": worker, "incarnation": 1, "variant": "m:1:fp32@ort", "device": "cpu", "epoch": 1, "state": "ready",
            "bytes_resident": 10, "instances": 1, "provider": "cpu", "artifact": ARTIFACT,
        }))
        .unwrap();
        (cluster.keys.replica(worker, "m:1:fp32@ort"), encode(&replica).unwrap())
    };
    let replicas = ["a", "b"].map(ready);
    for (key, value) in replicas.clone() {
        cluster.put(key, value).await;
    }
    // The plan counts by the real clock: it is told that the last request was long ago.
    let mut plan = loop {
        let entry = cluster.registry.get(&cluster.keys.plan("m")).await.unwrap().unwrap();
        let plan: PlanRecord = decode(&entry, SCHEMA).unwrap();
        if plan.idle.since_s.is_some() {
            break plan;
        }
        cluster.changed().await;
    };
    plan.idle.since_s = Some(5);
    cluster.put(cluster.keys.plan("m"), encode(&plan).unwrap()).await;
    cluster.placed(&[]).await;
    for (key, _) in replicas {
        cluster.registry.txn(Txn::new().delete(key)).await.unwrap();
    }
    let _ = first.stop.send(());
    first.task.await.unwrap();
    let mut second = cluster.start("c2", cluster.registry.clone());
    second.handle.wait_for(|s| s.is_leader).await;
    tokio::time::sleep(Duration::from_secs(30)).await; // virtual: three plans
    let entry = cluster.registry.get(&cluster.keys.plan("m")).await.unwrap().unwrap();
    assert_eq!(decode::<PlanRecord>(&entry, SCHEMA).unwrap().idle.rest, Some(policy::Rest::Asleep));
    assert!(cluster.placements().await.is_empty());
    let demand = json!({"gateway": "g", "models": {"m": {"fast": 0.0, "slow": 0.0, "variance": 0.0, "uneven": 1.0}}});
    let demand: policy::DemandRecord = serde_json::from_value(demand).unwrap();
    cluster.put(cluster.keys.demand("g"), encode(&demand).unwrap()).await;
    while cluster.placements().await.is_empty() {
        cluster.changed().await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(cluster.placements().await.len(), 1, "one load until that is routable");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_the_other_takes_over_with_a_higher_epoch() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m"})).await;
    let mut first = cluster.start("c1", cluster.registry.clone());
    first.handle.wait_for(|s| s.is_leader).await;
    let mut second = cluster.start("c2", cluster.registry.clone());
    let status = second.handle.wait_for(|s| s.leader.is_some()).await;
    assert_eq!((status.is_leader, status.leader.as_deref()), (false, Some("c1")));
    let epoch = cluster.placed(&["a"]).await;

    // Killed: nothing is given back, the lease has to run out.
    let start = Instant::now();
    first.task.abort();
    let status = second.handle.wait_for(|s| s.is_leader).await;
    assert!(start.elapsed() <= Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(status.epoch > epoch);
    second.handle.wait_for(|s| s.placements == 1).await;
    assert_eq!(cluster.placed(&["a"]).await, status.epoch, "all placements are rewritten");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_leader_hands_over_within_a_second() {
    let cluster = Cluster::new();
    let mut first = cluster.start("c1", cluster.registry.clone());
    first.handle.wait_for(|s| s.is_leader).await;
    let mut second = cluster.start("c2", cluster.registry.clone());
    second.handle.wait_for(|s| s.leader.is_some()).await;
    let start = Instant::now();
    first.stop.send(()).unwrap();
    second.handle.wait_for(|s| s.is_leader).await;
    assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
    first.task.await.unwrap();
    assert_eq!(cluster.leader().await.unwrap().id, "c2");
}

#[tokio::test(start_paused = true)]
async fn i3_the_write_of_a_replaced_leader_is_refused() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m"})).await;
    // The first leader falls asleep between reading and writing.
    let link = Link::new(&cluster.registry);
    link.held.send_replace(true);
    let mut first = cluster.start("c1", link.clone());
    let old = first.handle.wait_for(|s| s.is_leader).await.epoch;
    link.waiting.subscribe().wait_for(|n| *n > 0).await.unwrap();
    // Its lease runs out, another is elected and plans.
    cluster.registry.txn(Txn::new().delete(cluster.keys.leader())).await.unwrap();
    let mut second = cluster.start("c2", cluster.registry.clone());
    let new = second.handle.wait_for(|s| s.is_leader).await.epoch;
    assert!(new > old);
    assert_eq!(cluster.placed(&["a"]).await, new);
    // It wakes up.
    let revision = cluster.registry.list("").await.unwrap().revision;
    link.held.send_replace(false);
    first.handle.wait_for(|s| !s.is_leader).await;
    assert!(link.writes.load(Ordering::SeqCst) > 0, "it did try");
    assert_eq!(cluster.placed(&["a"]).await, new);
    let after = cluster.registry.list(&cluster.keys.placements()).await.unwrap();
    assert!(after.entries.iter().all(|e| e.revision <= revision), "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn i3_the_epoch_is_above_every_one_seen_even_after_a_wipe() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 1_000).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m"})).await;
    let mut running = cluster.start("c1", cluster.registry.clone());
    running.handle.wait_for(|s| s.is_leader).await;
    assert_eq!(cluster.placed(&["a"]).await, 1_001);
    // A worker that was away during the wipe turns up later.
    cluster.worker("b", 5_000).await;
    assert_eq!(cluster.placed(&["a", "b"]).await, 5_001);
    assert_eq!(cluster.leader().await.map(|l| l.epoch), Some(5_001));
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_steps_down_and_leads_again_later() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m"})).await;
    let link = Link::new(&cluster.registry);
    let mut running = cluster.start("c1", link.clone());
    cluster.placed(&["a"]).await;
    let start = Instant::now();
    link.cut.store(true, Ordering::SeqCst);
    running.handle.wait_for(|s| !s.is_registry_up).await;
    running.handle.wait_for(|s| !s.is_leader).await;
    assert!(start.elapsed() <= Duration::from_secs(14), "{:?}", start.elapsed());
    link.cut.store(false, Ordering::SeqCst);
    let status = running.handle.wait_for(|s| s.is_leader && s.is_registry_up).await;
    assert_eq!(cluster.placed_since(&["a"], status.epoch).await, status.epoch);
}

#[tokio::test(start_paused = true)]
async fn junk_is_counted_and_does_not_stop_the_rest() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m"})).await;
    for key in [cluster.keys.worker("b"), cluster.keys.model("n"), cluster.keys.placement("a", "old:1:fp32@ort")] {
        cluster.put(key, b"{".to_vec()).await;
    }
    let mut running = cluster.start("c1", cluster.registry.clone());
    running.handle.wait_for(|s| s.placements == 1).await;
    assert_eq!(cluster.placed(&["a"]).await, cluster.leader().await.unwrap().epoch, "junk among the placements is cleared away");
    running.handle.wait_for(|s| s.malformed == 2).await;
}

#[tokio::test(start_paused = true)]
async fn another_goes_on_where_a_controller_died_between_two_writes() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    for i in 100..250 {
        cluster.version(&format!("m{i}"), 0).await;
        cluster.want(json!({"name": format!("m{i}")})).await;
    }
    let link = Link::new(&cluster.registry);
    link.writes_max.store(1, Ordering::SeqCst);
    let mut first = cluster.start("c1", link.clone());
    let old = first.handle.wait_for(|s| s.is_leader).await.epoch;
    link.waiting.subscribe().wait_for(|n| *n == 2).await.unwrap();
    let written = cluster.placements().await.len();
    assert!(written > 0 && written < 150, "{written}");
    first.task.abort();
    let mut second = cluster.start("c2", cluster.registry.clone());
    let new = second.handle.wait_for(|s| s.is_leader).await.epoch;
    assert!(new > old);
    assert_eq!(cluster.placed_since(&["a"; 150], new).await, new);
}

impl Cluster {
    /// What worker `on` reports of its replica of `m`.
    async fn replica(&self, on: &str, state: Value) {
        let mut record = json!({
            "worker": on, "incarnation": 1, "variant": "m:1:fp32@ort", "device": "cpu", "epoch": 1, "bytes_resident": 0, "instances": 1,
            "provider": "cpu", "artifact": ARTIFACT, "generation": 0, "alpha_us": 1.0, "beta_us": 0.0,
        });
        record.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        let record: policy::ReplicaRecord = serde_json::from_value(record).unwrap();
        self.put(self.keys.replica(on, "m:1:fp32@ort"), encode(&record).unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_failed_is_placed_on_another_worker_at_once() {
    let mut cluster = Cluster::new();
    let _running = cluster.start("c1", cluster.registry.clone());
    cluster.version("m", 10).await;
    cluster.want(json!({"name": "m", "replicas": 1})).await;
    cluster.worker("a", 0).await;
    cluster.placed(&["a"]).await;
    cluster.worker("b", 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // virtual: one is enough
    cluster.placed(&["a"]).await;
    let start = Instant::now();
    cluster.replica("a", json!({"state": "failed", "reason": "no"})).await;
    cluster.placed(&["a", "b"]).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    cluster.replica("b", json!({"state": "ready"})).await;
    cluster.placed(&["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn how_far_loads_are_is_nothing_to_plan_for() {
    let cluster = Cluster::new();
    let listed = async || {
        let listing = cluster.registry.list(cluster.keys.root()).await.unwrap();
        let entries = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        registry::State { entries, revision: listing.revision, synced: true }
    };
    cluster.worker("a", 0).await;
    let mut before = listed().await;
    let mut check = async |state: Value, progress_only: bool| {
        cluster.replica("a", state.clone()).await;
        let now = listed().await;
        assert_eq!(crate::controller::is_progress_only(&before, &now, &cluster.keys), progress_only, "{state}");
        before = now;
    };
    check(json!({"state": "loading", "reason": "fetching, 0 of 9"}), false).await;
    check(json!({"state": "loading", "reason": "fetching, 1 of 9"}), true).await;
    check(json!({"state": "loading", "reason": "validating", "device": "cuda:0"}), false).await;
    check(json!({"state": "ready"}), false).await;
    check(json!({"state": "ready", "reloading": "fetching, 0 of 9"}), false).await;
    check(json!({"state": "ready", "reloading": "fetching, 1 of 9"}), true).await;
    check(json!({"state": "failed", "reason": "no"}), false).await;
    check(json!({"state": "failed", "reason": "no, too"}), false).await;
    cluster.worker("a", 1).await;
    let now = listed().await;
    assert!(!crate::controller::is_progress_only(&before, &now, &cluster.keys));
}

#[tokio::test(start_paused = true)]
async fn many_placements_are_written_in_several_transactions() {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    for i in 100..250 {
        cluster.version(&format!("m{i}"), 0).await;
        cluster.want(json!({"name": format!("m{i}")})).await;
    }
    let mut running = cluster.start("c1", cluster.registry.clone());
    running.handle.wait_for(|s| s.placements == 150).await;
    cluster.placed(&["a"; 150]).await;
}

/// A cluster in which version 2 of `m` is to take over from version 1, both of which are loaded.
async fn rolling_out() -> (Cluster, Running, RolloutRecord) {
    let mut cluster = Cluster::new();
    cluster.worker("a", 0).await;
    cluster.version_number("m", 1, 10).await;
    cluster.version_number("m", 2, 10).await;
    let rollout = json!({ "candidate": { "version": 2 }, "null_rate": 0.005, "weights": [0.1, 0.5], "step_s": 30 });
    cluster.want(json!({ "name": "m", "rollout": rollout })).await;
    let running = cluster.start("c1", cluster.registry.clone());
    cluster.placed(&["a", "a"]).await;
    cluster.rollout(|r| r.phase() == Phase::Waits && r.weight == 0.0).await;
    cluster.ready("m:1:fp32@ort").await;
    cluster.ready("m:2:fp32@ort").await;
    let record = cluster.rollout(|r| r.phase() == Phase::Runs && r.weight == 0.1).await;
    (cluster, running, record)
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_led_step_by_step_by_whoever_leads() {
    let (mut cluster, first, record) = rolling_out().await;
    cluster.count(record.id, record.progress.look, 1_000, 5).await;
    let record = cluster.rollout(|r| r.progress.step == 1 && r.weight == 0.5).await;
    first.task.abort();
    let mut second = cluster.start("c2", cluster.registry.clone());
    let epoch = second.handle.wait_for(|s| s.is_leader).await.epoch;
    assert_eq!(cluster.placed_since(&["a", "a"], epoch).await, epoch);
    cluster.count(record.id, record.progress.look, 1_000, 5).await;
    let ended = cluster.rollout(|r| r.progress.end.is_some()).await;
    assert_eq!((ended.id, ended.progress.end.clone(), ended.weight, ended.shadow), (record.id, Some(End::Promoted), 1.0, 0.0));
    assert_eq!(ended.progress.evidence.iter().map(|e| e.pairs.compared).collect::<Vec<_>>(), [1_000, 1_000]);
    cluster.placed(&["a"]).await;
    assert_eq!(cluster.variants().await, ["m:2:fp32@ort"]);
    let model = cluster.registry.get(&cluster.keys.model("m")).await.unwrap().unwrap();
    assert_eq!(model.created, model.revision, "what the operator wants is the operator's");
    cluster.want(json!({ "name": "m" })).await;
    while cluster.registry.get(&cluster.keys.rollout("m")).await.unwrap().is_some() {
        tokio::time::timeout(Duration::from_secs(60), cluster.mirror.changed()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_disagrees_is_unloaded_and_the_figures_are_kept() {
    let (mut cluster, _running, record) = rolling_out().await;
    cluster.count(record.id, record.progress.look, 500, 50).await;
    let ended = cluster.rollout(|r| r.phase() == Phase::RolledBack).await;
    let figures = "50 of 500 compared pairs disagree (10.00 %)";
    assert!(matches!(&ended.progress.end, Some(End::RolledBack(reason)) if reason.starts_with(figures)), "{ended:?}");
    cluster.placed(&["a"]).await;
    assert_eq!((cluster.variants().await, ended.weight), (vec!["m:1:fp32@ort".to_owned()], 0.0));
    // A settled cluster is not written to, a new leader sees it as it is.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let revision = cluster.registry.list("").await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.registry.list("").await.unwrap().revision, revision);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_without_news_is_written_now_and_then_and_not_over_and_over() {
    let (cluster, _running, _) = rolling_out().await;
    let before = cluster.registry.list("").await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let writes = cluster.registry.list("").await.unwrap().revision - before;
    assert!((5..=25).contains(&writes), "{writes} writes in 100 seconds");
}
