//! ONNX's element types by their numbers (`TensorProto.DataType`).

use policy::DataType;
use std::borrow::Cow;

/// The type with ONNX's number `number` (`TensorProto.DataType`), if the protocol has it.
pub fn datatype(number: u64) -> Option<DataType> {
    Some(match number {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        7 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        _ => return None,
    })
}

/// The protocol's name of the type with ONNX's number `number`, else ONNX's own name, else the number. 0 is ONNX's
/// number for a type that is not told.
pub fn type_name(number: u64) -> Cow<'static, str> {
    match datatype(number) {
        _ if number == 0 => "unknown".into(),
        Some(datatype) => datatype.as_str().into(),
        None => foreign(number).map_or_else(|| format!("type {number}").into(), |(name, _)| name.into()),
    }
}

/// Is there a type with this number?
pub(super) fn is_known(number: u64) -> bool {
    datatype(number).is_some() || foreign(number).is_some()
}

/// Bits of an element; `None` for strings, and for types unknown here.
pub(super) fn bits(number: u64) -> Option<u64> {
    let size = datatype(number).and_then(DataType::size).and_then(|size| u64::try_from(size).ok());
    size.map(|size| size.saturating_mul(8)).or_else(|| foreign(number).map(|(_, bits)| bits))
}

/// Name and bits of the types that weights may have and requests may not.
const fn foreign(number: u64) -> Option<(&'static str, u64)> {
    Some(match number {
        14 => ("COMPLEX64", 64),
        15 => ("COMPLEX128", 128),
        17 => ("FLOAT8E4M3FN", 8),
        18 => ("FLOAT8E4M3FNUZ", 8),
        19 => ("FLOAT8E5M2", 8),
        20 => ("FLOAT8E5M2FNUZ", 8),
        21 => ("UINT4", 4),
        22 => ("INT4", 4),
        23 => ("FLOAT4E2M1", 4),
        24 => ("FLOAT8E8M0", 8),
        25 => ("UINT2", 2),
        26 => ("INT2", 2),
        _ => return None,
    })
}
