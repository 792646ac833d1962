//! Data types, shapes and signatures: what a tensor is, without its bytes.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Dimensions of a tensor, outermost first. In a signature -1 means any size. Eight fit without an allocation.
pub type Shape = SmallVec<[i64; 8]>;

/// Element type, spelled as the Open Inference Protocol spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the protocol's and say all there is")]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl DataType {
    /// All types, in the order of Triton's `TYPE_*` numbers (BF16 last there, beside FP16 here).
    pub const ALL: [DataType; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The protocol's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The type the protocol spells `text`, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == text)
    }

    /// Bytes per element; `None` for BYTES, whose elements carry their own lengths.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an engine runs a graph on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionProvider {
    /// The host's processor.
    #[default]
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    Tensorrt,
}

impl ExecutionProvider {
    /// As written in configuration and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}

impl std::fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One input or output of a model as a client sees it: the batch dimension, where there is one, included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, -1 for any size.
    pub shape: Vec<i64>,
    /// A request may leave it out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Dimensions in the graph where a `reshape` makes them differ from what a client sees; batch included too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_shape: Option<Vec<i64>>,
}

/// What a version takes and gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Signature {
    /// Most rows of one request; 0 when the model has no batch dimension (the first dimension is then like any other).
    pub max_batch_size: u32,
    /// Inputs in the graph's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the graph's order.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// The batch limit Triton gives a model without a configuration file whose every input and output has a free first dimension.
    pub const DEFAULT_MAX_BATCH_SIZE: u32 = 4;

    /// Completes what an engine read from the graph as Triton does: batchable when every first dimension is free.
    pub fn complete(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, max_batch_size: Option<u32>) -> Self {
        let free = |t: &TensorSpec| t.shape.first() == Some(&-1);
        let batches = !inputs.is_empty() && inputs.iter().all(free) && outputs.iter().all(free);
        let limit = max_batch_size.unwrap_or(Self::DEFAULT_MAX_BATCH_SIZE);
        Self { max_batch_size: if batches { limit } else { 0 }, inputs, outputs }
    }

    /// The input named `name`.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|t| t.name == name)
    }

    /// The output named `name`.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|t| t.name == name)
    }
}
