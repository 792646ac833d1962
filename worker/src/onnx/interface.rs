//! Inputs and outputs of a graph.

use super::element::{datatype, type_name};
use super::walk::{Done, Walk};
use super::wire::{Span, Value};
use super::{INTERFACE_BYTES_MAX, ScanError};
use serde::Serialize;

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type as the protocol spells it, ONNX's name for types that the protocol lacks, or what it is instead
    /// of a tensor.
    pub datatype: String,
    /// Its dimensions, outermost first; `None` where the file does not even tell how many.
    pub shape: Option<Vec<Dim>>,
}

/// A dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this size.
    Fixed(u64),
    /// Any size, the same for all of one name.
    Open(Option<String>),
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => size.fmt(f),
            Self::Open(name) => f.write_str(name.as_deref().unwrap_or("?")),
        }
    }
}

impl Walk {
    /// Gathers inputs and outputs, and notes the first that cannot be served.
    pub(super) fn interface(&mut self, mut graph: Span) -> Done {
        while let Some(field) = self.source.next(&mut graph)? {
            match (field.number, field.value) {
                (11, Value::Span(info)) => {
                    let input = self.value_info("input", info)?;
                    self.found.inputs.push(input);
                }
                (12, Value::Span(info)) => {
                    let output = self.value_info("output", info)?;
                    self.found.outputs.push(output);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Only tensors of the protocol's types cross the front door. Runtimes differ in how well they survive the rest.
    fn value_info(&mut self, place: &'static str, mut span: Span) -> Result<Tensor, ScanError> {
        let mut tensor = Tensor { name: String::new(), datatype: "unknown".to_owned(), shape: None };
        let mut reason = None;
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Span(text)) => tensor.name = self.text(text)?,
                (2, Value::Span(kind)) => reason = self.kind(kind, &mut tensor)?,
                _ => {}
            }
        }
        self.take(size_of::<Tensor>(), &tensor.name)?;
        let refusal = reason.map(|reason| Err(ScanError::NotServed { place, name: tensor.name.clone(), reason }));
        self.note(refusal.unwrap_or(Ok(())))?;
        Ok(tensor)
    }

    /// Fills in type and shape; gives the reason for which it cannot be served.
    fn kind(&mut self, mut span: Span, tensor: &mut Tensor) -> Result<Option<String>, ScanError> {
        while let Some(field) = self.source.next(&mut span)? {
            let what = match (field.number, field.value) {
                (1, Value::Span(inner)) => match self.tensor_type(inner, tensor)? {
                    Some(number) if datatype(number).is_none() => {
                        return Ok(Some(format!("has ONNX element type {number}, which the protocol cannot carry")));
                    }
                    _ => continue,
                },
                (4, _) => "a sequence",
                (5, _) => "a map",
                (7, _) => "opaque",
                (8, _) => "a sparse tensor",
                (9, _) => "optional",
                _ => continue,
            };
            what.clone_into(&mut tensor.datatype);
            return Ok(Some(format!("is {what}; only tensors are served, so export the model without it")));
        }
        Ok(None)
    }

    fn tensor_type(&mut self, mut span: Span, tensor: &mut Tensor) -> Result<Option<u64>, ScanError> {
        let mut found = None;
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                (1, Value::Number(number)) => found = Some(number),
                (2, Value::Span(shape)) => self.shape(shape, tensor.shape.get_or_insert_default())?,
                _ => {}
            }
        }
        if let Some(number) = found {
            tensor.datatype = type_name(number).into_owned();
        }
        Ok(found)
    }

    fn shape(&mut self, mut span: Span, dims: &mut Vec<Dim>) -> Done {
        while let Some(field) = self.source.next(&mut span)? {
            if let (1, Value::Span(dim)) = (field.number, field.value) {
                let dim = self.dim(dim)?;
                dims.push(dim);
            }
        }
        Ok(())
    }

    fn dim(&mut self, mut span: Span) -> Result<Dim, ScanError> {
        let mut dim = Dim::Open(None);
        while let Some(field) = self.source.next(&mut span)? {
            match (field.number, field.value) {
                // A negative size is how some exporters write an open one.
                (1, Value::Number(size)) if i64::try_from(size).is_ok() => dim = Dim::Fixed(size),
                (2, Value::Span(text)) => dim = Dim::Open(Some(self.text(text)?).filter(|name| !name.is_empty())),
                _ => {}
            }
        }
        let name = if let Dim::Open(Some(name)) = &dim { name.as_str() } else { "" };
        self.take(size_of::<Dim>(), name)?;
        Ok(dim)
    }

    fn take(&mut self, size: usize, name: &str) -> Done {
        let taken = u64::try_from(size.saturating_add(name.len())).unwrap_or(u64::MAX);
        let too_large = ScanError::TooLarge { what: "bytes to describe inputs and outputs", limit: INTERFACE_BYTES_MAX };
        self.interface_left = self.interface_left.checked_sub(taken).ok_or(too_large)?;
        Ok(())
    }
}
