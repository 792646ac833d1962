//! Finds the libraries of engines: by their flags (`--onnxruntime`, `--openvino`), else in the fetched cache, else among the system's.

use ::worker::engine::ort::Runtime;
use ::worker::engine::{EngineError, EngineName, Found, openvino};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where systems keep libraries.
const SYSTEM: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/usr/lib"];

/// Loads ONNX Runtime's library for this process. With `asked`, only that one.
pub(crate) fn open(asked: Option<&Path>) -> Result<Arc<Runtime>, EngineError> {
    Runtime::open(&candidates(EngineName::Ort, asked))
}

/// Finds OpenVINO's library, which is loaded where an engine needs it. With `asked`, only that one.
pub(crate) fn find_openvino(asked: Option<&Path>) -> Result<Found, EngineError> {
    openvino::find(&candidates(EngineName::Openvino, asked))
}

fn candidates(engine: EngineName, asked: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = asked {
        return vec![path.to_owned()];
    }
    let name = match engine {
        EngineName::Ort => "libonnxruntime.so",
        EngineName::Openvino => "libopenvino_c.so",
    };
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/sluice"));
    let cache = std::env::var_os("SLUICE_CACHE").map(PathBuf::from).or_else(home).unwrap_or_default().join(engine.library());
    let mut fetched: Vec<PathBuf> = folders(&cache).iter().flat_map(|version| libraries(version, name)).collect();
    fetched.sort();
    fetched.reverse(); // the newest first
    if fetched.is_empty() {
        fetched.push(cache.join(name)); // so that the error names the place
    }
    fetched.extend(SYSTEM.iter().flat_map(|dir| libraries(Path::new(dir), name)));
    fetched
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())).collect()
}

fn libraries(dir: &Path, name: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name));
    folders(dir).into_iter().filter(named).collect()
}
