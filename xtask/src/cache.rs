//! The folder for everything fetched or built outside the repository, and where each thing lies in it.
//!
//! ```text
//! downloads/                 wheels and .deb files as they came
//! stamps/ITEM                the hash an item was made from; no stamp or another hash: it is made again
//! onnxruntime/VERSION/       libonnxruntime.so.VERSION
//! openvino/VERSION/          libopenvino_c.so.NUMBER, and what that loads to run ONNX files on the processor
//! etcd/VERSION/              etcd, etcdctl
//! protoc/bin/protoc          used by xtask/protoc where the system has none
//! venv/                      Python with the stock clients
//! node/node_modules/         the stock clients for Node
//! perf/bin/perf_analyzer     Triton's load tool, with the C library it wants beside it
//! cpp/usr/{bin,include,lib}  gRPC for C++
//! models/{demo,test,bench,bad}/, photos/
//! models/variants/           a Triton repository of a model that the labelled data is for
//! models/foreign/*.onnx      models that others made
//! data/fashion_mnist/        the four files of the data set; calib.npz and test1000.npz: x [N, 3, 96, 96], labels [N]
//! data/minilm/               calib.npz, test.npz: input_ids and attention_mask [N, 64]; pairs.npz: the same twice, a_ and b_, and labels
//! ```

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn open(root: Option<PathBuf>) -> Result<Self> {
        let root = match root {
            Some(root) => std::path::absolute(root)?,
            None => {
                std::env::home_dir().filter(|home| home.is_absolute()).context("no home folder: set SLUICE_CACHE")?.join(".cache/sluice")
            }
        };
        for folder in ["downloads", "stamps"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub(crate) fn onnxruntime(&self, version: &str) -> PathBuf {
        self.root.join("onnxruntime").join(version).join(format!("libonnxruntime.so.{version}"))
    }

    /// The C library. Its number is made of the version's: that of 2026.4.1 is 2641.
    pub(crate) fn openvino(&self, version: &str) -> PathBuf {
        let number: String = version.trim_start_matches("20").split('.').collect();
        self.root.join("openvino").join(version).join(format!("libopenvino_c.so.{number}"))
    }

    /// The folder with `etcd` and `etcdctl`. Debian's version ends in its own revision (`3.5.16-4`), which is left out.
    pub(crate) fn etcd(&self, version: &str) -> PathBuf {
        let version = version.split_once('-').map_or(version, |(upstream, _)| upstream);
        self.root.join("etcd").join(version)
    }

    pub(crate) fn protoc(&self) -> PathBuf {
        self.root.join("protoc")
    }

    pub(crate) fn venv(&self) -> PathBuf {
        self.root.join("venv")
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.venv().join("bin/python")
    }

    pub(crate) fn node_modules(&self) -> PathBuf {
        self.root.join("node/node_modules")
    }

    pub(crate) fn perf_analyzer(&self) -> PathBuf {
        self.root.join("perf/bin/perf_analyzer")
    }

    /// A root folder as of a Debian machine, with `usr/bin/grpc_cpp_plugin`, `usr/include/grpcpp` and so on.
    pub(crate) fn cpp(&self) -> PathBuf {
        self.root.join("cpp")
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn photos(&self) -> PathBuf {
        self.root.join("photos")
    }

    pub(crate) fn stamp(&self, item: &str) -> Option<String> {
        fs::read_to_string(self.root.join("stamps").join(item)).ok()
    }

    pub(crate) fn set_stamp(&self, item: &str, key: &str) -> Result<()> {
        replace_file(&self.root.join("stamps").join(item), key.as_bytes())
    }

    pub(crate) fn clear_stamp(&self, item: &str) -> Result<()> {
        match fs::remove_file(self.root.join("stamps").join(item)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Held while something is made, so that two fetches at once do the work once. Freed when dropped, or when the process ends.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// An empty folder beside the finished ones, on the same file system. What an earlier, broken run left there is removed.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join("scratch").join(name);
        remove_tree(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Puts a finished folder in its place. Whoever has files of the old one open keeps them.
pub(crate) fn replace_tree(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let old = to.with_extension("old");
    remove_tree(&old)?;
    if to.exists() {
        fs::rename(to, &old).with_context(|| format!("cannot move {} away", to.display()))?;
    }
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    remove_tree(&old)
}

/// Writes a file whole or not at all.
pub(crate) fn replace_file(path: &Path, contents: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, contents).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn sha256_hex(contents: &[u8]) -> String {
    hex(&Sha256::digest(contents))
}

pub(crate) fn check_sha256(path: &Path, expected: &str) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0_u8; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        let Some(bytes) = block.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
    }
    let got = hex(&hasher.finalize());
    ensure!(got == expected, "{}: sha256 {got}, expected {expected}", path.display());
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_hash_is_refused() {
        let path = std::env::temp_dir().join(format!("sluice-xtask-{}", std::process::id()));
        fs::write(&path, b"abc").unwrap();
        let abc = sha256_hex(b"abc");
        assert_eq!(abc, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(check_sha256(&path, &abc).is_ok());
        let error = check_sha256(&path, &sha256_hex(b"abd")).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(error.contains(&abc), "{error}");
    }
}
