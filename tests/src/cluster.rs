//! The spread-out cluster: etcd, a controller, two workers of which only the first has the models, a gateway.

use crate::{Etcd, Kit, Sluice, until};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Cluster {
    pub kit: Kit,
    pub etcd: Etcd,
    pub controller: Sluice,
    pub workers: Vec<Sluice>,
    pub gateway: Sluice,
    dir: tempfile::TempDir,
    models: PathBuf,
}

impl Cluster {
    /// Starts everything and waits until each of `replicas` replicas is ready.
    pub fn start(kit: &Kit, models: &Path, replicas: usize) -> Self {
        let cluster = Self::on(Etcd::start(kit), kit, models);
        cluster.until_ready(replicas);
        cluster
    }

    /// Starts everything but etcd.
    pub fn without_etcd(kit: &Kit, models: &Path) -> Self {
        Self::on(Etcd::absent(kit), kit, models)
    }

    fn on(etcd: Etcd, kit: &Kit, models: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let controller = controller(kit, &etcd.url());
        let workers = (0..2).map(|i| worker(kit, &etcd.url(), dir.path(), models, i, &["127.0.0.1:0", "127.0.0.1:0"])).collect();
        let gateway = gateway(kit, &etcd.url(), &dir.path().join("gateway"));
        Self { kit: kit.clone(), etcd, controller, workers, gateway, dir, models: models.to_owned() }
    }

    pub fn until_ready(&self, replicas: usize) {
        until(&format!("{replicas} replicas are ready"), Duration::from_secs(90), || {
            // What a killed process left behind does not count.
            let now: Vec<_> = self.records("workers").iter().map(|w| (w["id"].clone(), w["incarnation"].clone())).collect();
            let lives = |r: &serde_json::Value| now.contains(&(r["worker"].clone(), r["incarnation"].clone()));
            self.replicas().iter().filter(|r| r["state"] == "ready" && lives(r)).count() == replicas
        });
    }

    /// The replicas' records, as the gateway shows them.
    pub fn replicas(&self) -> Vec<serde_json::Value> {
        self.records("replicas")
    }

    fn records(&self, kind: &str) -> Vec<serde_json::Value> {
        let (code, out, _) = self.kit.run(&["get", kind, "-o", "json", "--server", &self.gateway.url("admin")]);
        if code == 0 { serde_json::from_str(&out).unwrap() } else { Vec::new() }
    }

    /// Which start of worker `i` the registry knows.
    fn incarnation(&self, i: usize) -> Option<u64> {
        self.records("workers").iter().find(|w| w["id"] == format!("w{i}")).and_then(|w| w["incarnation"].as_u64())
    }

    /// Starts worker `i` again where it was, and waits until the registry knows the new start.
    pub fn restart_worker(&mut self, i: usize) {
        let ports = [self.workers[i].port("data").to_owned(), self.workers[i].port("admin").to_owned()];
        let ports = [ports[0].as_str(), ports[1].as_str()];
        let before = self.incarnation(i);
        self.workers[i] = worker(&self.kit, &self.etcd.url(), self.dir.path(), &self.models, i, &ports);
        until(&format!("worker {i} is registered again"), Duration::from_secs(60), || {
            self.incarnation(i).is_some_and(|now| before.is_none_or(|before| now > before))
        });
    }

    pub fn restart_controller(&mut self) {
        self.controller = controller(&self.kit, &self.etcd.url());
    }

    /// Another gateway that finds the snapshot of the first.
    pub fn second_gateway(&self) -> Sluice {
        let second = self.dir.path().join("gateway2");
        std::fs::create_dir_all(&second).unwrap();
        std::fs::copy(self.snapshot(), second.join("routing.json")).unwrap();
        gateway(&self.kit, &self.etcd.url(), &second)
    }

    /// The gateway's snapshot file.
    pub fn snapshot(&self) -> PathBuf {
        self.dir.path().join("gateway/routing.json")
    }

    /// Data directory of worker `i`.
    pub fn worker_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("w{i}"))
    }
}

fn controller(kit: &Kit, etcd: &str) -> Sluice {
    Sluice::start(kit, &["controller", "--etcd", etcd, "--cluster", "test", "--id", "c", "--admin", "127.0.0.1:0"])
}

fn gateway(kit: &Kit, etcd: &str, dir: &Path) -> Sluice {
    let dir = dir.to_str().unwrap();
    let mut args = vec!["gateway", "--etcd", etcd, "--cluster", "test", "--data-dir", dir, "--model-control", "explicit"];
    args.extend(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    Sluice::start(kit, &args)
}

fn worker(kit: &Kit, etcd: &str, dir: &Path, models: &Path, i: usize, ports: &[&str; 2]) -> Sluice {
    let (id, data) = (format!("w{i}"), dir.join(format!("w{i}")));
    let [listen, admin] = *ports;
    let mut args = vec!["worker", "--etcd", etcd, "--cluster", "test", "--id", &id, "--listen", listen, "--admin", admin];
    args.extend(["--data-dir", data.to_str().unwrap(), "--instances", "1"]);
    if i == 0 {
        args.extend(["--models", models.to_str().unwrap()]);
    }
    Sluice::start(kit, &args)
}
