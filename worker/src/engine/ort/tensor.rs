//! Values of the runtime: inputs that borrow the caller's bytes, outputs that lend theirs.
#![allow(unsafe_code, reason = "typed tensors over untyped bytes, without a copy, exist only in the C API")]

use super::message::EngineResult;
use crate::engine::TensorView;
use crate::engine::aligned;
use ::ort::session::SharedSessionInner;
use ::ort::{AsPointer, Error, memory::MemoryInfo, sys};
use bytes::Bytes;
use policy::DataType;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use sys::ONNXTensorElementDataType as Element;

/// The runtime's number for a type.
pub(super) const fn element(datatype: DataType) -> Element {
    match datatype {
        DataType::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::Fp32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// The type with the runtime's number `raw`, if we have it.
pub(super) fn datatype(raw: i32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|d| element(*d) as i32 == raw)
}

/// A value of the runtime; `'a` is the life of the bytes it may borrow.
pub(super) struct Value<'a> {
    pointer: NonNull<sys::OrtValue>,
    borrowed: PhantomData<&'a [u8]>,
}

// SAFETY: a value is a reference-counted block of memory without ties to a thread.
unsafe impl Send for Value<'_> {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Value<'_> {}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and nothing refers to the value any more.
        unsafe { (::ort::api().ReleaseValue)(self.pointer.as_ptr()) }
    }
}

impl<'a> Value<'a> {
    /// A tensor over `view`'s bytes, which [`crate::engine::check_inputs`] found right: copied to `scratch` only when
    /// their address does not suit the type. BYTES are always copied, since the runtime keeps strings in its own form.
    pub(super) fn input(memory: &MemoryInfo<'_>, view: &TensorView<'a>, scratch: &'a mut Vec<u8>) -> EngineResult<Self> {
        let Some(size) = view.datatype.size() else { return Self::strings(view) };
        let data = if view.data.as_ptr().addr().is_multiple_of(size) { view.data } else { aligned::copy(view.data, scratch) };
        // An empty slice may have any address; the runtime wants one that is not null and never follows it.
        let start = if data.is_empty() { NonNull::<u64>::dangling().as_ptr().cast::<u8>() } else { data.as_ptr().cast_mut() };
        let mut value = ptr::null_mut();
        // SAFETY: `start` holds `data.len()` bytes that live for `'a`, are aligned for the type, and are only read, since
        // the runtime never writes to what it is fed; shape and `value` live through the call.
        let status = unsafe {
            let (shape, rank) = (view.shape.as_ptr(), view.shape.len());
            let create = ::ort::api().CreateTensorWithDataAsOrtValue;
            create(memory.ptr(), start.cast::<c_void>(), data.len(), shape, rank, element(view.datatype), &mut value)
        };
        Self::owned(status, value)
    }

    fn strings(view: &TensorView<'_>) -> EngineResult<Self> {
        let (mut allocator, mut value) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: gives the process's default allocator, which lives for ever.
        unsafe { check((::ort::api().GetAllocatorWithDefaultOptions)(&mut allocator)) }?;
        // SAFETY: allocator, shape and `value` live through the call.
        let status = unsafe {
            let (shape, rank) = (view.shape.as_ptr(), view.shape.len());
            (::ort::api().CreateTensorAsOrtValue)(allocator, shape, rank, element(DataType::Bytes), &mut value)
        };
        let value = Self::owned(status, value)?;
        for (i, bytes) in elements(view.data).enumerate() {
            let mut buffer = ptr::null_mut();
            // SAFETY: the value is a string tensor of ours; an index beyond its elements is an error, not a write.
            unsafe {
                let resize = ::ort::api().GetResizedStringTensorElementBuffer;
                check(resize(value.pointer.as_ptr(), i, bytes.len(), &mut buffer))?;
            }
            if !bytes.is_empty() {
                // SAFETY: the call gave room for exactly `bytes.len()` bytes, which nothing else refers to.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>(), bytes.len()) }
            }
        }
        Ok(value)
    }

    fn owned(status: sys::OrtStatusPtr, value: *mut sys::OrtValue) -> EngineResult<Self> {
        // SAFETY: `status` comes from the call that filled in `value`.
        unsafe { check(status) }?;
        let pointer = NonNull::new(value).ok_or_else(|| Error::new("the runtime gave no value and no error"))?;
        Ok(Self { pointer, borrowed: PhantomData })
    }

    pub(super) fn as_ptr(&self) -> *const sys::OrtValue {
        self.pointer.as_ptr()
    }
}

/// The elements of a BYTES tensor whose framing was checked.
fn elements(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        data = rest;
        Some(element)
    })
}

/// What a run left in one place of its outputs.
pub(super) struct Output {
    value: Value<'static>,
    /// Its memory comes from the session's allocators, so the session outlives it.
    _session: Arc<SharedSessionInner>,
}

/// Type, dimensions and bytes of an output.
pub(super) type Parts = (DataType, Vec<i64>, Bytes);

impl Output {
    /// # Safety
    /// `pointer` is a value that a run of `session` gave, owned by nobody else.
    pub(super) unsafe fn new(pointer: NonNull<sys::OrtValue>, session: Arc<SharedSessionInner>) -> Self {
        Self { value: Value { pointer, borrowed: PhantomData }, _session: session }
    }

    /// Lends the bytes without a copy, but for strings (brought into wire form) and for a value that is one of
    /// `inputs` passed through, which would end with the call.
    pub(super) fn into_parts(self, inputs: &[TensorView<'_>]) -> EngineResult<Parts> {
        let value = self.value.pointer.as_ptr();
        let (mut raw, mut dims, mut rank) = (0i32, ptr::null(), 0usize);
        // SAFETY: the value lives; the type is read as its number, since a newer library may have types unknown here.
        unsafe {
            let read = ::ort::api().GetTensorElementTypeAndShapeDataReference;
            check(read(value, (&raw mut raw).cast(), &mut dims, &mut rank))?;
        }
        // SAFETY: `dims` holds `rank` numbers of the living value; it may be null when there are none.
        let shape = if rank == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(dims, rank) }.to_vec() };
        let datatype = datatype(raw).ok_or_else(|| Error::new(format!("the output has element type {raw}, which is not served")))?;
        let Some(size) = datatype.size() else {
            let count = element_count(&shape)?;
            return Ok((datatype, shape, string_bytes(value, count)?));
        };
        let mut start = ptr::null_mut();
        // SAFETY: the value is a tensor whose elements are not strings; it lives.
        unsafe { check((::ort::api().GetTensorMutableData)(value, &mut start)) }?;
        let length = element_count(&shape)?.saturating_mul(size);
        let Some(start) = NonNull::new(start.cast::<u8>()).filter(|_| length > 0) else {
            return Ok((datatype, shape, Bytes::new()));
        };
        let lent = Lent { start, length, _output: self };
        let passed_through = inputs.iter().any(|i| overlap(i.data, lent.as_ref()));
        let data = if passed_through { Bytes::copy_from_slice(lent.as_ref()) } else { Bytes::from_owner(lent) };
        Ok((datatype, shape, data))
    }
}

fn element_count(shape: &[i64]) -> EngineResult<usize> {
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?));
    count.ok_or_else(|| Error::new(format!("the output's shape {shape:?} is impossible")))
}

fn overlap(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    a.start < b.end && b.start < a.end
}

/// All strings of a tensor in wire form: the contents are fetched behind room for the lengths, then moved into place.
fn string_bytes(value: *mut sys::OrtValue, count: usize) -> EngineResult<Bytes> {
    if count == 0 {
        return Ok(Bytes::new());
    }
    let mut total = 0;
    // SAFETY: a living string tensor.
    unsafe { check((::ort::api().GetStringTensorDataLength)(value, &mut total)) }?;
    let too_long = || Error::new(format!("the output's {count} strings of {total} bytes are too long"));
    let headers = count.checked_mul(4).ok_or_else(too_long)?;
    let mut bytes = vec![0u8; headers.checked_add(total).ok_or_else(too_long)?];
    let mut offsets = vec![0usize; count];
    let contents = bytes.get_mut(headers..).unwrap_or_default().as_mut_ptr();
    // SAFETY: `contents` has room for `total` bytes and `offsets` for `count` numbers, as the call demands.
    unsafe { check((::ort::api().GetStringTensorContent)(value, contents.cast(), total, offsets.as_mut_ptr(), count)) }?;
    let ends = offsets.iter().skip(1).copied().chain([total]);
    for (i, (start, end)) in offsets.iter().copied().zip(ends).enumerate() {
        let length = end.checked_sub(start).and_then(|n| u32::try_from(n).ok()).ok_or_else(too_long)?;
        // Never beyond what is still to be moved: element i goes 4 * (count - i - 1) bytes before its source or more.
        let to = i.saturating_mul(4).saturating_add(start);
        if let Some(header) = bytes.get_mut(to..).and_then(|b| b.first_chunk_mut::<4>()) {
            *header = length.to_le_bytes();
        }
        bytes.copy_within(headers.saturating_add(start)..headers.saturating_add(end), to.saturating_add(4));
    }
    Ok(Bytes::from(bytes))
}

/// Bytes of an output, kept alive by it.
struct Lent {
    start: NonNull<u8>,
    length: usize,
    _output: Output,
}

// SAFETY: the bytes belong to a value that is never written to again, and that may be read and released on any thread.
unsafe impl Send for Lent {}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `start` is the data of a living tensor on the host of `length` bytes, which nobody writes to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

/// # Safety
/// `status` comes straight from a call of the runtime.
unsafe fn check(status: sys::OrtStatusPtr) -> EngineResult<()> {
    // SAFETY: as promised by the caller.
    unsafe { Error::result_from_status(status) }
}
