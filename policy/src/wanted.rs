//! What an operator writes about models: read field by field and judged as a whole, so that every mistake is told at once, each with
//! the path of its field, the value, and what is expected.
//!
//! `sluice apply`, the operator's service and the reader of `sluice.toml` all go through here.

#[cfg(test)]
mod tests;

use crate::rollout::{Candidate, Rollout, check_alias};
use crate::{ModelName, ModelRecord, SCHEMA, Slo};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Longest text about one problem: values of a caller are repeated in it.
const PROBLEM_CHARS_MAX: usize = 300;
/// How deep a field is looked into for the part that is at fault: `tenants.NAME.latency_ms`, `pins[0].worker`.
const DEPTH_MAX: usize = 3;
/// Longest latency target, an hour: what takes longer is a batch job.
const LATENCY_MS_MAX: u32 = 3_600_000;
/// Highest rate: no cluster comes near it, so a higher one is a mistake of units.
pub(crate) const RATE_MAX: f64 = 1e9;
/// Importance of a model against others.
pub(crate) const WEIGHTS: std::ops::RangeInclusive<f64> = 0.001..=1000.0;
/// What is expected beside a metric or samples.
const FLOOR_BESIDE: &str = "slo.min_accuracy beside it, the floor that it is about";

/// The fields of a [`ModelRecord`] that the model's own files do not say in `sluice.toml`: who it is and whether it is wanted, what
/// `config.pbtxt` says, what only an operator may decide, and what Sluice counts itself.
const NOT_OF_FILES: [&str; 11] =
    ["name", "wanted", "versions", "latest", "provider", "fallback", "rollout", "aliases", "by_call", "derived", "generation"];

/// The fields of a [`ModelRecord`] that a model's `sluice.toml` may have.
pub fn of_files() -> impl Iterator<Item = &'static str> {
    ModelRecord::FIELDS.iter().copied().filter(|field| !NOT_OF_FILES.contains(field))
}

/// What is wrong with a record whose fields are each of their type. Empty: nothing.
pub fn problems(record: &ModelRecord) -> Vec<String> {
    let mut out = Problems::default();
    for (field, count) in [("replicas", record.replicas), ("instances", record.instances), ("latest", record.latest)] {
        out.unless(count != Some(0), field, &0, "at least 1; `wanted = false` unloads a model");
    }
    of_slo(&record.slo, &mut out);
    let rates = [("expected_rate", record.expected_rate), ("max_rate", record.max_rate)];
    for (field, rate) in rates.into_iter().filter_map(|(field, rate)| Some((field, rate?))) {
        out.unless(rate > 0.0 && rate <= RATE_MAX, field, &rate, "more than 0 and at most 1e9 rows per second");
    }
    if let (Some(expected), Some(max)) = (record.expected_rate, record.max_rate) {
        out.unless(max.is_nan() || expected.is_nan() || max >= expected, "max_rate", &max, &format!("at least expected_rate, {expected}"));
    }
    if let Some(weight) = record.weight {
        out.unless(WEIGHTS.contains(&weight), "weight", &weight, "0.001 to 1000");
    }
    let mut seen = BTreeSet::new();
    for (at, pin) in record.pins.iter().enumerate() {
        let (variant, worker) = (&pin.variant, &pin.worker);
        let allowed = record.variants.is_empty() || record.variants.contains(variant);
        out.unless(allowed, &format!("pins[{at}].variant"), variant, "one of `variants`, which say what may be used");
        out.unless(seen.insert(pin), &format!("pins[{at}]"), &format_args!("{variant} on {worker}"), "each pin once");
    }
    if let Some(idle) = record.idle_s {
        out.unless(idle >= 1, "idle_s", &idle, "at least 1; leave it out to keep replicas always");
        out.unless(record.pins.is_empty(), "idle_s", &idle, "no `pins` beside it: pinned replicas never go");
    }
    for (tenant, defaults) in &record.tenants {
        latency(defaults.latency_ms, &format!("tenants.{tenant}.latency_ms"), &mut out);
        accuracy(defaults.min_accuracy, &format!("tenants.{tenant}.min_accuracy"), &mut out);
    }
    for alias in record.aliases.keys() {
        if let Err(error) = check_alias(alias) {
            out.push(format!("aliases.{alias}: {error}"));
        }
    }
    if let Some(rollout) = &record.rollout {
        of_rollout(rollout, record, &mut out);
    }
    out.0
}

fn of_rollout(rollout: &Rollout, record: &ModelRecord, out: &mut Problems) {
    rollout.problems().into_iter().for_each(|problem| out.push(format!("rollout.{problem}")));
    match &rollout.candidate {
        Candidate::Version(version) => {
            let alone = !record.versions.is_empty() && record.versions.iter().all(|named| named == version);
            out.unless(!alone, "rollout.candidate.version", version, "another of `versions` beside it, the one that it takes over from");
        }
        Candidate::Variant(variant) => {
            let allowed = record.variants.is_empty() || record.variants.contains(variant);
            out.unless(allowed, "rollout.candidate.variant", variant, "one of `variants`, which say what may be used");
        }
    }
}

fn of_slo(slo: &Slo, out: &mut Problems) {
    latency(slo.latency_ms, "slo.latency_ms", out);
    if let Some(percentile) = slo.percentile {
        out.unless((50.0..=99.99).contains(&percentile), "slo.percentile", &percentile, "50 to 99.99, in per cent");
    }
    accuracy(slo.min_accuracy, "slo.min_accuracy", out);
    // Alone they would look like a promise and be none.
    let beside = FLOOR_BESIDE;
    if let Some(metric) = slo.accuracy_metric {
        out.unless(slo.min_accuracy.is_some(), "slo.accuracy_metric", &metric, beside);
    }
    if let Some(data) = &slo.accuracy_data {
        out.unless(slo.min_accuracy.is_some(), "slo.accuracy_data", data, beside);
    }
}

fn latency(ms: Option<u32>, path: &str, out: &mut Problems) {
    if let Some(ms) = ms {
        out.unless((1..=LATENCY_MS_MAX).contains(&ms), path, &ms, "1 to 3600000 milliseconds");
    }
}

fn accuracy(accuracy: Option<f64>, path: &str, out: &mut Problems) {
    if let Some(accuracy) = accuracy {
        out.unless((0.0..=1.0).contains(&accuracy), path, &accuracy, "0 to 1");
    }
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, holds: bool, path: &str, value: &dyn std::fmt::Display, expected: &str) {
        if !holds {
            self.push(format!("{path}: {value}; expected {expected}"));
        }
    }

    fn push(&mut self, text: String) {
        let cut = text.char_indices().nth(PROBLEM_CHARS_MAX).map(|(at, _)| at);
        self.0.push(cut.and_then(|at| text.get(..at)).map_or(text.clone(), |start| format!("{start}…")));
    }
}

/// Reads what was written about one model: `name` is needed, all else has defaults, and what this build does not know is kept.
///
/// # Errors
/// Every problem there is.
pub fn read(fields: &Map<String, Value>) -> Result<ModelRecord, Vec<String>> {
    let mut out = Problems::default();
    let name = fields.get("name").and_then(Value::as_str);
    match name.map(ModelName::new) {
        Some(Ok(_)) => {}
        Some(Err(error)) => out.push(format!("name: {error}")),
        None => out.push("name: missing or not a text; expected the model's name".to_owned()),
    }
    if let Some(schema) = fields.get("schema").filter(|schema| schema.as_u64() != Some(u64::from(SCHEMA))) {
        out.unless(false, "schema", schema, &SCHEMA.to_string());
    }
    let alone = |field: &str, value: &Value| -> Result<ModelRecord, String> {
        let mut one = Map::from_iter([("name".to_owned(), Value::from("m")), ("wanted".to_owned(), Value::from(true))]);
        one.insert(field.to_owned(), value.clone());
        serde_json::from_value(Value::Object(one)).map_err(|error| error.to_string())
    };
    // Field by field, because the whole would not say which field is at fault, and would stop at the first.
    let mut good = Map::from_iter([("name".to_owned(), Value::from("m")), ("wanted".to_owned(), Value::from(true))]);
    for (field, value) in fields.iter().filter(|(field, _)| !matches!(field.as_str(), "name" | "schema")) {
        if let Some(value) = sound(field, value, DEPTH_MAX, &|value| alone(field, value).err(), &mut out) {
            good.insert(field.clone(), value);
        }
    }
    if let Some(name) = fields.get("name").filter(|_| out.0.is_empty()) {
        good.insert("name".to_owned(), name.clone());
    }
    match serde_json::from_value::<ModelRecord>(Value::Object(good)) {
        Ok(record) => {
            // What is of its type is judged even where something else is not. A floor that could not be read is there all the same.
            let floor = out.0.iter().any(|problem| problem.starts_with("slo.min_accuracy"));
            out.0.extend(problems(&record).into_iter().filter(|problem| !(floor && problem.ends_with(FLOOR_BESIDE))));
            if out.0.is_empty() { Ok(record) } else { Err(out.0) }
        }
        Err(error) => {
            out.push(error.to_string());
            Err(out.0)
        }
    }
}

/// What of `value` can be read. Tells which parts cannot, as deep as the part that is at fault. `fault` reads a value in the place of this
/// one. A list with a fault is left out whole: without one of them the others would have other numbers.
fn sound(path: &str, value: &Value, depth: usize, fault: &dyn Fn(&Value) -> Option<String>, out: &mut Problems) -> Option<Value> {
    let Some(whole) = fault(value) else { return Some(value.clone()) };
    // Parts are tried one at a time, so what they lack beside them is not their fault.
    let fault_of_part = |part: &Value| fault(part).filter(|text| !text.starts_with("missing field"));
    let (before, depth_left) = (out.0.len(), depth.saturating_sub(1));
    let mut left = None;
    match value {
        Value::Object(parts) if depth > 0 && fault_of_part(&Value::Object(Map::new())).is_none() => {
            let of_part = |(name, part): (&String, &Value)| {
                let wrapped = |part: &Value| fault_of_part(&Value::Object(Map::from_iter([(name.clone(), part.clone())])));
                Some((name.clone(), sound(&format!("{path}.{name}"), part, depth_left, &wrapped, out)?))
            };
            let good = Value::Object(parts.iter().filter_map(of_part).collect());
            left = fault(&good).is_none().then_some(good);
        }
        Value::Array(parts) if depth > 0 && fault_of_part(&Value::Array(Vec::new())).is_none() => {
            for (at, part) in parts.iter().enumerate() {
                let wrapped = |part: &Value| fault(&Value::Array(vec![part.clone()]));
                sound(&format!("{path}[{at}]"), part, depth_left, &wrapped, out);
            }
        }
        _ => {}
    }
    if out.0.len() == before {
        out.push(format!("{path}: {whole}"));
    }
    left
}

/// One of several models as somebody wrote it.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Its fields; none when it is not even a list of fields.
    pub fields: Option<Map<String, Value>>,
    /// What is wrong with it that does not show in `fields`.
    pub problems: Vec<String>,
}

/// Reads models that are wanted together.
///
/// # Errors
/// Every problem of every model, such as `models[2] (resnet): slo.min_accuracy: 1.2; expected 0 to 1`: then none of them counts.
pub fn read_all(models: impl IntoIterator<Item = Written>) -> Result<Vec<ModelRecord>, Vec<String>> {
    let (mut records, mut all, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (at, Written { fields, mut problems }) in models.into_iter().enumerate() {
        let name = fields.as_ref().and_then(|fields| fields.get("name")?.as_str().map(str::to_owned));
        match fields.as_ref().map(read) {
            Some(Ok(record)) => records.push(record),
            Some(Err(found)) => problems.extend(found),
            None => {}
        }
        let shown = name.as_ref().map(|name| name.chars().take(128).collect::<String>());
        let label = shown.map_or_else(|| format!("models[{at}]"), |name| format!("models[{at}] ({name})"));
        if name.is_some_and(|name| !names.insert(name)) {
            problems.push("name: named twice; expected each model once".to_owned());
        }
        all.extend(problems.into_iter().map(|problem| format!("{label}: {problem}")));
    }
    if all.is_empty() { Ok(records) } else { Err(all) }
}

/// The numbers in `value` that JSON cannot say and writes as null: `inf` and `nan` of a TOML file. A reader would take them for nothing said.
pub fn not_finite(fields: &Map<String, Value>) -> Vec<String> {
    fn look(path: &str, value: &Value, out: &mut Problems) {
        match value {
            Value::Null => out.push(format!("{path}: inf or nan; expected a finite number")),
            Value::Array(parts) => parts.iter().enumerate().for_each(|(at, part)| look(&format!("{path}[{at}]"), part, out)),
            Value::Object(parts) => parts.iter().for_each(|(name, part)| look(&format!("{path}.{name}"), part, out)),
            _ => {}
        }
    }
    let mut out = Problems::default();
    fields.iter().for_each(|(field, value)| look(field, value, &mut out));
    out.0
}

/// Says that `name`, written as `shown`, is not known, and which of `known` is nearest.
pub fn unknown<'k>(shown: &str, name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let nearest = known.max_by(|a, b| strsim::jaro(name, a).total_cmp(&strsim::jaro(name, b)));
    format!("`{shown}` is not known; did you mean `{}`?", nearest.unwrap_or_default())
}
