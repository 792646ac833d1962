//! Variants that `sluice variants` makes of real models, against other tools and in service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::{Kit, Sluice, until};
use variants::make::{read_card, replay};

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
        make(&kit, &model, &samples, &out, &["--recipes", "int8-qdq", "--floor", "0", "--keep-slow", "--method", "min-max"]).unwrap();
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
        match make(&kit, file, &samples, &out, &["--recipes", "all", "--floor", "0.9", "--metric", "cosine", "--method", "percentile"]) {
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
                    if outcome == "kept" && variant["name"].as_str().unwrap().ends_with("@ort") {
                        // By another program than the one that says so.
                        kit.python("cosine.py", &[path(&samples), path(file), path(&folder.join("model.onnx")), "0.9"]);
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
    let recipes = ["fp16@tensorrt", "int8-qdq@ort", "int8-qdq@tensorrt"];
    make(&kit, &model, &samples, &out, &["--recipes", &recipes.join(","), "--floor", "0", "--keep-slow"]).unwrap();
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

/// A classifier in a repository, with `int8-qdq@ort` beside it whatever its speed.
fn with_variant(kit: &Kit, dir: &Path) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let models = kit.repository(&[]);
    kit.add(models.path(), "classifier", CLASSIFIER);
    let samples = first(kit, 32, "fashion_mnist/calib.npz", dir);
    let (model, out) = (models.path().join("classifier/1/model.onnx"), models.path().join("classifier/1/variants"));
    make(kit, &model, &samples, &out, &["--recipes", "int8-qdq", "--floor", "0.8", "--keep-slow", "--method", "min-max"]).unwrap();
    (models, out, samples)
}

#[test]
fn a_variant_whose_card_is_not_about_its_file_is_not_offered_and_the_log_says_why() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (models, out, _) = with_variant(&kit, dir.path());
    let card = std::fs::read_to_string(out.join("int8-qdq@ort/card.toml")).unwrap();
    let copy = |name: &str, change: &dyn Fn(String) -> String| {
        std::fs::create_dir(out.join(name)).unwrap();
        std::fs::copy(out.join("int8-qdq@ort/model.onnx"), out.join(name).join("model.onnx")).unwrap();
        std::fs::write(out.join(name).join("card.toml"), change(card.replace("int8-qdq@ort", name))).unwrap();
    };
    copy("good@ort", &|card| card);
    copy("renamed@ort", &|card| card.replace("renamed@ort", "another@ort"));
    copy("changed@ort", &|card| card);
    let mut bytes = std::fs::read(out.join("changed@ort/model.onnx")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(out.join("changed@ort/model.onnx"), bytes).unwrap();
    let source = card.lines().find(|line| line.starts_with("source = ")).unwrap().to_owned();
    copy("stranger@ort", &|card| card.replace(&source, &format!("source = \"{}\"", "0".repeat(64))));
    copy("unmeasured@ort", &|card| {
        let mut card: toml::Table = toml::from_str(&card).unwrap();
        card.remove("fidelity");
        toml::to_string(&card).unwrap()
    });
    std::fs::create_dir(out.join("bare@ort")).unwrap();

    let up = Sluice::up(&kit, models.path(), &[]);
    let listed = kit.run(&["get", "variants", "-o", "json", "--server", &up.url("admin")]).1;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|v| v["variant"].as_str().unwrap()).collect();
    assert_eq!(names, ["classifier:1:fp32@ort", "classifier:1:good@ort", "classifier:1:int8-qdq@ort"]);
    for said in ["card of another@ort", "not the file that the card is about", "made from another file", "how accurate", "there is no card"]
    {
        assert!(up.log().contains(said), "{said:?} in\n{}", up.log());
    }
}

#[test]
fn what_others_made_is_taken_in_when_it_is_right_and_checked_again_when_asked() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (models, out, samples) = with_variant(&kit, dir.path());
    let model = models.path().join("classifier");
    let fixed = ["--calib", path(&samples), "--budget-ms", "20", "--floor", "0.8", "--keep-slow", "-o", "json"];
    let run = |words: &[&str]| {
        let (code, stdout, stderr) = kit.run(&[&["variants"], words, &fixed].concat());
        (code, serde_json::from_str::<Value>(&stdout).unwrap_or_default(), stderr)
    };
    let theirs = out.join("int8-qdq@ort/model.onnx");
    let (_, made, said) = run(&["import", path(&theirs), "--model", path(&model), "--name", "theirs@ort"]);
    assert!(of(&made, "theirs@ort")["fidelity"]["accuracy"].as_f64().unwrap() >= 0.8, "{made} {said}");
    let card = std::fs::read_to_string(out.join("theirs@ort/card.toml")).unwrap();
    // Its card and the model give our own file again, byte for byte.
    let again = replay(&read_card(&out.join("int8-qdq@ort")).unwrap(), &model.join("1/model.onnx")).unwrap();
    assert!(again.encode() == std::fs::read(&theirs).unwrap());
    assert!(card.contains("made_by = \"imported\"") && !card.contains("[[passes]]"), "{card}");
    assert!(std::fs::read(out.join("theirs@ort/model.onnx")).unwrap() == std::fs::read(&theirs).unwrap());

    // Not a variant of this model: other answers, other inputs, no model at all.
    let (code, made, _) = run(&["import", path(&kit.models.join("bad/truncated.onnx")), "--model", path(&model), "--name", "bad@ort"]);
    assert_eq!((code, of(&made, "bad@ort")["outcome"].as_str()), (1, Some("refused")), "{made}");
    let (code, made, _) =
        run(&["import", path(&kit.models.join("demo/minilm_l6/1/model.onnx")), "--model", path(&model), "--name", "bad@ort"]);
    assert_eq!((code, of(&made, "bad@ort")["outcome"].as_str()), (1, Some("refused")), "{made}");
    let (code, _, said) = run(&["import", path(&theirs), "--model", path(&model), "--name", "../bad"]);
    assert!(code == 2 && said.contains("../bad"), "{said}");
    let (code, _, said) = run(&["import", path(&theirs), "--model", path(&model), "--name", "fp32@ort"]);
    assert!(code == 2 && said.contains("what the model itself is called"), "{said}");
    assert!(!out.join("bad@ort").exists());

    let before = std::fs::read_to_string(out.join("int8-qdq@ort/card.toml")).unwrap();
    let (_, made, said) = run(&["check", path(&model)]);
    let names: Vec<&str> = made["variants"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["int8-qdq@ort", "theirs@ort"], "{said}");
    let after = std::fs::read_to_string(out.join("int8-qdq@ort/card.toml")).unwrap();
    // What is too far off by now is told so, and offered no more.
    let refused = ["variants", "check", path(&model), "--calib", path(&samples), "--budget-ms", "20", "--floor", "1", "--metric", "cosine"];
    assert_eq!(kit.run(&refused).0, 1);
    let struck = std::fs::read_to_string(out.join("theirs@ort/card.toml")).unwrap();
    assert!(struck.contains("floor = 1.0") && struck.contains("[fidelity]"), "{struck}");
    let without_time = |card: &str| card.lines().filter(|line| !line.starts_with("made_at")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_time(&after), without_time(&before), "what made it is still told, and the answers are the same");
}

#[test]
fn bad_samples_and_floors_that_nobody_meets_are_told_and_nothing_is_left() {
    let Some(kit) = Kit::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (kit.models.join(CLASSIFIER), dir.path().join("out"));
    let samples = first(&kit, 32, "fashion_mnist/calib.npz", dir.path());
    let check = |samples: &Path, more: &[&str], expected: (i32, &str)| {
        let (code, said) = make(&kit, &model, samples, &out, more).unwrap_err();
        assert!(code == expected.0 && said.contains(expected.1), "{expected:?}: {code} {said}");
        assert!(!out.exists(), "{said}");
    };
    check(&dir.path().join("nowhere.npz"), &[], (1, "nowhere.npz"));
    check(&first(&kit, 4, "fashion_mnist/calib.npz", dir.path()), &[], (1, "4 samples; at least 8"));
    check(&kit.data.join("minilm/calib.npz"), &[], (1, "is no input of the model; it takes x"));
    std::fs::write(dir.path().join("text.npz"), "no archive").unwrap();
    check(&dir.path().join("text.npz"), &[], (1, "not a NumPy .npz file"));
    check(&samples, &["--recipes", "int9"], (2, "int8-dynamic"));
    check(&samples, &["--floor", "accuracy=2"], (2, "accuracy=0.99"));
    check(&samples, &["--metric", "beauty"], (2, "labels, agreement or cosine"));
    // Nobody is better than itself by the cosine but for rounding: the best is told.
    let table = ["variants", "make", path(&model), "--calib", path(&samples), "--out", path(&out), "--budget-ms", "20"];
    let (code, stdout, _) = kit.run(&[&table[..], &["--recipes", "int8-dynamic", "--metric", "cosine", "--floor", "1"]].concat());
    assert!(code == 1 && stdout.contains("below the floor 1") && stdout.contains("the most accurate is int8-dynamic@ort"), "{stdout}");
    assert!(!out.exists());
}
