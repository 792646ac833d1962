//! Which nodes a static quantization takes.

use super::qdq::Qdq;
use crate::graph::{Index, float, int, is};
use crate::onnx;
use crate::onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use std::collections::{BTreeSet, HashSet};

/// Operators that multiply by weights: the reason for the exercise.
pub(super) const COMPUTES: [&str; 3] = ["Conv", "Gemm", "MatMul"];
/// Operators whose output has the scale of their input: they only move values.
pub(super) const MOVES: [&str; 7] = ["MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"];
/// Operators that join a quantized neighbourhood, so that values need not become floats in its midst.
pub(super) const JOINS: [&str; 5] = ["Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool"];
/// What may stand between a node and the value that is quantized.
pub(super) const CLIPS: [&str; 2] = ["Relu", "Clip"];

/// A node to be quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) node: usize,
    /// A Relu or Clip right behind it: what is quantized is its output.
    pub(super) clip: Option<usize>,
}

impl Chosen {
    /// The value it gives.
    pub(super) fn output<'g>(&self, graph: &'g GraphProto) -> Option<&'g String> {
        graph.node.get(self.clip.unwrap_or(self.node))?.output.first()
    }
}

/// What was chosen, in the order of the nodes, and what was left and why.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) chosen: Vec<Chosen>,
    pub(super) left: Vec<(String, &'static str)>,
}

/// Values whose ranges a quantization by `operators` needs, in the order of the graph.
pub fn observed(graph: &GraphProto, operators: &BTreeSet<String>) -> Vec<String> {
    let (index, mut names, mut seen) = (Index::of(graph), Vec::new(), HashSet::new());
    for node in graph.node.iter().filter(|n| n.op_type.as_ref().is_some_and(|op| operators.contains(op)) && is(n, n.op_type())) {
        let activations = node.input.iter().take(if COMPUTES.contains(&node.op_type()) { 1 } else { usize::MAX });
        let clip = node.output.first().and_then(|o| clip_behind(graph, &index, o)).and_then(|at| graph.node.get(at));
        let outputs = node.output.first().into_iter().chain(clip.and_then(|c| c.output.first()));
        for name in activations.chain(outputs).filter(|n| !n.is_empty() && !index.constants.contains_key(*n)) {
            if seen.insert(name.clone()) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// The Relu or Clip that alone takes `value`.
pub(super) fn clip_behind(graph: &GraphProto, index: &Index, value: &str) -> Option<usize> {
    let at = index.only_consumer(value)?;
    let node = graph.node.get(at).filter(|node| CLIPS.iter().any(|op| is(node, op)))?;
    let bound = |slot: usize, attribute: &str, open: f32| match node.input.get(slot).filter(|name| !name.is_empty()) {
        Some(name) => onnx::floats(index.constant(graph, name)?).ok()?.first().copied(),
        None => Some(float(node, attribute).unwrap_or(open)),
    };
    // Integers saturate at the ends of a range that holds zero: bounds that are computed, or on one side of zero, are not theirs.
    let saturates = is(node, "Relu") || (bound(1, "min", f32::MIN)? <= 0.0 && bound(2, "max", f32::MAX)? >= 0.0);
    saturates.then_some(at)
}

/// Chooses by `pass`.
pub(super) fn select(graph: &GraphProto, index: &Index, pass: &Qdq) -> Selection {
    let mut selection = Selection::default();
    let mut quantized: HashSet<&str> = HashSet::new();
    for (at, node) in graph.node.iter().enumerate() {
        let Some(output) = node.output.first().filter(|_| pass.operators.contains(node.op_type()) && is(node, node.op_type())) else {
            continue;
        };
        let computes = COMPUTES.contains(&node.op_type());
        let mut inputs = node.input.iter().filter(|i| !i.is_empty());
        if !computes && !inputs.clone().any(|i| quantized.contains(i.as_str())) {
            continue; // alone among floats it would only cost
        }
        let chosen = Chosen { node: at, clip: clip_behind(graph, index, output) };
        let ranged = |name: &String| pass.ranges.of(name).is_some();
        let taken = if MOVES.contains(&node.op_type()) || computes { 1 } else { usize::MAX };
        let why = if pass.keep.contains(output) {
            Some("left in float because it costs most fidelity")
        } else if computes && !has_weights(graph, index, node) {
            Some("its weights are not constants in FLOAT")
        } else if node.op_type() == "Gemm" && (int(node, "transA").unwrap_or(0) != 0 || !is_plain_gemm(node)) {
            Some("alpha, beta or transA are not the usual ones")
        } else if !inputs.by_ref().take(taken).all(ranged) || !chosen.output(graph).is_some_and(ranged) {
            Some("no range was measured for what it takes and gives")
        } else {
            None
        };
        match why {
            Some(why) => selection.left.push((output.clone(), why)),
            None => {
                let output = chosen.output(graph).unwrap_or(output);
                if !index.outputs.contains(output) {
                    quantized.insert(output);
                }
                selection.chosen.push(chosen);
            }
        }
    }
    selection
}

/// Does a node that computes have weights that can be quantized now?
pub(super) fn has_weights(graph: &GraphProto, index: &Index, node: &NodeProto) -> bool {
    let constant = |slot: usize| node.input.get(slot).and_then(|name| index.constant(graph, name));
    let is_float = |t: &TensorProto| t.data_type() == DataType::Float as i32;
    let bias = node.input.get(2).filter(|name| !name.is_empty());
    let least_rank = if node.op_type() == "Conv" { 3 } else { 2 };
    let channels = constant(1).and_then(|w| w.dims.get(output_axis(node, w.dims.len())).copied());
    constant(1).is_some_and(|w| is_float(w) && w.dims.len() >= least_rank && w.dims.iter().all(|d| *d > 0))
        && bias.is_none_or(|_| constant(2).is_some_and(|b| is_float(b) && b.dims.len() == 1 && b.dims.first().copied() == channels))
}

pub(super) fn is_plain_gemm(node: &NodeProto) -> bool {
    [float(node, "alpha"), float(node, "beta")].into_iter().flatten().all(|v| v == 1.0)
}

/// The axis of the weights that is the outputs'.
pub(super) fn output_axis(node: &NodeProto, rank: usize) -> usize {
    match node.op_type() {
        "Conv" => 0,
        "Gemm" if int(node, "transB").unwrap_or(0) != 0 => 0,
        _ => rank.saturating_sub(1),
    }
}
