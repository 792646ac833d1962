//! Finding a runtime library, and asking it what it is before this process commits to it.
#![allow(unsafe_code, reason = "loading a library runs code of it")]

use super::EngineError;
use libloading::Library;
use policy::EngineName;
use std::path::{Path, PathBuf};

/// A library that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says of itself, such as `1.32.0`.
    pub version: String,
}

/// What a library said of itself.
pub(super) struct Probed {
    pub(super) version: String,
    pub(super) new_enough: bool,
}

/// The first of `candidates` in which `probe` finds a library of `engine` that is new enough; `needed` is the oldest.
pub(super) fn find(
    engine: EngineName,
    needed: &str,
    candidates: &[PathBuf],
    probe: impl Fn(&Path) -> Result<Probed, String>,
) -> Result<Found, EngineError> {
    let mut tried = Vec::new();
    let mut too_old = None;
    for path in candidates {
        match probe(path) {
            Ok(Probed { version, new_enough: true }) => return Ok(Found { path: path.clone(), version }),
            Ok(Probed { version, .. }) => {
                tried.push((path.clone(), format!("version {version} is too old")));
                too_old.get_or_insert((path.clone(), version));
            }
            Err(why) => tried.push((path.clone(), why)),
        }
    }
    Err(match too_old {
        Some((path, found)) => EngineError::LibraryVersion { engine, path, found, needed: needed.to_owned() },
        None => EngineError::LibraryMissing { engine, tried },
    })
}

/// Loads the library at `path`, or tells what is wrong with it. It is closed again with what this gives.
pub(super) fn open(path: &Path) -> Result<Library, String> {
    let by_name = path.components().count() == 1 && !path.is_absolute();
    if !by_name && !path.exists() {
        return Err("no such file".to_owned());
    }
    // SAFETY: loading runs the library's constructors; the path was chosen by whoever runs this process, as code to run.
    unsafe { Library::new(path) }.map_err(|e| e.to_string())
}

/// Do both paths lead to the same file?
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
