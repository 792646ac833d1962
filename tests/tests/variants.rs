//! Variants that `sluice variants` makes of real models, against other tools and in service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::{Kit, Sluice, until};

/// A labelled classifier of convolutions.
const CLASSIFIER: &str = "variants/effnet_lite0_cls96/1/model.onnx";

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The first `count` of fetched samples, in `folder`.
fn first(kit: &Kit, count: usize, samples: &str, folder: &Path) -> PathBuf {
    let file = folder.join(format!("first{count}.npz"));
    kit.python("few_samples.py", &["first", &count.to_string(), path(&kit.data.join(samples)), path(&file)]);
    file
}

/// `sluice variants make`, timed for a moment only: what it made, or its exit code and words.
fn make(kit: &Kit, model: &Path, samples: &Path, out: &Path, more: &[&str]) -> Result<Value, (i32, String)> {
    let fixed = ["variants", "make", path(model), "--calib", path(samples), "--out", path(out), "--budget-ms", "20", "-o", "json"];
    let (code, stdout, stderr) = kit.run(&[&fixed[..], more].concat());
    serde_json::from_str(&stdout).map_err(|_| (code, stderr))
}

fn of<'v>(made: &'v Value, name: &str) -> &'v Value {
    made["variants"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap()
}

#[test]
fn scales_and_zero_points_are_those_of_onnx_runtimes_own_quantizer() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let pictures = dir.path().join("pictures.npz");
    kit.python("few_samples.py", &["made-up", path(&kit.models.join("bench/mobilenetv2/1/model.onnx")), path(&pictures)]);
    let convolutions =
        "Conv,Gemm,MatMul,MaxPool,Reshape,Transpose,Flatten,Squeeze,Unsqueeze,Slice,Add,Mul,Concat,GlobalAveragePool,AveragePool,Clip,Relu";
    for (model, samples, operators, least) in [
        (CLASSIFIER, first(&kit, 32, "fashion_mnist/calib.npz", dir.path()), convolutions, [60, 100]),
        ("bench/mobilenetv2/1/model.onnx", pictures, convolutions, [60, 100]),
        ("demo/minilm_l6/1/model.onnx", first(&kit, 24, "minilm/calib.npz", dir.path()), "MatMul,Gemm", [36, 36]),
    ] {
        let (model, out) = (kit.models.join(model), dir.path().join("out"));
        // Fidelity and speed are not what is looked at.
        make(&kit, &model, &samples, &out, &["--recipes", "int8-qdq", "--floor", "0", "--keep-slow"]).unwrap();
        let said = kit.python("quantizer.py", &[path(&model), path(&samples), path(&out.join("int8-qdq@ort/model.onnx")), operators]);
        let counts: Vec<u32> = said.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert!(counts[0] >= least[0] && counts[1] >= least[1], "{}: {said}", model.display());
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn models_that_others_made_end_in_a_table_or_a_clear_word_and_what_is_kept_keeps_its_floor() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<PathBuf> = kit.models.join("foreign").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut tables = Vec::new();
    for file in &files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let (samples, out) = (dir.path().join(format!("{name}.npz")), dir.path().join(&name));
        if !kit.try_python("few_samples.py", &["made-up", path(file), path(&samples)]) {
            std::fs::copy(kit.data.join("minilm/pairs.npz"), &samples).unwrap(); // of another model: refused by name
        }
        let before = std::fs::read(file).unwrap();
        match make(&kit, file, &samples, &out, &["--recipes", "all", "--floor", "0.9"]) {
            Ok(made) => {
                for variant in made["variants"].as_array().unwrap() {
                    let outcome = variant["outcome"].as_str().unwrap();
                    assert!(["kept", "refused", "not-applicable", "not-profiled"].contains(&outcome), "{name}: {variant}");
                    assert_eq!(outcome == "kept", variant["reason"].is_null(), "{name}: {variant}");
                    let folder = out.join(variant["name"].as_str().unwrap());
                    assert_eq!(folder.is_dir(), outcome == "kept" || outcome == "not-profiled", "{name}: {variant}");
                    if outcome == "kept" {
                        assert!(variant["fidelity"]["accuracy"].as_f64().unwrap() >= 0.9, "{name}: {variant}");
                    }
                }
                tables.push(name.clone());
            }
            Err((code, said)) => {
                assert_eq!(code, 1, "{name}: {said}");
                assert!(said.starts_with("sluice: ") && !said.contains("panicked"), "{name}: {said}");
                assert!(!out.exists(), "{name}: half of something is left");
            }
        }
        assert!(std::fs::read(file).unwrap() == before, "{name} was changed");
    }
    assert!(tables.len() >= 12, "{} of {} went through: {tables:?}", tables.len(), files.len());
}

#[test]
fn the_onnx_checker_and_opencv_take_what_was_made_and_answer_the_same() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let samples = first(&kit, 48, "fashion_mnist/calib.npz", dir.path());
    kit.python("opencv.py", &["prepare", path(&kit.models.join(CLASSIFIER)), path(&samples), path(dir.path())]);
    let (model, samples, out) = (dir.path().join("model.onnx"), dir.path().join("samples.npz"), dir.path().join("out"));
    // Engines that are not here: their files are written whatever their speed.
    let recipes = ["fp16@tensorrt", "int8-qdq@tensorrt"];
    make(&kit, &model, &samples, &out, &["--recipes", &recipes.join(","), "--floor", "0"]).unwrap();
    let files: Vec<PathBuf> = recipes.iter().map(|name| out.join(name).join("model.onnx")).collect();
    kit.python("opencv.py", &[&["check", path(&samples), path(&model)], &files.iter().map(|f| path(f)).collect::<Vec<_>>()[..]].concat());
}

#[test]
fn a_variant_that_pays_is_served_to_whoever_pins_it_and_answers_as_its_card_says() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let models = kit.repository(&[]);
    kit.add(models.path(), "classifier", CLASSIFIER);
    let model = models.path().join("classifier/1/model.onnx");
    let out = models.path().join("classifier/1/variants");
    let samples = first(&kit, 64, "fashion_mnist/calib.npz", dir.path());
    let made = make(&kit, &model, &samples, &out, &["--recipes", "int8-qdq", "--floor", "0.9"]).unwrap();
    assert_eq!(of(&made, "int8-qdq@ort")["outcome"], "kept", "{made}");

    let up = Sluice::up(&kit, models.path(), &[]);
    let name = "classifier:1:int8-qdq@ort";
    let variants =
        || -> Value { serde_json::from_str(&kit.run(&["get", "variants", "-o", "json", "--server", &up.url("admin")]).1).unwrap() };
    until("the variant is profiled and placed", Duration::from_secs(60), || {
        variants().as_array().unwrap().iter().any(|v| v["variant"] == name && v["replicas"]["local"]["state"] == "ready")
    });
    let said = kit.python("pinned.py", &[up.port("grpc"), path(&samples), path(&model), path(&out.join("int8-qdq@ort/model.onnx"))]);
    assert_eq!(said.trim(), "fp32@ort int8-qdq@ort");
}
