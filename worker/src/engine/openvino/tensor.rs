//! Tensors of the runtime: inputs over the caller's bytes, outputs copied out.
#![allow(unsafe_code, reason = "typed tensors over untyped bytes exist only in the C API")]

use super::handle::{Handle, OvError, OvResult, check};
use crate::engine::aligned;
use crate::engine::{EngineError, TensorView};
use bytes::Bytes;
use openvino_sys as sys;
use policy::DataType;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use sys::{ov_element_type_e as Element, ov_status_e as Status};

/// The runtime's name for a type.
pub(super) const fn element(datatype: DataType) -> Element {
    match datatype {
        DataType::Bool => Element::OV_BOOLEAN,
        DataType::Uint8 => Element::U8,
        DataType::Uint16 => Element::U16,
        DataType::Uint32 => Element::U32,
        DataType::Uint64 => Element::U64,
        DataType::Int8 => Element::I8,
        DataType::Int16 => Element::I16,
        DataType::Int32 => Element::I32,
        DataType::Int64 => Element::I64,
        DataType::Fp16 => Element::F16,
        DataType::Bf16 => Element::BF16,
        DataType::Fp32 => Element::F32,
        DataType::Fp64 => Element::F64,
        DataType::Bytes => Element::STRING,
    }
}

/// The type with the runtime's number `raw`, if we have it.
pub(super) fn datatype(raw: u32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|d| element(*d) as u32 == raw)
}

/// Refuses whole numbers that the runtime would cut to 32 bits without a word.
pub(super) fn check_range(view: &TensorView<'_>) -> Result<(), EngineError> {
    let odd = match view.datatype {
        DataType::Int64 => {
            let mut all = view.data.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c));
            all.find(|v| i32::try_from(*v).is_err()).map(|v| v.to_string())
        }
        DataType::Uint64 => {
            let mut all = view.data.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c));
            all.find(|v| i32::try_from(*v).is_err()).map(|v| v.to_string())
        }
        DataType::Uint32 => {
            let mut all = view.data.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c));
            all.find(|v| i32::try_from(*v).is_err()).map(|v| v.to_string())
        }
        _ => None,
    };
    odd.map_or(Ok(()), |odd| {
        let (name, datatype, max) = (view.name, view.datatype, i32::MAX);
        let what =
            format!("input `{name}`: OpenVINO computes {datatype} in 32 bits with a sign; expected at most {max} in size, got {odd}");
        Err(EngineError::BadInput { what })
    })
}

/// A tensor over bytes of `'a`.
pub(super) struct Input<'a> {
    handle: Handle<sys::ov_tensor_t>,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// Over `view`'s bytes, which [`crate::engine::check_inputs`] found right: copied to `scratch` only when their address does not
    /// suit the type.
    pub(super) fn over(view: &TensorView<'a>, scratch: &'a mut Vec<u8>) -> OvResult<Self> {
        let size = view.datatype.size().unwrap_or(1);
        let data = if view.data.as_ptr().addr().is_multiple_of(size) { view.data } else { aligned::copy(view.data, scratch) };
        // An empty slice may have any address; the runtime wants one that is not null and never follows it.
        let start = if data.is_empty() { NonNull::<u64>::dangling().as_ptr().cast::<u8>() } else { data.as_ptr().cast_mut() };
        let rank = i64::try_from(view.shape.len()).unwrap_or(i64::MAX);
        let shape = sys::ov_shape_t { rank, dims: view.shape.as_ptr().cast_mut() };
        // SAFETY: `start` holds the bytes of a tensor of this type and shape, aligned for the type, and they live for `'a`; inputs and
        // the shape are only read.
        let create = |place| unsafe { sys::ov_tensor_create_from_host_ptr(element(view.datatype), shape, start.cast(), place) };
        Ok(Self { handle: Handle::made(create)?, borrowed: PhantomData })
    }

    pub(super) fn as_ptr(&self) -> *const sys::ov_tensor_t {
        self.handle.as_ptr()
    }
}

/// Type, dimensions and bytes of an output.
pub(super) type Parts = (DataType, Vec<i64>, Bytes);

/// What is in `tensor`, copied: the request uses the memory again for its next run.
pub(super) fn contents(tensor: &Handle<sys::ov_tensor_t>) -> OvResult<Parts> {
    let (mut raw, mut length, mut start) = (0u32, 0usize, ptr::null_mut());
    // SAFETY: the tensor lives; the type is read as its number, since a newer library may have types unknown here.
    check(unsafe { sys::ov_tensor_get_element_type(tensor.as_ptr(), (&raw mut raw).cast()) })?;
    let unknown = || OvError { status: Status::UNEXPECTED, text: format!("an output has element type {raw}, which is not served") };
    let datatype = datatype(raw).filter(|d| *d != DataType::Bytes).ok_or_else(unknown)?;
    let shape = shape(tensor)?;
    // SAFETY: the tensor lives, and `length` is a place for the answer.
    check(unsafe { sys::ov_tensor_get_byte_size(tensor.as_ptr(), &mut length) })?;
    if length == 0 {
        return Ok((datatype, shape, Bytes::new()));
    }
    // SAFETY: as above.
    check(unsafe { sys::ov_tensor_data(tensor.as_ptr(), &mut start) })?;
    let none = || OvError { status: Status::UNEXPECTED, text: "an output has no memory".to_owned() };
    let start = NonNull::new(start.cast::<u8>()).ok_or_else(none)?;
    // SAFETY: `length` bytes of a living tensor on the host, which nothing writes to between two runs.
    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), length) };
    Ok((datatype, shape, Bytes::copy_from_slice(bytes)))
}

fn shape(tensor: &Handle<sys::ov_tensor_t>) -> OvResult<Vec<i64>> {
    let mut shape = sys::ov_shape_t { rank: 0, dims: ptr::null_mut() };
    // SAFETY: the tensor lives, and `shape` is a place for the answer, which is freed below.
    check(unsafe { sys::ov_tensor_get_shape(tensor.as_ptr(), &mut shape) })?;
    let dims = match (NonNull::new(shape.dims), usize::try_from(shape.rank)) {
        // SAFETY: the answer has as many dimensions as its rank says.
        (Some(dims), Ok(rank)) => unsafe { std::slice::from_raw_parts(dims.as_ptr(), rank) }.to_vec(),
        _ => Vec::new(),
    };
    // SAFETY: given just now, freed once.
    check(unsafe { sys::ov_shape_free(&mut shape) })?;
    Ok(dims)
}
