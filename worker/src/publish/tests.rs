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

#[tokio::test]
async fn the_registry_becomes_what_is_wanted_and_what_was_left_over_goes() {
    let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
    let keys = Keys::new("c");
    let (stale, fresh) = (keys.replica("w", "m:1:a@b"), keys.replica("w", "m:2:a@b"));
    registry.txn(Txn::new().put(&stale, registry::encode(&Sample(0)).unwrap())).await.unwrap();
    let (publisher, records) = Publisher::new();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(run(registry.clone(), keys.clone(), "w".into(), records, stopped));
    let mut mirror = Mirror::spawn(registry.clone(), keys.root());
    publisher.put(fresh.clone(), &Sample(1));
    until(&mut mirror, &[(fresh.clone(), 1)]).await;
    publisher.put(fresh.clone(), &Sample(2));
    publisher.put(keys.worker("w"), &Sample(3));
    until(&mut mirror, &[(fresh.clone(), 2), (keys.worker("w"), 3)]).await;
    publisher.remove(&fresh);
    until(&mut mirror, &[(keys.worker("w"), 3)]).await;
    stop.send_replace(true);
    task.await.unwrap();
    // The lease is given back, not left to run out.
    tokio::time::timeout(crate::config::LEASE / 3, until(&mut mirror, &[])).await.unwrap();
}
