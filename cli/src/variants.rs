//! `variants`: makes, checks and imports variants of a model. The worker's engines run them, in child processes.

mod lab;

use crate::args::{Output, Trial, Variants, VariantsCheck, VariantsImport, VariantsMake};
use crate::telemetry::{complain, say};
use ::variants::calibrate::Method;
use ::variants::make::{self, Existing, Job, Order, Outcome, Outcomes};
use ::variants::recipe::{self, Recipe};
use ::variants::report;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use lab::Children;
use policy::card::Metric;
use policy::{PrecisionHint, VariantName};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use worker::validate::Limits;

/// Accuracy that a variant must keep where no floor is given.
const FLOOR: f64 = 0.99;

pub(crate) async fn run(args: Variants) -> anyhow::Result<ExitCode> {
    let (order, trial) = match args {
        Variants::Make(args) => (to_make(&args), args.trial),
        Variants::Check(args) => (to_check(&args), args.trial),
        Variants::Import(args) => (to_import(&args), args.trial),
    };
    match order {
        Ok(order) => carry_out(order, trial).await,
        Err(problem) => {
            complain(&problem);
            Ok(ExitCode::from(2))
        }
    }
}

async fn carry_out(order: Order, trial: Trial) -> anyhow::Result<ExitCode> {
    let limits =
        Limits { time: Duration::from_secs(trial.validate_seconds), memory_bytes: trial.validate_memory_mb.saturating_mul(1 << 20) };
    let budget = Duration::from_millis(trial.budget_ms);
    let children = Children::new(trial.onnxruntime.as_deref(), trial.openvino.as_deref(), limits, budget)?;
    let svg = trial.svg.clone().unwrap_or_else(|| order.out.join("variants.svg"));
    let outcomes = tokio::task::spawn_blocking(move || {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        let outcomes = make::make(&order, &children, &mut |step| bar.set_message(step.to_owned()));
        bar.finish_and_clear();
        outcomes
    })
    .await??;
    let timed = outcomes.made.iter().any(|made| made.timing.is_some());
    if timed && svg.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
        std::fs::write(&svg, report::svg(&outcomes)).with_context(|| svg.display().to_string())?;
    }
    show(&outcomes, trial.output)?;
    let any = outcomes.made.iter().any(|made| matches!(made.outcome, Outcome::Kept | Outcome::NotProfiled(_)));
    if !any && trial.output == Output::Table {
        say(&format!("nothing was kept: {}", best(&outcomes)));
    }
    Ok(if any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(outcomes: &Outcomes, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        say(&serde_json::to_string_pretty(&report::json(outcomes))?);
        return Ok(());
    }
    say(&report::table(outcomes));
    for made in &outcomes.made {
        for line in &made.lines {
            say(&format!("{}: {line}", made.name));
        }
    }
    say(&report::plot(outcomes));
    Ok(())
}

/// The nearest miss, for someone whose floor nobody met.
fn best(outcomes: &Outcomes) -> String {
    let best = outcomes.made.iter().filter_map(|m| Some((m.fidelity.as_ref()?, m))).max_by(|a, b| a.0.accuracy.total_cmp(&b.0.accuracy));
    best.map_or("no variant could be compared with the reference".to_owned(), |(fidelity, made)| {
        format!("the most accurate is {} with {:.4} ({})", made.name, fidelity.accuracy, fidelity.metric)
    })
}

fn to_make(args: &VariantsMake) -> Result<Order, String> {
    let mut order = order(&args.model, args.out.as_deref(), &args.trial)?;
    order.jobs = recipes(&args.recipes)?.into_iter().map(Job::Recipe).collect();
    let parse = || {
        Method::parse(&args.method).ok_or_else(|| format!("--method {}: expected best, min-max, percentile, entropy or mse", args.method))
    };
    order.method = (args.method != "best").then(parse).transpose()?;
    Ok(order)
}

fn to_check(args: &VariantsCheck) -> Result<Order, String> {
    let mut order = order(&args.model, None, &args.trial)?;
    let entries = std::fs::read_dir(&order.out).map_err(|e| format!("{}: {e}", order.out.display()))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    folders.sort();
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| args.only.iter().any(|only| name == only.as_str()));
    folders.retain(|path| args.only.is_empty() || named(path));
    if folders.is_empty() {
        return Err(format!("{}: no variants there to check", order.out.display()));
    }
    let existing = folders.iter().map(|folder| Existing::in_folder(folder).map_err(|e| e.to_string()));
    order.jobs = existing.map(|found| found.map(|existing| Job::Existing(Box::new(existing)))).collect::<Result<_, _>>()?;
    order.keep_slow = true; // they are there; whether they pay here is told, and is this machine's affair
    Ok(order)
}

fn to_import(args: &VariantsImport) -> Result<Order, String> {
    let mut order = order(&args.model, None, &args.trial)?;
    let name = VariantName::new(args.name.as_str()).map_err(|e| format!("--name {}: {e}", args.name))?;
    Existing::check_name(&name).map_err(|e| format!("--name: {e}"))?;
    let parse = |text: &String| PrecisionHint::parse(text).ok_or_else(|| format!("--hint {text}: expected f32, f16 or bf16"));
    let hint = args.hint.as_ref().map(parse).transpose()?;
    if !args.file.is_file() {
        return Err(format!("{}: no such file", args.file.display()));
    }
    order.jobs = vec![Job::Existing(Box::new(Existing { name, file: Some(args.file.clone()), hint, card: None }))];
    Ok(order)
}

/// An order for nothing yet.
fn order(model: &Path, out: Option<&Path>, trial: &Trial) -> Result<Order, String> {
    let model = make::model_file(model).ok_or_else(|| format!("{}: no model.onnx there, nor MODEL/VERSION/model.onnx", model.display()))?;
    let out = out.map(Path::to_owned).unwrap_or_else(|| model.with_file_name("variants"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
    Ok(Order {
        model,
        out,
        calibration: trial.calib.clone(),
        evaluation: trial.eval.clone(),
        labels: trial.labels.clone(),
        metric: trial.metric.as_deref().map(metric).transpose()?,
        jobs: Vec::new(),
        floor: trial.floor.as_deref().map(floor).transpose()?.unwrap_or(FLOOR),
        method: None,
        reduce_range: !lab::has_vnni(),
        keep_slow: trial.keep_slow,
        now,
    })
}

fn metric(text: &str) -> Result<Metric, String> {
    Ok(match text {
        "labels" => Metric::Labels,
        "agreement" => Metric::Agreement,
        "cosine" => Metric::Cosine,
        _ => return Err(format!("--metric {text}: expected labels, agreement or cosine")),
    })
}

fn floor(text: &str) -> Result<f64, String> {
    let value = text.strip_prefix("accuracy=").unwrap_or(text).parse::<f64>().ok().filter(|v| (0.0..=1.0).contains(v));
    value.ok_or_else(|| format!("--floor {text}: expected accuracy=0.99, a share from 0 to 1"))
}

fn recipes(names: &[String]) -> Result<Vec<&'static Recipe>, String> {
    if names.iter().any(|name| name == "all") {
        return Ok(recipe::ALL.iter().collect());
    }
    let known = || recipe::ALL.iter().map(|r| r.name.trim_end_matches("@ort")).collect::<Vec<_>>().join(", ");
    let find = |name: &String| Recipe::find(name).ok_or_else(|| format!("--recipes {name}: expected all, or of {}", known()));
    let wanted = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    // Each once, in the order in which they are tried.
    Ok(recipe::ALL.iter().filter(|recipe| wanted.contains(recipe)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_make_no_sense_are_refused_with_what_was_expected() {
        assert_eq!(floor("accuracy=0.98"), Ok(0.98));
        assert_eq!(floor("0.5"), Ok(0.5));
        for bad in ["1.5", "accuracy=", "latency=3", "NaN"] {
            assert!(floor(bad).unwrap_err().contains("accuracy=0.99"), "{bad}");
        }
        assert_eq!(recipes(&["int8-qdq".into()]).unwrap()[0].name, "int8-qdq@ort");
        let twice = recipes(&["fp16".into(), "int8-qdq@ort".into(), "int8-qdq".into()]).unwrap();
        assert_eq!(twice.iter().map(|r| r.name).collect::<Vec<_>>(), ["int8-qdq@ort", "fp16@ort"]);
        assert!(recipes(&["int9".into()]).unwrap_err().contains("int8-dynamic"));
        assert_eq!(recipes(&["all".into()]).unwrap().len(), recipe::ALL.len());
    }
}
