//! Triton's model configuration: `config.pbtxt`, the `config` of a load call, and what a model's own graph adds to it.
//!
//! The way of a configuration: [`parse_text`] or [`parse_json`], then [`complete()`] against the inputs and outputs of the graph, which
//! also checks it ([`check()`] alone does that before there is a graph); the result is kept as JSON ([`to_json`], [`from_json`]) and
//! read by small functions, each for one part of Sluice: [`batching`], [`instances`], [`provider`], [`version_policy`], [`warmups`],
//! [`intra_threads`], [`label_files`].
//!
//! What Sluice does not serve (sequences, ensembles, ragged batches, ...) is an error that names the field, never ignored. Accepted
//! without an effect of their own: `metric_tags`, `model_metrics`, `response_cache`, parameters we do not know, and of `optimization` the
//! priority, the graph level, pinned memory and the parameters of an accelerator.

mod check;
mod complete;
mod error;
mod parse;
mod read;
mod tensor;
#[cfg(test)]
mod tests;

pub use check::check;
pub use complete::{Completed, complete};
pub use error::ConfigError;
pub use parse::{NESTING_MAX, TEXT_BYTES_MAX, parse_json, parse_text};
pub use read::{
    Fill, VersionPolicy, Warmup, WarmupInput, batching, instances, intra_threads, label_files, provider, version_policy, warmups,
};

use crate::inference::{self, ModelConfig};
use crate::json::{self, JsonError};
use policy::DataType;
use serde_json::Value;

const FULL_NAME: &str = "inference.ModelConfig";

/// The configuration as Triton's REST surface gives it: names in snake_case, defaults printed, 64-bit integers as numbers.
pub fn to_json(config: &ModelConfig) -> Value {
    let value = json::to_value(FULL_NAME, config);
    debug_assert!(value.is_ok(), "{value:?}");
    value.unwrap_or_default()
}

/// Reads what [`to_json`] wrote.
///
/// # Errors
/// When `value` has an unknown field or a value of the wrong kind.
pub fn from_json(value: &Value) -> Result<ModelConfig, JsonError> {
    json::from_value(FULL_NAME, value)
}

/// The element type behind Triton's number; none for TYPE_INVALID and numbers that Triton does not have.
pub fn datatype(number: i32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|&d| type_number(d) as i32 == number)
}

/// Triton's number for an element type.
pub fn type_number(datatype: DataType) -> inference::DataType {
    match datatype {
        DataType::Bool => inference::DataType::TypeBool,
        DataType::Uint8 => inference::DataType::TypeUint8,
        DataType::Uint16 => inference::DataType::TypeUint16,
        DataType::Uint32 => inference::DataType::TypeUint32,
        DataType::Uint64 => inference::DataType::TypeUint64,
        DataType::Int8 => inference::DataType::TypeInt8,
        DataType::Int16 => inference::DataType::TypeInt16,
        DataType::Int32 => inference::DataType::TypeInt32,
        DataType::Int64 => inference::DataType::TypeInt64,
        DataType::Fp16 => inference::DataType::TypeFp16,
        DataType::Bf16 => inference::DataType::TypeBf16,
        DataType::Fp32 => inference::DataType::TypeFp32,
        DataType::Fp64 => inference::DataType::TypeFp64,
        DataType::Bytes => inference::DataType::TypeString,
    }
}
