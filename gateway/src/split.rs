//! Requests above the largest batch, where the model's `sluice.toml` has `split = true`: sent in parts, answered as one.

use policy::{DataType, Envelope, Failure, InputTensor, Signature};
use proto::call::InferReply;
use proto::chain::Chain;

/// Most parts of a request.
const PARTS_MAX: u64 = 256;

/// The parts of a request whose inputs have more rows than a batch may have.
///
/// # Errors
/// When it would be too many, its inputs do not agree on their rows, or their bytes are not what the shapes say.
pub(crate) fn parts(signature: &Signature, envelope: &Envelope, mut raw: Vec<Chain>) -> Result<Vec<(Envelope, Vec<Chain>)>, Failure> {
    let rows = |input: &InputTensor| input.shape.first().copied().unwrap_or_default();
    let Some(first) = envelope.inputs.first() else { return Ok(Vec::new()) };
    let total = rows(first);
    if let Some(other) = envelope.inputs.iter().find(|input| rows(input) != total) {
        let (input, first) = (other.name.clone(), first.name.clone());
        return Err(Failure::BatchMismatch { input, first, expected: total, got: rows(other) });
    }
    let most = i64::from(signature.max_batch_size.max(1));
    let count = total.unsigned_abs().div_ceil(most.unsigned_abs());
    if count > PARTS_MAX {
        return Err(Failure::Limit { what: "number of parts of a split request".to_owned(), got: count, limit: PARTS_MAX });
    }
    let (mut parts, mut left) = (Vec::new(), total);
    while left > 0 {
        let rows = left.min(most);
        left = left.saturating_sub(rows);
        let mut part = envelope.clone();
        let mut chains = Vec::with_capacity(raw.len());
        for (input, chain) in part.inputs.iter_mut().zip(&mut raw) {
            if let Some(first) = input.shape.first_mut() {
                *first = rows;
            }
            let length = length(input, chain);
            let taken = length.and_then(|length| chain.split_front(length)).ok_or_else(|| Failure::Malformed {
                what: format!("input `{}` ends before the last of the {total} rows that its shape has", input.name),
            })?;
            input.byte_length = taken.len() as u64;
            chains.push(taken);
        }
        parts.push((part, chains));
    }
    if let Some((input, rest)) = envelope.inputs.iter().zip(&raw).find(|(_, rest)| !rest.is_empty()) {
        return Err(Failure::Malformed { what: format!("input `{}` has {} bytes behind its last row", input.name, rest.len()) });
    }
    Ok(parts)
}

/// Bytes that a tensor of the input's shape takes at the front of `chain`.
fn length(input: &InputTensor, chain: &Chain) -> Option<usize> {
    use bytes::Buf as _;
    let elements = input.shape.iter().try_fold(1usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?))?;
    if let Some(size) = DataType::parse(&input.datatype)?.size() {
        return elements.checked_mul(size);
    }
    let mut rest = chain.clone();
    for _ in 0..elements {
        let len = (rest.remaining() >= 4).then(|| rest.get_u32_le())?;
        let len = usize::try_from(len).ok().filter(|len| *len <= rest.remaining())?;
        rest.advance(len);
    }
    chain.len().checked_sub(rest.len())
}

/// One reply of those to the parts, which are in order.
///
/// # Errors
/// [`Failure::BadReply`] when an output does not have a row for each of its part's: nobody knows how to put those together.
pub(crate) fn joined(replies: Vec<(i64, InferReply)>) -> Result<InferReply, Failure> {
    let mut replies = replies.into_iter();
    let bad = |what: String| Failure::BadReply { what };
    let (rows, mut whole) = replies.next().ok_or_else(|| bad("no part of a split request was answered".to_owned()))?;
    let check = |rows: i64, reply: &InferReply| match reply.reply.outputs.iter().find(|output| output.shape.first() != Some(&rows)) {
        Some(odd) => Err(bad(format!("output `{}` has shape {:?} for {rows} rows: this model cannot be split", odd.name, odd.shape))),
        None => Ok(()),
    };
    check(rows, &whole)?;
    for (rows, reply) in replies {
        check(rows, &reply)?;
        for (output, part) in whole.reply.outputs.iter_mut().zip(&reply.reply.outputs) {
            if output.shape.get(1..) != part.shape.get(1..) || output.name != part.name {
                return Err(bad(format!("output `{}` has another shape in another part of a split request", output.name)));
            }
            if let Some(all) = output.shape.first_mut() {
                *all = all.saturating_add(rows);
            }
        }
        for (all, part) in whole.raw.iter_mut().zip(reply.raw) {
            part.slices().for_each(|slice| all.push(slice.clone()));
        }
        whole.load = reply.load;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{OutputTensor, Reply, Shape, TensorSpec};
    use proto::call::LoadReport;

    fn signature() -> Signature {
        let spec =
            |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1, 2], optional: false, graph_shape: None };
        Signature { max_batch_size: 3, inputs: vec![spec("x", DataType::Int8), spec("s", DataType::Bytes)], outputs: vec![] }
    }

    /// Inputs of `rows` rows of two: bytes, and strings of growing length.
    fn request(rows: usize) -> (Envelope, Vec<Chain>) {
        let numbers: Vec<u8> = (0..rows * 2).map(|i| i as u8).collect();
        let strings: Vec<u8> = (0..rows * 2).flat_map(|i| [&(i as u32).to_le_bytes()[..], &vec![i as u8; i]].concat()).collect();
        let input = |name: &str, datatype: &str, data: &[u8]| InputTensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: Shape::from_slice(&[rows as i64, 2]),
            byte_length: data.len() as u64,
            ..Default::default()
        };
        let inputs = vec![input("x", "INT8", &numbers), input("s", "BYTES", &strings)];
        (Envelope { inputs, ..Default::default() }, vec![Chain::from(numbers), Chain::from(strings)])
    }

    /// What a model that gives back its inputs answers to a part.
    fn echo((envelope, raw): (Envelope, Vec<Chain>)) -> (i64, InferReply) {
        let output = |input: &InputTensor| OutputTensor { name: input.name.clone(), shape: input.shape.clone(), ..Default::default() };
        let rows = envelope.inputs[0].shape[0];
        let reply = Reply { outputs: envelope.inputs.iter().map(output).collect(), ..Default::default() };
        (rows, InferReply { reply, raw, load: LoadReport::default() })
    }

    #[test]
    fn parts_joined_again_are_the_whole() {
        for rows in 1..40 {
            let (envelope, raw) = request(rows);
            let whole: Vec<_> = raw.iter().map(|c| c.clone().into_bytes()).collect();
            let parts = parts(&signature(), &envelope, raw).unwrap();
            assert!(parts.iter().all(|(part, _)| policy::check::check_request(&signature(), part).is_ok()));
            let joined = joined(parts.into_iter().map(echo).collect()).unwrap();
            assert_eq!(joined.raw.into_iter().map(Chain::into_bytes).collect::<Vec<_>>(), whole);
            assert!(joined.reply.outputs.iter().all(|o| o.shape.as_slice() == [rows as i64, 2]));
        }
    }

    #[test]
    fn what_cannot_be_split_is_named() {
        let wrong = |change: fn(&mut Envelope, &mut Vec<Chain>)| {
            let (mut envelope, mut raw) = request(7);
            change(&mut envelope, &mut raw);
            parts(&signature(), &envelope, raw).map(drop).unwrap_err().to_string()
        };
        assert!(wrong(|e, _| e.inputs[1].shape[0] = 8).contains("`s`"));
        assert!(wrong(|e, _| e.inputs.iter_mut().for_each(|i| i.shape[0] = 8)).contains("input `x` ends before the last of the 8 rows"));
        assert!(wrong(|e, _| e.inputs.iter_mut().for_each(|i| i.shape[0] = 6)).contains("input `x` has 2 bytes behind its last row"));
        assert!(wrong(|e, _| e.inputs.iter_mut().for_each(|i| i.shape[0] = 3_000)).contains("256"));
        let (envelope, raw) = request(4);
        let mut replies: Vec<_> = parts(&signature(), &envelope, raw).unwrap().into_iter().map(echo).collect();
        replies[1].1.reply.outputs[0].shape[0] = 7;
        assert!(joined(replies).unwrap_err().to_string().contains("cannot be split"));
    }
}
