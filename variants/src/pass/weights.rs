//! Weight-only: MatMul whose weights are integers of 4 or 8 bits by blocks (ONNX Runtime's `MatMulNBits`), activations in float.
//! Less memory to read, for models whose weights do not fit the caches.

use super::{Done, Pass};
use crate::VariantError;
use crate::graph::{Index, Names, is, node, with_int};
use crate::onnx::pb::tensor_proto::DataType;
use crate::onnx::{self, Model};
use serde::{Deserialize, Serialize};

/// The domain of ONNX Runtime's own operators.
const DOMAIN: &str = "com.microsoft";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightOnly {
    /// 4 or 8.
    pub bits: u8,
    /// Elements along the inputs that share a scale: a power of two from 16.
    pub block: u32,
    /// `accuracy_level` of the operator: 4 lets it compute in int8, 0 in float.
    pub accuracy_level: u8,
}

impl WeightOnly {
    pub(super) fn apply(&self, model: &mut Model) -> Result<Done, VariantError> {
        if !matches!(self.bits, 4 | 8) || !self.block.is_power_of_two() || self.block < 16 {
            return Err(VariantError::NotApplicable(format!(
                "{} bits in blocks of {}: expected 4 or 8, and a power of two from 16",
                self.bits, self.block
            )));
        }
        let graph = model.graph_mut();
        let (index, mut names) = (Index::of(graph), Names::of(graph));
        let (mut done, mut left) = (Done::default(), Vec::new());
        for at in 0..graph.node.len() {
            let Some(found) = graph.node.get(at).filter(|n| is(n, "MatMul")) else { continue };
            let ([input, weight], [output]) = (found.input.as_slice(), found.output.as_slice()) else { continue };
            let (input, weight, output) = (input.clone(), weight.clone(), output.clone());
            let tensor = index.constant(graph, &weight).filter(|t| t.dims.len() == 2 && t.data_type() == DataType::Float as i32);
            let Some(tensor) = tensor else {
                left.push(output);
                continue;
            };
            let (values, dims) = (onnx::floats(tensor)?, tensor.dims.clone());
            let (Some(rows), Some(columns)) = (dim(&dims, 0), dim(&dims, 1)) else { continue };
            let packed = self.pack(&values, rows, columns);
            let [bytes_name, scale_name] = ["packed", "scales"].map(|what| names.fresh(&format!("{weight}_{what}")));
            let shape = [columns as i64, packed.blocks as i64, (packed.bytes.len() / columns.max(1) / packed.blocks.max(1)) as i64];
            graph.initializer.push(onnx::raw(bytes_name.clone(), DataType::Uint8, &shape, packed.bytes));
            graph.initializer.push(onnx::make(scale_name.clone(), &[packed.scales.len() as i64], &packed.scales));
            let mut made = node("MatMulNBits", &[&input, &bytes_name, &scale_name], &[&output]);
            made.domain = Some(DOMAIN.to_owned());
            let attributes = [
                ("K", rows as i64),
                ("N", columns as i64),
                ("bits", i64::from(self.bits)),
                ("block_size", i64::from(self.block)),
                ("accuracy_level", i64::from(self.accuracy_level)),
            ];
            let made = attributes.into_iter().fold(made, |made, (name, value)| with_int(made, name, value));
            if let Some(node) = graph.node.get_mut(at) {
                *node = made;
            }
            done.changed += 1;
        }
        if done.changed == 0 {
            return Err(VariantError::NotApplicable("no MatMul with a constant FLOAT matrix".to_owned()));
        }
        model.import(DOMAIN, 1);
        done.say(format!("{} MatMul with weights of {} bits in blocks of {}", done.changed, self.bits, self.block));
        done.say_several("left in float", "it multiplies activations", &left);
        Ok(done)
    }

    /// Column by column, each in blocks along its rows; of 4 bits the first element is in the low half of a byte.
    fn pack(&self, values: &[f32], rows: usize, columns: usize) -> Packed {
        let block = self.block as usize;
        let blocks = rows.div_ceil(block);
        let (most, zero) = if self.bits == 4 { (7.0, 8) } else { (127.0, 128) };
        let mut packed = Packed { bytes: Vec::new(), scales: Vec::with_capacity(columns * blocks), blocks };
        for column in 0..columns {
            for first in (0..rows).step_by(block) {
                let one = |row: usize| values.get(row * columns + column).copied().filter(|_| row < rows).unwrap_or(0.0);
                let range = first..first + block;
                let scale = range.clone().fold(0.0f32, |most, row| most.max(one(row).abs())) / most;
                let scale = if scale.is_normal() { scale } else { 1.0 };
                let integer = |row: usize| ((one(row) / scale).round_ties_even() as i32 + zero).clamp(0, 2 * zero - 1) as u8;
                packed.scales.push(scale);
                if self.bits == 8 {
                    packed.bytes.extend(range.map(integer));
                } else {
                    packed.bytes.extend(range.step_by(2).map(|row| integer(row) | integer(row + 1) << 4));
                }
            }
        }
        packed
    }
}

impl From<WeightOnly> for Pass {
    fn from(pass: WeightOnly) -> Self {
        Self::WeightOnly(pass)
    }
}

struct Packed {
    bytes: Vec<u8>,
    scales: Vec<f32>,
    blocks: usize,
}

fn dim(dims: &[i64], at: usize) -> Option<usize> {
    dims.get(at).and_then(|d| usize::try_from(*d).ok()).filter(|d| *d > 0)
}
