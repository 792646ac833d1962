//! Stock clients of four languages against `sluice up`, call by call, and the table of what works: `docs/compatibility.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::compat::{Cases, parse, render};
use tests::{Kit, Sluice};

const TABLE: &str = "../docs/compatibility.md";
/// Set to write the table instead of comparing it.
const BLESS: &str = "SLUICE_BLESS";

/// A server of the models that the scripts expect.
struct Server {
    kit: Kit,
    up: Sluice,
    repository: tempfile::TempDir,
}

impl Server {
    fn start(kit: Kit, args: &[&str]) -> Self {
        let repository = tempfile::tempdir().unwrap();
        kit.python("make_repository.py", &[repository.path().to_str().unwrap()]);
        let up = Sluice::up(&kit, repository.path(), args);
        Self { kit, up, repository }
    }

    /// Runs a client's script to its end.
    fn ask(&self, mut command: Command, more: &[&str]) -> Cases {
        let repository = self.repository.path().to_str().unwrap();
        command.args(["--grpc", self.up.port("grpc"), "--http", self.up.port("http"), "--repo", repository]).args(more);
        command.env("SLUICE_PERF_ANALYZER", &self.kit.perf_analyzer).env("NODE_PATH", &self.kit.node_modules);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        parse(&said).unwrap_or_else(|e| panic!("{command:?}: {e}\n{said}{}", String::from_utf8_lossy(&output.stderr)))
    }

    fn python(&self, script: &str, more: &[&str]) -> Cases {
        let mut command = Command::new(&self.kit.python);
        command.arg("-B").arg(here("py/clients").join(script));
        self.ask(command, more)
    }
}

/// A file beside this test's crate.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn program(path: impl AsRef<Path>) -> Command {
    Command::new(path.as_ref())
}

/// The client generated from our own protocol files with Debian's gRPC.
fn cpp(kit: &Kit, folder: &Path) -> Command {
    let output = Command::new(here("cpp/build.sh")).arg(&kit.grpc_cpp).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program(folder.join("client"))
}

#[test]
fn every_call_of_every_stock_client_works_as_the_table_says() {
    let Some(kit) = Kit::find() else { return };
    let built = tempfile::tempdir().unwrap();
    let cpp = cpp(&kit, built.path());
    let server = Server::start(kit, &["--allow-client-shm"]);
    let mut node = program("node");
    node.arg(here("js/client.js"));
    let mut clients: BTreeMap<String, Cases> = BTreeMap::new();
    let mut add = |name: &str, cases: Cases| drop(clients.insert(name.to_owned(), cases));
    for (name, script, more) in [
        ("tritonclient.grpc", "triton_grpc.py", &["--shm"][..]),
        ("tritonclient.grpc.aio", "triton_grpc_aio.py", &["--shm"]),
        ("tritonclient.http", "triton_http.py", &["--shm"]),
        ("tritonclient.http.aio", "triton_http_aio.py", &["--shm"]),
        ("kserve (gRPC)", "kserve_client.py", &["--transport", "grpc"]),
        ("kserve (REST)", "kserve_client.py", &["--transport", "http"]),
        ("perf_analyzer", "perf.py", &[]),
        ("schemathesis", "schema.py", &[]),
    ] {
        add(name, server.python(script, more));
    }
    add("@grpc/grpc-js", server.ask(node, &[]));
    add("C++ (grpc++)", server.ask(cpp, &[]));
    add("curl", server.ask(program(here("sh/curl.sh")), &[]));
    let failed: Vec<String> = clients
        .iter()
        .flat_map(|(client, cases)| cases.iter().map(move |(case, said)| (client, case, said)))
        .filter_map(|(client, case, said)| said.as_ref().err().map(|why| format!("{client}, {case}: {why}")))
        .collect();
    let table = format!(
        "# Compatibility\n\n\
         Which calls of which stock clients work against `sluice up`. Made by `cargo xtask test` (`tests/tests/clients.rs`), which fails\n\
         when this table is not what it sees. ✓ works; – this client was not asked for the call.\n\n{}",
        render(&clients)
    );
    if std::env::var_os(BLESS).is_some() {
        std::fs::create_dir_all(here(TABLE).parent().unwrap()).unwrap();
        std::fs::write(here(TABLE), &table).unwrap();
    }
    assert!(failed.is_empty(), "{}\nlog of the server:\n{}", failed.join("\n"), server.up.log());
    let kept = std::fs::read_to_string(here(TABLE)).unwrap_or_default();
    assert!(
        kept == table,
        "docs/compatibility.md is not what was seen; write it anew with {BLESS}=1 cargo xtask test -p tests -- stock_client"
    );
}

#[test]
fn a_picture_is_the_tensor_that_opencv_makes_of_it() {
    let Some(kit) = Kit::find() else { return };
    let server = Server::start(kit, &[]);
    let photos = ["cat.png", "coffee.png", "camera.png", "rocket.jpg"].map(|photo| server.kit.photos.join(photo));
    let models = server.repository.path().to_str().unwrap();
    for model in ["picture_stretch", "picture_cover", "picture_crop", "image"] {
        let mut args = vec![server.up.port("grpc"), model, models];
        args.extend(photos.iter().map(|photo| photo.to_str().unwrap()));
        eprintln!("{model}\n{}", server.kit.python("images.py", &args));
    }
}

#[test]
fn tensors_in_a_clients_shared_memory_are_read_and_written_there() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let up = Sluice::up(&kit, repository.path(), &["--allow-client-shm"]);
    for protocol in ["grpc", "http"] {
        let said = kit.python("shm.py", &[protocol, up.port(protocol), "add_sub"]);
        assert!(!said.is_empty() && said.lines().all(|line| line.ends_with("\tok")), "{said}");
    }
    let models = repository.path().to_str().unwrap();
    let (code, _, said) = kit.run(&[
        "up",
        "--models",
        models,
        "--http",
        "0.0.0.0:0",
        "--grpc",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--allow-client-shm",
    ]);
    assert!(code == 1 && said.contains("--allow-client-shm needs --http and --grpc on loopback"), "{said}");
}
