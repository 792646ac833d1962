//! What recipes would make of a model, without samples and without running it.

use crate::VariantError;
use crate::graph::is;
use crate::onnx::Model;
use crate::pass::{Fold, Pass, Ranges, observed};
use crate::recipe::{ALL, Recipe};
use prost::Message as _;
use serde::Serialize;
use std::collections::BTreeSet;

/// What one recipe would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prospect {
    /// The variant it would make.
    pub name: &'static str,
    /// Bytes of its file; none where it does not apply.
    pub bytes: Option<u64>,
    /// What its passes would do, or why there is nothing for them.
    pub lines: Vec<String>,
}

/// What is worth trying first on a device class, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// The variant.
    pub name: &'static str,
    /// In a sentence.
    pub reason: String,
}

/// Every recipe on `model`. Static quantization is tried as if every value had a range.
pub fn prospects(model: &Model) -> Vec<Prospect> {
    let mut base = model.clone();
    let folded = Pass::Fold(Fold::default()).apply(&mut base);
    let whole = base.proto.encoded_len() as u64;
    let ranges = observed(base.graph(), &Recipe::operators(base.graph())).into_iter().map(|name| (name, [-1.0, 1.0]));
    let ranges = Ranges(ranges.collect());
    let prospect = |recipe: &Recipe| {
        if let Err(error @ VariantError::Tensor { .. }) = &folded {
            return Prospect { name: recipe.name, bytes: None, lines: vec![error.to_string()] };
        }
        let Some(pass) = recipe.pass(base.graph(), &ranges, &BTreeSet::new(), false) else {
            return Prospect { name: recipe.name, bytes: Some(whole), lines: vec![recipe.summary.to_owned()] };
        };
        let mut made = base.clone();
        match pass.apply(&mut made) {
            Ok(done) => Prospect { name: recipe.name, bytes: Some(made.proto.encoded_len() as u64), lines: done.lines },
            Err(error) => Prospect { name: recipe.name, bytes: None, lines: vec![error.to_string()] },
        }
    };
    ALL.iter().map(prospect).collect()
}

/// What to try first on a device class, such as `cpu:avx512_vnni+avx512_bf16:16c`.
pub fn suggest(model: &Model, prospects: &[Prospect], class: &str) -> Option<Suggestion> {
    let count = |operator: &str| model.graph().node.iter().filter(|n| is(n, operator)).count();
    let (convolutions, products) = (count("Conv"), count("MatMul") + count("Gemm"));
    let applies = |name: &str| prospects.iter().any(|p| p.name == name && p.bytes.is_some());
    let bf16 = class.contains("bf16");
    let vnni = if class.contains("vnni") { "this class multiplies bytes (VNNI)" } else { "weights take a quarter, in 7 bits without VNNI" };
    if !class.starts_with("cpu") {
        return Some(Suggestion {
            name: "fp16@tensorrt",
            reason: "graphics processors compute 16 bits at twice the rate or more".to_owned(),
        });
    }
    if convolutions > products && applies("int8-qdq@ort") {
        let reason = format!("{convolutions} convolutions, and {vnni}; dynamic quantization makes convolutions slower");
        return Some(Suggestion { name: "int8-qdq@ort", reason });
    }
    if bf16 && products > 0 {
        let reason = format!("{products} matrix products, and this class computes bf16: nothing to calibrate, little accuracy to lose");
        return Some(Suggestion { name: "bf16@openvino", reason });
    }
    let reason = format!("{products} matrix products, and {vnni}; between them a transformer needs its full range");
    (products > 0 && applies("int8-dynamic@ort")).then_some(Suggestion { name: "int8-dynamic@ort", reason })
}
