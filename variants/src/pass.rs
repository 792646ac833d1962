//! Passes over a graph. A pass is data: its name and its parameters say everything, so that the same model and the same pass give the same
//! bytes, and a card can be replayed.

mod cast;
mod dynamic;
mod fold;
mod qdq;
pub mod scale;
mod selection;
#[cfg(test)]
mod tests;
mod weights;

pub use cast::{Cast, To};
pub use dynamic::Dynamic;
pub use fold::Fold;
pub use qdq::{Activations, Qdq, Ranges};
pub use selection::observed;
pub use weights::WeightOnly;

use crate::VariantError;
use crate::graph::{remove_dead, sort};
use crate::onnx::Model;
use serde::{Deserialize, Serialize};

/// Newest operator set whose operators are known.
pub const OPSET_MAX: i64 = 23;

/// One step of a recipe, with all its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "pass", rename_all = "kebab-case")]
pub enum Pass {
    /// Folds what need not be computed at run time.
    Fold(Fold),
    /// Weights in int8, activations quantized at run time by the batch at hand.
    DynamicInt8(Dynamic),
    /// Weights and activations in int8, with scales found by calibration.
    Qdq(Box<Qdq>),
    /// Weights of MatMul in 4 or 8 bits by blocks, activations in float.
    WeightOnly(WeightOnly),
    /// Floats of 16 bits.
    Cast(Box<Cast>),
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// How many places it changed.
    pub changed: usize,
    /// What it did, and what it left and why; a line each.
    pub lines: Vec<String>,
}

impl Done {
    pub(crate) fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// `N things: names`, with the first of the names only.
    pub(crate) fn say_several(&mut self, what: &str, why: &str, names: &[String]) {
        let Some(first) = names.first() else { return };
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        self.lines.push(format!("{what}: {first}{more}: {why}"));
    }
}

impl Pass {
    /// Changes `model`.
    ///
    /// # Errors
    /// [`VariantError::NotApplicable`] when there is nothing in the model for it, with the reason; [`VariantError::Tensor`] for a model whose
    /// tensors are not what they say. The model is not to be used then.
    pub fn apply(&self, model: &mut Model) -> Result<Done, VariantError> {
        let opset = model.opset();
        if opset > OPSET_MAX {
            return Err(VariantError::NotApplicable(format!("opset {opset} is newer than {OPSET_MAX}, the newest that is known")));
        }
        let least = match self {
            Self::Fold(_) | Self::WeightOnly(_) | Self::Cast(_) => 1,
            Self::Qdq(_) => 10,
            Self::DynamicInt8(_) => 11,
        };
        if opset < least {
            return Err(VariantError::NotApplicable(format!("opset {opset} has not the operators it takes, which came with {least}")));
        }
        let done = match self {
            Self::Fold(pass) => pass.apply(model),
            Self::DynamicInt8(pass) => pass.apply(model),
            Self::Qdq(pass) => pass.apply(model),
            Self::WeightOnly(pass) => pass.apply(model),
            Self::Cast(pass) => pass.apply(model),
        }?;
        if done.changed > 0 {
            remove_dead(model.graph_mut());
            sort(model.graph_mut());
        }
        Ok(done)
    }
}
