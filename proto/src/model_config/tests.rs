//! Configurations as people write them, and as they should not.

mod graph;
mod refused;
mod text;

use super::{Completed, ConfigError, complete, parse_text};
use policy::{DataType, TensorSpec};

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.into(), optional: false, graph_shape: None }
}

/// Triton's `simple` with an open batch: two INT32 inputs of 16, their sum and difference.
fn simple() -> (Vec<TensorSpec>, Vec<TensorSpec>) {
    let int32 = |name| spec(name, DataType::Int32, &[-1, 16]);
    (vec![int32("INPUT0"), int32("INPUT1")], vec![int32("OUTPUT0"), int32("OUTPUT1")])
}

/// `text` as the configuration of `simple`.
fn complete_simple(text: &str) -> Result<Completed, ConfigError> {
    let (inputs, outputs) = simple();
    complete(Some(parse_text(text)?), "simple", &inputs, &outputs, None)
}

/// Name, what a client sees, and what the graph sees where it differs.
type Shapes<'a> = (&'a str, &'a [i64], Option<&'a [i64]>);

fn shapes(tensors: &[TensorSpec]) -> Vec<Shapes<'_>> {
    tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.graph_shape.as_deref())).collect()
}
