//! Bad models, bad settings, a machine that lacks something: a clear error, the right exit code, nothing left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::{Kit, Sluice};

/// Runs `sluice up` with `args` until it ends by itself; wants exit code 1 and all of `needles` in what it says.
fn refuses(kit: &Kit, args: &[&str], code: i32, needles: &[&str]) {
    let (got, _, said) = kit.run(&[&["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"][..], args].concat());
    assert_eq!(got, code, "{said}");
    for needle in needles {
        assert!(said.to_lowercase().contains(&needle.to_lowercase()), "{needle:?} in:\n{said}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn bad_models_are_named_with_their_reason_and_the_good_one_serves() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let dir = repository.path();
    for name in ["truncated", "unsupported_op", "external_outside", "external_absolute", "crash", "hang", "memory_bomb"] {
        kit.add(dir, name, &format!("bad/{name}.onnx"));
    }
    kit.add(dir, "crash_at_run", "bad/crash_at_run.onnx");
    kit.add(dir, "external_ok", "bad/external_ok/model.onnx");
    std::fs::copy(kit.models.join("bad/external_ok/weights.bin"), dir.join("external_ok/1/weights.bin")).unwrap();
    std::fs::create_dir_all(dir.join("empty")).unwrap();
    std::fs::create_dir_all(dir.join("hollow/1")).unwrap();
    let mut up = Sluice::up(&kit, dir, &["--validate-seconds", "8", "--validate-memory-mb", "2048"]);
    kit.python("conformance.py", &["metadata_and_control", up.port("grpc"), text(dir)]);
    let (_, said, _) = kit.run(&["get", "variants", "-o", "json", "--server", &up.url("admin")]);
    let variants: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    let reason = |name: &str| {
        let found = variants.iter().find(|v| v["variant"].as_str().unwrap().starts_with(&format!("{name}:"))).unwrap();
        found["validation"]["reason"].as_str().unwrap_or_default().to_owned()
    };
    let expected = [
        ("truncated", "not all of it"),
        ("unsupported_op", "NoSuchOperator"),
        ("external_outside", ".."),
        ("external_absolute", "absolute"),
        ("crash", "crashed"),
        ("hang", "8 s"),
        ("memory_bomb", "2048 MiB"),
    ];
    for (name, needle) in expected {
        assert!(reason(name).to_lowercase().contains(&needle.to_lowercase()), "{name}: {:?}", reason(name));
    }
    // External data beside its model is no fault, and neither is a crash on inputs that nobody has sent.
    let (_, said, _) = kit.run(&["get", "replicas", "-o", "json", "--server", &up.url("admin")]);
    let replicas: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    let mut ready: Vec<_> = replicas.iter().filter(|r| r["state"] == "ready").map(|r| r["variant"].as_str().unwrap()).collect();
    ready.sort_unstable();
    assert_eq!(ready, ["add_sub:1:fp32@ort", "crash_at_run:1:fp32@ort", "external_ok:1:fp32@ort"]);
    assert!(up.log().contains("has no version") && up.log().contains("has no model.onnx"), "{}", up.log());
    assert!(up.runs());
}

#[test]
fn what_is_missing_or_taken_is_said_before_anything_is_loaded() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let (models, data) = (text(repository.path()), tempfile::tempdir().unwrap());
    let data_dir = text(data.path());
    refuses(&kit, &["--models", "/nowhere", "--data-dir", data_dir], 1, &["--models /nowhere", "No such file"]);
    let none = ["--models", models, "--data-dir", data_dir, "--onnxruntime", "/nowhere/libonnxruntime.so"];
    refuses(&kit, &none, 1, &["/nowhere/libonnxruntime.so", "cargo xtask fetch"]);
    let wrong = data.path().join("libonnxruntime.so");
    std::fs::write(&wrong, b"not a library").unwrap();
    refuses(&kit, &["--models", models, "--data-dir", data_dir, "--onnxruntime", text(&wrong)], 1, &["cargo xtask fetch"]);
    // A library, and not the right one: whatever this test's own process has for mathematics.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let other = maps.split_whitespace().find(|part| part.contains("libc.so") || part.contains("libm.so")).unwrap();
    refuses(&kit, &["--models", models, "--data-dir", data_dir, "--onnxruntime", other], 1, &[other, "OrtGetApiBase", "cargo xtask fetch"]);
    let old = old_library(data.path());
    refuses(&kit, &["--models", models, "--data-dir", data_dir, "--onnxruntime", text(&old)], 1, &["1.20.1", "1.24", "cargo xtask fetch"]);
    let no_openvino = ["--models", models, "--data-dir", data_dir, "--openvino", "/nowhere/libopenvino_c.so"];
    refuses(&kit, &no_openvino, 1, &["/nowhere/libopenvino_c.so", "openvino is not installed", "cargo xtask fetch"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, said) =
        kit.run(&["up", "--models", models, "--data-dir", data_dir, "--http", "127.0.0.1:0", "--grpc", &address, "--admin", "127.0.0.1:0"]);
    assert!(code == 1 && said.contains(&format!("--grpc {address} cannot be bound")), "{said}");
    let file = data.path().join("file");
    std::fs::write(&file, b"").unwrap();
    refuses(&kit, &["--models", models, "--data-dir", text(&file)], 1, &[text(&file)]);
    refuses(&kit, &["--models", models, "--no-such-flag"], 2, &["--no-such-flag"]);
    let (code, _, said) = kit.run(&["up", "--models", models, "--grpc", "nonsense"]);
    assert!(code == 2 && said.contains("expected HOST:PORT"), "{said}");
    assert_eq!(kit.run(&["infer", "m"]).0, 2, "nothing to send");
    let config = data.path().join("sluice.toml");
    std::fs::write(&config, "grcp = \"x\"\ndata_dri = \"y\"\n").unwrap();
    refuses(&kit, &["--models", models, "--config", text(&config)], 2, &["`grpc`", "`data-dir`"]);
}

/// A library that says it is ONNX Runtime 1.20.1 and can do nothing else.
fn old_library(dir: &Path) -> std::path::PathBuf {
    let (source, library) = (dir.join("old.c"), dir.join("libonnxruntime.so.1.20.1"));
    let code = "static const char *version(void) { return \"1.20.1\"; }\n\
                static const void *api(unsigned number) { (void)number; return 0; }\n\
                static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };\n\
                const void *OrtGetApiBase(void) { return &base; }\n";
    std::fs::write(&source, code).unwrap();
    assert!(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap().success());
    library
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let data = tempfile::tempdir().unwrap();
    let _first = Sluice::up_in(&kit, repository.path(), data.path(), &[]);
    refuses(&kit, &["--models", text(repository.path()), "--data-dir", text(data.path())], 1, &[text(data.path())]);
}

/// A file system that is unmounted whatever happens.
struct Mounted<'p>(&'p Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_and_a_read_only_disk_are_said_and_leave_nothing_half_done() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let disk = tempfile::tempdir().unwrap();
    let mount = |options: &str| Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(disk.path()).status();
    if !mount("size=64k").is_ok_and(|s| s.success()) {
        eprintln!("not run: needs mount (CAP_SYS_ADMIN)");
        return;
    }
    {
        let _mounted = Mounted(disk.path());
        let _ = std::fs::write(disk.path().join("filler"), vec![0; 1 << 20]);
        refuses(&kit, &["--models", text(repository.path()), "--data-dir", text(disk.path())], 1, &["the disk is full"]);
    }
    assert!(mount("ro,size=64k").unwrap().success());
    let _mounted = Mounted(disk.path());
    refuses(&kit, &["--models", text(repository.path()), "--data-dir", text(disk.path())], 1, &["read-only"]);
}

#[test]
fn a_worker_without_etcd_keeps_trying_and_says_so_once() {
    let Some(kit) = Kit::find() else { return };
    let (data, port) = (tempfile::tempdir().unwrap(), tests::free_port());
    let etcd = format!("http://127.0.0.1:{port}");
    let args =
        ["worker", "--etcd", &etcd, "--id", "w", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir", text(data.path())];
    let mut worker = Sluice::start(&kit, &args);
    tests::until("it says that etcd is away", Duration::from_secs(20), || worker.log().contains("etcd is away"));
    tests::until("it has tried for a while", Duration::from_secs(20), || worker.log().contains("cannot register"));
    worker.signal("TERM");
    assert!(worker.wait(Duration::from_secs(20)).success());
    assert_eq!(worker.log().matches("etcd is away").count(), 1, "{}", worker.log());
}
