//! `inspect`: what a model file is made of, what it costs to run, and what it would be served as.

use crate::args::{Inspect, Output};
use crate::role::library;
use crate::telemetry::{complain, say};
use ::variants::onnx::Model;
use ::variants::prospect::{Prospect, Suggestion, prospects, suggest};
use anyhow::Context as _;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;
use worker::inspect::{Counted, Flops, InspectError, Report, Request, Serving};
use worker::onnx::Tensor;
use worker::validate::Limits;

/// Most parts of a list shown in a table; JSON has them all.
const SHOWN_MAX: usize = 12;
/// Most inputs, and most outputs.
const TENSORS_SHOWN_MAX: usize = 64;

pub(crate) async fn run(args: Inspect) -> anyhow::Result<ExitCode> {
    let mut request = Request {
        model: args.file,
        shapes: Default::default(),
        binary: std::env::current_exe().context("this program's own path is not known")?,
        library: library::open(args.onnxruntime.as_deref()).map(|runtime| runtime.path().to_owned()).map_err(|e| e.to_string()),
        threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        limits: Limits { time: Duration::from_secs(args.validate_seconds), memory_bytes: args.validate_memory_mb.saturating_mul(1 << 20) },
    };
    for (input, sizes) in args.shape {
        if request.shapes.insert(input.clone(), sizes).is_some() {
            complain(&format!("--shape: input `{}` is given twice; expected one shape for an input", printable(&input)));
            return Ok(ExitCode::from(2));
        }
    }
    let report = match worker::inspect::inspect(&request).await {
        Ok(report) => report,
        Err(InspectError::Shape(error)) => {
            complain(&format!("--shape: {}", printable(&error.to_string())));
            return Ok(ExitCode::from(2));
        }
        Err(InspectError::Scan(error)) => anyhow::bail!("{}: {}", request.model.display(), printable(&error.to_string())),
    };
    // What runs in a child is whole and of a sane size; only then is it read here.
    let model = matches!(report.serving, Serving::Served { .. }).then(|| Model::read(&request.model)).transpose()?;
    let class = worker::devices::devices(&worker::devices::discover()).into_iter().next().map(|d| d.class).unwrap_or_default();
    let found = model.as_ref().map(prospects).unwrap_or_default();
    let suggestion = model.as_ref().and_then(|model| suggest(model, &found, &class));
    match args.output {
        Output::Json => {
            say(&serde_json::to_string_pretty(&Whole { report: &report, variants: found, suggestion })?);
        }
        Output::Table => say(&[table(&report), variants(&found, suggestion.as_ref())].join("\n")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads `INPUT=1x3x224x224`; nothing after the `=` is a scalar.
pub(crate) fn shape(text: &str) -> Result<(String, Vec<u64>), String> {
    let (input, sizes) = text.rsplit_once('=').filter(|(input, _)| !input.is_empty()).ok_or("expected INPUT=1x3x224x224")?;
    let size = |part: &str| part.parse::<u64>().ok().filter(|size| i32::try_from(*size).is_ok());
    let parsed = if sizes.is_empty() { Some(Vec::new()) } else { sizes.split('x').map(size).collect() };
    parsed
        .map(|sizes| (input.to_owned(), sizes))
        .ok_or_else(|| format!("input `{input}`: expected sizes such as 1x3x224x224, got {sizes:?}"))
}

fn table(report: &Report) -> String {
    let opset = report.opset.map_or_else(|| "no opset".to_owned(), |v| format!("opset {v}"));
    let by = report.producer.as_deref().map_or_else(String::new, |p| format!(" · by {p}"));
    let mut rows = vec![("file", format!("{} · {} · {opset}{by}", report.file.display(), bytes(report.file_bytes)))];
    for (title, tensors) in [("input", &report.inputs), ("output", &report.outputs)] {
        rows.extend(tensors.iter().take(TENSORS_SHOWN_MAX).map(|t| (title, tensor(t))));
        let more = tensors.len().saturating_sub(TENSORS_SHOWN_MAX);
        rows.extend((more > 0).then(|| (title, format!("and {more} more"))));
    }
    let operators = report.operators.iter().map(|o| {
        let domain = if o.domain.is_empty() { String::new() } else { format!("{}:", o.domain) };
        format!("{domain}{} {}", o.operator, o.count)
    });
    rows.push(("operators", format!("{}: {}", several(report.nodes, "node"), shown(operators))));
    let weights = report.weights.iter().map(|w| format!("{} {} in {}", w.datatype, bytes(w.bytes), several(w.tensors, "tensor")));
    rows.push(("weights", format!("{} parameters · {}: {}", count(report.parameters), bytes(report.weight_bytes), shown(weights))));
    if !report.external_files.is_empty() {
        rows.push(("beside it", shown(report.external_files.iter().map(|f| f.display().to_string()))));
    }
    match &report.flops {
        Flops::Counted(counted) => rows.extend(flops(counted)),
        Flops::Unknown { reason } if matches!(report.serving, Serving::Served { .. }) => {
            rows.push(("FLOPs", format!("not known: {reason}; other shapes may do: --shape INPUT=1x3x224x224")));
        }
        Flops::Unknown { .. } => rows.push(("FLOPs", "not known: the model was not run".to_owned())),
    }
    rows.push(("served as", serving(&report.serving)));
    let line = |(name, text): &(&str, String)| printable(&format!("{name:<10} {text}"));
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The report and what recipes would make of the model.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    report: &'a Report,
    variants: Vec<Prospect>,
    suggestion: Option<Suggestion>,
}

/// What recipes would make of it, smallest first.
fn variants(prospects: &[Prospect], suggestion: Option<&Suggestion>) -> String {
    let mut lines: Vec<String> = suggestion.iter().map(|s| format!("{:<10} {}: {}", "try", s.name, s.reason)).collect();
    let mut sorted: Vec<&Prospect> = prospects.iter().collect();
    sorted.sort_by_key(|p| p.bytes.unwrap_or(u64::MAX));
    for (at, prospect) in sorted.into_iter().enumerate() {
        let what = prospect.bytes.map_or_else(|| "-".to_owned(), bytes);
        let said = shown(prospect.lines.iter().cloned());
        lines.push(printable(&format!("{:<10} {:<18} {what:>9}  {said}", if at == 0 { "variants" } else { "" }, prospect.name)));
    }
    lines.join("\n")
}

fn flops(counted: &Counted) -> Vec<(&'static str, String)> {
    let shapes = counted.shapes.shapes.iter().map(|(name, sizes)| {
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        format!("{name}={}", sizes.join("x"))
    });
    let operators = counted.by_operator.iter().map(|o| format!("{} {}", o.operator, count(o.flops)));
    let mut rows = vec![("FLOPs", format!("{} at {}: {}", count(counted.total), shown(shapes), shown(operators)))];
    if !counted.shapes.assumed_1.is_empty() {
        rows.push(("", format!("open dimensions taken as 1: {}; set them with --shape", shown(counted.shapes.assumed_1.iter().cloned()))));
    }
    if !counted.not_counted.is_empty() {
        rows.push(("", format!("not counted: {}", shown(counted.not_counted.iter().map(|o| format!("{} {}", o.operator, o.runs))))));
    }
    rows
}

fn serving(serving: &Serving) -> String {
    match serving {
        Serving::Served { variant, max_batch_size, bytes_resident, not_exercised } => {
            let batch = match max_batch_size {
                0 => "no batch dimension (max_batch_size 0)".to_owned(),
                rows => format!("max_batch_size {rows}"),
            };
            let untried =
                not_exercised.as_deref().map_or_else(String::new, |why| format!(" · never run, inputs were not to be guessed: {why}"));
            format!("{variant} · {batch} · {} resident{untried}", bytes(*bytes_resident))
        }
        Serving::Not { reason } => format!("nothing: {reason}"),
    }
}

fn tensor(tensor: &Tensor) -> String {
    let dims = match tensor.shape.as_deref() {
        None => "any shape".to_owned(),
        Some([]) => "[]".to_owned(),
        Some(dims) => format!("[{}]", shown(dims.iter().map(ToString::to_string))),
    };
    format!("{} {} {dims}", tensor.name, tensor.datatype)
}

/// The first of them, and how many more there are.
fn shown(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    let more = parts.len().saturating_sub(SHOWN_MAX);
    let first = parts.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    match (parts.len(), more) {
        (0, _) => "none".to_owned(),
        (_, 0) => first,
        _ => format!("{first}, and {more} more"),
    }
}

/// Three digits and a decimal prefix.
fn count(number: u64) -> String {
    const STEPS: [(f64, &str); 6] = [(1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let value = number as f64;
    match STEPS.iter().find(|(step, _)| value >= *step) {
        None => number.to_string(),
        Some((step, prefix)) => {
            let value = value / step;
            let digits = if value >= 100.0 {
                0
            } else if value >= 10.0 {
                1
            } else {
                2
            };
            format!("{value:.digits$}{prefix}")
        }
    }
}

fn bytes(number: u64) -> String {
    let text = count(number);
    if number < 1000 { format!("{text} B") } else { format!("{text}B") }
}

fn several(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The file may come from anyone: no control characters reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_read_or_told_what_was_expected() {
        assert_eq!(shape("x=1x3x224x224"), Ok(("x".to_owned(), vec![1, 3, 224, 224])));
        assert_eq!(shape("a=b=7"), Ok(("a=b".to_owned(), vec![7])));
        assert_eq!(shape("sr="), Ok(("sr".to_owned(), vec![])));
        for wrong in ["x=1,3", "x=-1", "x=1x", "x=2147483648", "x=n"] {
            let error = shape(wrong).unwrap_err();
            assert!(error.starts_with("input `x`: expected sizes such as 1x3x224x224, got"), "{error}");
        }
        assert!(shape("1x3").is_err() && shape("=1").is_err());
    }

    #[test]
    fn numbers_have_three_digits_and_a_prefix() {
        let check = |number, expected: &str| assert_eq!(count(number), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1.00 k");
        check(790_123_456, "790 M");
        check(12_345_000_000, "12.3 G");
        check(u64::MAX, "18.4 E");
        assert_eq!((bytes(12), bytes(18_524_008)), ("12 B".to_owned(), "18.5 MB".to_owned()));
    }

    #[test]
    fn nothing_of_a_file_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a [2Jb c");
    }
}
