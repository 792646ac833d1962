//! Takes the outputs of a batch apart again: views of the engine's memory, no copies.

use super::padded::Padded;
use crate::engine::{EngineError, TensorOut};
use bytes::Bytes;
use policy::{DataType, Dims, Envelope, OutputTensor, Reply, Served, Shape, Signature, TensorSpec, VariantId};
use proto::call::{InferReply, LoadReport};
use proto::chain::Chain;
use std::sync::Arc;

/// One request's outputs.
#[derive(Default)]
pub(crate) struct Part(Vec<PartTensor>);

struct PartTensor {
    name: Arc<str>,
    datatype: DataType,
    shape: Shape,
    data: Bytes,
}

impl Part {
    /// The reply to `envelope`: the outputs it asked for, in the signature's order. The load is not known yet.
    pub(crate) fn into_reply(self, variant: &VariantId, envelope: &Envelope, served: Served) -> InferReply {
        let asked = |name: &str| envelope.outputs.is_empty() || envelope.outputs.iter().any(|o| o.name == name);
        let (mut outputs, mut raw) = (Vec::with_capacity(self.0.len()), Vec::with_capacity(self.0.len()));
        for tensor in self.0.into_iter().filter(|t| asked(&t.name)) {
            outputs.push(OutputTensor {
                name: tensor.name.to_string(),
                datatype: tensor.datatype.to_string(),
                shape: tensor.shape,
                parameters: Vec::new(),
            });
            raw.push(Chain::from(tensor.data));
        }
        let reply = Reply {
            model: variant.model.to_string(),
            version: variant.version.to_string(),
            id: envelope.id.clone(),
            parameters: served.into_parameters(),
            outputs,
        };
        InferReply { reply, raw, load: LoadReport::default() }
    }
}

/// Splits `outputs` into requests of `rows` rows each, in order: those of the signature, in its order and in the shapes it
/// promises. A lone request gets all rows as they are: a detector, say, gives as many as it finds things.
///
/// # Errors
/// [`EngineError::NotComputed`] when several requests rode together and an output does not have one row per input row: nobody
/// knows whose is whose (I5). Each can still run alone. Also when an output's shape is not the one a `reshape` starts from.
pub(crate) fn split(
    signature: &Signature,
    outputs: &[TensorOut],
    rows: &[u32],
    padded: Option<&Padded<'_>>,
) -> Result<Vec<Part>, EngineError> {
    let total: i64 = rows.iter().map(|r| i64::from(*r)).fold(0, i64::saturating_add);
    let mut parts: Vec<Part> = rows.iter().map(|_| Part(Vec::with_capacity(signature.outputs.len()))).collect();
    let together = rows.len() > 1;
    for spec in &signature.outputs {
        let Some(output) = outputs.iter().find(|o| *o.name == *spec.name) else {
            return Err(EngineError::Failed { reason: format!("the engine gave no output `{}`", spec.name) });
        };
        let seen = client_shape(spec, &output.shape)?;
        if together && (seen.first() != Some(&total) || output.shape.first() != Some(&total)) {
            let reason = format!("output `{}` has shape {:?} for a batch of {total} rows", output.name, output.shape);
            return Err(EngineError::NotComputed { reason });
        }
        let mut rest = output.data.clone();
        let last = parts.len().saturating_sub(1);
        for (i, (part, rows)) in parts.iter_mut().zip(rows).enumerate() {
            let mut shape = seen.clone();
            if let (true, Some(first)) = (signature.max_batch_size > 0 && together, shape.first_mut()) {
                *first = i64::from(*rows);
            }
            let mut data = if i == last { std::mem::take(&mut rest) } else { front(output, &mut rest, &shape)? };
            if let Some(padded) = padded {
                data = padded.cut(&spec.name, i, output.datatype, &mut shape, data)?;
            }
            part.0.push(PartTensor { name: output.name.clone(), datatype: output.datatype, shape, data });
        }
    }
    Ok(parts)
}

/// The shape a client sees of an output that the graph gave in `shape`.
fn client_shape(spec: &TensorSpec, shape: &[i64]) -> Result<Shape, EngineError> {
    let Some(graph) = &spec.graph_shape else { return Ok(Shape::from_slice(shape)) };
    policy::reshape(graph, &spec.shape, shape).ok_or_else(|| {
        let (name, graph, client) = (&spec.name, Dims::from(graph.as_slice()), Dims::from(spec.shape.as_slice()));
        let reason = format!("output `{name}` has shape {}, which is not {graph} and cannot become {client}", Dims::from(shape));
        EngineError::NotComputed { reason }
    })
}

/// Takes the bytes of a tensor of `shape` off the front of `rest`.
fn front(output: &TensorOut, rest: &mut Bytes, shape: &[i64]) -> Result<Bytes, EngineError> {
    let short =
        || EngineError::Failed { reason: format!("output `{}` has fewer bytes than its shape {:?} needs", output.name, output.shape) };
    let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?)).ok_or_else(short)?;
    let len = match output.datatype.size() {
        Some(size) => elements.checked_mul(size).ok_or_else(short)?,
        None => strings_len(rest, elements).ok_or_else(short)?,
    };
    if len > rest.len() { Err(short()) } else { Ok(rest.split_to(len)) }
}

/// Bytes that `elements` BYTES elements take at the front of `data`.
fn strings_len(data: &[u8], elements: usize) -> Option<usize> {
    let mut end = 0usize;
    for _ in 0..elements {
        let after = end.checked_add(4)?;
        let header: [u8; 4] = data.get(end..after)?.try_into().ok()?;
        end = after.checked_add(usize::try_from(u32::from_le_bytes(header)).ok()?)?;
    }
    (end <= data.len()).then_some(end)
}
