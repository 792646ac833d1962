//! The elements of stored tensors.

use super::pb::{TensorProto, tensor_proto::DataType};
use crate::VariantError;
use bytes::Bytes;

/// Elements as its dimensions say.
fn count(tensor: &TensorProto) -> Result<usize, VariantError> {
    let product = tensor.dims.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?));
    product.ok_or_else(|| VariantError::tensor(tensor.name(), format!("dimensions {:?} cannot be", tensor.dims)))
}

fn expect(tensor: &TensorProto, got: usize, elements: usize) -> Result<(), VariantError> {
    if got == elements {
        return Ok(());
    }
    Err(VariantError::tensor(tensor.name(), format!("holds {got} elements, but its dimensions {:?} say {elements}", tensor.dims)))
}

/// The values of a FP32 tensor, wherever they are.
///
/// # Errors
/// [`VariantError::Tensor`] for another type, fewer values than the shape says, and values that are no numbers.
pub fn floats(tensor: &TensorProto) -> Result<Vec<f32>, VariantError> {
    let elements = count(tensor)?;
    if tensor.data_type() != DataType::Float as i32 {
        return Err(VariantError::tensor(tensor.name(), format!("type {} where FLOAT is expected", tensor.data_type())));
    }
    let values = match &tensor.raw_data {
        Some(raw) => raw.chunks_exact(4).filter_map(|b| b.try_into().ok().map(f32::from_le_bytes)).collect(),
        None => tensor.float_data.clone(),
    };
    expect(tensor, values.len(), elements)?;
    match values.iter().find(|v| v.is_nan()) {
        Some(_) => Err(VariantError::tensor(tensor.name(), "has weights that are no numbers (NaN)")),
        None => Ok(values),
    }
}

/// The values of an INT64 or INT32 tensor.
///
/// # Errors
/// As [`floats`].
pub fn integers(tensor: &TensorProto) -> Result<Vec<i64>, VariantError> {
    let elements = count(tensor)?;
    let values: Vec<i64> = match (DataType::try_from(tensor.data_type()), &tensor.raw_data) {
        (Ok(DataType::Int64), Some(raw)) => raw.chunks_exact(8).filter_map(|b| b.try_into().ok().map(i64::from_le_bytes)).collect(),
        (Ok(DataType::Int64), None) => tensor.int64_data.clone(),
        (Ok(DataType::Int32), Some(raw)) => {
            raw.chunks_exact(4).filter_map(|b| b.try_into().ok().map(i32::from_le_bytes)).map(i64::from).collect()
        }
        (Ok(DataType::Int32), None) => tensor.int32_data.iter().copied().map(i64::from).collect(),
        _ => return Err(VariantError::tensor(tensor.name(), format!("type {} where INT64 is expected", tensor.data_type()))),
    };
    expect(tensor, values.len(), elements)?;
    Ok(values)
}

/// A tensor of little-endian elements.
pub fn raw(name: impl Into<String>, datatype: DataType, dims: &[i64], bytes: impl Into<Bytes>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(datatype as i32),
        dims: dims.to_vec(),
        raw_data: Some(bytes.into()),
        ..TensorProto::default()
    }
}

/// A FP32 tensor.
pub fn make(name: impl Into<String>, dims: &[i64], values: &[f32]) -> TensorProto {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw(name, DataType::Float, dims, bytes)
}
