//! `demo` and `bench`: build for speed, then become the program that does it.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::child;
use crate::fetch::{self, Item};
use crate::pins::Pins;
use crate::test::cargo;

pub(crate) fn demo(cache: &Cache, args: &[String]) -> Result<ExitCode> {
    fetch::fetch(cache, &[Item::Onnxruntime, Item::Protoc, Item::Models, Item::Data])?;
    child::foreground_ok(cargo(cache)?.args(["build", "--release", "--locked", "-p", "sluice", "-p", "demo"]))?;
    let release = crate::repository()?.join("target/release");
    let mut command = Command::new(release.join("demo"));
    command.arg("--sluice").arg(release.join("sluice"));
    command.arg("--models").arg(cache.models().join("demo")).arg("--photos").arg(cache.photos());
    command.arg("--tokenizer").arg(cache.models().join("minilm_tokenizer.json")).args(args);
    command.arg("--samples").arg(cache.data().join("minilm/calib.npz"));
    become_program(command, cache)
}

pub(crate) fn bench(cache: &Cache, args: &[String]) -> Result<ExitCode> {
    let mut items = vec![Item::Onnxruntime, Item::Etcd, Item::Protoc, Item::Models];
    if args.iter().any(|arg| arg == "variants" || arg == "--live") {
        items.extend([Item::Openvino, Item::Data]);
    }
    if args.iter().any(|arg| arg == "plan") {
        items.push(Item::Venv);
    }
    fetch::fetch(cache, &items)?;
    // One after the other: together the binary that is measured would get what the bench asks of the worker, too.
    for package in ["sluice", "bench"] {
        child::foreground_ok(cargo(cache)?.args(["build", "--release", "--locked", "-p", package]))?;
    }
    let release = crate::repository()?.join("target/release");
    let mut command = Command::new(release.join("bench"));
    command.arg("--sluice").arg(release.join("sluice")).arg("--models").arg(cache.models().join("bench"));
    command.arg("--demo-models").arg(cache.models().join("demo")).args(args);
    command.env("SLUICE_ETCD", cache.etcd(Pins::load()?.version(Item::Etcd)?).join("etcd"));
    become_program(command, cache)
}

/// Replaces this process, so that the program has the terminal and its signals to itself.
fn become_program(mut command: Command, cache: &Cache) -> Result<ExitCode> {
    let pins = Pins::load()?;
    command.env("SLUICE_ONNXRUNTIME", cache.onnxruntime(pins.version(Item::Onnxruntime)?));
    let program = command.get_program().to_owned();
    Err(command.exec()).with_context(|| format!("cannot run {}", program.display()))
}
