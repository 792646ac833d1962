//! Static int8: QuantizeLinear and DequantizeLinear around every value that a chosen node takes and gives. An engine makes integer kernels
//! of the pattern; the file stays one that every runtime understands.
//!
//! Weights are signed and symmetric. Activations are unsigned with a zero point on processors (VNNI multiplies unsigned by signed), signed
//! and symmetric on graphics processors. Scales and zero points are those of ONNX Runtime's quantizer for the same ranges.

use super::scale::{self, Scale};
use super::selection::{self, CLIPS, Chosen, JOINS, MOVES, output_axis};
use super::{Done, Pass};
use crate::VariantError;
use crate::graph::{Index, Names, is, node, with_int};
use crate::onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{self, Model};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Operator set in which DequantizeLinear has an axis.
const PER_CHANNEL_OPSET: i64 = 13;

/// The integers of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Unsigned, with a zero point.
    U8,
    /// Signed, symmetric.
    S8,
}

/// Least and greatest value seen of each tensor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(pub BTreeMap<String, [f32; 2]>);

impl Ranges {
    /// That of `name`.
    pub fn of(&self, name: &str) -> Option<[f32; 2]> {
        self.0.get(name).copied()
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Qdq {
    /// The integers of activations.
    pub activations: Activations,
    /// A scale for every output channel of the weights, instead of one for all.
    pub per_channel: bool,
    /// Weights in 7 bits, for processors without VNNI, whose pairs of products overflow 16 bits.
    pub reduce_range: bool,
    /// Operators that are quantized.
    pub operators: BTreeSet<String>,
    /// Nodes left in float, by their first output.
    pub keep: BTreeSet<String>,
    /// What calibration found.
    pub ranges: Ranges,
}

impl Qdq {
    /// The operators that pay on processors where the network convolves.
    pub fn operators_of_convolutions() -> BTreeSet<String> {
        let all = super::selection::COMPUTES.iter().chain(&MOVES).chain(&JOINS);
        all.map(|op| (*op).to_owned()).collect()
    }

    /// Nodes that it would quantize and that compute, by their first outputs, in order.
    pub fn targets(&self, graph: &GraphProto) -> Vec<String> {
        let index = Index::of(graph);
        let chosen = selection::select(graph, &index, self).chosen;
        let nodes = chosen.iter().filter_map(|c| graph.node.get(c.node));
        nodes.filter(|n| selection::COMPUTES.contains(&n.op_type())).filter_map(|n| n.output.first().cloned()).collect()
    }

    pub(super) fn apply(&self, model: &mut Model) -> Result<Done, VariantError> {
        let mut done = Done::default();
        let per_channel = self.per_channel && model.opset() >= PER_CHANNEL_OPSET;
        if self.per_channel && !per_channel {
            done.say(format!("one scale for a tensor instead of one for a channel: opset {} is before {PER_CHANNEL_OPSET}", model.opset()));
        }
        let graph = model.graph_mut();
        let index = Index::of(graph);
        let selection = selection::select(graph, &index, self);
        let computing =
            selection.chosen.iter().filter_map(|c| graph.node.get(c.node)).filter(|n| selection::COMPUTES.contains(&n.op_type()));
        let computing = computing.count();
        if computing == 0 {
            return Err(VariantError::NotApplicable("no Conv, Gemm or MatMul with constant FLOAT weights and measured ranges".to_owned()));
        }
        done.changed = selection.chosen.len();
        done.say(format!("{computing} Conv, Gemm and MatMul quantized, and {} nodes between them", done.changed - computing));
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        selection.left.into_iter().for_each(|(name, why)| reasons.entry(why).or_default().push(name));
        reasons.into_iter().for_each(|(why, names)| done.say_several("left in float", why, &names));

        let mut edit = Edit { pass: self, per_channel, names: Names::of(graph), scales: HashMap::new(), weights: HashMap::new(), graph };
        edit.activations(&index, &selection.chosen);
        for chosen in &selection.chosen {
            edit.weights(chosen.node)?;
        }
        Ok(done)
    }
}

impl From<Qdq> for Pass {
    fn from(pass: Qdq) -> Self {
        Self::Qdq(Box::new(pass))
    }
}

struct Edit<'a> {
    pass: &'a Qdq,
    per_channel: bool,
    names: Names,
    graph: &'a mut GraphProto,
    /// Scale of a value that was quantized, by the name that nodes read now.
    scales: HashMap<String, Scale>,
    /// What weights became.
    weights: HashMap<(String, Option<usize>), (String, Vec<Scale>)>,
}

impl Edit<'_> {
    /// Puts a pair around every value that chosen nodes take or give.
    fn activations(&mut self, index: &Index, chosen: &[Chosen]) {
        let (mut order, mut made, mut shared) = (Vec::new(), HashSet::new(), HashMap::new());
        for one in chosen {
            let (Some(node), Some(output)) = (self.graph.node.get(one.node), one.output(self.graph)) else { continue };
            let taken = if JOINS.contains(&node.op_type()) { usize::MAX } else { 1 };
            order.extend(node.input.iter().take(taken).cloned());
            if MOVES.contains(&node.op_type())
                && one.clip.is_none()
                && let Some(input) = node.input.first()
            {
                shared.insert(output.clone(), input.clone());
            }
            if !index.outputs.contains(output) {
                order.push(output.clone());
                made.insert(output.clone());
            }
        }
        let takers: HashSet<usize> = chosen.iter().map(|c| c.node).collect();
        let mut done = HashSet::new();
        for name in order {
            if !done.insert(name.clone()) {
                continue;
            }
            let mut root = &name;
            for _ in 0..shared.len() {
                let Some(from) = shared.get(root) else { break };
                root = from;
            }
            let Some([low, high]) = self.pass.ranges.of(root) else { continue };
            let read = self.pair(&name, low, high);
            // A value that chosen nodes make exists as integers only; of others, those who are left in float take the float.
            for (at, slot) in index.consumers.get(&name).into_iter().flatten() {
                if (made.contains(&name) || takers.contains(at))
                    && let Some(input) = self.graph.node.get_mut(*at).and_then(|n| n.input.get_mut(*slot))
                {
                    input.clone_from(&read);
                }
            }
        }
        if self.pass.activations == Activations::U8 {
            chosen
                .iter()
                .filter(|c| c.output(self.graph).is_some_and(|o| made.contains(o)))
                .cloned()
                .collect::<Vec<_>>()
                .iter()
                .for_each(|c| self.absorb(c));
        }
    }

    /// Leaves out a Relu or Clip whose bounds the integers' own saturation gives: the range was measured behind it.
    fn absorb(&mut self, chosen: &Chosen) {
        let clip = chosen.clip.and_then(|at| self.graph.node.get_mut(at)).filter(|n| CLIPS.iter().any(|op| is(n, op)));
        let Some(clip) = clip else { return };
        let output = std::mem::take(&mut clip.output);
        clip.input.clear();
        if let Some(node) = self.graph.node.get_mut(chosen.node) {
            node.output = output;
        }
    }

    /// Quantizes `name` and gives the name of what comes back from it.
    fn pair(&mut self, name: &str, low: f32, high: f32) -> String {
        let (scale, datatype) = match self.pass.activations {
            Activations::U8 => (scale::of_range(low, high, (0, 255), false), DataType::Uint8),
            Activations::S8 => (scale::of_range(low, high, (-127, 127), true), DataType::Int8),
        };
        let scale_name = self.names.fresh(&format!("{name}_scale"));
        let zero_name = self.names.fresh(&format!("{name}_zero_point"));
        let quantized = self.names.fresh(&format!("{name}_quantized"));
        let read = self.names.fresh(&format!("{name}_dequantized"));
        self.graph.initializer.push(onnx::make(scale_name.clone(), &[], &[scale.scale]));
        self.graph.initializer.push(onnx::raw(zero_name.clone(), datatype, &[], vec![scale.zero as u8]));
        self.graph.node.push(node("QuantizeLinear", &[name, &scale_name, &zero_name], &[&quantized]));
        self.graph.node.push(node("DequantizeLinear", &[&quantized, &scale_name, &zero_name], &[&read]));
        self.scales.insert(read.clone(), scale);
        read
    }

    /// Weights, and the bias in steps of what they are multiplied with.
    fn weights(&mut self, at: usize) -> Result<(), VariantError> {
        let Some(node) = self.graph.node.get(at).filter(|n| selection::COMPUTES.contains(&n.op_type())).cloned() else { return Ok(()) };
        let (Some(input), Some(weight)) = (node.input.first(), node.input.get(1)) else { return Ok(()) };
        let Some(input_scale) = self.scales.get(input).copied() else { return Ok(()) };
        let bias = node.input.get(2).filter(|n| !n.is_empty());
        let bias = bias.map(|name| Ok((name, onnx::floats(self.tensor(name)?)?))).transpose()?;
        let (read, scales) = self.weight(&node, weight, input_scale, bias.as_ref().map(|(_, values)| values.as_slice()))?;
        let mut inputs = vec![(1, read)];
        if let Some((name, values)) = bias {
            inputs.push((2, self.bias(name, &values, input_scale, &scales)));
        }
        if let Some(node) = self.graph.node.get_mut(at) {
            for (slot, name) in inputs {
                node.input.get_mut(slot).into_iter().for_each(|input| input.clone_from(&name));
            }
        }
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&TensorProto, VariantError> {
        let found = self.graph.initializer.iter().find(|t| t.name() == name);
        found.ok_or_else(|| VariantError::tensor(name, "not an initializer any more"))
    }

    fn weight(&mut self, node: &NodeProto, name: &str, input: Scale, bias: Option<&[f32]>) -> Result<(String, Vec<Scale>), VariantError> {
        let tensor = self.tensor(name)?;
        let axis = self.per_channel.then(|| output_axis(node, tensor.dims.len()));
        if let Some(known) = self.weights.get(&(name.to_owned(), axis)) {
            return Ok(known.clone());
        }
        let (values, dims) = (onnx::floats(tensor)?, tensor.dims.clone());
        let mut scales = scale::weights(&values, &dims, axis, self.pass.reduce_range);
        if let Some(bias) = bias {
            scale::make_room(&mut scales, input, bias);
        }
        let bytes = scale::quantize_weights(&values, &dims, axis, &scales);
        let quantized = self.names.fresh(&format!("{name}_quantized"));
        self.graph.initializer.push(onnx::raw(quantized.clone(), DataType::Int8, &dims, bytes));
        let read = self.dequantized(name, &quantized, &scales, axis, DataType::Int8);
        self.weights.insert((name.to_owned(), axis), (read.clone(), scales.clone()));
        Ok((read, scales))
    }

    fn bias(&mut self, name: &str, values: &[f32], input: Scale, weights: &[Scale]) -> String {
        let scales: Vec<Scale> = weights.iter().map(|w| Scale { scale: input.scale * w.scale, zero: 0 }).collect();
        let of = |at: usize| scales.get(at).or(scales.first()).map_or(1.0, |s| f64::from(s.scale));
        let integers = values.iter().enumerate().map(|(at, v)| (f64::from(*v) / of(at)).round_ties_even() as i32);
        let bytes: Vec<u8> = integers.flat_map(i32::to_le_bytes).collect();
        let quantized = self.names.fresh(&format!("{name}_quantized"));
        self.graph.initializer.push(onnx::raw(quantized.clone(), DataType::Int32, &[values.len() as i64], bytes));
        self.dequantized(name, &quantized, &scales, self.per_channel.then_some(0), DataType::Int32)
    }

    /// A DequantizeLinear of what is stored; the name of what it gives.
    fn dequantized(&mut self, name: &str, quantized: &str, scales: &[Scale], axis: Option<usize>, datatype: DataType) -> String {
        let dims: &[i64] = if axis.is_some() { &[scales.len() as i64] } else { &[] };
        let (scale_name, zero_name) =
            (self.names.fresh(&format!("{quantized}_scale")), self.names.fresh(&format!("{quantized}_zero_point")));
        let read = self.names.fresh(&format!("{name}_dequantized"));
        let values: Vec<f32> = scales.iter().map(|s| s.scale).collect();
        let zeros = vec![0; scales.len() * if datatype == DataType::Int32 { 4 } else { 1 }];
        self.graph.initializer.push(onnx::make(scale_name.clone(), dims, &values));
        self.graph.initializer.push(onnx::raw(zero_name.clone(), datatype, dims, zeros));
        let made = node("DequantizeLinear", &[quantized, &scale_name, &zero_name], &[&read]);
        self.graph.node.push(match axis {
            Some(axis) => with_int(made, "axis", axis as i64),
            None => made,
        });
        read
    }
}
