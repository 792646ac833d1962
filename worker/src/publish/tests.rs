use super::*;
use registry::{Embedded, Mirror};

struct Sample(u32);

impl serde::Serialize for Sample {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::json!({ "schema": 1, "value": self.0 }).serialize(serializer)
    }
}

/// Waits until exactly these records are there.
async fn until(mirror: &mut Mirror, wanted: &[(String, u32)]) {
    loop {
        let state = mirror.snapshot();
        let have: Vec<(String, u32)> = state
            .entries
            .iter()
            .map(|(key, e)| {
                let value: serde_json::Value = serde_json::from_slice(&e.value).unwrap();
                (key.clone(), u32::try_from(value["value"].as_u64().unwrap()).unwrap())
            })
            .collect();
        if have == wanted {
            return;
        }
        mirror.changed().await;
    }
}

fn who(incarnation: u64) -> Who {
    Who { keys: Keys::new("c"), worker: "w".into(), incarnation }
}

/// The record of that start of the worker.
fn worker(incarnation: u64, draining: bool) -> WorkerRecord {
    WorkerRecord {
        schema: policy::SCHEMA,
        id: policy::WorkerId::new("w").unwrap(),
        incarnation,
        data: String::new(),
        admin: String::new(),
        host: String::new(),
        site: String::new(),
        zone: String::new(),
        cost_class: String::new(),
        devices: vec![],
        capabilities: policy::Capabilities::default(),
        epoch: 0,
        draining,
        unknown: policy::Unknown::new(),
    }
}

#[tokio::test]
async fn i5_an_earlier_start_never_writes_over_a_later_one() {
    let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
    let keys = Keys::new("c");
    let (stop, stopped) = watch::channel(false);
    let start = |incarnation| {
        let (publisher, records) = Publisher::new();
        publisher.put(keys.worker("w"), &worker(incarnation, false));
        (publisher, tokio::spawn(run(registry.clone(), who(incarnation), records, stopped.clone())))
    };
    let now = async || {
        let entry = registry.get(&keys.worker("w")).await.unwrap();
        entry.map(|e| registry::decode::<WorkerRecord>(&e, policy::SCHEMA).unwrap())
    };
    let mut mirror = Mirror::spawn(registry.clone(), keys.root());
    let (old, old_task) = start(1);
    while now().await != Some(worker(1, false)) {
        mirror.changed().await;
    }
    let (_new, new_task) = start(2);
    while now().await != Some(worker(2, false)) {
        mirror.changed().await;
    }
    old.put(keys.worker("w"), &worker(1, true)); // it drains, and says so
    old_task.await.unwrap(); // it has noticed, and registers no more
    assert_eq!(now().await, Some(worker(2, false)));
    let (_late, late_task) = start(1);
    late_task.await.unwrap();
    assert_eq!(now().await, Some(worker(2, false)));
    stop.send_replace(true);
    new_task.await.unwrap();
    assert_eq!(now().await, None);
}

#[tokio::test]
async fn the_registry_becomes_what_is_wanted_and_what_was_left_over_goes() {
    let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
    let keys = Keys::new("c");
    let (stale, fresh) = (keys.replica("w", "m:1:a@b"), keys.replica("w", "m:2:a@b"));
    registry.txn(Txn::new().put(&stale, registry::encode(&Sample(0)).unwrap())).await.unwrap();
    let (publisher, records) = Publisher::new();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(run(registry.clone(), who(1), records, stopped));
    let mut mirror = Mirror::spawn(registry.clone(), keys.root());
    publisher.put(fresh.clone(), &Sample(1));
    until(&mut mirror, &[(fresh.clone(), 1)]).await;
    publisher.put(fresh.clone(), &Sample(2));
    publisher.put(keys.profile("a", "b", "c", "d"), &Sample(3));
    until(&mut mirror, &[(keys.profile("a", "b", "c", "d"), 3), (fresh.clone(), 2)]).await;
    publisher.remove(&fresh);
    until(&mut mirror, &[(keys.profile("a", "b", "c", "d"), 3)]).await;
    stop.send_replace(true);
    task.await.unwrap();
    // The lease is given back, not left to run out.
    tokio::time::timeout(crate::config::LEASE / 3, until(&mut mirror, &[])).await.unwrap();
}
