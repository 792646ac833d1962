//! What end-to-end tests share: real processes of Sluice and etcd, started on free ports, stopped and cleaned up whatever
//! happens, and stock clients in Python.
//!
//! What the machine lacks is said (`not run: needs …`) and the test ends; `cargo xtask test` provides all of it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

mod cluster;
pub mod compat;
mod etcd;
mod process;

pub use cluster::Cluster;
pub use etcd::Etcd;
pub use process::Sluice;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Files that `cargo xtask test` provides.
#[derive(Clone)]
pub struct Kit {
    pub sluice: PathBuf,
    pub models: PathBuf,
    pub data: PathBuf,
    pub etcd: PathBuf,
    pub python: PathBuf,
    pub photos: PathBuf,
    pub library: PathBuf,
    pub node_modules: PathBuf,
    pub perf_analyzer: PathBuf,
    pub grpc_cpp: PathBuf,
}

impl Kit {
    /// Everything, or `None` after saying what is missing.
    pub fn find() -> Option<Self> {
        let var = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from).filter(|p| p.exists());
            if path.is_none() {
                eprintln!("not run: needs {name} (cargo xtask test sets it)");
            }
            path
        };
        Some(Self {
            sluice: var("SLUICE_BIN")?,
            models: var("SLUICE_TEST_MODELS")?,
            data: var("SLUICE_TEST_DATA")?,
            etcd: var("SLUICE_ETCD")?,
            python: var("SLUICE_PYTHON")?,
            photos: var("SLUICE_PHOTOS")?,
            library: var("SLUICE_ONNXRUNTIME")?,
            node_modules: var("SLUICE_NODE_MODULES")?,
            perf_analyzer: var("SLUICE_PERF_ANALYZER")?,
            grpc_cpp: var("SLUICE_GRPC_CPP")?,
        })
    }

    /// A repository of the named models from the fetched ones, such as `test/add_sub`.
    pub fn repository(&self, models: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for model in models {
            let name = Path::new(model).file_name().unwrap();
            std::os::unix::fs::symlink(self.models.join(model), dir.path().join(name)).unwrap();
        }
        dir
    }

    /// Puts `file` into `repository` as the only version of `model`.
    pub fn add(&self, repository: &Path, model: &str, file: &str) {
        let folder = repository.join(model).join("1");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(self.models.join(file), folder.join("model.onnx")).unwrap();
    }

    /// Runs a script of `tests/py` and fails with its output if it fails.
    pub fn python(&self, script: &str, args: &[&str]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("py").join(script);
        let output = Command::new(&self.python).arg(path).args(args).output().unwrap();
        said(&format!("{script} {}", args.join(" ")), &output)
    }

    /// Runs a script of `tests/py` that may fail; whether it did not.
    pub fn try_python(&self, script: &str, args: &[&str]) -> bool {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("py").join(script);
        Command::new(&self.python).arg(path).args(args).output().unwrap().status.success()
    }

    /// Runs `sluice` with `args`; its exit code, standard output and standard error.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(&self.sluice).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

fn said(what: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what} failed\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Asks until it is so, or fails saying what was waited for.
pub fn until(what: &str, longest: Duration, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < longest, "{what} within {longest:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
