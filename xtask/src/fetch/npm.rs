//! The stock clients for Node, from npm. The lock file has the hash of every package.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, replace_tree};
use crate::child;

pub(super) fn manifests() -> Result<[PathBuf; 2]> {
    let folder = crate::repository()?.join("tests/js");
    Ok(["package.json", "package-lock.json"].map(|name| folder.join(name)))
}

pub(super) fn install(cache: &Cache) -> Result<()> {
    let scratch = cache.scratch("node")?;
    for manifest in manifests()? {
        let name = manifest.file_name().context("no file name")?;
        std::fs::copy(&manifest, scratch.join(name)).with_context(|| format!("cannot copy {}", manifest.display()))?;
    }
    let mut command = Command::new("npm");
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]).current_dir(&scratch);
    child::run(command, "stock clients for Node", None)?;
    let to = cache.node_modules();
    replace_tree(&scratch, to.parent().context("no folder")?)
}
