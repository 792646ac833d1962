use super::*;
use std::path::PathBuf;

/// ONNX files that `cargo xtask fetch` made.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let path = Path::new(option_env!("SLUICE_TEST_MODELS")?).join(name);
    path.exists().then_some(path)
}

#[test]
fn a_model_written_back_is_the_same_bytes() {
    let Some(models) = std::env::var_os("SLUICE_TEST_MODELS").map(PathBuf::from) else { return };
    let mut files = vec![models];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "onnx") {
            let Ok(model) = Model::read(&path) else { continue };
            seen += usize::from(model.encode() == std::fs::read(&path).unwrap());
        }
    }
    assert!(seen > 10, "{seen} files came back the same");
}
