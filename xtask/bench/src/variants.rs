//! What variants are worth on this machine's processor: `sluice variants make` on a classifier with 10,000 labelled pictures and on a
//! sentence model, and what the quantizing pass itself takes.

use crate::Args;
use crate::report::{Bound, Report, Samples};
use ::variants::onnx::Model;
use ::variants::pass::{Activations, Pass, Qdq, Ranges, observed};
use ::variants::recipe::Recipe;
use anyhow::{Context as _, ensure};
use policy::card::Metric;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Labelled pictures.
const PICTURES: usize = 10_000;

/// Where the fetched data are, and the Python that unpacks it.
struct Places {
    data: PathBuf,
    python: PathBuf,
    models: PathBuf,
}

pub(crate) fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let cache = args.models.parent().and_then(Path::parent).context("--models is not in a cache of fetched things")?;
    let places = Places { data: cache.join("data"), python: cache.join("venv/bin/python"), models: cache.join("models") };
    let scratch = tempfile::tempdir()?;
    classifier(args, &places, scratch.path(), report)?;
    sentences(args, &places, scratch.path(), report)?;
    the_pass_itself(args, report)
}

/// What became of one variant.
struct Made<'v>(&'v Value);

impl Made<'_> {
    /// Times faster than the reference of `all` at one row.
    fn speedup_at_1(&self, all: &Value) -> f64 {
        let reference = all.pointer("/reference/timing/batches/0/p50_us").and_then(Value::as_f64).unwrap_or(f64::NAN);
        reference / self.number("/timing/batches/0/p50_us")
    }

    fn number(&self, pointer: &str) -> f64 {
        self.0.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    fn outcome(&self) -> &str {
        self.0["outcome"].as_str().unwrap_or_default()
    }
}

fn make(args: &Args, model: &Path, calib: &Path, eval: &Path, recipes: &str, out: &Path) -> anyhow::Result<Value> {
    let mut command = Command::new(&args.sluice);
    command.args(["variants", "make"]).arg(model).arg("--calib").arg(calib).arg("--eval").arg(eval);
    command.args(["--recipes", recipes, "-o", "json", "--out"]).arg(out).env("SLUICE_ONNXRUNTIME", &args.onnxruntime);
    let output = command.output()?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn of<'v>(made: &'v Value, name: &str) -> anyhow::Result<Made<'v>> {
    let found = made["variants"].as_array().and_then(|all| all.iter().find(|v| v["name"] == name));
    Ok(Made(found.with_context(|| format!("no {name} in {made}"))?))
}

/// One line for each variant that was timed.
fn rows(model: &str, made: &Value, report: &mut Report) {
    for variant in made["variants"].as_array().into_iter().flatten() {
        let name = variant["name"].as_str().unwrap_or_default();
        let one = |value: &Value| Samples::from_iter(value.as_f64());
        if variant["speedup"].is_number() {
            report.row(format!("{model} {name}: times faster, all batches"), &one(&variant["speedup"]), "x");
            report.row(format!("{model} {name}: times faster at one row"), &Samples::from_iter([Made(variant).speedup_at_1(made)]), "x");
        }
        if let Some(accuracy) = variant.pointer("/fidelity/accuracy") {
            report.row(format!("{model} {name}: accuracy"), &one(accuracy), "");
        }
        if let Some(reason) = variant["reason"].as_str() {
            report.note(format!("{model} {name}: {}: {reason}", variant["outcome"].as_str().unwrap_or_default()));
        }
    }
}

fn classifier(args: &Args, places: &Places, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    let model = places.models.join("variants/effnet_lite0_cls96");
    let (calib, few) = (places.data.join("fashion_mnist/calib.npz"), places.data.join("fashion_mnist/test1000.npz"));
    let all = scratch.join("pictures.npz");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion_samples.py");
    let mut unpack = Command::new(&places.python);
    unpack
        .arg("-B")
        .arg(script)
        .arg("--data")
        .arg(places.data.join("fashion_mnist"))
        .args(["--count", &PICTURES.to_string(), "--out"])
        .arg(&all);
    ensure!(unpack.status()?.success(), "the pictures could not be unpacked");

    let made = make(args, &model, &calib, &all, "int8-qdq", &scratch.join("classifier"))?;
    rows("classifier", &made, report);
    let quantized = of(&made, "int8-qdq@ort")?;
    let labels = |what: &str| quantized.number(&format!("/fidelity/labels/{what}"));
    report.note(format!(
        "classifier int8-qdq@ort: {:.2} % of {PICTURES} labels right (95 %: {:.2} to {:.2}), the reference {:.2} %",
        labels("value") * 100.0,
        labels("low") * 100.0,
        labels("high") * 100.0,
        labels("reference") * 100.0
    ));
    report.target("classifier, static int8 at one row", quantized.speedup_at_1(&made), Bound::AtLeast(1.9), "x");
    report.target("classifier, static int8: labels lost", (labels("reference") - labels("value")) * 100.0, Bound::AtMost(0.5), "points");

    let others = "int8-dynamic,fp16,fp32@openvino,bf16@openvino,int8-qdq@openvino";
    let made = make(args, &model, &calib, &few, others, &scratch.join("others"))?;
    rows("classifier", &made, report);
    for name in ["int8-dynamic@ort", "fp16@ort"] {
        let found = of(&made, name)?;
        let refused = found.outcome() == "refused" && found.number("/speedup") < 1.0;
        report.target(format!("classifier, {name}: refused as slower"), f64::from(u8::from(refused)), Bound::AtLeast(1.0), "");
    }
    let bf16 = of(&made, "bf16@openvino")?;
    if worker::devices::discover().isa.iter().any(|isa| isa == "avx512_bf16") {
        report.target("classifier, bf16 by OpenVINO at one row", bf16.speedup_at_1(&made), Bound::AtLeast(1.6), "x");
    } else {
        let told = f64::from(u8::from(bf16.outcome() == "refused"));
        report.target("classifier, bf16 by OpenVINO: told that this processor has none", told, Bound::AtLeast(1.0), "");
    }
    Ok(())
}

fn sentences(args: &Args, places: &Places, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    let (model, data) = (args.demo_models().join("minilm_l6"), places.data.join("minilm"));
    let recipes = "int8-dynamic,int8-weights,fp16,fp32@openvino,bf16@openvino";
    let made = make(args, &model, &data.join("calib.npz"), &data.join("test.npz"), recipes, &scratch.join("sentences"))?;
    rows("MiniLM", &made, report);
    let dynamic = of(&made, "int8-dynamic@ort")?;
    report.target("MiniLM, dynamic int8 at one row", dynamic.speedup_at_1(&made), Bound::AtLeast(2.3), "x");
    report.target("MiniLM, dynamic int8: cosine", dynamic.number("/fidelity/cosine_mean"), Bound::AtLeast(0.99), "");
    ensure!(
        dynamic.0.pointer("/fidelity/metric") == Some(&serde_json::to_value(Metric::Cosine)?),
        "MiniLM is compared by something else than its cosine"
    );
    Ok(())
}

/// Quantizes a model of 100 MB with made-up ranges: how long that takes, and how much memory.
fn the_pass_itself(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let file = args.models.join("resnet50/1/model.onnx");
    let bytes = file.metadata()?.len() as f64;
    let (mut seconds, mut most) = (Samples::default(), 0.0f64);
    for _ in 0..args.rounds {
        std::fs::write("/proc/self/clear_refs", "5")?; // the peak starts anew
        let before = resident("VmRSS:")?;
        let started = Instant::now();
        let mut model = Model::read(&file)?;
        let operators = Recipe::operators(model.graph());
        let ranges = observed(model.graph(), &operators).into_iter().map(|name| (name, [-4.0, 4.0])).collect();
        let pass = Qdq {
            activations: Activations::U8,
            per_channel: true,
            reduce_range: false,
            operators,
            keep: Default::default(),
            ranges: Ranges(ranges),
        };
        Pass::from(pass).apply(&mut model)?;
        let made = model.encode();
        seconds.push(started.elapsed().as_secs_f64());
        most = most.max(resident("VmHWM:")? - before);
        ensure!(made.len() as f64 * 3.0 < bytes, "{} of {bytes} bytes: nothing was quantized", made.len());
    }
    report.row(format!("static int8 pass over {:.0} MB", bytes / 1e6), &seconds, "s");
    report.target("the pass over 100 MB", seconds.median(), Bound::AtMost(2.0), "s");
    report.target("memory of the pass over the file's size", most / bytes, Bound::AtMost(3.0), "x");
    Ok(())
}

/// Bytes of this process, by their name in `/proc/self/status`.
fn resident(name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? * 1024.0)
}
