//! The recipes: what each makes of a model, for which engine.

use crate::graph::is;
use crate::onnx::pb::GraphProto;
use crate::pass::{Activations, Cast, Dynamic, Pass, Qdq, Ranges, To, WeightOnly};
use policy::PrecisionHint;
use std::collections::BTreeSet;

/// What a recipe does to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Nothing: the same file, run otherwise.
    Same,
    /// Dynamic int8.
    Dynamic,
    /// Static int8.
    Qdq(Activations),
    /// Weights in so many bits.
    Weights(u8),
    /// Floats of 16 bits.
    Cast(To),
}

/// One way to make a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// The variant it makes: `precision@engine`.
    pub name: &'static str,
    /// What it does.
    pub make: Make,
    /// What the engine is told to compute in.
    pub hint: Option<PrecisionHint>,
    /// For people.
    pub summary: &'static str,
}

/// All of them, in the order in which they are tried.
pub const ALL: &[Recipe] = &[
    Recipe { name: "int8-dynamic@ort", make: Make::Dynamic, hint: None, summary: "int8 weights, activations quantized at run time" },
    Recipe { name: "int8-qdq@ort", make: Make::Qdq(Activations::U8), hint: None, summary: "int8 weights and activations, calibrated" },
    Recipe { name: "int8-weights@ort", make: Make::Weights(8), hint: None, summary: "weights of 8 bits by blocks" },
    Recipe { name: "int4-weights@ort", make: Make::Weights(4), hint: None, summary: "weights of 4 bits by blocks" },
    Recipe { name: "fp16@ort", make: Make::Cast(To::Fp16), hint: None, summary: "half precision" },
    Recipe { name: "fp32@openvino", make: Make::Same, hint: Some(PrecisionHint::F32), summary: "the same file, by OpenVINO" },
    Recipe { name: "bf16@openvino", make: Make::Same, hint: Some(PrecisionHint::Bf16), summary: "the same file, computed in bf16" },
    Recipe { name: "int8-qdq@openvino", make: Make::Qdq(Activations::U8), hint: None, summary: "int8, calibrated, by OpenVINO" },
    Recipe { name: "fp16@tensorrt", make: Make::Cast(To::Fp16), hint: None, summary: "half precision, strongly typed" },
    Recipe { name: "bf16@tensorrt", make: Make::Cast(To::Bf16), hint: None, summary: "bfloat16, strongly typed" },
    Recipe {
        name: "int8-qdq@tensorrt",
        make: Make::Qdq(Activations::S8),
        hint: None,
        summary: "signed int8, calibrated, without a calibrator there",
    },
];

impl Recipe {
    /// `precision@engine`, or a precision alone for ONNX Runtime.
    pub fn find(text: &str) -> Option<&'static Self> {
        let full = if text.contains('@') { text.to_owned() } else { format!("{text}@ort") };
        ALL.iter().find(|recipe| recipe.name == full)
    }

    /// The engine part of its name.
    pub fn engine(&self) -> &'static str {
        self.name.split_once('@').map_or("ort", |(_, engine)| engine)
    }

    /// Does it need ranges of activations?
    pub fn calibrates(&self) -> Option<Activations> {
        match self.make {
            Make::Qdq(activations) => Some(activations),
            _ => None,
        }
    }

    /// What a processor must have for the integers of its file not to overflow on the way.
    pub fn needs(&self, reduce_range: bool) -> Option<&'static str> {
        let unsigned = matches!(self.make, Make::Dynamic | Make::Qdq(Activations::U8));
        (unsigned && !reduce_range).then_some("vnni")
    }

    /// The operators whose inputs and outputs it quantizes statically.
    pub fn operators(graph: &GraphProto) -> BTreeSet<String> {
        if graph.node.iter().any(|n| is(n, "Conv")) {
            return Qdq::operators_of_convolutions();
        }
        // In transformers what lies between products needs its full range: quantized throughout, MiniLM's cosine is 0.3.
        ["Gemm", "MatMul"].map(str::to_owned).into()
    }

    /// The pass it consists of. `reduce_range`: this device class has no VNNI.
    pub fn pass(&self, graph: &GraphProto, ranges: &Ranges, keep: &BTreeSet<String>, reduce_range: bool) -> Option<Pass> {
        Some(match self.make {
            Make::Same => return None,
            Make::Dynamic => {
                let operators = ["Conv", "Gather", "Gemm", "MatMul"].map(str::to_owned).into();
                Dynamic { signed: true, per_channel: true, reduce_range, operators }.into()
            }
            Make::Qdq(activations) => Qdq {
                activations,
                per_channel: true,
                reduce_range: reduce_range && activations == Activations::U8,
                operators: Self::operators(graph),
                keep: keep.clone(),
                ranges: ranges.clone(),
            }
            .into(),
            Make::Weights(bits) => WeightOnly { bits, block: 128, accuracy_level: 4 }.into(),
            Make::Cast(to) => Cast { to, keep: Cast::usually_kept() }.into(),
        })
    }
}
