//! Tells what a model file is made of, what it would cost to run, and what it would be served as.
//!
//! The file is a stranger's: here it is only walked over (`onnx`), everything else happens in children (`validate`).
//!
//! Not here: showing it to a person (`cli`).

mod flops;
mod profile;
mod shapes;
#[cfg(test)]
mod tests;

pub use profile::{OperatorFlops, OperatorRuns};
pub use shapes::{ShapeError, Shapes};

use crate::engine::{EngineName, ExecutionProvider, Fallback};
use crate::onnx::{self, Scan, ScanError, Tensor};
use crate::validate::{self, Facts, Limits, Trial, Verdict};
use policy::Signature;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// What to inspect, and with what.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model file.
    pub model: PathBuf,
    /// Shapes of inputs for the FLOPs, by name; what is not given here is 1 where it is open.
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// The program that runs [`validate::child_main`] as `binary __validate`.
    pub binary: PathBuf,
    /// The runtime library, or why there is none: serving and FLOPs are then unknown.
    pub library: Result<PathBuf, String>,
    /// Threads of a run.
    pub threads: NonZeroUsize,
    /// What each child may use.
    pub limits: Limits,
}

/// What there is to know of a model. Field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file as it was asked for.
    pub file: PathBuf,
    /// Its size, without external data.
    pub file_bytes: u64,
    /// Version of the file format.
    pub ir_version: Option<u64>,
    /// Version of ONNX's own operators.
    pub opset: Option<u64>,
    /// Program that wrote it.
    pub producer: Option<String>,
    /// Inputs in the file's order.
    pub inputs: Vec<Tensor>,
    /// Outputs in the file's order.
    pub outputs: Vec<Tensor>,
    /// Nodes, those of subgraphs and functions included.
    pub nodes: u64,
    /// Operators, those of most nodes first.
    pub operators: Vec<OperatorUse>,
    /// Elements of all weights.
    pub parameters: u64,
    /// Bytes of all weights, external data included.
    pub weight_bytes: u64,
    /// Weights by data type, those of most bytes first.
    pub weights: Vec<WeightsOf>,
    /// Files beside the model that belong to it.
    pub external_files: Vec<PathBuf>,
    /// What a run costs.
    pub flops: Flops,
    /// What it would be served as.
    pub serving: Serving,
}

/// How many nodes use an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorUse {
    /// Empty for ONNX's own.
    pub domain: String,
    /// Its type.
    pub operator: String,
    /// Nodes.
    pub count: u64,
}

/// Weights of one data type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightsOf {
    /// As in [`Tensor::datatype`].
    pub datatype: String,
    /// How many tensors.
    pub tensors: u64,
    /// Their elements.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a run costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Flops {
    /// Counted on a run.
    Counted(Box<Counted>),
    /// There was no run to count on.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Floating-point operations of one run; integer arithmetic in their place counts the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// All that are counted. A multiplication and an addition are two.
    pub total: u64,
    /// Shapes of the inputs of that run.
    #[serde(flatten)]
    pub shapes: Shapes,
    /// By operator type, most first, those that only move data left out.
    pub by_operator: Vec<OperatorFlops>,
    /// Operator types whose cost is not known here.
    pub not_counted: Vec<OperatorRuns>,
}

/// What a model would be served as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Serving {
    /// A worker would load it.
    Served {
        /// Name of the variant.
        variant: String,
        /// Most rows of a request, without a configuration; 0 when it has no batch dimension.
        max_batch_size: u32,
        /// Memory that loading and one run took.
        bytes_resident: u64,
        /// Why it is served without having been run once, if it is.
        not_exercised: Option<String>,
    },
    /// No worker would load it, or that could not be found out.
    Not {
        /// Why.
        reason: String,
    },
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The file is no model that can be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A given shape does not fit the model.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Inspects a model. Takes as long as loading it twice and running it twice.
///
/// # Errors
/// [`InspectError`]. A model that is readable and cannot be loaded or run is no error: the report says why.
pub async fn inspect(request: &Request) -> Result<Report, InspectError> {
    let path = request.model.clone();
    let surveyed = tokio::task::spawn_blocking(move || onnx::survey(&path)).await;
    let scan = surveyed.map_err(|e| ScanError::Unreadable { reason: e.to_string() })??;
    let shapes = shapes::fit(&scan.inputs, &request.shapes)?;
    let (serving, flops) = match verdict(request, &scan).await {
        Ok(facts) => (served(facts), flops(request, &scan.equations, shapes).await),
        Err(reason) => (Serving::Not { reason: reason.clone() }, Flops::Unknown { reason }),
    };
    Ok(report(request, scan, flops, serving))
}

/// What a worker would find out before it loads the model; or why it would not.
async fn verdict(request: &Request, scan: &Scan) -> Result<Facts, String> {
    if let Some(refusal) = &scan.refusal {
        return Err(refusal.to_string());
    }
    facts(validate::validate(&request.binary, &to_validate(request)?, request.limits).await)
}

async fn flops(request: &Request, equations: &BTreeSet<String>, shapes: Shapes) -> Flops {
    let shown = shapes.clone();
    match profiled(request, equations, shapes).await {
        Ok(tally) => Flops::Counted(Box::new(tally.counted(shown))),
        Err(reason) => Flops::Unknown { reason },
    }
}

/// Runs the model in a child that writes a profile into a folder of our own, and counts what is in it.
async fn profiled(request: &Request, equations: &BTreeSet<String>, shapes: Shapes) -> Result<profile::Tally, String> {
    let folder = tempfile::tempdir().map_err(|e| format!("no folder for a measurement: {e}"))?;
    let trial = Trial { shapes: shapes.shapes, profile: folder.path().join("profile") };
    let facts = facts(validate::measure(&request.binary, &to_validate(request)?, trial, request.limits).await)?;
    if let Some(reason) = facts.not_exercised {
        return Err(reason);
    }
    let equations = equations.clone();
    let counted = tokio::task::spawn_blocking(move || profile::read(folder.path(), &equations)).await;
    counted.map_err(|e| e.to_string())?
}

fn to_validate(request: &Request) -> Result<validate::Request, String> {
    Ok(validate::Request {
        model: request.model.clone(),
        engine: EngineName::Ort,
        hint: None,
        libraries: vec![request.library.clone()?],
        provider: ExecutionProvider::Cpu,
        device_id: 0,
        fallback: Fallback::Never,
        intra_threads: request.threads,
    })
}

fn facts(verdict: Verdict) -> Result<Facts, String> {
    match verdict {
        Verdict::Valid(facts) => Ok(*facts),
        Verdict::Invalid { reason } => Err(reason),
        Verdict::NotRun { reason } => Err(format!("this host could not find out: {reason}")),
    }
}

fn served(facts: Facts) -> Serving {
    let signature = Signature::complete(facts.inputs, facts.outputs, None);
    Serving::Served {
        variant: policy::VariantName::REFERENCE.to_owned(),
        max_batch_size: signature.max_batch_size,
        bytes_resident: facts.bytes_resident,
        not_exercised: facts.not_exercised,
    }
}

fn report(request: &Request, scan: Scan, flops: Flops, serving: Serving) -> Report {
    let mut operators: Vec<_> = scan.operators.iter().map(|(name, count)| operator_use(name, *count)).collect();
    operators.sort_by_key(|o| std::cmp::Reverse(o.count));
    let mut weights: Vec<_> = scan.weights.iter().map(|(datatype, all)| weights_of(*datatype, *all)).collect();
    weights.sort_by_key(|w| std::cmp::Reverse(w.bytes));
    let sum = |of: fn(&WeightsOf) -> u64| weights.iter().map(of).fold(0, u64::saturating_add);
    Report {
        file: request.model.clone(),
        file_bytes: file_bytes(&request.model),
        ir_version: scan.ir_version,
        opset: scan.opset,
        producer: scan.producer,
        inputs: scan.inputs,
        outputs: scan.outputs,
        nodes: scan.nodes,
        operators,
        parameters: sum(|w| w.parameters),
        weight_bytes: sum(|w| w.bytes),
        weights,
        external_files: scan.external_files,
        flops,
        serving,
    }
}

fn operator_use(name: &str, count: u64) -> OperatorUse {
    let (domain, operator) = name.rsplit_once(':').unwrap_or(("", name));
    OperatorUse { domain: domain.to_owned(), operator: operator.to_owned(), count }
}

fn weights_of(datatype: u64, all: onnx::Weights) -> WeightsOf {
    WeightsOf { datatype: onnx::type_name(datatype).into_owned(), tensors: all.tensors, parameters: all.elements, bytes: all.bytes }
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
