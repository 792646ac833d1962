//! perf_analyzer from PyPI. It wants a newer C library than many machines have, so that library lies beside it and loads it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Item, apt, pip};
use crate::cache::{Cache, replace_file, replace_tree};
use crate::child;
use crate::pins::Pins;

/// The C library's own loader is what starts the program, with that library before the machine's. The rest (OpenSSL, zlib) is the
/// machine's.
const PROGRAM: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
set -- --library-path "$here/../lib" "$here/perf_analyzer.bin" "$@"
exec "$here"/../lib/ld-linux-*.so.* "$@"
"#;

pub(super) fn perf_analyzer(cache: &Cache, pins: &Pins) -> Result<()> {
    let scratch = cache.scratch("perf")?;
    let bin = scratch.join("bin");
    std::fs::create_dir_all(&bin)?;
    let pin = pins.of(Item::Perf).find(|pin| pin.suite.is_none()).context("pins.toml has no wheel of perf_analyzer")?;
    pip::unzip(&pip::wheel(cache, pin)?, "perf_analyzer/bin/perf_analyzer", &bin.join("perf_analyzer.bin"))?;
    make_executable(&bin.join("perf_analyzer.bin"))?;

    apt::unpack(cache, pins, Item::Perf, &scratch.join("root"))?;
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    std::fs::rename(scratch.join("root/usr/lib").join(triple), scratch.join("lib")).context("no C library in the packages")?;
    std::fs::remove_dir_all(scratch.join("root"))?;

    let program = cache.perf_analyzer();
    let program = bin.join(program.file_name().context("no file name")?);
    replace_file(&program, PROGRAM.as_bytes())?;
    make_executable(&program)?;
    let mut check = Command::new(&program);
    check.arg("--version");
    child::run(check, "perf_analyzer", None)?;
    replace_tree(&scratch, cache.perf_analyzer().parent().and_then(Path::parent).context("no folder")?)
}

fn make_executable(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).with_context(|| format!("cannot change {}", path.display()))
}
