//! What an OpenVINO library says of itself before this process commits to it.
#![allow(unsafe_code, reason = "the library's entry points are C functions")]

use crate::engine::EngineError;
use crate::engine::library::{self, Found, Probed};
use openvino_sys as sys;
use policy::EngineName;
use std::ffi::{CStr, c_int};
use std::path::{Path, PathBuf};

/// Without this function a model cannot be compiled with properties of its own from here. Whoever has it has all others.
const NEWEST_FUNCTION: &[u8] = b"ov_core_compile_model_props\0";
/// A version that has it.
const VERSION_NEEDED: &str = "2026.4";

/// The first of `candidates` that loads and is new enough.
pub(super) fn find(candidates: &[PathBuf]) -> Result<Found, EngineError> {
    library::find(EngineName::Openvino, VERSION_NEEDED, candidates, probe)
}

fn probe(path: &Path) -> Result<Probed, String> {
    let library = library::open(path)?;
    // SAFETY: the symbol, where there is one, has this signature in every version of the C API; any code is read as a number.
    let version = unsafe { library.get::<unsafe extern "C" fn(*mut sys::ov_version_t) -> c_int>(b"ov_get_openvino_version\0") };
    let version = version.map_err(|_| "not OpenVINO's C library: no ov_get_openvino_version in it".to_owned())?;
    let mut told = sys::ov_version_t { buildNumber: std::ptr::null(), description: std::ptr::null() };
    // SAFETY: the place for the answer lives through the call.
    let code = unsafe { version(&mut told) };
    if code != 0 || told.buildNumber.is_null() {
        return Err(format!("ov_get_openvino_version gave {code}"));
    }
    // SAFETY: a string that the call made, ended by a null byte. It is never freed: some bytes, once.
    let text = unsafe { CStr::from_ptr(told.buildNumber) }.to_string_lossy();
    // SAFETY: only looked for, never called.
    let new_enough = unsafe { library.get::<unsafe extern "C" fn()>(NEWEST_FUNCTION) }.is_ok();
    Ok(Probed { version: text.split('-').next().unwrap_or_default().to_owned(), new_enough })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_every_path_tried_and_what_to_do() {
        let text = find(&[PathBuf::from("/nowhere/libopenvino_c.so"), PathBuf::from("libc.so.6")]).unwrap_err().to_string();
        for part in ["openvino is not installed", "/nowhere/libopenvino_c.so (no such file)", "not OpenVINO's C library", "--openvino"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
