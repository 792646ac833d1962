//! `variants`: makes, checks and imports variants of a model. The worker's engines run them, in child processes.

mod lab;

use crate::args::{Output, Variants, VariantsMake};
use crate::telemetry::{complain, say};
use ::variants::calibrate::Method;
use ::variants::make::{self, Order, Outcome, Outcomes};
use ::variants::recipe::{self, Recipe};
use ::variants::report;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use lab::Children;
use policy::card::Metric;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use worker::validate::Limits;

/// Accuracy that a variant must keep where no floor is given.
const FLOOR: f64 = 0.99;

pub(crate) async fn run(args: Variants) -> anyhow::Result<ExitCode> {
    match args {
        Variants::Make(args) => make_all(*args).await,
    }
}

async fn make_all(args: VariantsMake) -> anyhow::Result<ExitCode> {
    let order = match order(&args) {
        Ok(order) => order,
        Err(problem) => {
            complain(&problem);
            return Ok(ExitCode::from(2));
        }
    };
    let limits = Limits { time: Duration::from_secs(args.validate_seconds), memory_bytes: args.validate_memory_mb.saturating_mul(1 << 20) };
    let children = Children::new(args.onnxruntime.as_deref(), args.openvino.as_deref(), limits, Duration::from_millis(args.budget_ms))?;
    let svg = args.svg.clone().unwrap_or_else(|| order.out.join("variants.svg"));
    let output = args.output;
    let outcomes = tokio::task::spawn_blocking(move || {
        let bar = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        let outcomes = make::make(&order, &children, &mut |step| bar.set_message(step.to_owned()));
        bar.finish_and_clear();
        outcomes
    })
    .await??;
    let pictured = outcomes.made.iter().any(|made| made.timing.is_some())
        && svg.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir());
    if pictured {
        std::fs::write(&svg, report::svg(&outcomes)).with_context(|| svg.display().to_string())?;
    }
    show(&outcomes, output)?;
    let any = outcomes.made.iter().any(|made| matches!(made.outcome, Outcome::Kept | Outcome::NotProfiled(_)));
    if !any && output == Output::Table {
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

fn order(args: &VariantsMake) -> Result<Order, String> {
    let model = make::model_file(&args.model)
        .ok_or_else(|| format!("{}: no model.onnx there, nor MODEL/VERSION/model.onnx", args.model.display()))?;
    let beside = model.parent().map(|folder| folder.join("variants"));
    let out = args.out.clone().or(beside).ok_or("--out: where variants go is not known")?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
    Ok(Order {
        model,
        out,
        calibration: args.calib.clone(),
        evaluation: args.eval.clone(),
        labels: args.labels.clone(),
        metric: args.metric.as_deref().map(metric).transpose()?,
        recipes: recipes(&args.recipes)?,
        floor: args.floor.as_deref().map(floor).transpose()?.unwrap_or(FLOOR),
        method: Method::parse(&args.method)
            .ok_or_else(|| format!("--method {}: expected min-max, percentile, entropy or mse", args.method))?,
        reduce_range: !lab::has_vnni(),
        keep_slow: args.keep_slow,
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
    names.iter().map(|name| Recipe::find(name).ok_or_else(|| format!("--recipes {name}: expected all, or of {}", known()))).collect()
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
        assert!(recipes(&["int9".into()]).unwrap_err().contains("int8-dynamic"));
        assert_eq!(recipes(&["all".into()]).unwrap().len(), recipe::ALL.len());
    }
}
