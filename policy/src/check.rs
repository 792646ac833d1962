//! The one validation of a request against a version's signature, before any worker runs anything.

use crate::{DataType, Dims, Envelope, Failure, Signature, TensorSpec};

/// Bounds on what one request may say, whatever the model.
pub mod limits {
    /// Most dimensions of a tensor.
    pub const RANK_MAX: usize = 8;
    /// Largest dimension.
    pub const DIM_MAX: i64 = (1 << 31) - 1;
    /// Most elements of a tensor.
    pub const ELEMENTS_MAX: u64 = 1 << 28;
    /// Most inputs, and most outputs asked for.
    pub const TENSORS_MAX: usize = 64;
    /// Longest tensor name, in bytes.
    pub const NAME_BYTES_MAX: usize = 128;
    /// Most parameters of a request or tensor.
    pub const PARAMETERS_MAX: usize = 64;
    /// Most encoded bytes of an input's typed contents: decoded they take up to sixteen times that.
    pub const TYPED_BYTES_MAX: usize = 8 << 20;
    /// Most elements of a BYTES tensor.
    pub const BYTES_ELEMENTS_MAX: u64 = 1_000_000;
}

/// What a checked request is, beyond being right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Rows it brings to a batch; 1 for a model without a batch dimension.
    pub rows: u32,
}

/// Checks names, types, shapes, counts and byte lengths. Every product is checked arithmetic.
/// The insides of BYTES tensors are not in the envelope: see [`crate::bytes_tensor::check`].
///
/// # Errors
/// The first thing wrong, with its name and both numbers.
pub fn check_request(signature: &Signature, envelope: &Envelope) -> Result<Checked, Failure> {
    limit("number of inputs", envelope.inputs.len(), limits::TENSORS_MAX)?;
    limit("number of outputs", envelope.outputs.len(), limits::TENSORS_MAX)?;
    limit("number of parameters", envelope.parameters.len(), limits::PARAMETERS_MAX)?;
    check_names(signature, envelope)?;
    let mut batch: Option<(&str, i64)> = None;
    for input in &envelope.inputs {
        let Some(spec) = signature.input(&input.name) else { continue };
        let datatype = DataType::parse(&input.datatype)
            .ok_or_else(|| Failure::UnknownDatatype { input: input.name.clone(), got: input.datatype.chars().take(32).collect() })?;
        if datatype != spec.datatype {
            return Err(Failure::Datatype { input: input.name.clone(), expected: spec.datatype, got: datatype });
        }
        let elements = element_count(&input.name, &input.shape)?;
        check_shape(&envelope.model, spec, &input.shape, signature.max_batch_size)?;
        if signature.max_batch_size > 0 {
            let rows = input.shape.first().copied().unwrap_or_default();
            match batch {
                None => batch = Some((&input.name, rows)),
                Some((first, expected)) if expected != rows => {
                    return Err(Failure::BatchMismatch { input: input.name.clone(), first: first.to_owned(), expected, got: rows });
                }
                Some(_) => {}
            }
        }
        check_length(input, datatype, elements)?;
    }
    let rows = batch.map_or(1, |(_, rows)| u32::try_from(rows).unwrap_or(u32::MAX));
    Ok(Checked { rows })
}

fn limit(what: &str, got: usize, limit: usize) -> Result<(), Failure> {
    if got > limit { Err(Failure::Limit { what: what.to_owned(), got: got as u64, limit: limit as u64 }) } else { Ok(()) }
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Names repeated in a message are cut: a client's text must not fill a log.
fn shown(name: &str) -> String {
    name.chars().take(limits::NAME_BYTES_MAX).collect()
}

fn check_names(signature: &Signature, envelope: &Envelope) -> Result<(), Failure> {
    for (i, input) in envelope.inputs.iter().enumerate() {
        limit("number of parameters", input.parameters.len(), limits::PARAMETERS_MAX)?;
        if signature.input(&input.name).is_none() {
            return Err(Failure::UnknownInput { input: shown(&input.name), names: names(&signature.inputs) });
        }
        if envelope.inputs.iter().take(i).any(|other| other.name == input.name) {
            return Err(Failure::DuplicateInput { input: shown(&input.name) });
        }
    }
    let wanted = signature.inputs.iter().filter(|s| !s.optional);
    if let Some(missing) = wanted.clone().find(|s| !envelope.inputs.iter().any(|i| i.name == s.name)) {
        return Err(if envelope.inputs.len() == wanted.count() {
            Failure::MissingInput { input: missing.name.clone() }
        } else {
            Failure::InputCount { expected: signature.inputs.len(), got: envelope.inputs.len(), names: names(&signature.inputs) }
        });
    }
    for (i, output) in envelope.outputs.iter().enumerate() {
        if signature.output(&output.name).is_none() {
            return Err(Failure::UnknownOutput { output: shown(&output.name), names: names(&signature.outputs) });
        }
        if envelope.outputs.iter().take(i).any(|other| other.name == output.name) {
            return Err(Failure::DuplicateOutput { output: shown(&output.name) });
        }
    }
    Ok(())
}

/// The product of `shape`, within the limits.
fn element_count(input: &str, shape: &[i64]) -> Result<u64, Failure> {
    let bad = |why| Failure::BadShape { input: input.to_owned(), got: Dims::from(shape), why };
    if shape.len() > limits::RANK_MAX {
        return Err(bad("has more than 8 dimensions"));
    }
    let mut elements: u64 = 1;
    for dim in shape {
        if *dim < 0 {
            return Err(bad("has a negative dimension"));
        }
        if *dim > limits::DIM_MAX {
            return Err(bad("has a dimension over 2147483647"));
        }
        // Zero is legal and empties the tensor, so a large product beside it does not matter; an overflow still does.
        elements = elements.checked_mul(dim.unsigned_abs()).ok_or_else(|| bad("has too many elements (limit 268435456)"))?;
    }
    if elements > limits::ELEMENTS_MAX { Err(bad("has too many elements (limit 268435456)")) } else { Ok(elements) }
}

fn check_shape(model: &str, spec: &TensorSpec, shape: &[i64], max_batch_size: u32) -> Result<(), Failure> {
    let fits = spec.shape.len() == shape.len() && spec.shape.iter().zip(shape).all(|(want, got)| *want == -1 || want == got);
    if !fits {
        return Err(Failure::ShapeMismatch {
            input: spec.name.clone(),
            expected: Dims::from(spec.shape.as_slice()),
            got: Dims::from(shape),
        });
    }
    if max_batch_size > 0 {
        let rows = shape.first().copied().unwrap_or_default();
        if rows < 1 {
            return Err(Failure::BadShape { input: spec.name.clone(), got: Dims::from(shape), why: "has a batch of no rows" });
        }
        if rows > i64::from(max_batch_size) {
            return Err(Failure::BatchTooLarge { model: shown(model), rows: rows.unsigned_abs(), max_batch_size });
        }
    }
    Ok(())
}

fn check_length(input: &crate::InputTensor, datatype: DataType, elements: u64) -> Result<(), Failure> {
    let Some(size) = datatype.size() else {
        if elements > limits::BYTES_ELEMENTS_MAX {
            return Err(Failure::Limit {
                what: format!("elements of BYTES input `{}`", input.name),
                got: elements,
                limit: limits::BYTES_ELEMENTS_MAX,
            });
        }
        return Ok(());
    };
    let expected = elements.saturating_mul(size as u64);
    if expected != input.byte_length {
        return Err(Failure::ByteLength {
            input: input.name.clone(),
            expected,
            got: input.byte_length,
            shape: Dims::from(input.shape.as_slice()),
            datatype,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
