//! Data of a tensor in another file: it must be a regular file in the model's folder, long enough, reached without links.

use super::ScanError;
use std::path::{Component, Path, PathBuf};

/// Longest part of a location repeated in an error.
const SHOWN_LEN_MAX: usize = 200;

/// What a tensor tells about its external data.
#[derive(Default)]
pub(super) struct Entries {
    /// Normally one; of several a reader takes the last, and all must be right.
    pub(super) locations: Vec<String>,
    offset: u64,
    length: u64,
}

impl Entries {
    /// Takes one key and value; of keys that appear twice the larger number counts.
    pub(super) fn add(&mut self, key: &str, value: String) -> Result<(), ScanError> {
        match key {
            "location" => {
                if self.locations.len() >= 4 {
                    return Err(refuse(&value, "more than 4 locations for one tensor"));
                }
                self.locations.push(value);
            }
            "offset" => self.offset = self.offset.max(number("offset", &value)?),
            "length" => self.length = self.length.max(number("length", &value)?),
            _ => {}
        }
        Ok(())
    }
}

fn number(key: &str, value: &str) -> Result<u64, ScanError> {
    value.parse().map_err(|_| refuse(value, &format!("its {key} is not a number")))
}

fn refuse(location: &str, reason: &str) -> ScanError {
    ScanError::External { location: location.chars().take(SHOWN_LEN_MAX).collect(), reason: reason.to_owned() }
}

/// The files that `entries` name, relative to `folder`.
pub(super) fn check(folder: &Path, entries: &Entries) -> Result<Vec<PathBuf>, ScanError> {
    if entries.locations.is_empty() {
        return Err(refuse("", "a tensor is said to be external, but not where"));
    }
    entries.locations.iter().map(|location| check_one(folder, location, entries)).collect()
}

fn check_one(folder: &Path, location: &str, entries: &Entries) -> Result<PathBuf, ScanError> {
    let refused = |reason: &str| Err(refuse(location, reason));
    if location.is_empty() || location.contains(['\0', '\\']) {
        return refused("it is not a file name");
    }
    let (mut relative, mut path) = (PathBuf::new(), folder.to_owned());
    for component in Path::new(location).components() {
        match component {
            Component::Normal(name) => (relative.push(name), path.push(name)),
            Component::CurDir => continue,
            Component::ParentDir => return refused("it leaves the model's folder through `..`"),
            Component::RootDir | Component::Prefix(_) => return refused("an absolute path; it must lie in the model's folder"),
        };
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => return refused("it goes through a symbolic link"),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return refused("no such file in the model's folder"),
            Err(e) => return refused(&format!("cannot be read: {}", e.kind())),
        }
    }
    let metadata = path.symlink_metadata().map_err(|e| refuse(location, &e.kind().to_string()))?;
    if !metadata.is_file() {
        return refused("it is not a regular file");
    }
    let (Entries { offset, length, .. }, size) = (entries, metadata.len());
    if offset.checked_add(*length).is_none_or(|end| end > size) {
        return refused(&format!("{length} bytes at {offset} are wanted, but the file has {size}"));
    }
    Ok(relative)
}
