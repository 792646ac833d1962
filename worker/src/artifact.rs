//! Artifacts: files named by sha256, hashed here, held in a cache, and fetched from a holder when neither the model
//! directory nor the cache has them.

use crate::error::WorkerError;
use crate::phase::{Phase, Teller};
use policy::card;
use policy::{ArtifactFile, ArtifactRecord, Digest};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

mod fetch;

pub(crate) use fetch::fetch_file;

/// A file is read in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// Where artifacts are on this host.
pub(crate) struct Artifacts {
    cache: PathBuf,
    /// Folders of the model directory that hold an artifact as it is.
    in_place: Mutex<HashMap<Digest, PathBuf>>,
    fetching: tokio::sync::Mutex<()>,
    /// Single files, for holders' answers.
    files: Mutex<HashMap<Digest, PathBuf>>,
}

impl Artifacts {
    /// A cache under `data_dir`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, WorkerError> {
        let cache = data_dir.join("artifacts");
        std::fs::create_dir_all(&cache).map_err(WorkerError::file(&cache))?;
        Ok(Self { cache, in_place: Mutex::default(), fetching: Default::default(), files: Mutex::default() })
    }

    /// Notes that `folder` holds `artifact`.
    pub(crate) fn offer(&self, artifact: &ArtifactRecord, folder: &Path) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.extend(artifact.files.iter().map(|f| (f.sha256.clone(), folder.join(&f.path))));
        let mut in_place = self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
        in_place.insert(artifact.digest.clone(), folder.to_owned());
    }

    /// Are its files in the cache or in the model directory?
    pub(crate) fn has(&self, artifact: &Digest) -> bool {
        self.in_directory(artifact) || self.cache.join(artifact.as_str()).is_dir()
    }

    /// Were they found in the model directory?
    pub(crate) fn in_directory(&self, artifact: &Digest) -> bool {
        let in_place = self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
        in_place.get(artifact).is_some_and(|folder| !folder.starts_with(&self.cache))
    }

    /// The file with this digest, when this host offers it.
    pub(crate) fn file(&self, digest: &Digest) -> Option<PathBuf> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// The folder with `artifact`'s files, fetched from `holders` (`host:port` of admin ports) when it is not here yet; `teller` hears
    /// how far that is.
    /// Every byte is verified before anything parses it.
    ///
    /// # Errors
    /// When no holder gives the right bytes; nothing half-fetched is left in the artifact's place.
    pub(crate) async fn folder(&self, artifact: &ArtifactRecord, holders: &[String], teller: &Teller) -> Result<PathBuf, WorkerError> {
        check_manifest(artifact)?;
        // One at a time: two models with the same files must not write the same place.
        let _fetching = self.fetching.lock().await;
        let known = self.in_place.lock().unwrap_or_else(PoisonError::into_inner).get(&artifact.digest).cloned();
        let folder = known.unwrap_or_else(|| self.cache.join(artifact.digest.as_str()));
        if folder.is_dir() {
            teller.say(Phase::Checking);
            self.verify(artifact, &folder).await?;
        } else {
            self.fetch(artifact, holders, &folder, teller).await?;
        }
        self.offer(artifact, &folder);
        Ok(folder)
    }

    /// Takes `folder`, which is on the cache's disk, into the cache under its own digest; gives its place there, and whether it is new.
    ///
    /// # Errors
    /// When it cannot be read or moved.
    pub(crate) async fn take_in(&self, folder: PathBuf) -> Result<(PathBuf, bool), WorkerError> {
        let _fetching = self.fetching.lock().await;
        let hashing = folder.clone();
        let hashed = tokio::task::spawn_blocking(move || hash_folder(&hashing)).await;
        let artifact = hashed.map_err(|e| WorkerError::Signature(e.to_string()))??;
        let place = self.cache.join(artifact.digest.as_str());
        let is_new = !place.is_dir();
        if is_new {
            std::fs::rename(&folder, &place).map_err(WorkerError::file(&place))?;
        }
        Ok((place, is_new))
    }

    async fn fetch(&self, artifact: &ArtifactRecord, holders: &[String], folder: &Path, teller: &Teller) -> Result<(), WorkerError> {
        let of = artifact.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        let mut before = 0u64;
        teller.say(Phase::Fetching { bytes: 0, of });
        let partial = self.cache.join(format!("{}.part", artifact.digest));
        for file in &artifact.files {
            let path = partial.join(&file.path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(WorkerError::file(parent))?;
            }
            fetch_file(&artifact.digest, file, holders, &path, &|bytes| teller.fetched(before.saturating_add(bytes), of)).await?;
            before = before.saturating_add(file.bytes);
        }
        std::fs::rename(&partial, folder).map_err(WorkerError::file(folder))
    }

    /// Files may have been changed on disk since they were hashed.
    async fn verify(&self, artifact: &ArtifactRecord, folder: &Path) -> Result<(), WorkerError> {
        let (digest, folder_shown, folder) = (artifact.digest.clone(), folder.to_owned(), folder.to_owned());
        let found = tokio::task::spawn_blocking(move || hash_folder(&folder))
            .await
            .map_err(|e| WorkerError::Artifact { digest: digest.to_string(), what: e.to_string() })??;
        if found.digest == artifact.digest {
            return Ok(());
        }
        let what = if folder_shown.starts_with(&self.cache) {
            format!("the cached files have digest {}; delete {} from the data directory", found.digest, digest)
        } else {
            format!(
                "its files were changed since they were offered and have digest {} now; give them a new version, or restart",
                found.digest
            )
        };
        Err(WorkerError::Artifact { digest: digest.to_string(), what })
    }
}

/// A list of files comes from the registry, which others can write: its digest must be the artifact's, and no path may lead
/// out of the artifact's folder.
fn check_manifest(artifact: &ArtifactRecord) -> Result<(), WorkerError> {
    let wrong = |what: String| WorkerError::Artifact { digest: artifact.digest.to_string(), what };
    let inside = |path: &str| Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if let Some(file) = artifact.files.iter().find(|f| f.path.is_empty() || !inside(&f.path)) {
        return Err(wrong(format!("its file {:?} would lie outside its folder", file.path)));
    }
    let listed = digest_of(Sha256::new_with_prefix(ArtifactRecord::manifest(&artifact.files)))?;
    if listed == artifact.digest { Ok(()) } else { Err(wrong(format!("its list of files has digest {listed}"))) }
}

/// The sha256 of a file, and its length.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64), WorkerError> {
    let mut file = std::fs::File::open(path).map_err(WorkerError::file(path))?;
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; CHUNK_BYTES], 0u64);
    loop {
        let read = file.read(&mut buffer).map_err(WorkerError::file(path))?;
        if read == 0 {
            return Ok((digest_of(hasher)?, bytes));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        bytes = bytes.saturating_add(read as u64);
    }
}

fn digest_of(hasher: Sha256) -> Result<Digest, WorkerError> {
    let hex: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Digest::new(hex).map_err(|e| WorkerError::Signature(e.to_string()))
}

/// Every file of `folder`, hashed; their list's digest names the artifact. Variant folders are artifacts of their own.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn hash_folder(folder: &Path) -> Result<ArtifactRecord, WorkerError> {
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(ArtifactRecord { digest: digest_of(Sha256::new_with_prefix(ArtifactRecord::manifest(&files)))?, files })
}

/// May a file at `path` in a version's or a variant's folder be part of its artifact? Hidden files, variants and cards are none of it, so
/// they must not be loaded as if they were.
pub(crate) fn is_part(path: &str) -> bool {
    !path.split('/').any(|part| part.starts_with('.')) && path.split('/').next() != Some(card::FOLDER) && path != card::FILE
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<ArtifactFile>) -> Result<(), WorkerError> {
    for entry in std::fs::read_dir(folder).map_err(WorkerError::file(folder))? {
        let entry = entry.map_err(WorkerError::file(folder))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !is_part(&format!("{prefix}{name}")) {
            continue;
        }
        let kind = entry.file_type().map_err(WorkerError::file(&path))?;
        if kind.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), files)?;
        } else if kind.is_file() {
            let (sha256, bytes) = hash_file(&path)?;
            files.push(ArtifactFile { path: format!("{prefix}{name}"), sha256, bytes });
        }
        // A symbolic link could lead out of the folder, so it is no part of an artifact.
    }
    Ok(())
}

#[cfg(test)]
mod tests;
