//! Do the tensors of a batch fit a signature? Asked by every engine before it touches a byte.

use super::{EngineError, EngineSignature, TensorView};
use policy::{DataType, Dims, TensorSpec};

/// Checks names, types, ranks, fixed dimensions, byte lengths and element framing of `inputs`, and gives for each its
/// place in the signature.
///
/// # Errors
/// [`EngineError::BadInput`], naming the tensor and both values.
pub fn check_inputs(signature: &EngineSignature, inputs: &[TensorView<'_>]) -> Result<Vec<usize>, EngineError> {
    let mut places = Vec::with_capacity(inputs.len());
    for view in inputs {
        let Some(place) = signature.inputs.iter().position(|s| s.name == view.name) else {
            return Err(bad(view, format!("is not one of the model's inputs: {}", names(&signature.inputs))));
        };
        if places.contains(&place) {
            return Err(bad(view, "appears twice".to_owned()));
        }
        if let Some(spec) = signature.inputs.get(place) {
            check_view(spec, view)?;
        }
        places.push(place);
    }
    match signature.inputs.iter().enumerate().find(|(i, s)| !s.optional && !places.contains(i)) {
        Some((_, missing)) => Err(EngineError::BadInput { what: format!("input `{}` is missing", missing.name) }),
        None => Ok(places),
    }
}

fn check_view(spec: &TensorSpec, view: &TensorView<'_>) -> Result<(), EngineError> {
    if view.datatype != spec.datatype {
        return Err(bad(view, format!("expected datatype {}, got {}", spec.datatype, view.datatype)));
    }
    let fits = |(want, got): (&i64, &i64)| *got >= 0 && (*want < 0 || want == got);
    if view.shape.len() != spec.shape.len() || !spec.shape.iter().zip(view.shape).all(fits) {
        return Err(bad(view, format!("expected shape {}, got {}", dims(&spec.shape), dims(view.shape))));
    }
    let count = view.shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?));
    let Some(count) = count else {
        return Err(bad(view, format!("shape {} has more elements than can be counted", dims(view.shape))));
    };
    let Some(size) = view.datatype.size() else {
        return policy::bytes_tensor::check(count, std::iter::once(view.data)).map_err(|what| bad(view, what));
    };
    let got = view.data.len() as u64;
    if count.checked_mul(size as u64) != Some(got) {
        let (type_, shape) = (view.datatype, dims(view.shape));
        return Err(bad(view, format!("expected {size} bytes for each of {count} elements ({shape} of {type_}), got {got} bytes")));
    }
    // Any other byte is undefined behaviour in the runtime, whose booleans are C++'s.
    if view.datatype == DataType::Bool
        && let Some(odd) = view.data.iter().find(|b| **b > 1)
    {
        return Err(bad(view, format!("a BOOL element must be 0 or 1, got {odd}")));
    }
    Ok(())
}

fn bad(view: &TensorView<'_>, what: String) -> EngineError {
    EngineError::BadInput { what: format!("input `{}`: {what}", view.name) }
}

fn dims(shape: &[i64]) -> Dims {
    Dims::from(shape)
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> EngineSignature {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional: false,
            graph_shape: None,
        };
        EngineSignature {
            inputs: vec![spec("a", DataType::Fp32, &[-1, 2]), spec("b", DataType::Bool, &[1]), spec("s", DataType::Bytes, &[-1])],
            ..EngineSignature::default()
        }
    }

    fn view<'a>(name: &'a str, datatype: DataType, shape: &'a [i64], data: &'a [u8]) -> TensorView<'a> {
        TensorView::new(name, datatype, shape, data)
    }

    fn check(change: impl FnOnce(&mut Vec<TensorView<'static>>)) -> String {
        let mut inputs = vec![
            view("s", DataType::Bytes, &[1], &[1, 0, 0, 0, 7]),
            view("a", DataType::Fp32, &[1, 2], &[0; 8]),
            view("b", DataType::Bool, &[1], &[1]),
        ];
        change(&mut inputs);
        match check_inputs(&signature(), &inputs) {
            Ok(places) => format!("{places:?}"),
            Err(EngineError::BadInput { what }) => what,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_shape_beyond_counting_is_refused() {
        let spec = TensorSpec { name: "a".into(), datatype: DataType::Fp32, shape: vec![-1; 3], optional: false, graph_shape: None };
        let error = check_view(&spec, &view("a", DataType::Fp32, &[i64::MAX, i64::MAX, 2], &[])).unwrap_err();
        assert!(error.to_string().contains("more elements than can be counted"), "{error}");
    }

    #[test]
    fn every_misfit_is_named_with_both_values() {
        assert_eq!(check(|_| ()), "[2, 0, 1]");
        assert_eq!(check(|i| i[1].name = "z"), "input `z`: is not one of the model's inputs: `a`, `b`, `s`");
        assert_eq!(check(|i| i.push(i[1])), "input `a`: appears twice");
        assert_eq!(check(|i| i.truncate(2)), "input `b` is missing");
        assert_eq!(check(|i| i[1].datatype = DataType::Int32), "input `a`: expected datatype FP32, got INT32");
        assert_eq!(check(|i| i[1].shape = &[1, 3]), "input `a`: expected shape [-1,2], got [1,3]");
        assert_eq!(check(|i| i[1].shape = &[2]), "input `a`: expected shape [-1,2], got [2]");
        assert_eq!(check(|i| i[1].shape = &[-1, 2]), "input `a`: expected shape [-1,2], got [-1,2]");
        assert_eq!(check(|i| i[1].data = &[0; 7]), "input `a`: expected 4 bytes for each of 2 elements ([1,2] of FP32), got 7 bytes");
        assert_eq!(check(|i| i[2].data = &[2]), "input `b`: a BOOL element must be 0 or 1, got 2");
        assert!(check(|i| i[1].shape = &[i64::MAX, 2]).contains("of 18446744073709551614 elements"));
        assert!(check(|i| i[0].data = &[9, 0, 0, 0, 7]).contains("before the end of element 1"));
    }
}
