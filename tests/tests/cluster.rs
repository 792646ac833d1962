//! The spread-out cluster: real processes, a real etcd, one part after another killed under light load.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_repository_parameter::ParameterChoice;
use proto::inference::{ModelConfigRequest, ModelRepositoryParameter, ModelStatisticsRequest, RepositoryModelLoadRequest};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use tests::{Cluster, Kit, until};
use tonic::transport::Channel;

/// Light load on `add_sub` for `seconds`, in a thread of its own; it has begun when this returns.
fn load(url: String, seconds: u64) -> Receiver<loadtest::Report> {
    load_on("add_sub", 50.0, url, seconds)
}

fn load_on(model: &'static str, rate: f64, url: String, seconds: u64) -> Receiver<loadtest::Report> {
    let ((begun_tx, begun), (tx, rx)) = (sync_channel(1), sync_channel(1));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let report = runtime.block_on(async {
            let mut client = loadtest::connect(&url).await.unwrap();
            let request = loadtest::request_of(&mut client, model, 1).await.unwrap();
            let pace = loadtest::Pace::Open(loadtest::Arrivals::Constant { rate });
            let length = Duration::from_secs(seconds);
            let load = loadtest::Load::new(loadtest::Target::grpc(&url), loadtest::Ask::of(model), pace, length);
            let (report, ()) = tokio::join!(loadtest::run(&load), async {
                client.model_infer(request).await.unwrap();
                begun_tx.send(()).unwrap();
            });
            report.unwrap()
        });
        tx.send(report).unwrap();
    });
    begun.recv_timeout(Duration::from_secs(20)).unwrap();
    rx
}

#[test]
fn i5_killing_and_restarting_any_part_but_the_gateway_costs_no_request() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub", "demo/efficientnet_lite0"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 4);
    let grpc = cluster.gateway.port("grpc").to_owned();
    let models = repository.path().to_str().unwrap();

    let workers = kit.python("conformance.py", &["good", &grpc, models]);
    assert_eq!(workers.trim(), "['w0', 'w1']", "both workers answer");
    let travelled = std::fs::read_dir(cluster.worker_dir(1).join("artifacts")).unwrap().count();
    assert_eq!(travelled, 2, "artifacts travel to the worker without a model directory");
    kit.python("conformance.py", &["worker_port", cluster.workers[1].port("data"), models]);

    let report = load(cluster.gateway.url("grpc"), 24);
    for i in [1, 0] {
        cluster.workers[i].kill();
        cluster.restart_worker(i);
        cluster.until_ready(4);
        until("both workers answer again", Duration::from_secs(20), || {
            kit.python("conformance.py", &["good", &grpc, models]).trim() == "['w0', 'w1']"
        });
    }
    cluster.controller.kill();
    cluster.restart_controller();
    cluster.etcd.kill();
    cluster.etcd.restart();
    cluster.workers[1].signal("TERM");
    assert!(cluster.workers[1].wait(Duration::from_secs(30)).success());
    cluster.restart_worker(1);
    let report = report.recv_timeout(Duration::from_secs(120)).unwrap();
    eprintln!("{report}");
    assert!(report.errors.is_empty() && report.answered == report.offered, "{report}");
    cluster.until_ready(4);
    kit.python("conformance.py", &["good", &grpc, models]);
}

#[test]
fn i5_work_that_a_killed_worker_was_doing_is_done_by_another() {
    let Some(kit) = Kit::find() else { return };
    // 100 ms a run and 10 a second: whenever a worker is killed, it is at work.
    let repository = kit.repository(&["test/slow"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    for i in [1, 0] {
        // One death a load: each request has one retry.
        let report = load_on("slow", 10.0, cluster.gateway.url("grpc"), 5);
        cluster.workers[i].kill();
        cluster.restart_worker(i);
        cluster.until_ready(2);
        let report = report.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(report.errors.is_empty() && report.answered == report.offered, "worker {i}: {report}");
    }
}

#[test]
fn i5_a_runner_that_dies_costs_no_request_and_its_worker_serves_again() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/slow"]);
    let cluster = Cluster::start(&kit, repository.path(), 2);
    for worker in &cluster.workers {
        let runners = worker.children();
        assert_eq!(runners.len(), 1, "one runner, of the processor: {runners:?}");
        let report = load_on("slow", 10.0, cluster.gateway.url("grpc"), 4);
        assert!(std::process::Command::new("kill").args(["-KILL", &runners[0]]).status().unwrap().success());
        until("another runner is there", Duration::from_secs(10), || worker.children().first().is_some_and(|new| *new != runners[0]));
        cluster.until_ready(2);
        let report = report.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(report.errors.is_empty() && report.answered == report.offered, "{report}");
        assert!(worker.log().contains("it was killed (signal 9)"), "{}", worker.log());
    }
}

#[test]
fn i5_large_requests_go_on_to_a_worker_as_they_come_and_once_more_when_it_dies() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/identity_fp32"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    let grpc = cluster.gateway.port("grpc").to_owned();
    kit.python("conformance.py", &["large", &grpc, ""]);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| kit.python("conformance.py", &["large_on_and_on", &grpc, ""]));
        for i in [1, 0] {
            cluster.workers[i].kill();
            cluster.restart_worker(i);
            cluster.until_ready(2);
        }
        let count: usize = sending.join().unwrap().trim().parse().unwrap();
        assert!(count > 10, "{count}");
    });
}

#[test]
fn a_cluster_started_before_its_etcd_serves_once_etcd_is_there() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let mut cluster = Cluster::without_etcd(&kit, repository.path());
    for worker in &cluster.workers {
        until("a worker says that etcd is away", Duration::from_secs(20), || worker.log().contains("etcd is away"));
    }
    kit.python("conformance.py", &["nothing_known", cluster.gateway.port("grpc"), ""]);
    cluster.etcd.restart();
    cluster.gateway.line("ready:");
    cluster.until_ready(2);
    let report = load(cluster.gateway.url("grpc"), 1).recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(report.errors.is_empty() && report.answered > 0, "{report}");
}

#[test]
fn i2_without_etcd_gateways_serve_and_a_new_one_starts_from_its_snapshot() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    let idle = cluster.gateway.bytes_resident();
    assert!(idle <= 40 << 20, "an idle gateway holds {idle} bytes");
    until("the snapshot has both replicas", Duration::from_secs(20), || {
        std::fs::read_to_string(cluster.snapshot()).is_ok_and(|s| s.matches("\"state\":\"ready\"").count() == 2)
    });
    cluster.etcd.kill();
    let second = cluster.second_gateway();
    second.line("ready:");
    for gateway in [&cluster.gateway, &second] {
        let report = load(gateway.url("grpc"), 3).recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(report.errors.is_empty() && report.answered > 0, "{report}");
    }
    // The dead are still noticed: nobody but the connection says so now.
    cluster.workers[0].kill();
    let report = load(second.url("grpc"), 3).recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(report.errors.is_empty(), "{report}");
    cluster.etcd.restart();
}

#[test]
fn i4_a_dead_worker_is_left_out_long_before_its_lease_ends() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    cluster.workers[1].kill();
    let killed = Instant::now();
    let report = load(cluster.gateway.url("grpc"), 3).recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(report.errors.is_empty(), "{report}");
    let records = cluster.replicas();
    assert!(killed.elapsed() < Duration::from_secs(14), "the lease of 15 s still stands");
    assert!(records.iter().any(|r| r["worker"] == "w1"), "its record is still there, and yet nothing failed");
}

#[test]
fn killing_the_gateway_fails_only_what_was_in_flight() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    let second = cluster.second_gateway();
    second.line("ready:");
    let doomed = load(cluster.gateway.url("grpc"), 3);
    let other = load(second.url("grpc"), 3);
    cluster.gateway.kill();
    let report = other.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(report.errors.is_empty(), "{report}");
    let report = doomed.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(report.offered, report.answered + report.errors.values().sum::<u64>(), "every request ended");
}

#[test]
fn i6_a_provider_that_is_not_there_is_an_error_unless_a_fallback_is_allowed() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let cluster = Cluster::start(&kit, repository.path(), 2);
    let wanted = repository.path().join("wanted.toml");
    let apply = |text: &str| {
        std::fs::write(&wanted, text).unwrap();
        kit.run(&["apply", "-f", wanted.to_str().unwrap(), "--wait", "30", "--server", &cluster.gateway.url("admin")])
    };
    let (code, said, error) = apply("[[model]]\nname = \"add_sub\"\nprovider = \"cuda\"\n");
    assert!(code == 1 && said.contains("add_sub: failed") && said.contains("cuda"), "{said}{error}");
    assert!(cluster.replicas().iter().all(|r| r["state"] != "ready" || r["provider"] == "cpu"), "nothing claims what it is not");
    let (code, said, error) = apply("[[model]]\nname = \"add_sub\"\nprovider = \"cuda\"\nfallback = \"cpu\"\n");
    assert!(code == 0, "{said}{error}");
    until("a replica says that it fell back", Duration::from_secs(30), || {
        cluster
            .replicas()
            .iter()
            .any(|r| r["state"] == "ready" && r["provider"] == "cpu" && r["fallback"].as_str().is_some_and(|f| !f.is_empty()))
    });
}

/// Does `work` with a client of `url`.
fn ask<T>(url: &str, work: impl AsyncFnOnce(GrpcInferenceServiceClient<Channel>) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { work(loadtest::connect(url).await.unwrap()).await })
}

/// Asks `add_sub` so often, then gives the cluster's count of rows.
fn count_after(url: &str, requests: usize) -> u64 {
    ask(url, async |mut client| {
        let request = loadtest::request_of(&mut client, "add_sub", 1).await.unwrap();
        for _ in 0..requests {
            client.model_infer(request.clone()).await.unwrap();
        }
        let of_model = ModelStatisticsRequest { name: "add_sub".into(), version: String::new() };
        client.model_statistics(of_model).await.unwrap().into_inner().model_stats[0].inference_count
    })
}

#[test]
fn statistics_are_the_clusters_and_do_not_shrink_when_a_worker_dies() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    let url = cluster.gateway.url("grpc");
    until("the gateway routes to both", Duration::from_secs(20), || {
        std::fs::read_to_string(cluster.snapshot()).is_ok_and(|s| s.matches("\"state\":\"ready\"").count() == 2)
    });
    assert_eq!(count_after(&url, 60), 60);
    cluster.workers[1].kill();
    assert_eq!(count_after(&url, 0), 60, "what the dead one counted is still in the sum");
    assert_eq!(count_after(&url, 15), 75);
}

#[test]
fn files_of_a_load_call_reach_every_worker_and_bad_ones_change_nothing() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let cluster = Cluster::start(&kit, repository.path(), 2);
    let file = std::fs::read(kit.models.join("test/identity_fp32/1/model.onnx")).unwrap();
    let load = |bytes: Vec<u8>| {
        let parameter = |choice| ModelRepositoryParameter { parameter_choice: Some(choice) };
        let config = parameter(ParameterChoice::StringParam("{\"max_batch_size\": 2}".into()));
        let file = parameter(ParameterChoice::BytesParam(bytes.into()));
        let parameters = [("config".to_owned(), config), ("file:7/model.onnx".to_owned(), file)].into();
        let request = RepositoryModelLoadRequest { model_name: "given".into(), parameters, ..Default::default() };
        ask(&cluster.gateway.url("grpc"), async |mut client| client.repository_model_load(request).await.map(drop))
    };
    load(file).unwrap();
    let replicas = || cluster.replicas().into_iter().filter(|r| r["variant"] == "given:7:fp32@ort" && r["state"] == "ready").count();
    until("both workers serve it", Duration::from_secs(60), || replicas() == 2);
    let refused = load(b"not a model".to_vec()).unwrap_err();
    assert!(refused.message().contains("failed to load") && refused.message().contains("not an ONNX file"), "{refused}");
    assert_eq!(replicas(), 2, "what was served before is served on");
    let config = ask(&cluster.gateway.url("grpc"), async |mut client| {
        let request = ModelConfigRequest { name: "given".into(), version: String::new() };
        client.model_config(request).await.unwrap().into_inner().config.unwrap()
    });
    assert_eq!((config.name.as_str(), config.max_batch_size), ("given", 2));
}

#[test]
fn a_changed_configuration_reaches_the_replicas_of_every_worker() {
    let Some(kit) = Kit::find() else { return };
    let repository = tempfile::tempdir().unwrap();
    kit.add(repository.path(), "pair", "test/add_sub/1/model.onnx");
    let mut cluster = Cluster::start(&kit, repository.path(), 2);
    std::fs::write(repository.path().join("pair/config.pbtxt"), "max_batch_size: 7").unwrap();
    cluster.workers[0].signal("TERM");
    assert!(cluster.workers[0].wait(Duration::from_secs(30)).success());
    cluster.restart_worker(0);
    until("both workers loaded it anew", Duration::from_secs(60), || {
        cluster.replicas().iter().filter(|r| r["state"] == "ready" && r["generation"].as_u64() >= Some(1)).count() == 2
    });
    ask(&cluster.gateway.url("grpc"), async |mut client| {
        let request = loadtest::request_of(&mut client, "pair", 7).await.unwrap();
        for _ in 0..20 {
            client.model_infer(request.clone()).await.unwrap();
        }
    });
}
