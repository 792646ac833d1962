//! `test`: every test of the workspace, told by environment variables where the fetched things are.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::cache::Cache;
use crate::child;
use crate::fetch::{self, Item};
use crate::pins::Pins;

pub(crate) fn test(cache: &Cache, args: &[String]) -> Result<ExitCode> {
    fetch::fetch(cache, Item::ALL)?;
    let repository = crate::repository()?;
    child::foreground_ok(cargo(cache)?.args(["build", "--locked", "-p", "sluice", "--bin", "sluice"]))?;

    let mut runner = cargo(cache)?;
    if has_nextest() {
        runner.args(["nextest", "run"]);
    } else {
        runner.arg("test");
    }
    if !args.iter().any(|arg| arg == "-p" || arg.starts_with("--package")) {
        runner.arg("--workspace");
    }
    runner.arg("--locked").args(args);
    let pins = Pins::load()?;
    let etcd = cache.etcd(pins.version(Item::Etcd)?);
    runner.env("SLUICE_BIN", repository.join("target/debug/sluice"));
    runner.env("SLUICE_ONNXRUNTIME", cache.onnxruntime(pins.version(Item::Onnxruntime)?));
    runner.env("SLUICE_OPENVINO", cache.openvino(pins.version(Item::Openvino)?));
    runner.env("SLUICE_TEST_MODELS", cache.models());
    runner.env("SLUICE_TEST_DATA", cache.data());
    runner.env("SLUICE_PHOTOS", cache.photos());
    runner.env("SLUICE_ETCD", etcd.join("etcd")).env("SLUICE_ETCDCTL", etcd.join("etcdctl"));
    runner.env("SLUICE_PYTHON", cache.python());
    runner.env("SLUICE_NODE_MODULES", cache.node_modules());
    runner.env("SLUICE_PERF_ANALYZER", cache.perf_analyzer());
    runner.env("SLUICE_GRPC_CPP", cache.cpp());
    child::foreground(&mut runner)
}

/// Cargo in this repository, building where the paths above say, whatever the caller's settings, with protoc from this cache.
pub(crate) fn cargo(cache: &Cache) -> Result<Command> {
    let repository = crate::repository()?;
    let mut command = Command::new("cargo");
    command.current_dir(repository).env("CARGO_TARGET_DIR", repository.join("target")).env("SLUICE_CACHE", cache.root());
    Ok(command)
}

fn has_nextest() -> bool {
    let mut command = Command::new("cargo");
    command.args(["nextest", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
