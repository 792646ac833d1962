//! From the runtime's errors to ours: the words are kept, paths of this host are not.

use super::handle::OvError;
use crate::engine::{EngineError, without_paths};
use openvino_sys::ov_status_e as Status;
use std::path::Path;

/// An error of loading `model`.
pub(super) fn of_load(error: &OvError, model: &Path) -> EngineError {
    let reason = without_paths(&error.text, Some(model));
    if let Some(operator) = missing_operator(&reason) {
        return EngineError::UnsupportedOperator { operator, reason };
    }
    if is_out_of_memory(&reason) {
        return EngineError::OutOfMemory { reason };
    }
    EngineError::ModelInvalid { reason }
}

/// An error of a run.
pub(super) fn of_run(error: &OvError) -> EngineError {
    let reason = without_paths(&error.text, None);
    if is_out_of_memory(&reason) {
        return EngineError::OutOfMemory { reason };
    }
    match error.status {
        Status::INFER_CANCELLED => EngineError::Cancelled,
        // An exception of the runtime's own kind: the run is over, and the request takes another.
        Status::GENERAL_ERROR | Status::PARAMETER_MISMATCH | Status::NOT_IMPLEMENTED => EngineError::NotComputed { reason },
        _ => EngineError::Failed { reason },
    }
}

fn is_out_of_memory(text: &str) -> bool {
    ["bad_alloc", "out of memory", "could not allocate", "Failed to allocate", "bad array new length"]
        .iter()
        .any(|known| text.contains(known))
}

/// What follows `No conversion rule found for operations:`, or stands in `Unsupported operation of type: Foo name: x`.
fn missing_operator(text: &str) -> Option<String> {
    let listed = text.split_once("No conversion rule found for operations: ").map(|(_, list)| list.split(" -- ").next().unwrap_or(list));
    let word = || text.split_once("Unsupported operation of type: ")?.1.split_whitespace().next();
    listed.or_else(word).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_that_is_missing_is_named() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(missing_operator(text).as_deref(), expected);
        let both = "Summary: -- No conversion rule found for operations: Foo-17, com.acme.Bar";
        check(both, Some("Foo-17, com.acme.Bar"));
        check(&format!("{both} -- Conversion is failed for: Baz"), Some("Foo-17, com.acme.Bar"));
        check("Unsupported operation of type: Foo name: x", Some("Foo"));
        check("other", None);
    }
}
