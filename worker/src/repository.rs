//! Reads a model directory in Triton's layout: `DIR/<model>/<version>/model.onnx`, with `config.pbtxt` and our `sluice.toml` beside the
//! versions.

use crate::artifact::is_part;
use crate::error::WorkerError;
use policy::{ImageSpec, Labels, ModelName, ModelRecord, Origin, Padding, Version, wanted};
use proto::inference::ModelConfig;
use proto::model_config::{self, VersionPolicy};
use serde::Deserialize;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The model file of a version whose configuration names no other.
pub(crate) const MODEL_FILE: &str = "model.onnx";
/// Our settings, beside the versions.
const SETTINGS_FILE: &str = "sluice.toml";
/// Triton's settings.
const TRITON_FILE: &str = "config.pbtxt";
/// A label list must fit into its version's record.
const LABELS_BYTES_MAX: u64 = 40 << 10;

/// A version as found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) model: ModelName,
    pub(crate) version: Version,
    /// Folder with the model file.
    pub(crate) folder: PathBuf,
    /// The file in it that the engine loads.
    pub(crate) model_file: String,
    /// What the model is to be like, where its author said; an error is why it cannot be served.
    pub(crate) config: Result<Option<ModelConfig>, String>,
    pub(crate) settings: Settings,
    pub(crate) labels: Vec<Labels>,
    pub(crate) origin: Origin,
}

/// Which versions of a model are to be served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    /// Exactly these; none for the latest valid ones.
    pub(crate) versions: Vec<Version>,
    /// How many of the latest; none means one.
    pub(crate) latest: Option<u32>,
}

impl Wanted {
    /// Those of `valid` that are wanted.
    pub(crate) fn of(self, valid: &[Version]) -> Vec<Version> {
        if !self.versions.is_empty() {
            return self.versions;
        }
        let mut latest = valid.to_vec();
        latest.sort();
        latest.split_off(latest.len().saturating_sub(usize::try_from(self.latest.unwrap_or(1)).unwrap_or(usize::MAX)))
    }
}

/// `sluice.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Most rows of a request; without it what Triton gives a model without a configuration file.
    pub(crate) max_batch_size: Option<u32>,
    /// How an encoded picture becomes its input.
    pub(crate) image: Option<ImageSpec>,
    /// Requests above the largest batch are answered in parts.
    pub(crate) split: bool,
    /// Which requests of different lengths may share a batch.
    pub(crate) padding: Option<Padding>,
    labels: Option<LabelSettings>,
    /// What is wanted of the model, of which the file may say what [`policy::wanted::of_files`] lists; none where there is no file.
    #[serde(skip)]
    pub(crate) wanted: Option<ModelRecord>,
}

/// The fields of [`Settings`], beside those of the wanted state.
const OWN_FIELDS: [&str; 5] = ["max_batch_size", "image", "split", "padding", "labels"];

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
        match scan_model(&folder, name, None) {
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

/// The versions of one model, or why there are none. `config` takes the place of its `config.pbtxt`.
///
/// # Errors
/// What is wrong with its folder.
pub(crate) fn scan_model(folder: &Path, name: String, config: Option<ModelConfig>) -> Result<Vec<Found>, WorkerError> {
    let problem = |path: &Path, what: String| WorkerError::Repository { path: path.to_owned(), what };
    let model = ModelName::new(name).map_err(|e| problem(folder, e.to_string()))?;
    let settings = settings(&folder.join(SETTINGS_FILE), &model)?;
    let config = config.map_or_else(|| read_config(&folder.join(TRITON_FILE)), |config| Ok(Some(config)));
    let known = config.as_ref().ok().and_then(Option::as_ref);
    let model_file = known.map(|c| c.default_model_filename.as_str()).filter(|f| !f.is_empty()).unwrap_or(MODEL_FILE).to_owned();
    let mut labels: Vec<Labels> = settings.labels.as_ref().map(|l| read_labels(folder, l)).transpose()?.into_iter().collect();
    let plain = |file: &str| Path::new(file).components().map(|c| matches!(c, std::path::Component::Normal(_))).eq([true]);
    let config = config.and_then(|config| {
        if !plain(&model_file) || !is_part(&model_file) {
            return Err(format!("default_model_filename {model_file:?} is not the name of a file in a version's folder"));
        }
        for output in config.iter().flat_map(|c| &c.output).filter(|o| !o.label_filename.is_empty()) {
            let wanted = LabelSettings { output: output.name.clone(), file: output.label_filename.clone(), activation: no_activation() };
            if !labels.iter().any(|l| l.output == wanted.output) {
                labels.push(read_labels(folder, &wanted).map_err(|e| format!("label_filename of output `{}`: {e}", output.name))?);
            }
        }
        Ok(config)
    });
    let mut found = Vec::new();
    for version_folder in folders(folder)? {
        let text = version_folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // As in Triton, folders that are not a version are not ours to judge.
        let Ok(version) = Version::parse(&text) else { continue };
        if config.is_err() && !version_folder.join(&model_file).exists() {
            continue; // which file it would be is not known; the configuration is what is wrong
        }
        let file = version_folder.join(Path::new(&model_file).file_name().unwrap_or_default());
        match std::fs::symlink_metadata(&file) {
            Ok(meta) if meta.is_file() => {}
            // What it leads to is not part of the artifact, so it could neither be named by its bytes nor travel.
            Ok(meta) if meta.is_symlink() => return Err(problem(&file, "is a symbolic link; put the file itself here".to_owned())),
            _ => return Err(problem(&version_folder, format!("has no {model_file}"))),
        }
        let (model, model_file, config) = (model.clone(), model_file.clone(), config.clone());
        let (settings, labels) = (settings.clone(), labels.clone());
        found.push(Found { model, version, folder: version_folder, model_file, config, settings, labels, origin: Origin::Directory });
    }
    if let (true, Err(reason)) = (found.is_empty(), &config) {
        return Err(problem(folder, reason.clone()));
    }
    if found.is_empty() {
        return Err(problem(folder, format!("has no version: expected a folder such as 1/{model_file}")));
    }
    Ok(found)
}

/// Largest `config.pbtxt` and `sluice.toml`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

fn read_config(path: &Path) -> Result<Option<ModelConfig>, String> {
    let text = read_text(path, CONFIG_BYTES_MAX).map_err(|e| e.to_string())?;
    text.map(|text| model_config::parse_text(&text)).transpose().map_err(|e| format!("{TRITON_FILE}: {e}"))
}

/// The text of a file in a model's folder; none when there is no such file. What is not a plain file could block the start (a pipe) or
/// show clients what lies elsewhere (a link).
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<Option<String>, WorkerError> {
    let problem = |what: String| WorkerError::Repository { path: path.to_owned(), what };
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        meta => meta.map_err(WorkerError::file(path))?,
    };
    if !meta.is_file() {
        return Err(problem("is not a plain file; put the file itself here".to_owned()));
    }
    if meta.len() > bytes_max {
        return Err(problem(format!("has {} bytes, the limit is {bytes_max}", meta.len())));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(WorkerError::file(path))?;
    file.take(bytes_max).read_to_string(&mut text).map_err(WorkerError::file(path))?;
    Ok(Some(text))
}

/// What the configuration of `found` says of versions. Which there are is not for one directory to say: others may have more.
pub(crate) fn wanted_versions(found: &[Found]) -> Wanted {
    let config = found.iter().find_map(|f| f.config.as_ref().ok().and_then(Option::as_ref));
    match config.map_or(VersionPolicy::Latest(1), model_config::version_policy) {
        VersionPolicy::Latest(1) => Wanted::default(),
        VersionPolicy::Latest(count) => Wanted { versions: Vec::new(), latest: Some(count) },
        VersionPolicy::All => Wanted { versions: Vec::new(), latest: Some(u32::MAX) },
        VersionPolicy::Specific(versions) => Wanted { versions, latest: None },
    }
}

fn settings(path: &Path, model: &ModelName) -> Result<Settings, WorkerError> {
    let Some(text) = read_text(path, CONFIG_BYTES_MAX)? else { return Ok(Settings::default()) };
    parse_settings(&text, model).map_err(|problems| WorkerError::Repository { path: path.to_owned(), what: problems.join("; ") })
}

/// Reads `sluice.toml`, or tells everything that is wrong with it.
fn parse_settings(text: &str, model: &ModelName) -> Result<Settings, Vec<String>> {
    let table: toml::Table = toml::from_str(text).map_err(|error| vec![error.to_string().trim().to_owned()])?;
    let mut said = serde_json::Map::from_iter([("name".to_owned(), model.as_str().into())]);
    let (mut own, mut problems) = (toml::Table::new(), Vec::new());
    for (field, value) in table {
        if wanted::of_files().any(|known| known == field) {
            said.insert(field, serde_json::to_value(value).map_err(|error| vec![error.to_string()])?);
        } else if OWN_FIELDS.contains(&field.as_str()) {
            own.insert(field, value);
        } else {
            problems.push(wanted::unknown(&field, &field, OWN_FIELDS.into_iter().chain(wanted::of_files())));
        }
    }
    problems.extend(wanted::not_finite(&said));
    let record = wanted::read(&said).map_err(|found| problems.extend(found)).ok();
    // One at a time, as of the wanted state, so that none hides another; and this reader does not name the field.
    for (field, value) in &own {
        let alone = toml::Table::from_iter([(field.clone(), value.clone())]);
        problems
            .extend(alone.try_into::<Settings>().err().map(|error| format!("{field}: {}", error.to_string().trim().replace('\n', " "))));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let settings: Settings = own.try_into().map_err(|error: toml::de::Error| vec![error.to_string()])?;
    Ok(Settings { wanted: record, ..settings })
}

fn read_labels(folder: &Path, settings: &LabelSettings) -> Result<Labels, WorkerError> {
    let path = folder.join(&settings.file);
    let problem = |what: String| WorkerError::Repository { path: path.clone(), what };
    let plain = Path::new(&settings.file).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(problem("a label file lies inside its model's folder".to_owned()));
    }
    let text = read_text(&path, LABELS_BYTES_MAX)?.ok_or_else(|| problem("there is no such file".to_owned()))?;
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
        write(
            dir.path(),
            "good/sluice.toml",
            "max_batch_size = 8\nsplit = true\n[slo]\nlatency_ms = 50\n[padding]\ninputs = [{ name = \"x\", dim = 1, value = 0 }]\n",
        );
        write(dir.path(), "empty/readme", "x");
        write(dir.path(), "hollow/1/other.onnx", "x");
        write(dir.path(), "typo/1/model.onnx", "x");
        write(dir.path(), "typo/sluice.toml", "max_batchsize = 8\n");
        write(
            dir.path(),
            "triton/config.pbtxt",
            "platform: \"onnxruntime_onnx\"\nmax_batch_size: 3\ndefault_model_filename: \"net.onnx\"\nversion_policy { all {} }",
        );
        write(dir.path(), "triton/2/net.onnx", "x");
        write(dir.path(), "triton/10/net.onnx", "x");
        write(dir.path(), "unread/config.pbtxt", "max_batch_sise: 3");
        write(dir.path(), "unread/1/model.onnx", "x");
        write(dir.path(), "bad name/1/model.onnx", "x");
        std::fs::create_dir_all(dir.path().join("linked/1")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("good/1/model.onnx"), dir.path().join("linked/1/model.onnx")).unwrap();
        let (found, problems) = scan(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|f| format!("{}:{}", f.model, f.version)).collect();
        assert_eq!(names, ["good:1", "good:2", "triton:10", "triton:2", "unread:1"]);
        let Settings { split, padding, .. } = &found[0].settings;
        assert_eq!((*split, padding.as_ref().and_then(|p| p.input("x")).map(|x| (x.dim, x.value))), (true, Some((1, 0.0))));
        assert_eq!(wanted_versions(&found[..2]), Wanted::default());
        assert_eq!(wanted_versions(&found[2..4]), Wanted { versions: vec![], latest: Some(u32::MAX) });
        let [two, ten] = [2, 10].map(|n| Version::parse(&n.to_string()).unwrap());
        assert_eq!(wanted_versions(&found[2..4]).of(&[ten, two]), [two, ten]);
        assert_eq!(Wanted::default().of(&[ten, two]), [ten]);
        assert_eq!(found[2].model_file, "net.onnx");
        let unread = found[4].config.as_ref().unwrap_err();
        assert!(unread.contains("config.pbtxt") && unread.contains("max_batch_sise"), "{unread}");
        assert_eq!(found[0].settings.max_batch_size, Some(8));
        std::fs::write(dir.path().join("good/labels.txt"), "x".repeat(50 << 10)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("good/link.txt")).unwrap();
        let labels = |file: &str| {
            read_labels(&dir.path().join("good"), &LabelSettings { output: "y".into(), file: file.into(), activation: "none".into() })
        };
        assert!(labels("labels.txt").unwrap_err().to_string().contains("51200 bytes, the limit is 40960"));
        assert!(labels("link.txt").unwrap_err().to_string().contains("not a plain file"));
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let typo = "`max_batchsize` is not known; did you mean `max_batch_size`?";
        for needle in ["bad name", "symbolic link", "has no version", "has no model.onnx", typo] {
            assert!(texts.iter().any(|t| t.contains(needle)), "{needle} in {texts:?}");
        }
    }

    #[test]
    fn the_settings_of_a_model_say_what_is_wanted_of_it_in_the_words_of_the_record() {
        let name = ModelName::new("m").unwrap();
        let text = "max_batch_size = 8\nreplicas = 2\nexpected_rate = 200\nvariants = [\"fp32@ort\"]\nzones = [\"a\"]\n\
                    pins = [{ variant = \"fp32@ort\", worker = \"w\" }]\n[slo]\nlatency_ms = 40\n[tenants.blue]\nmin_accuracy = 0.99\n";
        let settings = parse_settings(text, &name).unwrap();
        let record = settings.wanted.unwrap();
        assert_eq!((settings.max_batch_size, record.replicas, record.expected_rate), (Some(8), Some(2), Some(200.0)));
        assert_eq!((record.name, record.wanted, record.slo.latency_ms, record.pins.len()), (name, true, Some(40), 1));
        assert_eq!(record.tenants.get("blue").and_then(|t| t.min_accuracy), Some(0.99));
    }

    #[test]
    fn every_mistake_in_the_settings_of_a_model_is_told() {
        let text = "split = 3\nreplica = 2\nwanted = false\nweight = nan\nidle_s = 0\nmax_batch_size = -1\n[slo]\nmin_accuracy = 1.2\nlatency = 3\n";
        let problems = parse_settings(text, &ModelName::new("m").unwrap()).unwrap_err();
        let starts = [
            "`replica` is not known; did you mean `replicas`?",
            "`wanted` is not known",
            "weight: inf or nan",
            "idle_s: 0; expected at least 1",
            "slo.latency: unknown field",
            "slo.min_accuracy: 1.2; expected 0 to 1",
            "max_batch_size: invalid value",
            "split: invalid type",
        ];
        starts.iter().for_each(|start| assert!(problems.iter().any(|p| p.starts_with(start)), "{start}: {problems:#?}"));
        assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    }

    #[test]
    fn the_names_of_our_own_settings_are_those_of_their_reader() {
        let error = toml::from_str::<Settings>("nothing = 1").unwrap_err().to_string();
        let known: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(known, OWN_FIELDS);
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
