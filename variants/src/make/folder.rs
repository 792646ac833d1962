//! The folder of variants: each is put together aside and moved to its place whole, so that there is never half of one.

use super::existing::Existing;
use crate::VariantError;
use crate::onnx::Model;
use crate::pass::Pass;
use policy::Digest;
use policy::card::{Card, FILE, Fidelity};
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Folders in which variants are put together, by the process that does it.
const MAKING: &str = ".making-";

/// Where variants are put together; removed with all that was not kept.
pub(super) struct Staging {
    out: PathBuf,
    root: PathBuf,
    /// The folder of variants was not there before.
    new: bool,
}

impl Staging {
    pub(super) fn new(out: &Path) -> Result<Self, VariantError> {
        let new = !out.exists();
        // What a run that was killed left behind.
        let stale = |name: &str| name.strip_prefix(MAKING).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        for entry in out.read_dir().into_iter().flatten().flatten().filter(|e| e.file_name().to_str().is_some_and(stale)) {
            let _ = std::fs::remove_dir_all(entry.path()); // it is in nobody's way
        }
        let root = out.join(format!("{MAKING}{}", std::process::id()));
        std::fs::create_dir_all(&root).map_err(|e| VariantError::file(&root, &e))?;
        Ok(Self { out: out.to_owned(), root, new })
    }

    /// An empty folder.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, VariantError> {
        self.remove(name);
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).map_err(|e| VariantError::file(&path, &e))?;
        Ok(path)
    }

    pub(super) fn remove(&self, name: &str) {
        let _ = std::fs::remove_dir_all(self.root.join(name)); // what stays goes with the rest
    }

    /// Says on the card of a variant that is there what looking at it has shown: what is too far off, or does not run, is offered no more.
    pub(super) fn strike(&self, existing: &Existing, fidelity: Option<&Fidelity>, floor: f64) -> Result<(), VariantError> {
        let folder = self.out.join(existing.name.as_str());
        let in_place = existing.file.as_ref().is_none_or(|file| file.parent() == Some(&folder));
        if let (true, Ok(card)) = (in_place, read_card(&folder)) {
            let card = Card { fidelity: fidelity.cloned(), floor, ..card };
            let (text, beside) = (written(&card)?, folder.join(".card.new"));
            std::fs::write(&beside, text).map_err(|e| VariantError::file(&beside, &e))?;
            std::fs::rename(&beside, folder.join(FILE)).map_err(|e| VariantError::file(&folder, &e))?;
        }
        Ok(())
    }

    /// Moves `folder` with its card to where variants are; one of that name that was there goes.
    pub(super) fn keep(&self, folder: &Path, card: &Card) -> Result<(), VariantError> {
        let fail = |path: &Path, e: std::io::Error| VariantError::file(path, &e);
        let file = folder.join(FILE);
        std::fs::write(&file, written(card)?).map_err(|e| fail(&file, e))?;
        let (to, old) = (self.out.join(card.name.as_str()), self.root.join("old"));
        if to.exists() {
            std::fs::rename(&to, &old).map_err(|e| fail(&to, e))?;
        }
        if let Err(error) = std::fs::rename(folder, &to) {
            let _ = std::fs::rename(&old, &to); // what was there is better than nothing
            return Err(fail(&to, error));
        }
        let _ = std::fs::remove_dir_all(old); // goes with the rest too
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
        if self.new {
            let _ = std::fs::remove_dir(&self.out); // only where nothing was kept
        }
    }
}

fn written(card: &Card) -> Result<String, VariantError> {
    toml::to_string(card).map_err(|e| VariantError::Card(e.to_string()))
}

/// sha256 of a model file, and the bytes of it and its external data.
///
/// # Errors
/// [`VariantError::File`].
pub fn digest_of(path: &Path) -> Result<(Digest, u64), VariantError> {
    let fail = |e: std::io::Error| VariantError::file(path, &e);
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let (mut hash, mut block, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0u64);
    loop {
        let read = file.read(&mut block).map_err(fail)?;
        let Some(part) = block.get(..read).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        bytes = bytes.saturating_add(read as u64);
    }
    let beside = path.with_file_name("model.onnx.data").metadata().map_or(0, |m| m.len());
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((Digest::new(hex).map_err(|e| VariantError::Card(e.to_string()))?, bytes.saturating_add(beside)))
}

/// The card in `folder`.
///
/// # Errors
/// [`VariantError::File`], [`VariantError::Card`].
pub fn read_card(folder: &Path) -> Result<Card, VariantError> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| VariantError::file(&path, &e))?;
    toml::from_str(&text).map_err(|e| VariantError::Card(format!("{}: {e}", path.display())))
}

/// The variant's file made anew from its card and the reference.
///
/// # Errors
/// [`VariantError::Card`] when the card tells no passes or is about another source; those of passes.
pub fn replay(card: &Card, source: &Path) -> Result<Model, VariantError> {
    let (digest, _) = digest_of(source)?;
    if digest != card.source {
        return Err(VariantError::Card(format!("the card is about the source {}, but {} is {digest}", card.source, source.display())));
    }
    let mut model = Model::read(source)?;
    for value in &card.passes {
        let pass: Pass = serde_json::from_value(value.clone()).map_err(|e| VariantError::Card(format!("a pass of the card: {e}")))?;
        pass.apply(&mut model)?;
    }
    Ok(model)
}
