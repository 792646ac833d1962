//! `plan`: what would be placed where, in words, without doing it.

use crate::args::Plan;
use crate::client;
use crate::telemetry::say;
use anyhow::Context as _;
use policy::plan::{Alternative, DevicePlan, ModelPlan, Told};
use proto::sluice::PlanRequest;
use std::process::ExitCode;

/// Where a device is busier than this, more of it would win something.
const BUSY: f64 = 0.98;

pub(crate) async fn run(args: Plan) -> anyhow::Result<ExitCode> {
    let models = match &args.what_if {
        None => Vec::new(),
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
            crate::wanted::read(&text).with_context(|| format!("{}", file.display()))?
        }
    };
    let answer = client::admin(&args.server.server).await?.plan(PlanRequest { models }).await.map_err(|s| client::said(&s))?;
    let json = answer.into_inner().json;
    if args.output.is_some() {
        say(&json);
        return Ok(ExitCode::SUCCESS);
    }
    let told: Told = serde_json::from_str(&json).context("the server's plan cannot be read: is it of another version?")?;
    say(&text(&told));
    Ok(ExitCode::SUCCESS)
}

/// The plan as a person reads it.
fn text(told: &Told) -> String {
    let mut out = String::from("Nothing of this is done: it is what would be planned now.\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    if told.models.is_empty() {
        line("\nNobody asks for anything, and no `expected_rate` is given: replicas are kept as redundancy wants them.".to_owned());
    }
    for model in &told.models {
        line(String::new());
        line(about_model(model));
        for share in &model.shares {
            let part = 100.0 * share.rate / model.rate;
            line(format!("  {part:3.0} % by {} on {} {}: {:.1} rows/s", share.variant.name, share.worker, share.device, share.rate));
        }
    }
    if !told.devices.is_empty() {
        line("\nDevices:".to_owned());
        told.devices.iter().for_each(|device| line(about_device(device)));
    }
    if !told.changes.is_empty() {
        line("\nWhat would change first:".to_owned());
        for change in &told.changes {
            let verb = if change.loads { "load  " } else { "unload" };
            line(format!("  {verb} {} on {} {}", change.variant, change.worker, change.device));
        }
    }
    if !told.unplaced.is_empty() {
        line("\nNot as wanted:".to_owned());
        told.unplaced.iter().for_each(|reason| line(format!("  {reason}")));
    }
    if !told.alternatives.is_empty() {
        line("\nWhat would help:".to_owned());
        told.alternatives.iter().for_each(|alternative| line(about_alternative(alternative)));
    }
    out.trim_end().to_owned()
}

fn about_model(model: &ModelPlan) -> String {
    let of_hundred = (1e4 * (1.0 - model.allowance)).round() / 100.0;
    let in_time = match (model.tail_ms, model.target_ms) {
        (Some(tail), Some(target)) => format!(", {of_hundred} of 100 within {tail:.1} ms as predicted (target {target} ms)"),
        (Some(tail), None) => format!(", {of_hundred} of 100 within {tail:.1} ms as predicted"),
        (None, _) => String::new(),
    };
    let (name, version, rate, served, accuracy) = (&model.model, model.version, model.rate, model.served, model.accuracy);
    let scarce = match model.row_price {
        price if price < 0.0 => ". One row/s more of it would be left out",
        _ => "",
    };
    format!(
        "{name} version {version}: {served:.1} of {rate:.1} rows/s answered in time, at {accuracy:.4} of the reference's accuracy{in_time}{scarce}"
    )
}

fn about_device(device: &DevicePlan) -> String {
    let (used, all) = (device.bytes as f64 / 1e6, device.bytes_max as f64 / 1e6);
    let price = if device.busy >= BUSY && device.time_price > 0.0 {
        format!(", full: one more like it would be worth {:.0} rows/s", device.time_price)
    } else {
        String::new()
    };
    let (worker, name, busy) = (&device.worker, &device.device, 100.0 * device.busy);
    format!("  {worker} {name}: {busy:.0} % of the time it can be busy and in time, {used:.0} of {all:.0} MB{price}")
}

fn about_alternative(alternative: &Alternative) -> String {
    let Alternative { model, wish, served, instead_of, accuracy } = alternative;
    format!("  {model} {wish}: {served:.1} rows/s in time instead of {instead_of:.1}, at an accuracy of {accuracy:.4}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_is_told_in_words() {
        let told: Told = serde_json::from_value(json!({
            "models": [{
                "model": "m", "version": 1, "rate": 100.0, "served": 80.0, "accuracy": 0.985, "allowance": 0.01, "tail_ms": 33.25, "target_ms": 40.0,
                "feasible_ms": null, "row_price": -2.0,
                "shares": [{ "variant": "m:1:int8@ort", "worker": "w", "device": "cpu", "rate": 80.0 }],
            }],
            "devices": [{ "worker": "w", "device": "cpu", "busy": 1.0, "bytes": 5_000_000, "bytes_max": 85_000_000, "time_price": 61.0 }],
            "changes": [{ "loads": true, "variant": "m:1:int8@ort", "worker": "w", "device": "cpu" }],
            "unplaced": ["m:1: 80 of 100 rows a second can be answered in time"],
            "alternatives": [
                { "model": "m", "wish": "without the floor of 0.98", "served": 100.0, "instead_of": 80.0, "accuracy": 0.97 }
            ],
        }))
        .unwrap();
        let text = text(&told);
        for says in [
            "m version 1: 80.0 of 100.0 rows/s answered in time, at 0.9850 of the reference's accuracy",
            "99 of 100 within 33.2 ms as predicted (target 40 ms). One row/s more of it would be left out",
            "80 % by int8@ort on w cpu: 80.0 rows/s",
            "w cpu: 100 % of the time it can be busy and in time, 5 of 85 MB, full: one more like it would be worth 61 rows/s",
            "load   m:1:int8@ort on w cpu",
            "m without the floor of 0.98: 100.0 rows/s in time instead of 80.0, at an accuracy of 0.9700",
        ] {
            assert!(text.contains(says), "{says}\n{text}");
        }
    }
}
