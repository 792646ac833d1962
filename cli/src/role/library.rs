//! Finds the ONNX Runtime library: `--onnxruntime`, else the fetched cache, else the system.

use ::worker::engine::EngineError;
use ::worker::engine::ort::Runtime;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where systems keep libraries.
const SYSTEM: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/usr/lib"];
const NAME: &str = "libonnxruntime.so";

/// Loads the library for this process. With `asked`, only that one.
pub(crate) fn open(asked: Option<&Path>) -> Result<Arc<Runtime>, EngineError> {
    match asked {
        Some(path) => Runtime::open(&[path.to_owned()]),
        None => Runtime::open(&candidates()),
    }
}

fn candidates() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/sluice"));
    let cache = std::env::var_os("SLUICE_CACHE").map(PathBuf::from).or_else(home).unwrap_or_default().join("onnxruntime");
    let mut fetched: Vec<PathBuf> = folders(&cache).iter().flat_map(|version| libraries(version)).collect();
    fetched.sort();
    fetched.reverse(); // the newest first
    if fetched.is_empty() {
        fetched.push(cache.join(NAME)); // so that the error names the place
    }
    fetched.extend(SYSTEM.iter().flat_map(|dir| libraries(Path::new(dir))));
    fetched
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())).collect()
}

fn libraries(dir: &Path) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(NAME));
    folders(dir).into_iter().filter(named).collect()
}
