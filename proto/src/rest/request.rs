//! Reads requests.

use super::json::{self, limit};
use super::{BINARY_DATA, BINARY_DATA_OUTPUT, BINARY_DATA_SIZE, ReplyForm, RestRequest, data};
use crate::chain::Chain;
use bytes::Bytes;
use policy::check::limits;
use policy::{DataType, Envelope, Failure, InputTensor, Param, Parameters, RequestedOutput, Shape, SharedMemory, Signature};

/// Reads a body for `model` and `version`, as the path names them. Its first `json_len` bytes are JSON (all of it when `None`), the
/// rest are tensors sent as binary data. `json_len` of zero is another kind of body: see [`read_raw_binary`].
///
/// An unknown datatype, or a shape that cannot be, leaves an input without bytes; `policy::check_request` then names it.
///
/// # Errors
/// [`Failure::Malformed`], [`Failure::Limit`], [`Failure::Parameter`], and [`Failure::TypedContents`] for what is wrong with an input's
/// bytes.
pub fn read_request(mut body: Chain, json_len: Option<usize>, model: &str, version: &str) -> Result<RestRequest, Failure> {
    let (body_len, json_len) = (body.len(), json_len.unwrap_or(body.len()));
    let part = body
        .split_front(json_len)
        .ok_or_else(|| malformed(format!("Inference-Header-Content-Length is {json_len}, but the body has {body_len} bytes")))?;
    limit(|| "bytes of JSON (send tensors as binary data)".to_owned(), json_len, super::limits::JSON_BYTES_MAX)?;
    let part = part.into_bytes();
    let parsed = json::parse(&part)?;
    let mut envelope = Envelope { model: model.to_owned(), version: version.to_owned(), ..Envelope::default() };
    let mut reply = ReplyForm::default();
    envelope.id = parsed.id.map(|id| id.0.into_owned()).unwrap_or_default();
    envelope.parameters = read_parameters(parsed.parameters, "the request")?;
    reply.binary = take_bool(&mut envelope.parameters, BINARY_DATA_OUTPUT)?.unwrap_or(false);

    let outputs = parsed.outputs.map(|list| list.into_items(|| "number of outputs".to_owned())).transpose()?.unwrap_or_default();
    for output in outputs {
        let name = output.0.name.ok_or_else(|| malformed("an output has no name"))?.into_name("an output")?;
        let mut parameters = read_parameters(output.0.parameters, &format!("output `{name}`"))?;
        if let Some(binary) = take_bool(&mut parameters, BINARY_DATA)? {
            reply.outputs.push((name.clone(), binary));
        }
        envelope.outputs.push(RequestedOutput { name, parameters });
    }

    let mut raw = Vec::new();
    let inputs = parsed.inputs.ok_or_else(|| malformed("the request has no inputs"))?;
    for input in inputs.into_items(|| "number of inputs".to_owned())? {
        let (tensor, bytes) = read_input(input.0, &mut body)?;
        envelope.inputs.push(tensor);
        raw.push(bytes);
    }
    if !body.is_empty() {
        return Err(malformed(format!("{} bytes are left behind the binary data of the last input", body.len())));
    }
    Ok(RestRequest { envelope, raw, reply })
}

/// One input and its bytes; `behind` are the bytes behind the JSON part that nobody has taken.
fn read_input(input: json::Input<'_>, behind: &mut Chain) -> Result<(InputTensor, Chain), Failure> {
    let name = input.name.ok_or_else(|| malformed("an input has no name"))?.into_name("an input")?;
    let missing = |member: &str| malformed(format!("input `{name}` has no {member}"));
    let datatype = input.datatype.ok_or_else(|| missing("datatype"))?.0.chars().take(limits::NAME_BYTES_MAX).collect();
    let shape = input.shape.ok_or_else(|| missing("shape"))?.into_items(|| format!("number of dimensions of input `{name}`"))?;
    let mut parameters = read_parameters(input.parameters, &format!("input `{name}`"))?;
    let binary_len = take(&mut parameters, BINARY_DATA_SIZE);
    let shared = SharedMemory::is_named_in(&parameters);
    let tensor = InputTensor { name, datatype, shape: Shape::from_vec(shape), parameters, byte_length: 0 };
    let wrong = |what: String| Failure::TypedContents { input: tensor.name.clone(), what };

    let bytes = match (input.data, binary_len, shared) {
        (Some(data), None, false) => match (DataType::parse(&tensor.datatype), element_count(&tensor.shape)) {
            (Some(datatype), Some(elements)) => data::to_raw(&tensor, datatype, data.get(), elements)?.into(),
            _ => Chain::default(),
        },
        (None, Some(len), false) => {
            let len = match len {
                Param::Int64(len) => usize::try_from(len).ok(),
                Param::Uint64(len) => usize::try_from(len).ok(),
                Param::Bool(_) | Param::Double(_) | Param::String(_) => None,
            }
            .ok_or_else(|| wrong(format!("{BINARY_DATA_SIZE} is not a whole number of bytes")))?;
            let left = behind.len();
            behind.split_front(len).ok_or_else(|| {
                wrong(format!(
                    "{BINARY_DATA_SIZE} is {len}, but {left} bytes are left behind the JSON (see Inference-Header-Content-Length)"
                ))
            })?
        }
        (None, None, true) => Chain::default(),
        (None, None, false) => return Err(wrong(format!("has neither data nor {BINARY_DATA_SIZE}"))),
        (Some(_), Some(_), _) => return Err(wrong(format!("has both data and {BINARY_DATA_SIZE}: use one of them"))),
        (_, _, true) => return Err(wrong(format!("is in shared memory, so it takes neither data nor {BINARY_DATA_SIZE}"))),
    };
    Ok((InputTensor { byte_length: bytes.len() as u64, ..tensor }, bytes))
}

/// The product of `shape`; `None` where `policy::check_request` finds fault with it.
fn element_count(shape: &[i64]) -> Option<u64> {
    let product = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(u64::try_from(*dim).ok()?))?;
    (product <= limits::ELEMENTS_MAX).then_some(product)
}

/// Reads a body that is nothing but the bytes of the model's only input (`Inference-Header-Content-Length: 0`): one row of it where the
/// model batches, with at most one dimension of free size, which the length tells. A BYTES input gets one element, the whole body.
/// Every output comes back as binary data.
///
/// # Errors
/// [`Failure::Malformed`] when the model has another number of inputs; [`Failure::TypedContents`] when the body does not tell the shape.
pub fn read_raw_binary(body: Chain, signature: &Signature, model: &str, version: &str) -> Result<RestRequest, Failure> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(malformed(format!("a raw binary request is for a model with one input, this one has {}", signature.inputs.len())));
    };
    let wrong = |what: String| Failure::TypedContents { input: spec.name.clone(), what };
    let mut shape = Shape::from_slice(&spec.shape);
    if let Some(batch) = shape.first_mut().filter(|_| signature.max_batch_size > 0) {
        *batch = 1;
    }
    let fixed = shape.iter().filter(|dim| **dim != -1);
    let fixed = fixed.copied().collect::<Shape>();
    let fixed = element_count(&fixed).ok_or_else(|| wrong("has a shape that a raw binary request cannot fill".to_owned()))?;
    let mut free = shape.iter_mut().filter(|dim| **dim == -1);
    let free = match (free.next(), free.next()) {
        (first, None) => first,
        _ => return Err(wrong("has more than one dimension of free size, so a raw binary request does not tell its shape".to_owned())),
    };
    let bytes = match spec.datatype.size() {
        Some(size) => {
            if let Some(free) = free {
                let (len, step) = (body.len() as u64, fixed.saturating_mul(size as u64));
                let dim = len.checked_div(step).filter(|dim| dim.checked_mul(step) == Some(len));
                let dim = dim.and_then(|dim| i64::try_from(dim).ok());
                *free = dim.ok_or_else(|| wrong(format!("the body has {len} bytes, expected a multiple of {step}")))?;
            }
            body
        }
        None => {
            if fixed != 1 {
                return Err(wrong(format!("a raw binary request carries one BYTES element, the model takes {fixed} or a multiple")));
            }
            if let Some(free) = free {
                *free = 1;
            }
            prefixed(body)?
        }
    };
    let input = InputTensor {
        name: spec.name.clone(),
        datatype: spec.datatype.as_str().to_owned(),
        shape,
        parameters: Parameters::new(),
        byte_length: bytes.len() as u64,
    };
    let envelope = Envelope { model: model.to_owned(), version: version.to_owned(), inputs: vec![input], ..Envelope::default() };
    Ok(RestRequest { envelope, raw: vec![bytes], reply: ReplyForm::all_binary() })
}

/// `element` as a BYTES tensor of one: its length in front.
fn prefixed(element: Chain) -> Result<Chain, Failure> {
    let len = u32::try_from(element.len()).map_err(|_| Failure::Limit {
        what: "bytes of a BYTES element".to_owned(),
        got: element.len() as u64,
        limit: u64::from(u32::MAX),
    })?;
    let mut chain = Chain::from(Bytes::copy_from_slice(&len.to_le_bytes()));
    element.slices().for_each(|slice| chain.push(slice.clone()));
    Ok(chain)
}

fn malformed(what: impl Into<String>) -> Failure {
    Failure::Malformed { what: what.into() }
}

fn read_parameters(list: Option<json::ParameterList<'_>>, of: &str) -> Result<Parameters, Failure> {
    list.map_or_else(|| Ok(Parameters::new()), |list| list.into_parameters(of))
}

/// Takes the parameter `name` out.
fn take(parameters: &mut Parameters, name: &str) -> Option<Param> {
    let index = parameters.iter().position(|(n, _)| n == name)?;
    Some(parameters.remove(index).1)
}

/// Takes the boolean `name` out.
fn take_bool(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, Failure> {
    match take(parameters, name) {
        None => Ok(None),
        Some(Param::Bool(value)) => Ok(Some(value)),
        Some(_) => Err(Failure::Parameter { name: name.to_owned(), what: "expected true or false".to_owned() }),
    }
}
