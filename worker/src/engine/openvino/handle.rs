//! What the C API gives, owned; and its errors.
#![allow(unsafe_code, reason = "a C API")]

use openvino_sys as sys;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use sys::ov_status_e as Status;

/// What a call of the runtime gives.
pub(super) type OvResult<T> = Result<T, OvError>;

/// Why a call failed.
#[derive(Debug)]
pub(super) struct OvError {
    pub(super) status: Status,
    pub(super) text: String,
}

/// Judges what a call gave.
///
/// The runtime keeps one last message for all threads: of two that fail at once, one may get the words of the other.
pub(super) fn check(status: Status) -> OvResult<()> {
    if status == Status::OK {
        return Ok(());
    }
    let told = match status {
        // Given back without a message: the last one is that of an earlier call.
        Status::INVALID_C_PARAM | Status::NOT_IMPLEMENT_C_METHOD => None,
        // SAFETY: gives a string of its own, or null.
        _ => text(unsafe { sys::ov_get_last_err_msg() }.cast_mut()),
    };
    // SAFETY: gives a static string for any status.
    let known = || unsafe { sys::ov_get_error_info(status).as_ref() }.map(|s| unsafe { CStr::from_ptr(s) }.to_string_lossy().into_owned());
    Err(OvError { status, text: told.or_else(known).unwrap_or_else(|| format!("{status:?}")) })
}

/// A string that the runtime made for us.
fn text(given: *mut c_char) -> Option<String> {
    let given = NonNull::new(given)?;
    // SAFETY: a string ended by a null byte that is ours until it is freed, which happens once, below.
    let text = unsafe { CStr::from_ptr(given.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: as above; no reference is left.
    unsafe { sys::ov_free(given.as_ptr()) };
    Some(text)
}

/// A text as the C API takes it.
pub(super) fn c_text(text: impl Into<Vec<u8>>) -> OvResult<CString> {
    CString::new(text).map_err(|e| OvError { status: Status::INVALID_C_PARAM, text: e.to_string() })
}

/// An object of the C API and how it is given back.
///
/// # Safety
/// `free` gives back what the API made, and the object has no ties to a thread.
pub(super) unsafe trait Object {
    /// # Safety
    /// `pointer` is owned by the caller, who never uses it again.
    unsafe fn free(pointer: *mut Self);
}

macro_rules! objects {
    ($($object:ident freed by $free:ident;)+) => {$(
        // SAFETY: as the API documents it; each is a reference-counted pointer inside.
        unsafe impl Object for sys::$object {
            unsafe fn free(pointer: *mut Self) {
                // SAFETY: as promised by the caller.
                unsafe { sys::$free(pointer) }
            }
        }
    )+};
}

objects! {
    ov_core_t freed by ov_core_free;
    ov_model_t freed by ov_model_free;
    ov_compiled_model_t freed by ov_compiled_model_free;
    ov_infer_request_t freed by ov_infer_request_free;
    ov_tensor_t freed by ov_tensor_free;
    ov_output_const_port_t freed by ov_output_const_port_free;
}

/// Owns an object.
#[derive(Debug)]
pub(super) struct Handle<T: Object>(NonNull<T>);

// SAFETY: promised by `Object`.
unsafe impl<T: Object> Send for Handle<T> {}
// SAFETY: what is called through a shared reference from several threads is safe for that by the API's own documentation: a core, and
// stopping a request while another thread waits for it. Everything else has one owner.
unsafe impl<T: Object> Sync for Handle<T> {}

impl<T: Object> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { T::free(self.0.as_ptr()) }
    }
}

impl<T: Object> Handle<T> {
    /// Owns what `call` puts at the place that it is given.
    pub(super) fn made(call: impl FnOnce(*mut *mut T) -> Status) -> OvResult<Self> {
        let mut made = ptr::null_mut();
        check(call(&mut made))?;
        let nothing = || OvError { status: Status::UNEXPECTED, text: "the runtime gave nothing and no error".to_owned() };
        NonNull::new(made).map(Self).ok_or_else(nothing)
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

/// What models are read and compiled with. One for the process: it holds the plugins.
#[derive(Debug)]
pub(super) struct Core(Handle<sys::ov_core_t>);

impl Core {
    pub(super) fn new() -> OvResult<Self> {
        // SAFETY: the library is loaded, which is when its runtime comes to be.
        let core = Handle::made(|place| unsafe { sys::ov_core_create(place) })?;
        let (key, value) = (c_text("ENABLE_MMAP")?, c_text("NO")?);
        // A mapped file that is cut short under a running model ends the process.
        let property = [property(&key, &value)];
        // SAFETY: the core and the texts live; no device is named, which the API allows.
        check(unsafe { sys::ov_core_set_properties(core.as_ptr(), ptr::null(), property.len(), property.as_ptr()) })?;
        Ok(Self(core))
    }

    /// What `device` says of itself.
    pub(super) fn property(&self, device: &str, key: &str) -> OvResult<String> {
        let (device, key, mut value) = (c_text(device)?, c_text(key)?, ptr::null_mut());
        // SAFETY: the core and the texts live through the call, which writes to `value`.
        check(unsafe { sys::ov_core_get_property(self.0.as_ptr(), device.as_ptr(), key.as_ptr(), &mut value) })?;
        Ok(text(value).unwrap_or_default())
    }

    /// Reads the model at `path` and compiles it for `device`.
    pub(super) fn compile(&self, path: &[u8], device: &str, properties: &[(&str, String)]) -> OvResult<Compiled> {
        let (core, path, device) = (self.0.as_ptr(), c_text(path)?, c_text(device)?);
        // SAFETY: the core and the path live through the call; weights lie where the model says.
        let model = Handle::made(|place| unsafe { sys::ov_core_read_model(core, path.as_ptr(), ptr::null(), place) })?;
        let texts = properties.iter().map(|(key, value)| Ok((c_text(*key)?, c_text(value.as_str())?)));
        let texts = texts.collect::<OvResult<Vec<_>>>()?;
        let properties: Vec<_> = texts.iter().map(|(key, value)| property(key, value)).collect();
        // SAFETY: the core, the model and the texts live through the call.
        let compile = |place| unsafe {
            sys::ov_core_compile_model_props(core, model.as_ptr(), device.as_ptr(), properties.len(), properties.as_ptr(), place)
        };
        Handle::made(compile).map(Compiled)
    }
}

fn property(key: &CStr, value: &CStr) -> sys::ov_property_t {
    sys::ov_property_t { key: key.as_ptr(), value: value.as_ptr().cast::<c_void>() }
}

/// A model ready to run.
#[derive(Debug)]
pub(super) struct Compiled(Handle<sys::ov_compiled_model_t>);

/// An input or output of a compiled model.
pub(super) type Port = Handle<sys::ov_output_const_port_t>;

impl Compiled {
    /// What it says of itself.
    pub(super) fn property(&self, key: &str) -> OvResult<String> {
        let (key, mut value) = (c_text(key)?, ptr::null_mut());
        // SAFETY: the model and the text live through the call, which writes to `value`.
        check(unsafe { sys::ov_compiled_model_get_property(self.0.as_ptr(), key.as_ptr(), &mut value) })?;
        Ok(text(value).unwrap_or_default())
    }

    pub(super) fn request(&self) -> OvResult<Handle<sys::ov_infer_request_t>> {
        // SAFETY: the model lives; a request keeps what it needs of it.
        Handle::made(|place| unsafe { sys::ov_compiled_model_create_infer_request(self.0.as_ptr(), place) })
    }

    pub(super) fn inputs(&self) -> OvResult<Vec<Port>> {
        let (model, mut count) = (self.0.as_ptr(), 0);
        // SAFETY: the model lives, and `count` is a place for the answer.
        check(unsafe { sys::ov_compiled_model_inputs_size(model, &mut count) })?;
        // SAFETY: as above; an index beyond the last is an error.
        (0..count).map(|i| Handle::made(|place| unsafe { sys::ov_compiled_model_input_by_index(model, i, place) })).collect()
    }

    pub(super) fn outputs(&self) -> OvResult<Vec<Port>> {
        let (model, mut count) = (self.0.as_ptr(), 0);
        // SAFETY: the model lives, and `count` is a place for the answer.
        check(unsafe { sys::ov_compiled_model_outputs_size(model, &mut count) })?;
        // SAFETY: as above; an index beyond the last is an error.
        (0..count).map(|i| Handle::made(|place| unsafe { sys::ov_compiled_model_output_by_index(model, i, place) })).collect()
    }

    /// The input that has `name`, perhaps among others.
    pub(super) fn input(&self, name: &str) -> OvResult<Port> {
        let name = c_text(name)?;
        // SAFETY: the model and the name live through the call.
        Handle::made(|place| unsafe { sys::ov_compiled_model_input_by_name(self.0.as_ptr(), name.as_ptr(), place) })
    }

    /// The output that has `name`, perhaps among others.
    pub(super) fn output(&self, name: &str) -> OvResult<Port> {
        let name = c_text(name)?;
        // SAFETY: the model and the name live through the call.
        Handle::made(|place| unsafe { sys::ov_compiled_model_output_by_name(self.0.as_ptr(), name.as_ptr(), place) })
    }
}

impl Port {
    /// One of its names.
    pub(super) fn any_name(&self) -> OvResult<String> {
        let mut name = ptr::null_mut();
        // SAFETY: the port lives, and `name` is a place for the answer.
        check(unsafe { sys::ov_port_get_any_name(self.as_ptr(), &mut name) })?;
        Ok(text(name).unwrap_or_default())
    }

    /// The runtime's number of its element type.
    pub(super) fn element(&self) -> OvResult<u32> {
        let mut raw = 0u32;
        // SAFETY: the port lives; the type is read as its number, since a newer library may have types unknown here.
        check(unsafe { sys::ov_port_get_element_type(self.as_ptr(), (&raw mut raw).cast()) })?;
        Ok(raw)
    }

    /// Its dimensions, -1 for any size; `None` where not even their number is known.
    pub(super) fn shape(&self) -> OvResult<Option<Vec<i64>>> {
        let mut shape = sys::ov_partial_shape_t { rank: sys::ov_rank_t { min: 0, max: 0 }, dims: ptr::null_mut() };
        // SAFETY: the port lives, and `shape` is a place for the answer, which is freed below.
        check(unsafe { sys::ov_port_get_partial_shape(self.as_ptr(), &mut shape) })?;
        let rank = usize::try_from(shape.rank.max).ok().filter(|_| shape.rank.min == shape.rank.max);
        let fixed = |dim: &sys::ov_dimension_t| if dim.min == dim.max { dim.max } else { -1 };
        let dims = rank.map(|rank| match NonNull::new(shape.dims) {
            // SAFETY: the answer has as many dimensions as its rank says.
            Some(dims) => unsafe { std::slice::from_raw_parts(dims.as_ptr(), rank) }.iter().map(fixed).collect(),
            None => Vec::new(),
        });
        // SAFETY: given just now, freed once.
        unsafe { sys::ov_partial_shape_free(&mut shape) };
        Ok(dims)
    }
}
