//! Reads a ModelInferRequest or ModelInferResponse around its tensor bytes: everything but the raw contents is decoded,
//! the raw contents stay slices of what the socket gave. Field numbers are the Open Inference Protocol's.

use crate::chain::Chain;
use crate::inference as pb;
use crate::inference::infer_parameter::ParameterChoice;
use crate::inflow::Layout;
use bytes::Buf;
use policy::check::limits;
use policy::{DataType, Envelope, Failure, InputTensor, OutputTensor, Param, Parameters, Reply, RequestedOutput, Shape, SharedMemory};
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use smallvec::SmallVec;

mod typed;
mod write;

pub use write::{write_head, write_reply, write_request, write_stream_reply};

/// Typed contents of each input.
type Contents = SmallVec<[Option<pb::InferTensorContents>; 1]>;

/// Reads a request. `raw` has one chain per input, in the envelope's order; typed contents are turned into raw bytes here,
/// so that nothing behind the door knows of them. An input in shared memory has an empty chain and keeps its parameters.
///
/// # Errors
/// [`Failure::Malformed`] for what is not the message, and the failures about raw against typed contents.
pub fn read_request(mut message: Chain) -> Result<(Envelope, Vec<Chain>), Failure> {
    let mut fields = Fields::default();
    while message.has_remaining() {
        let (field, wire) = key(&mut message)?;
        fields.take(field, wire, &mut message)?;
    }
    let Fields { mut envelope, raw, contents } = fields;
    let raw = unify(&envelope, raw, contents)?;
    for (input, chain) in envelope.inputs.iter_mut().zip(&raw) {
        input.byte_length = chain.len() as u64;
    }
    Ok((envelope, raw))
}

/// What a request says in front of its tensor bytes, read before they are here: `front` is what has come of a message of `len` bytes.
/// With it the layout of the rest, and what of that has come. `None` where the rest must be here to be understood: something is typed,
/// in shared memory, or of a type without a size, stands in another order, or is wrong in a way that the whole will show.
pub fn read_opening(front: &Chain, len: u64) -> Option<(Envelope, Layout, Chain)> {
    let (mut fields, mut rest, mut head) = (Fields::default(), front.clone(), 0);
    loop {
        let (field, wire) = key(&mut rest).ok()?;
        if field == RAW_FIELD {
            break;
        }
        fields.take(field, wire, &mut rest).ok()?;
        head = front.len().checked_sub(rest.len())?;
    }
    let Fields { mut envelope, contents, .. } = fields;
    if contents.iter().flatten().any(typed::has_values) {
        return None;
    }
    for input in &mut envelope.inputs {
        if SharedMemory::is_named_in(&input.parameters) {
            return None;
        }
        let size = DataType::parse(&input.datatype)?.size()?;
        let elements = input.shape.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::try_from(*dim).ok()?))?;
        input.byte_length = elements.checked_mul(size as u64)?;
    }
    let layout = Layout::new(envelope.inputs.iter().map(|input| input.byte_length));
    let mut records = front.clone();
    records.split_front(head)?;
    (layout.total() == len.checked_sub(head as u64)?).then_some((envelope, layout, records))
}

/// Field of a request that holds an input's bytes.
const RAW_FIELD: u32 = 7;

/// What of a request has been read.
#[derive(Default)]
struct Fields {
    envelope: Envelope,
    raw: Vec<Chain>,
    contents: Contents,
}

impl Fields {
    /// Reads the field of number `field`, whose content `message` begins with.
    fn take(&mut self, field: u32, wire: WireType, message: &mut Chain) -> Result<(), Failure> {
        let Self { envelope, raw, contents } = self;
        match field {
            1 => envelope.model = text(message, wire, "model_name")?,
            2 => envelope.version = text(message, wire, "model_version")?,
            3 => envelope.id = text(message, wire, "id")?,
            4 => push_parameter(&mut envelope.parameters, message, wire)?,
            5 => {
                bounded("inputs", envelope.inputs.len(), limits::TENSORS_MAX)?;
                let field = field_chain(message, wire, "inputs")?;
                check_input_size(&field)?;
                let input =
                    pb::model_infer_request::InferInputTensor::decode(field).map_err(|_| malformed("field inputs cannot be read"))?;
                envelope.inputs.push(InputTensor {
                    name: input.name,
                    datatype: input.datatype,
                    shape: Shape::from_vec(input.shape),
                    parameters: parameters(input.parameters),
                    byte_length: 0,
                });
                contents.push(input.contents);
            }
            6 => {
                bounded("outputs", envelope.outputs.len(), limits::TENSORS_MAX)?;
                let output: pb::model_infer_request::InferRequestedOutputTensor = submessage(message, wire, "outputs")?;
                envelope.outputs.push(RequestedOutput { name: output.name, parameters: parameters(output.parameters) });
            }
            RAW_FIELD => {
                bounded("raw_input_contents", raw.len(), limits::TENSORS_MAX)?;
                raw.push(field_chain(message, wire, "raw_input_contents")?);
            }
            _ => skip(message, field, wire)?,
        }
        Ok(())
    }
}

/// Up to this size an input's description cannot decode into much.
const SMALL_INPUT_BYTES: usize = 1 << 10;

/// Bounds what decoding an input's description may take, before it is decoded.
fn check_input_size(field: &Chain) -> Result<(), Failure> {
    if field.len() <= SMALL_INPUT_BYTES {
        return Ok(());
    }
    let (mut rest, mut dims, mut parameters) = (field.clone(), 0usize, 0usize);
    while rest.has_remaining() {
        match key(&mut rest)? {
            (3, WireType::LengthDelimited) => dims = dims.saturating_add(field_chain(&mut rest, WireType::LengthDelimited, "shape")?.len()),
            (4, wire) => {
                parameters = parameters.saturating_add(1);
                skip(&mut rest, 4, wire)?;
            }
            (5, wire) => {
                let contents = field_chain(&mut rest, wire, "contents")?.len();
                if contents > limits::TYPED_BYTES_MAX {
                    let what = "bytes of typed contents (send raw_input_contents)".to_owned();
                    return Err(Failure::Limit { what, got: contents as u64, limit: limits::TYPED_BYTES_MAX as u64 });
                }
            }
            (field, wire) => {
                dims = dims.saturating_add(usize::from(field == 3));
                skip(&mut rest, field, wire)?;
            }
        }
    }
    // A dimension takes one to ten bytes.
    bounded("dimensions", dims, limits::RANK_MAX.saturating_mul(10))?;
    bounded("parameters", parameters, limits::PARAMETERS_MAX.saturating_add(1))
}

/// Raw or typed for the whole request, never both. An input in shared memory takes no raw entry and no typed contents.
fn unify(envelope: &Envelope, raw: Vec<Chain>, contents: Contents) -> Result<Vec<Chain>, Failure> {
    let shared = |input: &InputTensor| SharedMemory::is_named_in(&input.parameters);
    let typed = |contents: &Option<pb::InferTensorContents>| contents.as_ref().is_some_and(typed::has_values);
    let name = |input: &InputTensor| input.name.chars().take(limits::NAME_BYTES_MAX).collect();
    for (input, _) in envelope.inputs.iter().zip(&contents).filter(|(_, c)| typed(c)) {
        if shared(input) {
            let what = "carries typed contents and names a shared memory region: use one or the other".to_owned();
            return Err(Failure::TypedContents { input: name(input), what });
        }
        if !raw.is_empty() {
            return Err(Failure::RawAndTyped { input: name(input) });
        }
    }
    if raw.is_empty() {
        let pairs = envelope.inputs.iter().zip(contents);
        let chain = |(input, contents): (&InputTensor, Option<_>)| {
            if shared(input) { Ok(Chain::default()) } else { typed::to_raw(input, contents.unwrap_or_default()) }
        };
        return pairs.map(chain).collect();
    }
    let inputs = envelope.inputs.iter().filter(|input| !shared(input)).count();
    if raw.len() != inputs {
        return Err(Failure::RawCount { inputs, raw: raw.len() });
    }
    if inputs == envelope.inputs.len() {
        return Ok(raw);
    }
    let mut raw = raw.into_iter();
    let chains = envelope.inputs.iter().map(|input| if shared(input) { None } else { raw.next() });
    Ok(chains.map(Option::unwrap_or_default).collect())
}

/// Reads a reply; `raw` has one chain per output.
///
/// # Errors
/// [`Failure::BadReply`] for what is not the message.
pub fn read_reply(mut message: Chain) -> Result<(Reply, Vec<Chain>), Failure> {
    read_reply_fields(&mut message).map_err(|failure| Failure::BadReply { what: failure.to_string() })
}

fn read_reply_fields(message: &mut Chain) -> Result<(Reply, Vec<Chain>), Failure> {
    let (mut reply, mut raw) = (Reply::default(), Vec::new());
    while message.has_remaining() {
        let (field, wire) = key(message)?;
        match field {
            1 => reply.model = text(message, wire, "model_name")?,
            2 => reply.version = text(message, wire, "model_version")?,
            3 => reply.id = text(message, wire, "id")?,
            4 => push_parameter(&mut reply.parameters, message, wire)?,
            5 => {
                let output: pb::model_infer_response::InferOutputTensor = submessage(message, wire, "outputs")?;
                reply.outputs.push(OutputTensor {
                    name: output.name,
                    datatype: output.datatype,
                    shape: Shape::from_vec(output.shape),
                    parameters: parameters(output.parameters),
                });
            }
            6 => raw.push(field_chain(message, wire, "raw_output_contents")?),
            _ => skip(message, field, wire)?,
        }
    }
    if raw.len() == reply.outputs.len() { Ok((reply, raw)) } else { Err(Failure::RawCount { inputs: reply.outputs.len(), raw: raw.len() }) }
}

fn malformed(what: impl Into<String>) -> Failure {
    Failure::Malformed { what: what.into() }
}

fn bounded(what: &str, already: usize, limit: usize) -> Result<(), Failure> {
    if already < limit {
        Ok(())
    } else {
        Err(Failure::Limit { what: format!("number of {what}"), got: already as u64 + 1, limit: limit as u64 })
    }
}

fn key(message: &mut Chain) -> Result<(u32, WireType), Failure> {
    decode_key(message).map_err(|_| malformed("not a protobuf message of this type"))
}

fn skip(message: &mut Chain, field: u32, wire: WireType) -> Result<(), Failure> {
    skip_field(wire, field, message, DecodeContext::default()).map_err(|_| malformed(format!("field {field} cannot be read")))
}

/// Takes out a length-delimited field.
fn field_chain(message: &mut Chain, wire: WireType, name: &str) -> Result<Chain, Failure> {
    if wire != WireType::LengthDelimited {
        return Err(malformed(format!("field {name} has the wrong wire type")));
    }
    let len = decode_varint(message).map_err(|_| malformed(format!("field {name} has no length")))?;
    let have = message.len();
    usize::try_from(len)
        .ok()
        .and_then(|len| message.split_front(len))
        .ok_or_else(|| malformed(format!("field {name} claims {len} bytes, {have} are left")))
}

fn text(message: &mut Chain, wire: WireType, name: &str) -> Result<String, Failure> {
    if wire != WireType::LengthDelimited {
        return Err(malformed(format!("field {name} has the wrong wire type")));
    }
    let len = decode_varint(message).map_err(|_| malformed(format!("field {name} has no length")))?;
    let len = usize::try_from(len).ok().filter(|len| *len <= message.len());
    let mut bytes = vec![0; len.ok_or_else(|| malformed(format!("field {name} claims more bytes than are left")))?];
    message.copy_to_slice(&mut bytes);
    String::from_utf8(bytes).map_err(|_| malformed(format!("field {name} is not UTF-8")))
}

fn submessage<M: prost::Message + Default>(message: &mut Chain, wire: WireType, name: &str) -> Result<M, Failure> {
    M::decode(field_chain(message, wire, name)?).map_err(|_| malformed(format!("field {name} cannot be read")))
}

/// A map entry: key in field 1, value in field 2.
fn push_parameter(list: &mut Parameters, message: &mut Chain, wire: WireType) -> Result<(), Failure> {
    bounded("parameters", list.len(), limits::PARAMETERS_MAX)?;
    let mut entry = field_chain(message, wire, "parameters")?;
    let (mut name, mut value) = (String::new(), pb::InferParameter::default());
    while entry.has_remaining() {
        match key(&mut entry)? {
            (1, wire) => name = text(&mut entry, wire, "parameters")?,
            (2, wire) => value = submessage(&mut entry, wire, "parameters")?,
            (field, wire) => skip(&mut entry, field, wire)?,
        }
    }
    list.retain(|(n, _)| *n != name); // of two entries with one key the last holds, as protobuf says
    list.extend(value.parameter_choice.map(|choice| (name, param(choice))));
    Ok(())
}

fn param(choice: ParameterChoice) -> Param {
    match choice {
        ParameterChoice::BoolParam(v) => Param::Bool(v),
        ParameterChoice::Int64Param(v) => Param::Int64(v),
        ParameterChoice::StringParam(v) => Param::String(v),
        ParameterChoice::DoubleParam(v) => Param::Double(v),
        ParameterChoice::Uint64Param(v) => Param::Uint64(v),
    }
}

fn parameters(map: std::collections::HashMap<String, pb::InferParameter>) -> Parameters {
    map.into_iter().filter_map(|(name, p)| p.parameter_choice.map(|choice| (name, param(choice)))).collect()
}

#[cfg(test)]
mod tests;
