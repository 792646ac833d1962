//! `pins.toml`: every file that is downloaded by itself, with its sha256.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::fetch::Item;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    pub(crate) item: Item,
    pub(crate) name: String,
    pub(crate) version: String,
    /// The release of Debian it comes from; none: it is a wheel from PyPI.
    pub(crate) suite: Option<String>,
    /// The processor this file is for; none: any.
    pub(crate) arch: Option<String>,
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    /// The one member of a wheel that is wanted, and its own sha256.
    pub(crate) inside: Option<String>,
    pub(crate) inside_sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pin: Vec<Pin>,
}

/// The pins for this machine's processor.
pub(crate) struct Pins(Vec<Pin>);

impl Pins {
    pub(crate) fn load() -> Result<Self> {
        let path = path()?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, std::env::consts::ARCH).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str, arch: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        Ok(Self(file.pin.into_iter().filter(|pin| pin.arch.as_deref().is_none_or(|a| a == arch)).collect()))
    }

    pub(crate) fn of(&self, item: Item) -> impl Iterator<Item = &Pin> {
        self.0.iter().filter(move |pin| pin.item == item)
    }

    pub(crate) fn version(&self, item: Item) -> Result<&str> {
        let pin =
            self.of(item).next().with_context(|| format!("pins.toml has no {item:?} for the processor {}", std::env::consts::ARCH))?;
        Ok(&pin.version)
    }
}

pub(crate) fn path() -> Result<PathBuf> {
    Ok(crate::repository()?.join("xtask/pins.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_pinned_for_both_processors() {
        let text = std::fs::read_to_string(path().unwrap()).unwrap();
        for arch in ["x86_64", "aarch64"] {
            let pins = Pins::parse(&text, arch).unwrap();
            let count = |item| pins.of(item).count();
            assert_eq!((count(Item::Onnxruntime), count(Item::Openvino), count(Item::Etcd)), (1, 1, 2), "{arch}");
            assert_eq!((count(Item::Perf), count(Item::Cpp)), (4, 12), "{arch}");
            assert!(count(Item::Models) >= 5, "{arch}");
            assert_eq!(count(Item::Data), 4, "{arch}");
            for pin in &pins.0 {
                let hashes = [Some(&pin.sha256), pin.inside_sha256.as_ref()];
                assert!(hashes.into_iter().flatten().all(|hash| hash.len() == 64), "{}", pin.file);
                assert!(pin.inside.is_some() == pin.inside_sha256.is_some() && pin.bytes > 0, "{}", pin.file);
            }
        }
    }
}
