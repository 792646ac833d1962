//! Writes replies.

use super::limits::JSON_BYTES_MAX;
use super::{BINARY_DATA_SIZE, ReplyForm};
use crate::chain::Chain;
use bytes::Bytes;
use policy::{DataType, Failure, OutputTensor, Param, Parameters, Reply, SharedMemory};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// A reply's body.
#[derive(Debug, Clone)]
pub struct RestReply {
    /// JSON, and behind it the outputs that are binary data, as the slices they came in.
    pub body: Chain,
    /// Length of the JSON (`Inference-Header-Content-Length`) where any output is binary data; `None` where all is JSON.
    pub json_len: Option<usize>,
}

/// Writes `reply`, whose outputs' bytes are `raw`, in the form that the request asked for. An output in shared memory
/// (it has the parameter `shared_memory_region`) is described only.
///
/// # Errors
/// [`Failure::NotJson`] for an output that JSON cannot carry, with what to ask for instead; [`Failure::BadReply`] for bytes that are not
/// what the output says.
pub fn write_reply(reply: Reply, raw: Vec<Chain>, form: &ReplyForm) -> Result<RestReply, Failure> {
    if raw.len() != reply.outputs.len() {
        return Err(bad(format!("{} outputs with the bytes of {}", reply.outputs.len(), raw.len())));
    }
    let (mut json_bytes, mut is_binary) = (0usize, false);
    let mut ways = Vec::with_capacity(raw.len());
    let mut behind = Chain::default();
    for (output, bytes) in reply.outputs.iter().zip(raw) {
        ways.push(if SharedMemory::is_named_in(&output.parameters) {
            Way::Shared
        } else if form.is_binary(&output.name) {
            is_binary = true;
            bytes.slices().for_each(|slice| behind.push(slice.clone()));
            Way::Binary(bytes.len())
        } else {
            json_bytes = json_bytes.saturating_add(bytes.len());
            if json_bytes > JSON_BYTES_MAX {
                let what = format!("{json_bytes} bytes to be written as JSON, the limit is {JSON_BYTES_MAX}");
                return Err(not_json(output, &what));
            }
            Way::Json(bytes.into_bytes())
        });
    }
    let outputs = reply.outputs.iter().zip(&ways).map(|(output, way)| describe(output, way)).collect::<Result<_, _>>()?;
    let head = Body {
        model_name: &reply.model,
        model_version: &reply.version,
        id: &reply.id,
        parameters: Named { list: &reply.parameters, binary_data_size: None },
        outputs,
    };
    // Most numbers take about twice their raw size; more only makes it grow.
    let mut json = Vec::with_capacity(json_bytes.saturating_mul(2).saturating_add(512));
    serde_json::to_writer(&mut json, &head).map_err(|error| bad(error.to_string()))?;
    let json_len = is_binary.then_some(json.len());
    let mut body = Chain::from(json);
    behind.slices().for_each(|slice| body.push(slice.clone()));
    Ok(RestReply { body, json_len })
}

/// How an output's bytes travel.
enum Way {
    Shared,
    Binary(usize),
    Json(Bytes),
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Named::is_empty")]
    parameters: Named<'a>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
    #[serde(skip_serializing_if = "Named::is_empty")]
    parameters: Named<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

fn describe<'a>(output: &'a OutputTensor, way: &'a Way) -> Result<Output<'a>, Failure> {
    let (data, binary_data_size) = match way {
        Way::Shared => (None, None),
        Way::Binary(len) => (None, Some(*len)),
        Way::Json(bytes) => (Some(Data::new(output, bytes)?), None),
    };
    let parameters = Named { list: &output.parameters, binary_data_size };
    Ok(Output { name: &output.name, datatype: &output.datatype, shape: &output.shape, parameters, data })
}

/// Parameters as an object.
struct Named<'a> {
    list: &'a Parameters,
    binary_data_size: Option<usize>,
}

impl Named<'_> {
    fn is_empty(&self) -> bool {
        self.list.is_empty() && self.binary_data_size.is_none()
    }
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.list {
            match value {
                Param::Bool(v) => map.serialize_entry(name, v)?,
                Param::Int64(v) => map.serialize_entry(name, v)?,
                Param::Uint64(v) => map.serialize_entry(name, v)?,
                Param::Double(v) => map.serialize_entry(name, v)?,
                Param::String(v) => map.serialize_entry(name, v)?,
            }
        }
        if let Some(len) = self.binary_data_size {
            map.serialize_entry(BINARY_DATA_SIZE, &len)?;
        }
        map.end()
    }
}

/// An output's elements, known to be what JSON can carry. They are written from their raw bytes, one after another.
enum Data<'a> {
    Numbers(DataType, &'a [u8]),
    Strings(Vec<&'a str>),
}

impl<'a> Data<'a> {
    fn new(output: &OutputTensor, bytes: &'a [u8]) -> Result<Self, Failure> {
        let datatype = DataType::parse(&output.datatype)
            .ok_or_else(|| bad(format!("output `{}` has the datatype {:?}", output.name, output.datatype)))?;
        let odd = match datatype {
            DataType::Bytes => return strings(output, bytes).map(Self::Strings),
            DataType::Fp16 | DataType::Bf16 => return Err(not_json(output, &format!("JSON has no {datatype} values"))),
            DataType::Fp32 => numbers(bytes, f32::from_le_bytes).position(|v| !v.is_finite()),
            DataType::Fp64 => numbers(bytes, f64::from_le_bytes).position(|v| !v.is_finite()),
            _ => None,
        };
        if let Some(index) = odd {
            return Err(not_json(output, &format!("element {index} is NaN or infinite, which JSON has no number for")));
        }
        match datatype.size().and_then(|size| bytes.len().checked_rem(size)) {
            Some(0) => Ok(Self::Numbers(datatype, bytes)),
            _ => Err(bad(format!("output `{}` has {} bytes, which are no whole number of {datatype}", output.name, bytes.len()))),
        }
    }
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (datatype, bytes) = match self {
            Self::Strings(elements) => return s.collect_seq(elements),
            Self::Numbers(datatype, bytes) => (*datatype, *bytes),
        };
        match datatype {
            DataType::Bool => s.collect_seq(bytes.iter().map(|byte| *byte != 0)),
            DataType::Uint8 => s.collect_seq(bytes),
            DataType::Uint16 => s.collect_seq(numbers(bytes, u16::from_le_bytes)),
            DataType::Uint32 => s.collect_seq(numbers(bytes, u32::from_le_bytes)),
            DataType::Uint64 => s.collect_seq(numbers(bytes, u64::from_le_bytes)),
            DataType::Int8 => s.collect_seq(numbers(bytes, i8::from_le_bytes)),
            DataType::Int16 => s.collect_seq(numbers(bytes, i16::from_le_bytes)),
            DataType::Int32 => s.collect_seq(numbers(bytes, i32::from_le_bytes)),
            DataType::Int64 => s.collect_seq(numbers(bytes, i64::from_le_bytes)),
            DataType::Fp32 => s.collect_seq(numbers(bytes, f32::from_le_bytes)),
            DataType::Fp64 => s.collect_seq(numbers(bytes, f64::from_le_bytes)),
            DataType::Fp16 | DataType::Bf16 | DataType::Bytes => Err(serde::ser::Error::custom(format!("{datatype} is no number in JSON"))),
        }
    }
}

fn numbers<T, const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks().0.iter().map(move |chunk| read(*chunk))
}

/// The elements of a BYTES tensor as text.
fn strings<'a>(output: &OutputTensor, bytes: &'a [u8]) -> Result<Vec<&'a str>, Failure> {
    let (mut elements, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let element = rest.split_first_chunk().and_then(|(len, behind)| {
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            behind.split_at_checked(len)
        });
        let Some((element, behind)) = element else {
            return Err(bad(format!("output `{}` ends inside element {}", output.name, elements.len())));
        };
        let text = std::str::from_utf8(element);
        elements.push(text.map_err(|_| not_json(output, &format!("element {} is not UTF-8, as a JSON string is", elements.len())))?);
        rest = behind;
    }
    Ok(elements)
}

fn not_json(output: &OutputTensor, why: &str) -> Failure {
    let what = format!("{why}: ask for this output as binary data (parameter binary_data: true)");
    Failure::NotJson { output: output.name.clone(), what }
}

fn bad(what: String) -> Failure {
    Failure::BadReply { what }
}
