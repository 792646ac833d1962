//! Writes infer messages around tensor bytes: fields straight into one buffer, since messages of the generated types would be built only
//! to be read once. Field numbers are the Open Inference Protocol's.

use crate::chain::Chain;
use bytes::Bytes;
use policy::{Envelope, Param, Parameters, Reply};
use prost::encoding::{WireType, bool, double, encode_key, encode_varint, int64, string, uint64};

/// Room for what a small message says besides tensors.
const HEAD_BYTES: usize = 256;
/// Tensors up to this length in sum are copied behind the head: one slice is one write, and cheaper than the counting of several.
const INLINE_BYTES_MAX: usize = 4 << 10;

/// Writes a request as slices: a freshly written head, then each input's bytes behind its own small prefix. No large tensor is copied.
pub fn write_request(envelope: &Envelope, raw: &[Chain]) -> Chain {
    let mut head = buffer(raw);
    request_head(envelope, &mut head);
    with_raw(head, 7, raw)
}

/// Writes what stands in front of a request's tensor bytes.
pub fn write_head(envelope: &Envelope) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    request_head(envelope, &mut head);
    head
}

fn request_head(envelope: &Envelope, head: &mut Vec<u8>) {
    text(1, &envelope.model, head);
    text(2, &envelope.version, head);
    text(3, &envelope.id, head);
    parameters(4, &envelope.parameters, head);
    for input in &envelope.inputs {
        nested(5, head, |head| {
            text(1, &input.name, head);
            text(2, &input.datatype, head);
            int64::encode_packed(3, &input.shape, head);
            parameters(4, &input.parameters, head);
        });
    }
    for output in &envelope.outputs {
        nested(6, head, |head| {
            text(1, &output.name, head);
            parameters(2, &output.parameters, head);
        });
    }
}

/// Writes a reply as slices, like [`write_request`]. Always raw contents, one entry per output, as clients index them.
pub fn write_reply(reply: &Reply, raw: &[Chain]) -> Chain {
    let mut head = buffer(raw);
    text(1, &reply.model, &mut head);
    text(2, &reply.version, &mut head);
    text(3, &reply.id, &mut head);
    parameters(4, &reply.parameters, &mut head);
    for output in &reply.outputs {
        nested(5, &mut head, |head| {
            text(1, &output.name, head);
            text(2, &output.datatype, head);
            int64::encode_packed(3, &output.shape, head);
            parameters(4, &output.parameters, head);
        });
    }
    with_raw(head, 6, raw)
}

/// Writes a ModelStreamInferResponse: a reply, or an error text with the reply's names and id.
pub fn write_stream_reply(reply: &Reply, raw: &[Chain], error: &str) -> Chain {
    let inner = write_reply(reply, raw);
    let mut head = Vec::with_capacity(error.len().saturating_add(16));
    if !error.is_empty() {
        string::encode(1, &error.to_owned(), &mut head);
    }
    encode_key(2, WireType::LengthDelimited, &mut head);
    encode_varint(inner.len() as u64, &mut head);
    let mut out = Chain::from(head);
    inner.slices().for_each(|slice| out.push(slice.clone()));
    out
}

fn buffer(raw: &[Chain]) -> Vec<u8> {
    let tensors = raw.iter().fold(0usize, |sum, tensor| sum.saturating_add(tensor.len()));
    Vec::with_capacity(HEAD_BYTES.saturating_add(if tensors <= INLINE_BYTES_MAX { tensors } else { 0 }))
}

/// Puts the tensors behind the head.
fn with_raw(mut head: Vec<u8>, field: u32, raw: &[Chain]) -> Chain {
    let inline = raw.iter().fold(0usize, |sum, tensor| sum.saturating_add(tensor.len())) <= INLINE_BYTES_MAX;
    let mut out = Chain::default();
    for tensor in raw {
        encode_key(field, WireType::LengthDelimited, &mut head);
        encode_varint(tensor.len() as u64, &mut head);
        if inline {
            tensor.slices().for_each(|slice| head.extend_from_slice(slice));
        } else if !tensor.is_empty() {
            out.push(Bytes::from(std::mem::take(&mut head)));
            tensor.slices().for_each(|slice| out.push(slice.clone()));
        } // the prefix of an empty one goes out with the next one's
    }
    out.push(Bytes::from(head));
    out
}

/// A text field; one that is empty is the default, which is not written.
fn text(field: u32, value: &str, buffer: &mut Vec<u8>) {
    if !value.is_empty() {
        encode_key(field, WireType::LengthDelimited, buffer);
        encode_varint(value.len() as u64, buffer);
        buffer.extend_from_slice(value.as_bytes());
    }
}

/// What `write` writes, behind its length.
fn nested(field: u32, buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, buffer);
    let start = buffer.len();
    // The length comes first and is known last. One byte is enough for nearly all; the rest moves where it is not.
    buffer.push(0);
    write(buffer);
    let len = buffer.len().saturating_sub(start).saturating_sub(1);
    match (u8::try_from(len), buffer.get_mut(start)) {
        (Ok(short @ 0..0x80), Some(first)) => *first = short,
        _ => {
            let mut prefix = Vec::with_capacity(10);
            encode_varint(len as u64, &mut prefix);
            buffer.splice(start..=start, prefix);
        }
    }
}

/// Entries of a map: key in field 1, value in field 2.
fn parameters(field: u32, list: &Parameters, buffer: &mut Vec<u8>) {
    for (name, value) in list {
        nested(field, buffer, |entry| {
            text(1, name, entry);
            nested(2, entry, |choice| match value {
                Param::Bool(value) => bool::encode(1, value, choice),
                Param::Int64(value) => int64::encode(2, value, choice),
                Param::String(value) => string::encode(3, value, choice),
                Param::Double(value) => double::encode(4, value, choice),
                Param::Uint64(value) => uint64::encode(5, value, choice),
            });
        });
    }
}
