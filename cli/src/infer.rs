//! `infer`: asks a model with tensors from NumPy files or with a picture, which the gateway prepares.

use crate::args::{Infer, Output};
use crate::client;
use crate::telemetry::say;
use ::variants::npy;
use anyhow::Context as _;
use bytes::Bytes;
use policy::{DataType, Labels, VersionRecord, VersionState};
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{ModelInferRequest, ModelInferResponse};
use proto::sluice::GetRequest;
use std::path::Path;
use std::time::{Duration, Instant};

/// The input that takes encoded pictures.
const IMAGE: &str = "image";

pub(crate) async fn run(args: Infer) -> anyhow::Result<()> {
    let mut request = ModelInferRequest { model_name: args.model.clone(), model_version: args.version.clone(), ..Default::default() };
    let mut labels = Vec::new();
    if let Some(path) = &args.image {
        let version = version_record(&args).await?;
        let takes = version.image.is_some() || version.signature.input(IMAGE).is_some();
        anyhow::ensure!(takes, "model {} has no [image] in its sluice.toml: give --input instead", args.model);
        let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
        let datatype = DataType::Bytes.to_string();
        request.inputs.push(InferInputTensor { name: IMAGE.to_owned(), datatype, shape: vec![1], ..Default::default() });
        request.raw_input_contents.push(element(&bytes)?.into());
        labels = version.labels;
    }
    for input in &args.input {
        let (tensor, bytes) = tensor(input)?;
        request.inputs.push(tensor);
        request.raw_input_contents.push(bytes);
    }
    let mut request = tonic::Request::new(request);
    if let Some(ms) = args.timeout_ms {
        request.set_timeout(Duration::from_millis(ms));
    }
    let mut client = client::inference(&args.grpc).await?;
    let sent = Instant::now();
    let answer = client.model_infer(request).await.map_err(|s| client::said(&s))?.into_inner();
    let took = sent.elapsed();
    match args.output {
        Output::Json => say(&json(&answer)?),
        Output::Table => table(&args, &answer, &labels, took),
    }
    Ok(())
}

/// The record of the version that will most likely answer: the one whose number is named, or the highest valid one.
async fn version_record(args: &Infer) -> anyhow::Result<VersionRecord> {
    let number = args.version.as_str();
    let number = if number.bytes().all(|b| b.is_ascii_digit()) { number } else { "" }; // an alias is the gateway's to know
    let request = GetRequest { kind: "versions".to_owned(), name: format!("{}/{number}", args.model) };
    let records = client::admin(&args.server.server).await?.get(request).await.map_err(|s| client::said(&s))?.into_inner().records;
    let versions = records.iter().filter_map(|r| serde_json::from_str::<VersionRecord>(&r.json).ok());
    let valid = versions.filter(|v| v.state == VersionState::Valid && (number.is_empty() || v.version.to_string() == number));
    valid.max_by_key(|v| v.version).with_context(|| format!("model {} has no valid version here; see `sluice get variants`", args.model))
}

/// A BYTES tensor of one element.
fn element(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u32::try_from(bytes.len()).context("a file of 4 GiB or more is no picture")?;
    Ok([&length.to_le_bytes(), bytes].concat())
}

/// Reads `NAME=@FILE.npy`.
fn tensor(input: &str) -> anyhow::Result<(InferInputTensor, Bytes)> {
    let (name, path) = input.split_once("=@").with_context(|| format!("--input {input:?}: expected NAME=@FILE.npy"))?;
    let array = npy::read(Path::new(path)).map_err(|reason| anyhow::anyhow!("{path}: {reason}"))?;
    let datatype = array.datatype.to_string();
    Ok((InferInputTensor { name: name.to_owned(), datatype, shape: array.shape, ..Default::default() }, array.data))
}

/// Values of an output as 64-bit floats; `None` for types that are not shown as numbers.
fn numbers(datatype: &str, bytes: &[u8]) -> Option<Vec<f64>> {
    fn read<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
    }
    Some(match DataType::parse(datatype)? {
        DataType::Bool | DataType::Uint8 => bytes.iter().map(|b| f64::from(*b)).collect(),
        DataType::Int8 => read(bytes, |b| f64::from(i8::from_le_bytes(b))),
        DataType::Uint16 => read(bytes, |b| f64::from(u16::from_le_bytes(b))),
        DataType::Int16 => read(bytes, |b| f64::from(i16::from_le_bytes(b))),
        DataType::Uint32 => read(bytes, |b| f64::from(u32::from_le_bytes(b))),
        DataType::Int32 => read(bytes, |b| f64::from(i32::from_le_bytes(b))),
        DataType::Uint64 => read(bytes, |b| u64::from_le_bytes(b) as f64),
        DataType::Int64 => read(bytes, |b| i64::from_le_bytes(b) as f64),
        DataType::Fp32 => read(bytes, |b| f64::from(f32::from_le_bytes(b))),
        DataType::Fp64 => read(bytes, f64::from_le_bytes),
        DataType::Bf16 => read(bytes, |b: [u8; 2]| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
        DataType::Fp16 | DataType::Bytes => return None,
    })
}

fn parameter(answer: &ModelInferResponse, name: &str) -> String {
    match answer.parameters.get(name).and_then(|p| p.parameter_choice.as_ref()) {
        Some(ParameterChoice::StringParam(text)) => text.clone(),
        Some(ParameterChoice::Int64Param(number)) => number.to_string(),
        _ => "-".to_owned(),
    }
}

fn table(args: &Infer, answer: &ModelInferResponse, labels: &[Labels], took: Duration) {
    for (output, raw) in answer.outputs.iter().zip(&answer.raw_output_contents) {
        let values = numbers(&output.datatype, raw);
        match (labels.iter().find(|l| l.output == output.name), values) {
            (Some(labels), Some(values)) => top(&values, labels, args.top),
            (_, Some(values)) => {
                let shown: Vec<String> = values.iter().take(8).map(|v| format!("{v:.6}")).collect();
                let more = if values.len() > 8 { ", …" } else { "" };
                say(&format!("{} {} {:?} [{}{more}]", output.name, output.datatype, output.shape, shown.join(", ")));
            }
            (_, None) => say(&format!("{} {} {:?} {} bytes", output.name, output.datatype, output.shape, raw.len())),
        }
    }
    say(&format!(
        "{} version {} · variant {} on {} · queue {} us, compute {} us, total {} us",
        answer.model_name,
        answer.model_version,
        parameter(answer, "sluice_variant"),
        parameter(answer, "sluice_worker"),
        parameter(answer, "sluice_queue_us"),
        parameter(answer, "sluice_compute_us"),
        took.as_micros()
    ));
}

/// The most likely classes with their probabilities.
fn top(values: &[f64], labels: &Labels, count: usize) {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = values.iter().map(|v| (v - most).exp()).sum();
    let probability = |v: f64| if labels.activation == "softmax" { (v - most).exp() / total } else { v };
    let mut ranked: Vec<(usize, f64)> = values.iter().map(|v| probability(*v)).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (class, probability) in ranked.into_iter().take(count) {
        say(&format!("{:>6.2} %  {}", probability * 100.0, labels.names.get(class).map_or("?", |n| n)));
    }
}

fn json(answer: &ModelInferResponse) -> anyhow::Result<String> {
    let outputs = answer.outputs.iter().zip(&answer.raw_output_contents).map(|(output, raw)| {
        serde_json::json!({
            "name": output.name, "datatype": output.datatype, "shape": output.shape, "data": numbers(&output.datatype, raw),
        })
    });
    let names = ["sluice_variant", "sluice_worker", "sluice_queue_us", "sluice_compute_us"];
    let parameters: serde_json::Map<_, _> = names.into_iter().map(|n| (n.to_owned(), parameter(answer, n).into())).collect();
    Ok(serde_json::to_string_pretty(&serde_json::json!({
        "model_name": answer.model_name, "model_version": answer.model_version,
        "parameters": parameters, "outputs": outputs.collect::<Vec<_>>(),
    }))?)
}
