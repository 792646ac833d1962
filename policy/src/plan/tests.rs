mod demand;
mod idle;
mod properties;
mod rollouts;
mod sim;
mod trouble;
mod variants;

use super::*;
use crate::{Capabilities, DeviceRecord, Digest, ExecutionProvider, Signature, Slo, Unknown, VariantName, VersionState, WorkerId};
use sim::Sim;

pub(super) fn worker(id: &str, host: &str, cpu_bytes: u64) -> WorkerRecord {
    WorkerRecord {
        schema: crate::SCHEMA,
        id: WorkerId::new(id).unwrap(),
        incarnation: 1,
        data: String::new(),
        admin: String::new(),
        host: host.to_owned(),
        site: String::new(),
        zone: String::new(),
        cost_class: String::new(),
        devices: vec![DeviceRecord { name: "cpu".to_owned(), class: "c".to_owned(), memory_bytes: cpu_bytes }],
        capabilities: Capabilities::default(),
        epoch: 0,
        draining: false,
        unknown: Unknown::new(),
    }
}

fn with_gpu(mut worker: WorkerRecord, bytes: u64) -> WorkerRecord {
    worker.devices.push(DeviceRecord { name: "cuda:0".to_owned(), class: "g".to_owned(), memory_bytes: bytes });
    worker
}

pub(super) fn version(model: &str, number: u64, content: u64, bytes_resident: u64) -> VersionRecord {
    VersionRecord {
        schema: crate::SCHEMA,
        model: ModelName::new(model).unwrap(),
        version: Version::try_from(number).unwrap(),
        state: VersionState::Valid,
        reference: VariantName::new("fp32@ort").unwrap(),
        artifact: Digest::new(format!("{content:064x}")).unwrap(),
        files: Vec::new(),
        model_file: "model.onnx".to_owned(),
        config: None,
        signature: Signature::default(),
        bytes_resident,
        image: None,
        split: false,
        padding: None,
        labels: Vec::new(),
        origin: crate::Origin::Directory,
        variants: Vec::new(),
        unknown: Unknown::new(),
    }
}

pub(super) fn model(name: &str) -> ModelRecord {
    ModelRecord::new(ModelName::new(name).unwrap())
}

fn reasons(sim: &Sim) -> Vec<&str> {
    sim.plan.unplaced.iter().map(|u| u.reason.as_str()).collect()
}

fn progress_of(sim: &Sim, name: &str) -> Progress {
    let model = sim.wanted.models.iter().find(|m| m.name.as_str() == name).unwrap();
    let about = sim.plan.unplaced.iter().filter(|u| u.model == model.name);
    let unplaced = about.map(|u| crate::UnplacedRecord { version: u.version, reason: u.reason.clone(), waits: u.waits }).collect();
    let (schema, unknown) = (crate::SCHEMA, Unknown::new());
    let decided = PlanRecord {
        schema,
        model: model.name.clone(),
        epoch: 1,
        revision: 1,
        unplaced,
        rate: None,
        shares: Vec::new(),
        idle: sim.plan.idle.get(&model.name).copied().unwrap_or_default(),
        unknown,
    };
    progress(model, &sim.observed, Some(&decided))
}

use crate::PlanRecord;

const MB: u64 = 1_000_000;

#[test]
fn two_replicas_go_to_two_hosts_and_zones_before_that() {
    let workers = vec![worker("a1", "a", 900), worker("a2", "a", 900), worker("b1", "b", 100)];
    let mut sim = Sim::new(workers, vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    let ready = sim.ready("m", None);
    assert!(ready.len() == 2 && ready.contains(&"b1".to_owned()), "{ready:?}");

    let mut workers = vec![worker("a1", "a", 900), worker("b1", "b", 900), worker("c1", "c", 100)];
    workers[2].zone = "other".to_owned();
    let mut sim = Sim::new(workers, vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    assert!(sim.ready("m", None).contains(&"c1".to_owned()));
}

#[test]
fn a_placement_carries_what_its_model_asks_of_a_replica() {
    let asked = ModelRecord { instances: Some(3), slo: Slo { latency_ms: Some(40), ..Slo::default() }, ..model("m") };
    let mut sim = Sim::new(vec![worker("a", "h", 99)], vec![version("m", 1, 1, 10)], vec![asked]);
    sim.settle();
    let said: Vec<_> = sim.plan.placements.iter().map(|p| (p.instances, p.latency_target_us)).collect();
    assert_eq!(said, [(Some(3), Some(40_000))]);
}

#[test]
fn two_workers_of_one_host_count_when_there_is_no_other() {
    let mut sim = Sim::new(vec![worker("a", "h", 99), worker("b", "h", 99)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    assert_eq!(sim.ready("m", None), ["a", "b"]);
    let mut sim = Sim::new(vec![worker("a", "h", 99)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    assert_eq!((sim.ready("m", None), reasons(&sim)), (vec!["a".to_owned()], vec![]), "one worker: one replica, and no complaint");
}

#[test]
fn the_reason_says_what_is_needed_and_what_there_is() {
    let check = |workers: Vec<WorkerRecord>, change: fn(&mut Sim), expected: &[&str]| {
        let mut sim = Sim::new(workers, vec![version("m", 3, 1, 340 * MB)], vec![model("m")]);
        change(&mut sim);
        sim.plan();
        assert_eq!(reasons(&sim), expected);
    };
    let small = || vec![worker("a", "h", 120 * MB)];
    check(small(), |_| {}, &["needs 340 MB, no device it may use has more than 120 MB free"]);
    check(vec![], |_| {}, &["no worker is alive"]);
    check(small(), |s| s.observed.workers[0].draining = true, &["every worker is draining"]);
    check(small(), |s| s.model("m").provider = ExecutionProvider::Cuda, &["no worker that takes new work has cuda"]);
    check(
        small(),
        |s| _ = s.observed.workers[0].capabilities.engines.insert("x".to_owned(), "1".to_owned()),
        &["no worker has the engine `ort`"],
    );
    check(small(), |s| s.observed.versions[0].state = VersionState::Invalid("bad".to_owned()), &["version 3 is invalid: bad"]);
    check(small(), |s| s.model("m").versions = vec![Version::try_from(7).unwrap()], &["no worker offers version 7"]);
    check(small(), |s| s.observed.versions.clear(), &["no worker offers model `m`: put it in a --models directory"]);
    let three = |s: &mut Sim| s.model("m").replicas = Some(3);
    check(vec![worker("a", "h", 999 * MB)], three, &["wants 3 replicas, only 1 workers can run it"]);
    check(small(), |s| s.model("m").wanted = false, &[]);
}

#[test]
fn an_invalid_newer_version_leaves_the_older_one_and_says_so() {
    let mut sim = Sim::new(vec![worker("a", "h", 99)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    let mut bad = version("m", 2, 2, 10);
    bad.state = VersionState::Invalid("opset 99".to_owned());
    sim.add_version(bad);
    sim.settle();
    assert_eq!(sim.ready("m", Some(1)), ["a"]);
    let said = "version 2 is invalid: opset 99; version 1 is served instead".to_owned();
    assert_eq!(progress_of(&sim, "m"), Progress::Ready(said));
}

#[test]
fn a_new_version_takes_over_even_where_two_do_not_fit_side_by_side() {
    let mut sim = Sim::new(vec![worker("a", "x", 15), worker("b", "y", 15)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    sim.add_version(version("m", 2, 2, 10));
    for _ in 0..20 {
        sim.plan();
        sim.work(|| true);
        sim.check_memory();
        assert!(!sim.ready("m", None).is_empty());
    }
    assert_eq!((sim.ready("m", Some(2)), sim.ready("m", Some(1))), (vec!["a".to_owned(), "b".to_owned()], vec![]));

    let mut sim = Sim::new(vec![worker("a", "x", 15)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    sim.add_version(version("m", 2, 2, 10));
    sim.settle();
    assert_eq!(sim.ready("m", None), ["a"], "the only replica is not given up");
    assert_eq!(reasons(&sim), ["needs 10 B beside what it replaces, no device it may use has more than 5 B free"]);
    assert!(matches!(progress_of(&sim, "m"), Progress::Failed(_)));
}

#[test]
fn a_reload_goes_one_ahead_and_stops_when_that_fails() {
    let workers = vec![worker("a", "x", 99), worker("b", "y", 99)];
    let mut sim = Sim::new(workers, vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    sim.model("m").generation = 1;
    sim.plan();
    let ahead = sim.plan.placements.iter().filter(|p| p.generation == 1).count();
    assert_eq!(ahead, 1);
    sim.settle();
    assert_eq!(sim.generations("m"), [1, 1]);

    sim.observed.versions[0].artifact = Digest::new("f".repeat(64)).unwrap();
    let broken = sim.observed.versions[0].artifact.clone();
    sim.really.insert(broken.clone(), 10);
    sim.bad = ["a", "b"].map(|w| (broken.clone(), WorkerId::new(w).unwrap())).into();
    sim.settle();
    assert_eq!(sim.ready("m", None), ["a", "b"], "the old one stays");
    let why = progress_of(&sim, "m");
    assert!(
        matches!(&why, Progress::Failed(reason) if reason.contains("failed on a: no") && reason.contains("failed on b: no")),
        "{why:?}"
    );
}

#[test]
fn a_failed_replica_is_tried_on_each_other_worker_once() {
    let workers = vec![worker("a", "x", 99), worker("b", "y", 99), worker("c", "z", 99)];
    let mut sim = Sim::new(workers, vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.model("m").replicas = Some(1);
    let artifact = sim.observed.versions[0].artifact.clone();
    sim.bad = ["a", "b", "c"].map(|w| (artifact.clone(), WorkerId::new(w).unwrap())).into();
    sim.settle();
    assert_eq!(sim.plan.placements.len(), 3, "each failure leaves its mark");
    assert_eq!(progress_of(&sim, "m"), Progress::Failed("failed on a: no; failed on b: no; failed on c: no".to_owned()));
    sim.bad.clear();
    sim.model("m").generation = 1;
    sim.settle();
    assert_eq!((sim.ready("m", None).len(), sim.plan.placements.len()), (1, 1), "a new generation is tried again");
}

#[test]
fn a_draining_worker_is_relieved_before_it_is_emptied() {
    let workers = vec![worker("a", "x", 99), worker("b", "y", 99), worker("c", "z", 99)];
    let mut sim = Sim::new(workers, vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    let leaver = sim.ready("m", None)[0].clone();
    sim.observed.workers.iter_mut().find(|w| w.id.as_str() == leaver).unwrap().draining = true;
    sim.plan();
    assert_eq!(sim.plan.placements.len(), 3, "kept until the third is ready");
    sim.settle();
    let ready = sim.ready("m", None);
    assert!(ready.len() == 2 && !ready.contains(&leaver), "{ready:?}");
    sim.observed.workers.iter_mut().for_each(|w| w.draining = true);
    sim.settle();
    assert_eq!(sim.ready("m", None), ready, "with nowhere to go they stay");
}

#[test]
fn what_runs_stays_where_it_is() {
    let mut sim = Sim::new(vec![worker("a", "x", 99), worker("b", "x", 99)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    sim.observed.workers.push(worker("c", "elsewhere", 9999));
    sim.settle();
    assert_eq!(sim.ready("m", None), ["a", "b"]);
    sim.kill(&WorkerId::new("a").unwrap());
    sim.settle();
    assert_eq!(sim.ready("m", None), ["b", "c"]);
}

#[test]
fn a_gpu_model_uses_the_gpu_and_falls_back_only_when_told() {
    let workers = || vec![worker("a", "x", 99), with_gpu(worker("b", "y", 99), 99)];
    let mut sim = Sim::new(workers(), vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.model("m").provider = ExecutionProvider::Cuda;
    sim.settle();
    let on = |sim: &Sim| sim.plan.placements.iter().map(|p| format!("{} {}", p.worker, p.device)).collect::<Vec<_>>();
    assert_eq!(on(&sim), ["b cuda:0"]);
    let mut sim = Sim::new(workers(), vec![version("m", 1, 1, 10)], vec![model("m")]);
    (sim.model("m").provider, sim.model("m").fallback) = (ExecutionProvider::Cuda, Some(ExecutionProvider::Cpu));
    sim.settle();
    assert_eq!(on(&sim), ["a cpu", "b cuda:0"]);
}

#[test]
fn an_unwanted_model_is_unloaded() {
    let mut sim = Sim::new(vec![worker("a", "x", 99)], vec![version("m", 1, 1, 10)], vec![model("m")]);
    sim.settle();
    sim.model("m").wanted = false;
    sim.plan();
    assert_eq!(progress_of(&sim, "m"), Progress::Waiting("a to unload it".to_owned()));
    sim.settle();
    sim.plan();
    assert_eq!((sim.ready("m", None).len(), progress_of(&sim, "m")), (0, Progress::Unloaded));
}
