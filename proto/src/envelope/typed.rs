//! Typed contents become raw bytes at the door.

use super::{Chain, DataType, Failure, InputTensor, pb};
use bytes::{BufMut, Bytes, BytesMut};

/// Does it carry any value?
pub(super) fn has_values(c: &pb::InferTensorContents) -> bool {
    populated(c).next().is_some()
}

/// Names of the fields that carry values.
fn populated(c: &pb::InferTensorContents) -> impl Iterator<Item = &'static str> {
    [
        ("bool_contents", c.bool_contents.is_empty()),
        ("int_contents", c.int_contents.is_empty()),
        ("int64_contents", c.int64_contents.is_empty()),
        ("uint_contents", c.uint_contents.is_empty()),
        ("uint64_contents", c.uint64_contents.is_empty()),
        ("fp32_contents", c.fp32_contents.is_empty()),
        ("fp64_contents", c.fp64_contents.is_empty()),
        ("bytes_contents", c.bytes_contents.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, empty)| (!empty).then_some(name))
}

/// The raw little-endian bytes of `contents`, in the input's datatype. 8- and 16-bit types come as 32-bit varints and must fit.
pub(super) fn to_raw(input: &InputTensor, contents: pb::InferTensorContents) -> Result<Chain, Failure> {
    let Some(datatype) = DataType::parse(&input.datatype) else {
        return Ok(Chain::default()); // check_request names the bad datatype
    };
    let field = match datatype {
        DataType::Bool => "bool_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => "raw_input_contents",
    };
    if let Some(other) = populated(&contents).find(|name| *name != field) {
        let what = format!("values of datatype {datatype} belong in {field}, found some in {other}");
        return Err(Failure::TypedContents { input: input.name.clone(), what });
    }
    let narrow = |value: i64| {
        let what = format!("value {value} does not fit datatype {datatype}");
        Failure::TypedContents { input: input.name.clone(), what }
    };
    let c = contents;
    let bytes = match datatype {
        DataType::Bool => Bytes::from_iter(c.bool_contents.into_iter().map(u8::from)),
        DataType::Uint8 => {
            c.uint_contents.iter().map(|v| u8::try_from(*v).map_err(|_| narrow(i64::from(*v)))).collect::<Result<Vec<u8>, _>>()?.into()
        }
        DataType::Int8 => {
            let cast = |v: &i32| i8::try_from(*v).map(|v| v.to_le_bytes()).map_err(|_| narrow(i64::from(*v)));
            c.int_contents.iter().map(cast).collect::<Result<Vec<_>, _>>()?.concat().into()
        }
        DataType::Uint16 => {
            let cast = |v: &u32| u16::try_from(*v).map(u16::to_le_bytes).map_err(|_| narrow(i64::from(*v)));
            c.uint_contents.iter().map(cast).collect::<Result<Vec<_>, _>>()?.concat().into()
        }
        DataType::Int16 => {
            let cast = |v: &i32| i16::try_from(*v).map(i16::to_le_bytes).map_err(|_| narrow(i64::from(*v)));
            c.int_contents.iter().map(cast).collect::<Result<Vec<_>, _>>()?.concat().into()
        }
        DataType::Uint32 => joined(c.uint_contents.into_iter().map(u32::to_le_bytes)),
        DataType::Int32 => joined(c.int_contents.into_iter().map(i32::to_le_bytes)),
        DataType::Uint64 => joined(c.uint64_contents.into_iter().map(u64::to_le_bytes)),
        DataType::Int64 => joined(c.int64_contents.into_iter().map(i64::to_le_bytes)),
        DataType::Fp32 => joined(c.fp32_contents.into_iter().map(f32::to_le_bytes)),
        DataType::Fp64 => joined(c.fp64_contents.into_iter().map(f64::to_le_bytes)),
        DataType::Bytes => strings(&c.bytes_contents),
        DataType::Fp16 | DataType::Bf16 => Bytes::new(),
    };
    Ok(Chain::from(bytes))
}

fn joined<const N: usize>(values: impl ExactSizeIterator<Item = [u8; N]>) -> Bytes {
    let mut out = BytesMut::with_capacity(values.len().saturating_mul(N));
    values.for_each(|v| out.put_slice(&v));
    out.freeze()
}

/// BYTES elements with their 4-byte lengths.
fn strings(elements: &[Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(elements.iter().map(|e| e.len().saturating_add(4)).sum());
    for element in elements {
        out.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
        out.put_slice(element);
    }
    out.freeze()
}
