//! `sluice up` and stock clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

use std::time::{Duration, Instant};
use tests::{Kit, Sluice, until};

const TEST_MODELS: [&str; 9] = [
    "test/add_sub",
    "test/no_batch",
    "test/identity_fp32",
    "test/identity_fp16",
    "test/identity_int64",
    "test/identity_uint8",
    "test/identity_bool",
    "test/identity_string",
    "test/slow",
];

/// Starts `up` over `models` and runs the cases of the Python clients against it.
fn conforms(models: &[&str], cases: &[&str]) {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(models);
    let mut up = Sluice::up(&kit, repository.path(), &[]);
    for case in cases {
        kit.python("conformance.py", &[case, up.port("grpc"), repository.path().to_str().unwrap()]);
    }
    assert!(up.runs());
}

#[test]
fn answers_are_those_of_the_runtime_in_this_process() {
    conforms(&[&TEST_MODELS[..], &["demo/efficientnet_lite0", "demo/minilm_l6", "demo/silero_vad"]].concat(), &["answers"]);
}

#[test]
fn what_sluice_toml_allows_gives_the_answers_of_the_runtime() {
    let Some(kit) = Kit::find() else { return };
    let repository = tempfile::tempdir().unwrap();
    let model = |name: &str, of: &str, rules: &str| {
        let folder = repository.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(kit.models.join(of).join("1"), folder.join("1")).unwrap();
        std::fs::write(folder.join("sluice.toml"), rules).unwrap();
    };
    model("add_sub", "test/add_sub", "max_batch_size = 4\nsplit = true\n");
    let input = |name: &str| format!("{{ name = \"{name}\", dim = 1, value = 0 }}");
    let padding = format!("inputs = [{}, {}]", input("input_ids"), input("attention_mask"));
    model("minilm_l6", "demo/minilm_l6", &format!("instances = 1\nmax_batch_size = 8\n[padding]\n{padding}\noutputs = []\n"));
    let up = Sluice::up(&kit, repository.path(), &[]);
    for case in ["split", "padding"] {
        kit.python("conformance.py", &[case, up.port("grpc"), repository.path().to_str().unwrap()]);
    }
}

#[test]
fn a_model_nobody_asks_for_goes_and_comes_back_for_the_next_request() {
    const REQUESTS: usize = 50;
    let Some(kit) = Kit::find() else { return };
    let repository = tempfile::tempdir().unwrap();
    let folder = repository.path().join("add_sub");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(kit.models.join("test/add_sub/1"), folder.join("1")).unwrap();
    std::fs::write(folder.join("sluice.toml"), "idle_s = 1\n").unwrap();
    let up = Sluice::up(&kit, repository.path(), &[]);
    let (grpc, admin) = (up.url("grpc"), up.url("admin"));
    let get = |kind: &str| -> Vec<serde_json::Value> {
        let (_, said, error) = kit.run(&["get", kind, "add_sub", "-o", "json", "--server", &admin]);
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{kind}: {e}: {said}{error}"))
    };
    // Twenty loads, the time until the gateway calls it quiet, and the next plan.
    let sleeps = || {
        until("nobody asks and it has gone", Duration::from_secs(120), || {
            let (_, replicas, _) = kit.run(&["get", "replicas", "-o", "json", "--server", &admin]);
            get("plan").iter().any(|plan| plan["idle"]["rest"] == "asleep") && !replicas.contains("add_sub")
        });
    };
    sleeps();
    let (_, said, _) = kit.run(&["get", "models", "--server", &admin]);
    assert!(said.lines().any(|line| line.starts_with("add_sub") && line.contains("asleep")), "{said}");
    assert!(http_get(up.port("admin"), "/readyz").contains("200 OK"), "nothing is missing");
    kit.python("conformance.py", &["woken", up.port("grpc"), repository.path().to_str().unwrap()]);
    sleeps();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = loadtest::connect(&grpc).await.unwrap();
        let request = loadtest::request_of(&mut client, "add_sub", 1).await.unwrap();
        let ask = |_| {
            let (mut client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.model_infer(request).await.map(drop) })
        };
        for answer in (0..REQUESTS).map(ask).collect::<Vec<_>>() {
            answer.await.unwrap().unwrap();
        }
    });
    sleeps();
    assert_eq!(kit.run(&["model", "load", "add_sub", "--server", &admin]).0, 0, "who loads it waits for it and is not left waiting");
}

#[test]
fn every_way_to_ask_gets_the_same_answer() {
    conforms(&["test/add_sub", "test/identity_fp32"], &["ways_to_ask"]);
}

#[test]
fn i5_a_stream_answers_each_of_its_requests_once() {
    conforms(&["test/add_sub"], &["stream"]);
}

#[test]
fn health_and_reflection_tell_what_is_served() {
    conforms(&["test/add_sub", "test/no_batch"], &["health_and_reflection"]);
}

#[test]
fn metadata_load_and_unload_work_as_in_triton() {
    conforms(&["test/add_sub"], &["metadata_and_control"]);
}

#[test]
fn i5_a_load_that_fails_changes_nothing_of_what_is_served() {
    conforms(&["test/add_sub"], &["failed_reload"]);
}

#[test]
fn i5_unloading_a_model_in_use_answers_what_was_taken() {
    conforms(&["test/slow"], &["unload_in_use"]);
}

#[test]
fn i7_a_deadline_is_an_answer() {
    conforms(&["test/slow"], &["deadline"]);
}

#[test]
fn bad_requests_get_a_clear_error_and_nothing_else_suffers() {
    conforms(&["test/add_sub", "test/identity_fp32", "test/identity_string"], &["bad_input"]);
}

#[test]
fn the_command_line_shows_loads_and_asks() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["demo/efficientnet_lite0", "test/add_sub"]);
    let up = Sluice::up(&kit, repository.path(), &[]);
    let (grpc, admin) = (up.url("grpc"), up.url("admin"));
    let coffee = kit.photos.join("coffee.png");
    let ask = ["infer", "efficientnet_lite0", "--grpc", &grpc, "--server", &admin];
    let (code, said, error) = kit.run(&[&ask[..], &["--image", coffee.to_str().unwrap(), "--top", "1"]].concat());
    assert!(code == 0 && said.contains("espresso") && said.contains("fp32@ort on local"), "{said}{error}");
    let (code, _, error) = kit.run(&[&ask[..], &["--image", repository.path().join("add_sub/1/model.onnx").to_str().unwrap()]].concat());
    assert!(code == 1 && error.contains("neither JPEG nor PNG"), "{error}");
    for kind in ["models", "variants", "workers", "replicas", "placements"] {
        let (code, said, error) = kit.run(&["get", kind, "-o", "json", "--server", &admin]);
        let records: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{kind}: {e}: {said}{error}"));
        assert!(code == 0 && !records.is_empty(), "{kind}: {error}");
        assert_eq!(kit.run(&["get", kind, "--server", &admin]).0, 0);
    }
    let wanted = repository.path().join("wanted.toml");
    std::fs::write(&wanted, "[[model]]\nname = \"add_sub\"\ninstances = 1\n").unwrap();
    let (code, said, error) = kit.run(&["apply", "-f", wanted.to_str().unwrap(), "--server", &admin]);
    assert!(code == 0 && said.contains("add_sub: ready"), "{said}{error}");
    let (_, said, _) = kit.run(&["get", "replicas", "-o", "json", "--server", &admin]);
    let replicas: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    assert_eq!(replicas.iter().find(|r| r["variant"] == "add_sub:1:fp32@ort").unwrap()["instances"], 1);
    std::fs::write(&wanted, "[[model]]\nname = \"add_sub\"\nreplicsa = 1\n").unwrap();
    let (code, _, error) = kit.run(&["apply", "-f", wanted.to_str().unwrap(), "--server", &admin]);
    assert!(code != 0 && error.contains("`replicsa`") && error.contains("`replicas`"), "{error}");
    std::fs::write(&wanted, "[[model]]\nname = \"nope\"\n").unwrap();
    let (code, said, error) = kit.run(&["apply", "-f", wanted.to_str().unwrap(), "--server", &admin]);
    assert!(code == 1 && said.contains("nope: failed"), "{said}{error}");
    assert_eq!(kit.run(&["model", "unload", "add_sub", "--server", &admin]).0, 0);
    assert_eq!(kit.run(&["model", "load", "add_sub", "--server", &admin]).0, 0);
    assert_eq!(kit.run(&["get", "nothing"]).0, 2, "wrong usage");
    let (code, _, error) = kit.run(&["get", "models", "--server", "http://127.0.0.1:1"]);
    assert!(code == 1 && error.contains("nothing answers at http://127.0.0.1:1"), "{error}");
}

#[test]
fn a_second_start_validates_nothing_again_and_remembers_what_was_applied() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub", "test/no_batch", "test/identity_fp32"]);
    let data = tempfile::tempdir().unwrap();
    let mut first = Sluice::up_in(&kit, repository.path(), data.path(), &[]);
    assert!(first.log().contains("validating a new artifact"));
    assert_eq!(kit.run(&["model", "unload", "no_batch", "--server", &first.url("admin")]).0, 0);
    first.signal("INT");
    let stopping = Instant::now();
    assert!(first.wait(Duration::from_secs(10)).success());
    eprintln!("stopped in {:?}", stopping.elapsed());
    let starting = Instant::now();
    let second = Sluice::up_in(&kit, repository.path(), data.path(), &[]);
    eprintln!("second start: ready in {:?}", starting.elapsed());
    assert!(!second.log().contains("validating a new artifact"));
    let (_, said, _) = kit.run(&["get", "models", "no_batch", "-o", "json", "--server", &second.url("admin")]);
    assert!(said.contains("\"wanted\": false"), "{said}");
    // A model taken out of the directory is forgotten.
    drop(second);
    std::fs::remove_file(repository.path().join("identity_fp32")).unwrap();
    let third = Sluice::up_in(&kit, repository.path(), data.path(), &[]);
    let (_, said, _) = kit.run(&["get", "variants", "-o", "json", "--server", &third.url("admin")]);
    assert!(!said.contains("identity_fp32") && said.contains("add_sub"), "{said}");
}

#[test]
fn sigterm_under_load_answers_what_was_taken_and_exits_with_zero() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/slow"]);
    let mut up = Sluice::up(&kit, repository.path(), &[]);
    let url = up.url("grpc");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let load = std::thread::spawn(move || runtime.block_on(slow_load(&url, Duration::from_secs(4))));
    until("requests are running", Duration::from_secs(20), || metric(&up, "in_flight_bytes") > 0.0);
    up.signal("TERM");
    assert!(up.wait(Duration::from_secs(30)).success());
    let report = load.join().unwrap();
    assert!(report.answered > 0, "{report}");
    // After the end a client finds nobody; before it nothing was dropped or broken.
    for error in report.errors.keys() {
        assert!(error.starts_with("Unavailable") || error.starts_with("connection: Connection refused"), "{report}");
    }
}

#[test]
fn i5_whatever_was_taken_before_sigterm_is_answered() {
    const REQUESTS: usize = 24;
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/slow"]);
    let mut up = Sluice::up(&kit, repository.path(), &[]);
    let (url, runtime) = (up.url("grpc"), tokio::runtime::Runtime::new().unwrap());
    let (sent, answers) = runtime.block_on(async {
        let mut client = loadtest::connect(&url).await.unwrap();
        let request = loadtest::request_of(&mut client, "slow", 1).await.unwrap();
        let bytes: usize = request.raw_input_contents.iter().map(|raw| raw.len()).sum();
        let ask = |_| {
            let (mut client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.model_infer(request).await.map(drop) })
        };
        (bytes, (0..REQUESTS).map(ask).collect::<Vec<_>>())
    });
    let done = || answers.iter().filter(|answer| answer.is_finished()).count();
    until("all were taken", Duration::from_secs(20), || {
        let done = done(); // first, so that one that ends in between is missed and not counted twice
        done < REQUESTS / 2 && done + metric(&up, "in_flight_bytes") as usize / sent >= REQUESTS
    });
    up.signal("TERM");
    assert!(up.wait(Duration::from_secs(30)).success());
    for answer in answers {
        runtime.block_on(answer).unwrap().unwrap();
    }
}

#[test]
fn open_streams_on_which_nothing_happens_do_not_hold_up_a_stop() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let mut up = Sluice::up(&kit, repository.path(), &[]);
    let _silent = std::net::TcpStream::connect(up.port("grpc")).unwrap(); // a probe that says nothing is no reason to wait either
    kit.python("conformance.py", &["stop_with_open_streams", up.port("grpc"), "", &up.id()]);
    assert!(up.wait(Duration::from_secs(10)).success());
}

async fn slow_load(url: &str, duration: Duration) -> loadtest::Report {
    let pace = loadtest::Pace::Open(loadtest::Arrivals::Constant { rate: 8.0 });
    let load = loadtest::Load::new(loadtest::Target::grpc(url), loadtest::Ask::of("slow"), pace, duration);
    loadtest::run(&load).await.unwrap()
}

/// A gauge of the gateway, read as a monitor would.
fn metric(up: &Sluice, name: &str) -> f64 {
    let text = http_get(up.port("admin"), "/metrics");
    let line = text.lines().find(|l| l.starts_with(&format!("sluice_gateway_{name} ")));
    line.and_then(|l| l.rsplit(' ').next()).and_then(|v| v.parse().ok()).unwrap_or(0.0)
}

fn http_get(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_admin_port_tells_liveness_readiness_and_metrics() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let up = Sluice::up(&kit, repository.path(), &[]);
    assert!(http_get(up.port("admin"), "/livez").contains("200 OK"));
    assert!(http_get(up.port("admin"), "/readyz").contains("200 OK"));
    assert!(http_get(up.port("admin"), "/metrics").contains("sluice_gateway_requests_success_total"));
}

/// Cores that each engine thread of process `pid` may run on.
fn cores_of_engines(pid: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| task.path());
    let engines = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("sluice-engine")));
    let status = engines.filter_map(|task| std::fs::read_to_string(task.join("status")).ok());
    let mut cores: Vec<_> =
        status.filter_map(|text| Some(text.split_once("Cpus_allowed_list:")?.1.lines().next()?.trim().to_owned())).collect();
    cores.sort();
    cores
}

#[test]
fn instances_keep_to_cores_of_their_own_where_that_is_asked_for() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/slow"]);
    let any = std::fs::read_to_string("/proc/self/status").unwrap();
    let any = any.split_once("Cpus_allowed_list:").unwrap().1.lines().next().unwrap().trim().to_owned();
    for (isolation, bound) in [("none", false), ("none", true), ("process", true)] {
        let flags = ["--isolation", isolation, "--bind-cores"];
        let up = Sluice::up(&kit, repository.path(), if bound { &flags } else { &flags[..2] });
        let engines = || match isolation {
            "none" => cores_of_engines(&up.id()),
            _ => up.children().iter().flat_map(|child| cores_of_engines(child)).collect(),
        };
        let alone = std::thread::available_parallelism().unwrap().get() == 1;
        until("its engine threads are bound", Duration::from_secs(10), || {
            let (cores, mut distinct) = (engines(), engines());
            distinct.dedup();
            !cores.is_empty() && cores.iter().all(|cores| alone || (*cores == any) != bound) && (!bound || cores == distinct)
        });
    }
}

/// An open HTTP/2 connection on which nothing happens. Its task ends when the server closes it.
struct Idle {
    _sender: h2::client::SendRequest<&'static [u8]>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Idle {
    /// Connects from the address `from`, and makes sure that somebody serves it.
    async fn open(from: &str, to: std::net::SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let (_sender, mut connection) = h2::client::Builder::new().handshake(socket.connect(to).await.unwrap()).await.unwrap();
        let mut ping = connection.ping_pong().unwrap();
        let connection = tokio::spawn(connection);
        ping.ping(h2::Ping::opaque()).await.unwrap();
        Self { _sender, connection }
    }
}

/// Lets this process have as many descriptors as this, or as it may.
fn descriptors(count: Option<u64>) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: count.or(maximum), maximum }).unwrap();
    maximum
}

#[test]
fn beside_ten_thousand_idle_connections_a_request_is_answered_and_each_costs_little() {
    const CONNECTIONS: usize = 10_000;
    const NEEDED: u64 = CONNECTIONS as u64 + 500;
    const BYTES_MAX: u64 = 32 << 10; // 17 KiB were measured, most of them h2's and hyper's tables and buffers of a connection
    let Some(kit) = Kit::find() else { return };
    if descriptors(Some(1_024)).is_some_and(|most| most < NEEDED) {
        return eprintln!("not run: needs {NEEDED} descriptors");
    }
    let repository = kit.repository(&["test/add_sub"]);
    let up = Sluice::up(&kit, repository.path(), &[]); // with the few descriptors that a process usually begins with
    descriptors(None);
    let descriptors_of_up = || std::fs::read_dir(format!("/proc/{}/fd", up.id())).unwrap().count();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = loadtest::connect(&up.url("grpc")).await.unwrap();
        let request = loadtest::request_of(&mut client, "add_sub", 1).await.unwrap();
        client.model_infer(request.clone()).await.unwrap();
        let (bytes, few, to) = (up.bytes_resident(), descriptors_of_up(), up.port("grpc").parse().unwrap());
        let opening = Instant::now();
        // Neither address has more than one may have.
        let open = async |from| {
            let mut open = Vec::new();
            while open.len() < CONNECTIONS / 4 {
                open.push(Idle::open(from, to).await);
            }
            open
        };
        let all = async { tokio::join!(open("127.0.0.2"), open("127.0.0.3"), open("127.0.0.2"), open("127.0.0.3")) };
        let (a, b, c, d) = tokio::time::timeout(Duration::from_secs(60), all).await.expect("all are served");
        let idle: Vec<Idle> = [a, b, c, d].into_iter().flatten().collect();
        let each = up.bytes_resident().saturating_sub(bytes) / CONNECTIONS as u64;
        eprintln!("{} connections in {:?}, {each} bytes each", idle.len(), opening.elapsed());
        for _ in 0..20 {
            let asked = Instant::now();
            client.model_infer(request.clone()).await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        }
        assert!(each < BYTES_MAX, "{each} bytes of memory for each");
        assert!(idle.iter().all(|idle| !idle.connection.is_finished()), "the server closed some");
        assert!(descriptors_of_up() >= few + CONNECTIONS);
        drop(idle);
        until("their descriptors are given back", Duration::from_secs(20), || descriptors_of_up() < few + 10);
    });
}
