//! Element types of a graph's values, by what each operator's definition says.

use super::{has_subgraph, int};
use crate::onnx::pb::{GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType, type_proto};
use std::collections::HashMap;

/// Number of an element type, as [`DataType`] has it.
pub type ElementType = i32;

/// Types of all values whose type follows; `Err` with the first operator that is not known.
///
/// # Errors
/// The operator's name, with its domain.
pub fn infer(graph: &GraphProto) -> Result<HashMap<String, ElementType>, String> {
    let mut types: HashMap<String, ElementType> = HashMap::new();
    types.extend(graph.initializer.iter().map(|t| (t.name().to_owned(), t.data_type())));
    types.extend(graph.input.iter().chain(&graph.output).chain(&graph.value_info).filter_map(declared));
    for node in &graph.node {
        let of = |slot: usize| node.input.get(slot).and_then(|name| types.get(name)).copied();
        let known: Vec<Option<ElementType>> = node.output.iter().enumerate().map(|(at, _)| output(node, at, &of)).collect();
        for (name, found) in node.output.iter().zip(known) {
            match found {
                Some(found) => drop(types.entry(name.clone()).or_insert(found)),
                None if types.contains_key(name) || name.is_empty() => {}
                None => return Err(format!("{}{}", domain(node), node.op_type())),
            }
        }
    }
    Ok(types)
}

fn domain(node: &NodeProto) -> String {
    if node.domain().is_empty() { String::new() } else { format!("{}:", node.domain()) }
}

fn declared(value: &ValueInfoProto) -> Option<(String, ElementType)> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some((value.name().to_owned(), tensor.elem_type())),
        _ => None,
    }
}

fn attribute(node: &NodeProto) -> Option<&TensorProto> {
    node.attribute.iter().find(|a| a.name() == "value").and_then(|a| a.t.as_ref())
}

fn output(node: &NodeProto, at: usize, of: &dyn Fn(usize) -> Option<ElementType>) -> Option<ElementType> {
    const BOOL: i32 = DataType::Bool as i32;
    const FLOAT: i32 = DataType::Float as i32;
    const INT64: i32 = DataType::Int64 as i32;
    if has_subgraph(node) || !matches!(node.domain(), "" | "ai.onnx" | "com.microsoft") {
        return None;
    }
    match (node.op_type(), at) {
        ("Cast", _) => int(node, "to").and_then(|to| i32::try_from(to).ok()),
        ("Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression", _) | ("TopK", 1) => Some(INT64),
        ("Unique", 1..) | ("MaxPool", 1) => Some(INT64),
        ("Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Not" | "And" | "Or" | "Xor" | "IsNaN" | "IsInf", _)
        | ("Dropout", 1) => Some(BOOL),
        ("ConstantOfShape", _) => Some(attribute(node).map_or(FLOAT, TensorProto::data_type)),
        ("Constant", _) => attribute(node).map(TensorProto::data_type),
        ("Where" | "CastLike", _) => of(1),
        ("OneHot", _) => of(2),
        ("DequantizeLinear", _) => of(1),
        ("QuantizeLinear", _) => Some(of(2).unwrap_or(DataType::Uint8 as i32)),
        ("DynamicQuantizeLinear", 0 | 2) => Some(DataType::Uint8 as i32),
        ("DynamicQuantizeLinear", _) => Some(FLOAT),
        ("MatMulInteger" | "ConvInteger", _) => Some(DataType::Int32 as i32),
        ("QLinearConv", _) => of(7),
        ("QLinearMatMul", _) => of(7),
        // The rest give what they take first.
        _ => of(0),
    }
}
