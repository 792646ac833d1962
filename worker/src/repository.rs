//! Reads a model directory in Triton's layout: `DIR/<model>/<version>/model.onnx`, with our `sluice.toml` beside the versions.

use crate::error::WorkerError;
use policy::{ImageSpec, Labels, ModelName, Slo, Version};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The model file of a version.
pub(crate) const MODEL_FILE: &str = "model.onnx";
/// Our settings, beside the versions.
const SETTINGS_FILE: &str = "sluice.toml";
/// Triton's settings; not read yet, so their presence is an error instead of a surprise.
const TRITON_FILE: &str = "config.pbtxt";
/// A label list must fit into its version's record.
const LABELS_BYTES_MAX: usize = 40 << 10;

/// A version as found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) model: ModelName,
    pub(crate) version: Version,
    /// Folder with the model file.
    pub(crate) folder: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) labels: Option<Labels>,
}

/// `sluice.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Most rows of a request; without it what Triton gives a model without a configuration file.
    pub(crate) max_batch_size: Option<u32>,
    /// Replicas wanted.
    pub(crate) replicas: Option<u32>,
    /// Engine threads per replica.
    pub(crate) instances: Option<u32>,
    /// What the model promises.
    pub(crate) slo: Slo,
    /// How an encoded picture becomes its input.
    pub(crate) image: Option<ImageSpec>,
    labels: Option<LabelSettings>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelSettings {
    output: String,
    file: String,
    #[serde(default = "no_activation")]
    activation: String,
}

fn no_activation() -> String {
    "none".to_owned()
}

/// Everything that can be offered, and what cannot with the reason. One bad model does not hide the others.
///
/// # Errors
/// When the directory itself cannot be read.
pub(crate) fn scan(dir: &Path) -> Result<(Vec<Found>, Vec<WorkerError>), WorkerError> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for folder in folders(dir)? {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        match scan_model(&folder, name) {
            Ok(versions) => found.extend(versions),
            Err(problem) => problems.push(problem),
        }
    }
    Ok((found, problems))
}

/// Sub-folders in the order of their names.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, WorkerError> {
    let entries = std::fs::read_dir(dir).map_err(WorkerError::file(dir))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn scan_model(folder: &Path, name: String) -> Result<Vec<Found>, WorkerError> {
    let problem = |path: &Path, what: String| WorkerError::Repository { path: path.to_owned(), what };
    let model = ModelName::new(name).map_err(|e| problem(folder, e.to_string()))?;
    if folder.join(TRITON_FILE).exists() {
        return Err(problem(
            &folder.join(TRITON_FILE),
            "config.pbtxt is not read by this version; remove it and use sluice.toml".to_owned(),
        ));
    }
    let settings = settings(&folder.join(SETTINGS_FILE))?;
    let labels = settings.labels.as_ref().map(|l| labels(folder, l)).transpose()?;
    let mut found = Vec::new();
    for version_folder in folders(folder)? {
        let text = version_folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // As in Triton, folders that are not a version are not ours to judge.
        let Ok(version) = Version::parse(&text) else { continue };
        let file = version_folder.join(MODEL_FILE);
        match std::fs::symlink_metadata(&file) {
            Ok(meta) if meta.is_file() => {}
            // What it leads to is not part of the artifact, so it could neither be named by its bytes nor travel.
            Ok(meta) if meta.is_symlink() => return Err(problem(&file, "is a symbolic link; put the file itself here".to_owned())),
            _ => return Err(problem(&version_folder, format!("has no {MODEL_FILE}"))),
        }
        let (model, settings, labels) = (model.clone(), settings.clone(), labels.clone());
        found.push(Found { model, version, folder: version_folder, settings, labels });
    }
    if found.is_empty() {
        return Err(problem(folder, format!("has no version: expected a folder such as 1/{MODEL_FILE}")));
    }
    Ok(found)
}

fn settings(path: &Path) -> Result<Settings, WorkerError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
        Err(error) => return Err(WorkerError::file(path)(error)),
    };
    toml::from_str(&text).map_err(|error| WorkerError::Repository { path: path.to_owned(), what: error.to_string().trim().to_owned() })
}

fn labels(folder: &Path, settings: &LabelSettings) -> Result<Labels, WorkerError> {
    let path = folder.join(&settings.file);
    let problem = |what: String| WorkerError::Repository { path: path.clone(), what };
    let plain = Path::new(&settings.file).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(problem("a label file lies inside its model's folder".to_owned()));
    }
    let text = std::fs::read_to_string(&path).map_err(WorkerError::file(&path))?;
    if text.len() > LABELS_BYTES_MAX {
        return Err(problem(format!("{} bytes of labels, the limit is {LABELS_BYTES_MAX}", text.len())));
    }
    Ok(Labels {
        output: settings.output.clone(),
        activation: settings.activation.clone(),
        names: text.lines().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn one_bad_model_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "good/1/model.onnx", "x");
        write(dir.path(), "good/2/model.onnx", "x");
        write(dir.path(), "good/03/model.onnx", "not a version, as in Triton");
        write(dir.path(), "good/sluice.toml", "max_batch_size = 8\n[slo]\nlatency_ms = 50\n");
        write(dir.path(), "empty/readme", "x");
        write(dir.path(), "hollow/1/other.onnx", "x");
        write(dir.path(), "typo/1/model.onnx", "x");
        write(dir.path(), "typo/sluice.toml", "max_batchsize = 8\n");
        write(dir.path(), "triton/config.pbtxt", "x");
        write(dir.path(), "bad name/1/model.onnx", "x");
        std::fs::create_dir_all(dir.path().join("linked/1")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("good/1/model.onnx"), dir.path().join("linked/1/model.onnx")).unwrap();
        let (found, problems) = scan(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|f| format!("{}:{}", f.model, f.version)).collect();
        assert_eq!(names, ["good:1", "good:2"]);
        assert_eq!(found[0].settings.max_batch_size, Some(8));
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        for needle in ["bad name", "symbolic link", "has no version", "has no model.onnx", "config.pbtxt is not read", "max_batchsize"] {
            assert!(texts.iter().any(|t| t.contains(needle)), "{needle} in {texts:?}");
        }
    }

    #[test]
    fn a_label_file_outside_the_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "secret.txt", "s");
        write(dir.path(), "m/1/model.onnx", "x");
        write(dir.path(), "m/sluice.toml", "[labels]\noutput = \"y\"\nfile = \"../secret.txt\"\n");
        let (found, problems) = scan(dir.path()).unwrap();
        assert!(found.is_empty() && problems[0].to_string().contains("inside its model's folder"));
    }
}
