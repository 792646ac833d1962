//! From the runtime's errors to ours: the words are kept, paths of this host are not.

use crate::engine::{EngineError, ExecutionProvider, without_paths};
use ::ort::ErrorCode;
use std::path::Path;

/// What a call of the runtime gives.
pub(super) type EngineResult<T> = Result<T, ::ort::Error>;

/// An error of loading `model`.
pub(super) fn of_load(error: &::ort::Error, model: &Path) -> EngineError {
    let reason = without_paths(error.message(), Some(model));
    if let Some(operator) = missing_operator(&reason) {
        return EngineError::UnsupportedOperator { operator, reason };
    }
    if is_out_of_memory(&reason) {
        return EngineError::OutOfMemory { reason };
    }
    EngineError::ModelInvalid { reason }
}

/// Is the model wrong, whatever the device?
pub(super) fn blames_model(error: &::ort::Error) -> bool {
    use ErrorCode::{InvalidGraph, InvalidProtobuf, NoModel, NoSuchFile, NotImplemented};
    matches!(error.code(), InvalidGraph | InvalidProtobuf | NoModel | NoSuchFile | NotImplemented)
        || missing_operator(error.message()).is_some()
}

/// An error of a run on `provider`.
pub(super) fn of_run(error: &::ort::Error, provider: ExecutionProvider) -> EngineError {
    let reason = without_paths(error.message(), None);
    if is_out_of_memory(&reason) {
        return EngineError::OutOfMemory { reason };
    }
    // A kernel on the processor that refuses its operands leaves nothing behind. A device error may be sticky.
    let in_kernel = reason.contains("while running") || reason.contains("while executing");
    match (error.code(), provider) {
        (ErrorCode::InvalidArgument, _) if !in_kernel => EngineError::BadInput { what: reason },
        (ErrorCode::InvalidArgument, _) => EngineError::NotComputed { reason },
        (_, ExecutionProvider::Cpu) if in_kernel => EngineError::NotComputed { reason },
        _ => EngineError::Failed { reason },
    }
}

fn is_out_of_memory(text: &str) -> bool {
    ["Failed to allocate memory", "bad_alloc", "out of memory", "bad allocation"].iter().any(|known| text.contains(known))
}

/// The operator in `Could not find an implementation for Foo(13) node` or `com.x:Foo(-1) is not a registered function/op`.
fn missing_operator(text: &str) -> Option<String> {
    let after = |mark: &str| Some(text.split_once(mark)?.1.split_whitespace().next()?.to_owned());
    let before = |mark: &str| Some(text.split_once(mark)?.0.split_whitespace().next_back()?.to_owned());
    after("Could not find an implementation for ")
        .or_else(|| before(" is not a registered function/op"))
        .or_else(|| after("No Op registered for "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_without_a_kernel_is_named() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(missing_operator(text).as_deref(), expected);
        check("[NotImpl] Could not find an implementation for Foo(13) node with name 'x'", Some("Foo(13)"));
        check("Fatal error: com.acme:Bar(-1) is not a registered function/op", Some("com.acme:Bar(-1)"));
        check("No Op registered for Baz with domain_version of 17", Some("Baz"));
        check("other", None);
    }
}
