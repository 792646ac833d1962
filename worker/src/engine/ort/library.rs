//! What an ONNX Runtime library says of itself before the `ort` crate commits to it, and after.
#![allow(unsafe_code, reason = "the library's entry points are C functions")]

use super::message::EngineResult;
use crate::engine::EngineError;
use crate::engine::library::{self, Found, Probed};
use ::ort::sys;
use policy::EngineName;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

/// The first of `candidates` that loads and is new enough.
pub(super) fn find(candidates: &[PathBuf]) -> Result<Found, EngineError> {
    let needed = format!("1.{}", ::ort::MINOR_VERSION);
    library::find(EngineName::Ort, &needed, candidates, |path| {
        let version = probe(path)?;
        Ok(Probed { new_enough: minor(&version) >= Some(::ort::MINOR_VERSION), version })
    })
}

fn minor(version: &str) -> Option<u32> {
    let mut parts = version.split('.');
    (parts.next() == Some("1")).then(|| parts.next()?.parse().ok())?
}

/// Version of the library at `path`, or what is wrong with it.
fn probe(path: &Path) -> Result<String, String> {
    let library = library::open(path)?;
    // SAFETY: the symbol, where there is one, has this signature in every version of the C API.
    let entry = unsafe { library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase\0") };
    let entry = entry.map_err(|_| "not an ONNX Runtime library: no OrtGetApiBase in it".to_owned())?;
    // SAFETY: the call takes nothing, and gives a pointer to a static table or null, which `as_ref` turns into `None`.
    let base = unsafe { entry().as_ref() }.ok_or("OrtGetApiBase gave nothing")?;
    // SAFETY: the function is in the first version of the table, and gives a static string ended by a null byte.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    // The library is closed here; the crate opens it again.
    Ok(version.to_string_lossy().into_owned())
}

/// Names of the execution providers compiled into the loaded library.
pub(super) fn available_providers() -> EngineResult<Vec<String>> {
    let (mut names, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: both are places for the call to write to; an error leaves them as they are.
    unsafe { ::ort::Error::result_from_status((::ort::api().GetAvailableProviders)(&mut names, &mut count)) }?;
    let mut list = Vec::new();
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the call gave `count` strings, each ended by a null byte, that live until they are released below.
        list.push(unsafe { CStr::from_ptr(*names.add(i)) }.to_string_lossy().into_owned());
    }
    // SAFETY: exactly what the call gave, released once, with no reference left.
    unsafe { ::ort::Error::result_from_status((::ort::api().ReleaseAvailableProviders)(names, count)) }?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_every_path_tried_and_the_command() {
        let not_a_library = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(not_a_library.path(), "text").unwrap();
        let missing = PathBuf::from("/nowhere/libonnxruntime.so");
        let text = find(&[missing, not_a_library.path().to_owned()]).unwrap_err().to_string();
        assert!(text.contains("/nowhere/libonnxruntime.so (no such file)"), "{text}");
        assert!(text.contains(&not_a_library.path().display().to_string()), "{text}");
        assert!(text.contains("cargo xtask fetch"), "{text}");
        assert!(find(&[]).unwrap_err().to_string().contains("no path was given"));
    }

    #[test]
    fn a_library_that_is_something_else_is_said_to_be_that() {
        let text = find(&[PathBuf::from("libc.so.6")]).unwrap_err().to_string();
        assert!(text.contains("not an ONNX Runtime library"), "{text}");
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(minor("1.32.0"), Some(32));
        assert_eq!(minor("1.9"), Some(9));
        assert_eq!(minor("2.0.0"), None);
        assert_eq!(minor("x"), None);
    }
}
