//! Shapes of the inputs of a measured run: what was asked for, else what the model fixes, else 1.

use crate::onnx::{Dim, Tensor};
use serde::Serialize;
use std::collections::BTreeMap;

/// Shapes for every input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shapes {
    /// By name.
    pub shapes: BTreeMap<String, Vec<i64>>,
    /// Open dimensions that nobody gave a size and that are 1 for that, as `x[0]`.
    pub assumed_1: Vec<String>,
}

/// Why given shapes do not fit a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// No such input.
    #[error("input `{input}`: the model has no such input; expected one of {}", expected.join(", "))]
    Unknown {
        /// The name given.
        input: String,
        /// Those there are.
        expected: Vec<String>,
    },
    /// Another number of dimensions, or another size where the model allows one only.
    #[error("input `{input}`: expected shape {expected}, got {got}")]
    Mismatch {
        /// Its name.
        input: String,
        /// What the model says.
        expected: String,
        /// What was given.
        got: String,
    },
}

/// Fits `given` to `inputs`. Open dimensions of one name are one size: what is given for one input holds for all.
pub(super) fn fit(inputs: &[Tensor], given: &BTreeMap<String, Vec<u64>>) -> Result<Shapes, ShapeError> {
    if let Some(input) = given.keys().find(|name| !inputs.iter().any(|i| i.name == **name)) {
        let expected = inputs.iter().map(|i| i.name.clone()).collect();
        return Err(ShapeError::Unknown { input: input.clone(), expected });
    }
    let mut named = BTreeMap::new();
    for input in inputs {
        let (Some(dims), Some(sizes)) = (&input.shape, given.get(&input.name)) else { continue };
        check(input, dims, sizes)?;
        for (dim, size) in dims.iter().zip(sizes) {
            if let Dim::Open(Some(name)) = dim {
                named.entry(name.as_str()).or_insert(*size);
            }
        }
    }
    let mut fitted = Shapes { shapes: BTreeMap::new(), assumed_1: Vec::new() };
    for input in inputs {
        let sizes = match given.get(&input.name) {
            Some(sizes) => sizes.clone(),
            None => completed(input, &named, &mut fitted.assumed_1),
        };
        let sizes = sizes.into_iter().map(|size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        fitted.shapes.insert(input.name.clone(), sizes);
    }
    Ok(fitted)
}

fn check(input: &Tensor, dims: &[Dim], sizes: &[u64]) -> Result<(), ShapeError> {
    let fits = |(dim, size): (&Dim, &u64)| if let Dim::Fixed(fixed) = dim { fixed == size } else { true };
    if dims.len() == sizes.len() && dims.iter().zip(sizes).all(fits) {
        return Ok(());
    }
    let list = |parts: Vec<String>| format!("[{}]", parts.join(", "));
    Err(ShapeError::Mismatch {
        input: input.name.clone(),
        expected: list(dims.iter().map(ToString::to_string).collect()),
        got: list(sizes.iter().map(ToString::to_string).collect()),
    })
}

fn completed(input: &Tensor, named: &BTreeMap<&str, u64>, assumed_1: &mut Vec<String>) -> Vec<u64> {
    let mut size = |(i, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Open(name) => name.as_deref().and_then(|name| named.get(name).copied()).unwrap_or_else(|| {
            assumed_1.push(format!("{}[{i}]", input.name));
            1
        }),
    };
    input.shape.iter().flatten().enumerate().map(&mut size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Vec<Tensor> {
        let open = |name: &str| Dim::Open(Some(name.to_owned()));
        let tensor = |name: &str, dims: Vec<Dim>| Tensor { name: name.into(), datatype: "INT64".into(), shape: Some(dims) };
        vec![
            tensor("ids", vec![open("batch"), open("length")]),
            tensor("mask", vec![open("batch"), open("length")]),
            tensor("state", vec![Dim::Fixed(2), Dim::Open(None)]),
        ]
    }

    fn fitted(given: &[(&str, &[u64])]) -> Result<Shapes, ShapeError> {
        fit(&inputs(), &given.iter().map(|(name, sizes)| ((*name).to_owned(), sizes.to_vec())).collect())
    }

    #[test]
    fn what_is_open_is_1_and_is_told() {
        let found = fitted(&[]).unwrap();
        assert_eq!(found.shapes.values().map(Vec::as_slice).collect::<Vec<_>>(), [&[1, 1][..], &[1, 1], &[2, 1]]);
        assert_eq!(found.assumed_1, ["ids[0]", "ids[1]", "mask[0]", "mask[1]", "state[1]"]);
    }

    #[test]
    fn a_size_given_once_holds_for_its_name_everywhere() {
        let found = fitted(&[("ids", &[3, 128])]).unwrap();
        assert_eq!(found.shapes["mask"], [3, 128]);
        assert_eq!(found.assumed_1, ["state[1]"]);
    }

    #[test]
    fn what_does_not_fit_is_told_with_both_shapes() {
        let text = |given: &[(&str, &[u64])]| fitted(given).unwrap_err().to_string();
        assert_eq!(text(&[("idz", &[1])]), "input `idz`: the model has no such input; expected one of ids, mask, state");
        assert_eq!(text(&[("ids", &[1])]), "input `ids`: expected shape [batch, length], got [1]");
        assert_eq!(text(&[("state", &[3, 1])]), "input `state`: expected shape [2, ?], got [3, 1]");
    }
}
