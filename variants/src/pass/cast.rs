//! Floats of 16 bits: weights and what is computed, but for operators that lose too much, or have no such form. Inputs and outputs stay
//! what clients know. TensorRT takes a network's types from the file, so this is its fp16 too.

use super::{Done, Pass};
use crate::VariantError;
use crate::graph::{Index, Names, has_subgraph, is, node, types, with_int};
use crate::onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{self, Model};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};

const FLOAT: i32 = DataType::Float as i32;

/// Operators whose bf16 form came with opset 22 (ONNX's `Operators.md`).
const BF16_SINCE_22: [&str; 14] = [
    "AveragePool",
    "Conv",
    "ConvTranspose",
    "Elu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalization",
    "LpNormalization",
    "MaxPool",
    "Selu",
    "Softplus",
    "Softsign",
];

/// Which 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    /// IEEE half precision: up to 65,504.
    Fp16,
    /// The upper half of a float.
    Bf16,
}

impl To {
    fn datatype(self) -> DataType {
        match self {
            Self::Fp16 => DataType::Float16,
            Self::Bf16 => DataType::Bfloat16,
        }
    }

    fn bytes(self, value: f32) -> [u8; 2] {
        match self {
            // What is beyond its range becomes its greatest, not infinity.
            Self::Fp16 if value.is_finite() => f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_le_bytes(),
            Self::Fp16 => f16::from_f32(value).to_le_bytes(),
            Self::Bf16 => bf16::from_f32(value).to_le_bytes(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// Which 16 bits.
    pub to: To,
    /// Operators left in float.
    pub keep: BTreeSet<String>,
}

impl Cast {
    /// Operators that add many numbers or raise them, where 16 bits lose most.
    pub fn usually_kept() -> BTreeSet<String> {
        let all =
            ["CumSum", "Exp", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization", "Pow", "ReduceL2", "ReduceMean", "ReduceSum"];
        all.into_iter().chain(["Softmax"]).map(str::to_owned).collect()
    }

    fn keeps(&self, node: &NodeProto, opset: i64) -> bool {
        const NO_SUCH_FORM: [&str; 15] = [
            "Bernoulli",
            "ConstantOfShape",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "NonMaxSuppression",
            "QuantizeLinear",
            "RandomNormal",
            "RandomUniform",
            "Range",
            "Multinomial",
            "EyeLike",
            "QLinearConv",
            "QLinearMatMul",
            "RandomNormalLike",
            "RandomUniformLike",
        ];
        let later = self.to == To::Bf16 && opset < 22 && BF16_SINCE_22.contains(&node.op_type());
        let kept = self.keep.contains(node.op_type()) || NO_SUCH_FORM.contains(&node.op_type());
        kept || later || !matches!(node.domain(), "" | "ai.onnx")
    }

    pub(super) fn apply(&self, model: &mut Model) -> Result<Done, VariantError> {
        if self.to == To::Bf16 && model.opset() < 13 {
            return Err(VariantError::NotApplicable(format!("opset {} has no bf16; it came with 13", model.opset())));
        }
        let inner = model.graph().node.iter().find(|n| has_subgraph(n));
        if let Some(node) = inner {
            return Err(VariantError::NotApplicable(format!("control flow ({}): types inside of it are not followed", node.op_type())));
        }
        if let Some(function) = model.proto.functions.first() {
            return Err(VariantError::NotApplicable(format!(
                "functions of its own (`{}`): types inside are not followed",
                function.name()
            )));
        }
        let opset = model.opset();
        let all_elements = model.graph().initializer.iter().filter(|t| t.data_type() == FLOAT).map(elements).fold(0, i64::saturating_add);
        let graph = model.graph_mut();
        let unknown = |operator| VariantError::NotApplicable(format!("the types that {operator} gives are not known"));
        let types = types::infer(graph).map_err(unknown)?;
        let index = Index::of(graph);
        graph.value_info.clear(); // some say FLOAT of what is not any more
        let kept: HashSet<usize> = graph.node.iter().enumerate().filter(|(_, n)| self.keeps(n, opset)).map(|(at, _)| at).collect();
        let floats = types.iter().filter(|(_, t)| **t == FLOAT).map(|(name, _)| name.clone()).collect();
        let mut edit = Edit { to: self.to, names: Names::of(graph), floats, kept, casts: HashMap::new(), graph, stored: 0, elements: 0 };
        for at in 0..edit.graph.node.len() {
            edit.inputs(at, &index)?;
        }
        for at in 0..edit.graph.node.len() {
            edit.outputs(at, &index)?;
        }
        let mut done = Done { changed: edit.stored, lines: Vec::new() };
        let kept = edit.kept.len();
        if done.changed == 0 || edit.elements.saturating_mul(2) < all_elements {
            let later = if self.to == To::Bf16 && opset < 22 { "; at opset 22 convolutions have a bf16 form" } else { "" };
            return Err(VariantError::NotApplicable(format!(
                "most FLOAT weights, if there are any, are of operators that stay in float{later}"
            )));
        }
        done.say(format!("{} tensors of weights in {:?}", done.changed, self.to).to_lowercase());
        if kept > 0 {
            done.say(format!("{kept} nodes left in float: they lose too much, or have no such form"));
        }
        Ok(done)
    }
}

impl From<Cast> for Pass {
    fn from(pass: Cast) -> Self {
        Self::Cast(Box::new(pass))
    }
}

struct Edit<'a> {
    to: To,
    names: Names,
    floats: HashSet<String>,
    /// Nodes left in float.
    kept: HashSet<usize>,
    /// What a value is called in the other type, by its name and whether the other is the short one.
    casts: HashMap<(String, bool), String>,
    graph: &'a mut GraphProto,
    /// Weights that were stored anew, and their elements.
    stored: usize,
    elements: i64,
}

fn elements(tensor: &TensorProto) -> i64 {
    tensor.dims.iter().fold(1, |product, d| product.saturating_mul(*d))
}

impl Edit<'_> {
    /// Is this value in 16 bits once all is done, under the name it has?
    fn is_short(&self, name: &str, index: &Index) -> bool {
        self.floats.contains(name) && !index.outputs.contains(name) && index.producer.get(name).is_some_and(|at| !self.kept.contains(at))
    }

    fn inputs(&mut self, at: usize, index: &Index) -> Result<(), VariantError> {
        let Some(node) = self.graph.node.get(at) else { return Ok(()) };
        // Sizes of Resize are FLOAT whatever its picture is.
        let fixed = if is(node, "Resize") || is(node, "Upsample") { 1 } else { usize::MAX };
        let wanted = |slot: usize, kept: bool| !kept && slot < fixed;
        let reads: Vec<(usize, String)> = node
            .input
            .iter()
            .enumerate()
            .filter(|(_, name)| self.floats.contains(*name))
            .map(|(slot, name)| (slot, name.clone()))
            .collect();
        for (slot, name) in reads {
            let short = wanted(slot, self.kept.contains(&at));
            if short == self.is_short(&name, index) {
                continue;
            }
            let other = match (short, index.constant(self.graph, &name).cloned()) {
                (true, Some(tensor)) if !self.casts.contains_key(&(name.clone(), true)) => {
                    let tensor = self.shortened(&tensor)?;
                    let other = tensor.name().to_owned();
                    self.stored += 1;
                    self.elements = self.elements.saturating_add(elements(&tensor));
                    self.graph.initializer.push(tensor);
                    self.casts.insert((name.clone(), true), other.clone());
                    other
                }
                _ => self.cast(&name, short),
            };
            if let Some(input) = self.graph.node.get_mut(at).and_then(|n| n.input.get_mut(slot)) {
                *input = other;
            }
        }
        Ok(())
    }

    fn shortened(&mut self, tensor: &TensorProto) -> Result<TensorProto, VariantError> {
        let bytes: Vec<u8> = onnx::floats(tensor)?.into_iter().flat_map(|v| self.to.bytes(v)).collect();
        let name = self.names.fresh(&format!("{}_16", tensor.name()));
        Ok(onnx::raw(name, self.to.datatype(), &tensor.dims, bytes))
    }

    /// The value in the other type, through a Cast node.
    fn cast(&mut self, name: &str, short: bool) -> String {
        let key = (name.to_owned(), short);
        if let Some(known) = self.casts.get(&key) {
            return known.clone();
        }
        let other = self.names.fresh(&format!("{name}_{}", if short { "16" } else { "32" }));
        let to = if short { self.to.datatype() } else { DataType::Float };
        self.graph.node.push(with_int(node("Cast", &[name], &[&other]), "to", to as i64));
        self.casts.insert(key, other.clone());
        other
    }

    /// A node that computes in 16 bits says so, and gives what clients know through a Cast.
    fn outputs(&mut self, at: usize, index: &Index) -> Result<(), VariantError> {
        let Some(node) = self.graph.node.get(at).filter(|_| !self.kept.contains(&at)) else { return Ok(()) };
        let gives: Vec<(usize, String)> = node
            .output
            .iter()
            .enumerate()
            .filter(|(_, name)| self.floats.contains(*name))
            .map(|(slot, name)| (slot, name.clone()))
            .collect();
        // Casts that this pass put in say what they mean.
        let own = index.producer.values().all(|known| *known != at);
        if gives.is_empty() || own {
            return Ok(());
        }
        let datatype = self.to.datatype();
        let filled = match node.attribute.iter().find(|a| a.name() == "value").and_then(|a| a.t.as_ref()) {
            Some(tensor) if tensor.data_type() == FLOAT => Some(self.shortened(&tensor.clone())?),
            _ => None,
        };
        let mut casts = Vec::new();
        for (slot, name) in gives.into_iter().filter(|(_, name)| index.outputs.contains(name)) {
            let short = self.names.fresh(&format!("{name}_short"));
            casts.push(with_int(crate::graph::node("Cast", &[&short], &[&name]), "to", i64::from(FLOAT)));
            if let Some(output) = self.graph.node.get_mut(at).and_then(|n| n.output.get_mut(slot)) {
                *output = short;
            }
        }
        if let Some(node) = self.graph.node.get_mut(at) {
            if is(node, "Cast") {
                *node = with_int(std::mem::take(node), "to", datatype as i64);
            }
            if let (Some(filled), Some(attribute)) = (filled, node.attribute.iter_mut().find(|a| a.name() == "value")) {
                attribute.t = Some(filled);
            }
        }
        self.graph.node.extend(casts);
        Ok(())
    }
}
