//! Dynamic int8: weights are stored as integers, activations become unsigned integers by the range of the batch at hand.
//!
//! The pattern is DynamicQuantizeLinear, MatMulInteger (ConvInteger), Cast, Mul, which ONNX Runtime fuses. There are no signed activations
//! in it: DynamicQuantizeLinear gives uint8 only.

use super::scale::{self, Scale};
use super::selection::{has_weights, is_plain_gemm, output_axis};
use super::{Done, Pass};
use crate::VariantError;
use crate::graph::{Index, Names, int, is, node, with_int};
use crate::onnx::pb::{GraphProto, NodeProto, tensor_proto::DataType};
use crate::onnx::{self, Model};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dynamic {
    /// Signed weights. VNNI is fast with signed ones only.
    pub signed: bool,
    /// A scale for every output channel of the weights, instead of one for all.
    pub per_channel: bool,
    /// Weights in 7 bits, for processors without VNNI.
    pub reduce_range: bool,
    /// Operators that are quantized: of MatMul, Gemm, Conv, Gather.
    pub operators: BTreeSet<String>,
}

impl Dynamic {
    pub(super) fn apply(&self, model: &mut Model) -> Result<Done, VariantError> {
        let graph = model.graph_mut();
        let index = Index::of(graph);
        let (mut done, mut left) = (Done::default(), Vec::new());
        let mut edit = Edit { pass: self, names: Names::of(graph), activations: HashMap::new(), graph };
        for at in 0..edit.graph.node.len() {
            let Some(found) = edit.graph.node.get(at).filter(|n| self.operators.contains(n.op_type()) && is(n, n.op_type())).cloned()
            else {
                continue;
            };
            let made = match found.op_type() {
                "Gather" if is_table(edit.graph, &index, &found) => edit.gather(&found)?,
                "Gather" => continue, // picks from activations or from shapes
                "Gemm" if !is_plain_gemm(&found) || int(&found, "transA").unwrap_or(0) != 0 => Vec::new(),
                _ if has_weights(edit.graph, &index, &found) => edit.product(&found)?,
                _ => Vec::new(),
            };
            if made.is_empty() {
                left.push(found.output.first().cloned().unwrap_or_default());
                continue;
            }
            done.changed += 1;
            if let Some(node) = edit.graph.node.get_mut(at) {
                node.output.clear(); // a dead end now
            }
            edit.graph.node.extend(made);
        }
        if done.changed == 0 {
            let all: Vec<&str> = self.operators.iter().map(String::as_str).collect();
            return Err(VariantError::NotApplicable(format!("no {} with constant FLOAT weights", all.join(", "))));
        }
        let (weights, scales) = (if self.signed { "int8" } else { "uint8" }, if self.per_channel { "channel" } else { "tensor" });
        done.say(format!("{} nodes with {weights} weights, a scale for each {scales}", done.changed));
        done.say_several("left in float", "its weights are no constants in FLOAT, or its attributes are unusual", &left);
        Ok(done)
    }
}

impl From<Dynamic> for Pass {
    fn from(pass: Dynamic) -> Self {
        Self::DynamicInt8(pass)
    }
}

/// A lookup in a constant table of two dimensions, by row.
fn is_table(graph: &GraphProto, index: &Index, node: &NodeProto) -> bool {
    let table = node.input.first().and_then(|name| index.constant(graph, name));
    int(node, "axis").unwrap_or(0) == 0
        && table.is_some_and(|t| t.dims.len() == 2 && t.data_type() == DataType::Float as i32 && t.dims.iter().all(|d| *d > 0))
}

struct Edit<'a> {
    pass: &'a Dynamic,
    names: Names,
    graph: &'a mut GraphProto,
    /// Quantized, scale and zero point of a value.
    activations: HashMap<String, [String; 3]>,
}

impl Edit<'_> {
    fn activation(&mut self, name: &str) -> [String; 3] {
        if let Some(known) = self.activations.get(name) {
            return known.clone();
        }
        let made = ["quantized", "scale", "zero_point"].map(|what| self.names.fresh(&format!("{name}_{what}")));
        let [quantized, scale, zero] = &made;
        self.graph.node.push(node("DynamicQuantizeLinear", &[name], &[quantized, scale, zero]));
        self.activations.insert(name.to_owned(), made.clone());
        made
    }

    /// MatMul, Gemm or Conv.
    fn product(&mut self, found: &NodeProto) -> Result<Vec<NodeProto>, VariantError> {
        let ([input, weight, ..], Some(output)) = (found.input.as_slice(), found.output.first()) else { return Ok(Vec::new()) };
        let is_conv = found.op_type() == "Conv";
        let tensor = self.graph.initializer.iter().find(|t| t.name() == weight);
        let tensor = tensor.ok_or_else(|| VariantError::tensor(weight, "not an initializer any more"))?;
        let (mut values, mut dims) = (onnx::floats(tensor)?, tensor.dims.clone());
        let mut axis = output_axis(found, dims.len());
        if found.op_type() == "Gemm" && axis == 0 {
            (values, dims, axis) = (transposed(&values, &dims), dims.iter().rev().copied().collect(), 1);
        }
        let axis = (self.pass.per_channel && self.pass.signed).then_some(axis);
        let weights = self.weights(weight, &values, &dims, axis);
        let [quantized, scale, zero] = self.activation(input);
        let product = self.names.fresh(&format!("{output}_integers"));
        let integers = [quantized.as_str(), &weights.quantized, &zero, &weights.zero];
        let mut made = vec![node(if is_conv { "ConvInteger" } else { "MatMulInteger" }, &integers, &[&product])];
        if is_conv && let Some(node) = made.first_mut() {
            node.attribute.clone_from(&found.attribute);
        }
        let (cast, scales) = (self.names.fresh(&format!("{product}_float")), self.names.fresh(&format!("{output}_scales")));
        made.push(with_int(node("Cast", &[&product], &[&cast]), "to", DataType::Float as i64));
        let weight_scale = if is_conv && axis.is_some() { self.shaped(&weights, dims.len()) } else { weights.scale };
        made.push(node("Mul", &[&scale, &weight_scale], &[&scales]));
        let bias = found.input.get(2).filter(|n| !n.is_empty());
        let scaled = if bias.is_some() { self.names.fresh(&format!("{output}_scaled")) } else { output.clone() };
        made.push(node("Mul", &[&cast, &scales], &[&scaled]));
        if let Some(bias) = bias {
            let bias = if is_conv { self.bias(bias, dims.len())? } else { bias.clone() };
            made.push(node("Add", &[&scaled, &bias], &[output]));
        }
        Ok(made)
    }

    /// A lookup of rows, each with a scale of its own.
    fn gather(&mut self, found: &NodeProto) -> Result<Vec<NodeProto>, VariantError> {
        let ([table, rows, ..], Some(output)) = (found.input.as_slice(), found.output.first()) else { return Ok(Vec::new()) };
        let tensor = self.graph.initializer.iter().find(|t| t.name() == table);
        let tensor = tensor.ok_or_else(|| VariantError::tensor(table, "not an initializer any more"))?;
        let (values, dims) = (onnx::floats(tensor)?, tensor.dims.clone());
        let scales = scale::weights(&values, &dims, Some(0), false);
        let bytes = scale::quantize_weights(&values, &dims, Some(0), &scales);
        let (quantized, scale) = (self.names.fresh(&format!("{table}_quantized")), self.names.fresh(&format!("{table}_scale")));
        self.graph.initializer.push(onnx::raw(quantized.clone(), DataType::Int8, &dims, bytes));
        let scales: Vec<f32> = scales.iter().map(|s| s.scale).collect();
        self.graph.initializer.push(onnx::make(scale.clone(), &[scales.len() as i64, 1], &scales));
        let [picked, float, factor] = ["integers", "float", "scale"].map(|what| self.names.fresh(&format!("{output}_{what}")));
        Ok(vec![
            node("Gather", &[&quantized, rows], &[&picked]),
            with_int(node("Cast", &[&picked], &[&float]), "to", DataType::Float as i64),
            node("Gather", &[&scale, rows], &[&factor]),
            node("Mul", &[&float, &factor], &[output]),
        ])
    }

    fn weights(&mut self, name: &str, values: &[f32], dims: &[i64], axis: Option<usize>) -> Weights {
        let [quantized, scale_name, zero_name] =
            ["quantized", "scale", "zero_point"].map(|what| self.names.fresh(&format!("{name}_{what}")));
        let (scales, bytes, datatype) = if self.pass.signed {
            let scales = scale::weights(values, dims, axis, self.pass.reduce_range);
            let bytes = scale::quantize_weights(values, dims, axis, &scales);
            (scales, bytes, DataType::Int8)
        } else {
            let (low, high) = values.iter().fold((0.0f32, 0.0f32), |(low, high), v| (low.min(*v), high.max(*v)));
            let most = if self.pass.reduce_range { 127 } else { 255 };
            let one = scale::of_range(low, high, (0, most), false);
            let bytes = values.iter().map(|v| one.quantize(*v, (0, most)) as u8).collect();
            (vec![one], bytes, DataType::Uint8)
        };
        let zero = scales.first().map_or(0, |s: &Scale| s.zero) as u8;
        let own: &[i64] = if axis.is_some() { &[scales.len() as i64] } else { &[] };
        let scale_values: Vec<f32> = scales.iter().map(|s| s.scale).collect();
        self.graph.initializer.push(onnx::raw(quantized.clone(), datatype, dims, bytes));
        self.graph.initializer.push(onnx::make(scale_name.clone(), own, &scale_values));
        self.graph.initializer.push(onnx::raw(zero_name.clone(), datatype, &[], vec![zero]));
        Weights { quantized, scale: scale_name, zero: zero_name, scales: scale_values }
    }

    /// The scales of a convolution's weights in a shape that goes with its output.
    fn shaped(&mut self, weights: &Weights, rank: usize) -> String {
        let name = self.names.fresh(&format!("{}_shaped", weights.scale));
        self.graph.initializer.push(onnx::make(name.clone(), &channel_dims(weights.scales.len(), rank), &weights.scales));
        name
    }

    fn bias(&mut self, name: &str, rank: usize) -> Result<String, VariantError> {
        let tensor = self.graph.initializer.iter().find(|t| t.name() == name);
        let values = onnx::floats(tensor.ok_or_else(|| VariantError::tensor(name, "not an initializer any more"))?)?;
        let shaped = self.names.fresh(&format!("{name}_shaped"));
        self.graph.initializer.push(onnx::make(shaped.clone(), &channel_dims(values.len(), rank), &values));
        Ok(shaped)
    }
}

struct Weights {
    quantized: String,
    scale: String,
    zero: String,
    scales: Vec<f32>,
}

/// `[1, C, 1, 1]` for pictures.
fn channel_dims(channels: usize, rank: usize) -> Vec<i64> {
    (0..rank).map(|d| if d == 1 { channels as i64 } else { 1 }).collect()
}

fn transposed(values: &[f32], dims: &[i64]) -> Vec<f32> {
    let [rows, columns] = [0, 1].map(|d| dims.get(d).and_then(|n| usize::try_from(*n).ok()).unwrap_or(0));
    (0..columns).flat_map(|c| (0..rows).filter_map(move |r| values.get(r * columns + c)).copied()).collect()
}
