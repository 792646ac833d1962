//! The fleet that a running cluster's records describe.

use super::fleet::{Fleet, FleetModel, FleetWorker};
use policy::profile::Latency;
use policy::{ModelRecord, ReplicaRecord, ReplicaState, Version, WorkerRecord};
use std::collections::BTreeMap;

/// Least microseconds of a batch: virtual time goes by microseconds, and tiny models take less.
const BATCH_US_MIN: f64 = 1.0;

impl Fleet {
    /// What [`Fleet::of_records`] takes for granted because no record tells it, in one line.
    pub const NOT_IN_RECORDS: &str = "one gateway, no time on the way, no noise, the tail of a new replica, no queue rules, and replicas of \
                                      one worker that do not slow each other";

    /// What a cluster has for requests that name no version: of each model the highest version with a routable replica.
    ///
    /// Each routable replica becomes a worker of its own, since it has a queue, engine threads and a measured latency of its own, and
    /// a fleet's workers have one of each. What no record tells is as in a fleet file that does not say it.
    pub fn of_records(workers: &[WorkerRecord], replicas: &[ReplicaRecord], models: &[ModelRecord]) -> Self {
        let workers: BTreeMap<_, _> = workers.iter().map(|worker| (&worker.id, worker)).collect();
        // Routable as for a gateway: warm, in the process that is there now, which takes new work.
        let routable = replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).filter_map(|replica| {
            let worker = workers.get(&replica.worker)?;
            (worker.incarnation == replica.incarnation && !worker.draining).then_some((replica, *worker))
        });
        let mut served: BTreeMap<_, BTreeMap<Version, Vec<_>>> = BTreeMap::new();
        for (replica, worker) in routable {
            served.entry(&replica.variant.model).or_default().entry(replica.variant.version).or_default().push((replica, worker));
        }
        let newest = served.into_iter().filter_map(|(model, mut versions)| Some((model, versions.pop_last()?.1)));
        let mut fleet = Self::default();
        for (name, replicas) in newest {
            let slo = models.iter().find(|model| model.name == *name).and_then(|model| model.slo.latency_ms);
            fleet.models.push(FleetModel {
                name: name.to_string(),
                slo_ms: slo.filter(|ms| *ms > 0).map(f64::from),
                max_batch_size: replicas.iter().map(|(replica, _)| rows_max(replica)).max().unwrap_or(1),
            });
            fleet.workers.extend(replicas.into_iter().map(|(replica, worker)| FleetWorker::of_records(replica, worker)));
        }
        fleet
    }
}

impl FleetWorker {
    fn of_records(replica: &ReplicaRecord, worker: &WorkerRecord) -> Self {
        let Latency { alpha_us, beta_us } = Latency { alpha_us: replica.alpha_us, beta_us: replica.beta_us }.believed();
        Self {
            count: 1,
            models: vec![replica.variant.model.to_string()],
            alpha_us,
            beta_us: beta_us.max(BATCH_US_MIN - alpha_us),
            rows_max: Some(rows_max(replica)),
            instances: replica.instances,
            slow: 1.0,
            // Zones of two sites may have one name.
            zone: format!("{}/{}", worker.site, worker.zone),
        }
    }
}

/// Most rows of one batch; a model that takes none at once runs them one by one.
fn rows_max(replica: &ReplicaRecord) -> u32 {
    replica.signature.as_ref().map_or(1, |signature| signature.max_batch_size.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn worker(id: &str, incarnation: u64, zone: &str, draining: bool) -> WorkerRecord {
        from_value(json!({
            "id": id, "incarnation": incarnation, "data": "h:1", "admin": "h:2", "host": "h", "site": "s", "zone": zone, "devices": [],
            "capabilities": {}, "epoch": 1, "draining": draining,
        }))
        .unwrap()
    }

    /// A replica that is ready, in the first incarnation of its worker, but for what `but` says.
    fn replica(worker: &str, variant: &str, but: Value) -> ReplicaRecord {
        let mut whole = json!({
            "worker": worker, "incarnation": 1, "variant": variant, "device": "cpu", "epoch": 1, "state": "ready", "bytes_resident": 1,
            "instances": 2, "provider": "cpu", "artifact": "0".repeat(64), "alpha_us": 800.0, "beta_us": 200.0,
            "signature": { "max_batch_size": 8, "inputs": [], "outputs": [] },
        });
        whole.as_object_mut().unwrap().extend(but.as_object().unwrap().clone());
        from_value(whole).unwrap()
    }

    fn model(name: &str, latency_ms: u32) -> ModelRecord {
        from_value(json!({ "name": name, "wanted": true, "slo": { "latency_ms": latency_ms } })).unwrap()
    }

    #[test]
    fn routable_replicas_become_workers_with_what_was_measured() {
        let workers = [worker("a", 1, "x", false), worker("b", 1, "y", false), worker("leaves", 1, "x", true)];
        let signature = json!({ "max_batch_size": 0, "inputs": [], "outputs": [] });
        let replicas = [
            replica("a", "m:2:fp32@ort", json!({})),
            replica("b", "m:2:fp32@ort", json!({ "instances": 4, "alpha_us": 50.0, "signature": signature })),
            replica("a", "m:1:fp32@ort", json!({ "alpha_us": 1.5 })),
            replica("leaves", "m:2:fp32@ort", json!({})),
            replica("nobody", "m:2:fp32@ort", json!({})),
            replica("b", "m:3:fp32@ort", json!({ "state": "loading", "reason": "fetching" })),
            replica("b", "gone:1:fp32@ort", json!({ "incarnation": 0 })),
            replica("b", "tiny:1:fp32@ort", json!({ "alpha_us": 0.25, "beta_us": 0.0 })),
            replica("b", "unknown:1:fp32@ort", json!({ "alpha_us": null, "beta_us": 0.0 })),
        ];
        let fleet = Fleet::of_records(&workers, &replicas, &[model("m", 40), model("tiny", 0)]);
        let described = Fleet::parse(
            "[[model]]\nname = \"m\"\nslo_ms = 40\nmax_batch_size = 8\n[[model]]\nname = \"tiny\"\nmax_batch_size = 8\n\
             [[model]]\nname = \"unknown\"\nmax_batch_size = 8\n\
             [[worker]]\nmodels = [\"m\"]\nalpha_us = 800\nbeta_us = 200\ninstances = 2\nrows_max = 8\nzone = \"s/x\"\n\
             [[worker]]\nmodels = [\"m\"]\nalpha_us = 50\nbeta_us = 200\ninstances = 4\nrows_max = 1\nzone = \"s/y\"\n\
             [[worker]]\nmodels = [\"tiny\"]\nalpha_us = 0.25\nbeta_us = 0.75\ninstances = 2\nrows_max = 8\nzone = \"s/y\"\n\
             [[worker]]\nmodels = [\"unknown\"]\nalpha_us = 10000\ninstances = 2\nrows_max = 8\nzone = \"s/y\"\n",
        );
        assert_eq!(fleet, described.unwrap());
    }

    #[test]
    fn a_cluster_with_nothing_ready_is_no_fleet() {
        let fleet = Fleet::of_records(&[worker("a", 1, "x", false)], &[], &[model("m", 40)]);
        let mut problems = Vec::new();
        fleet.check(&mut problems);
        assert!(problems.iter().any(|problem| problem.starts_with("model: none is described")), "{problems:?}");
    }
}
