//! Which requests of different lengths may share a batch, filled up to the longest: only where a model's owner has said so, since a
//! model may look at what it is filled up with.

use crate::{DataType, Envelope, Signature, TensorSpec};
use serde::{Deserialize, Serialize};

/// Most elements that filling up may add, over those there are: more would cost more than a run of its own.
const PAD_MAX: f64 = 0.25;

/// The `[padding]` part of a model's `sluice.toml`: one length that several tensors share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Padding {
    /// Inputs that have it, and what they are filled up with.
    pub inputs: Vec<PadInput>,
    /// Outputs that have it, to be cut to it again.
    #[serde(default)]
    pub outputs: Vec<PadOutput>,
}

/// An input that may be filled up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadInput {
    /// Its name.
    pub name: String,
    /// The dimension that is the length; 0 would be the rows.
    pub dim: usize,
    /// What the new elements are.
    pub value: f64,
}

/// An output that is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadOutput {
    /// Its name.
    pub name: String,
    /// The dimension that is the length.
    pub dim: usize,
}

impl Padding {
    /// Does it fit what the model takes and gives?
    ///
    /// # Errors
    /// What does not, with the tensor's name.
    pub fn check(&self, signature: &Signature) -> Result<(), String> {
        if signature.max_batch_size == 0 {
            return Err("the model has no batches (max_batch_size is 0) in which requests could be filled up".to_owned());
        }
        if self.inputs.is_empty() {
            return Err("names no input".to_owned());
        }
        for PadInput { name, dim, value } in &self.inputs {
            let spec = check_length("input", signature.input(name), name, *dim)?;
            if element(spec.datatype, *value).is_none() {
                return Err(format!("input `{name}` of {} cannot be filled up with {value}", spec.datatype));
            }
        }
        self.outputs.iter().try_for_each(|PadOutput { name, dim }| check_length("output", signature.output(name), name, *dim).map(drop))
    }

    /// The dimension of input `name` that is the length.
    pub fn input(&self, name: &str) -> Option<&PadInput> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// The dimension of output `name` that is the length.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().find(|output| output.name == name).map(|output| output.dim)
    }

    /// The one length of a request; `None` when its inputs do not agree on one, or lack it.
    pub fn length(&self, envelope: &Envelope) -> Option<u64> {
        let mut length = None;
        for padded in &self.inputs {
            let input = envelope.inputs.iter().find(|input| input.name == padded.name)?;
            let dim = input.shape.get(padded.dim).and_then(|dim| u64::try_from(*dim).ok()).filter(|dim| *dim > 0)?;
            if *length.get_or_insert(dim) != dim {
                return None;
            }
        }
        length
    }

    /// The longest that requests as long as `length` are filled up to. Those with one bucket may share a batch.
    pub fn bucket(length: u64) -> u64 {
        let mut longest = 1u64;
        while longest < length {
            let next = (longest as f64 * (1.0 + PAD_MAX)).floor() as u64;
            longest = next.max(longest.saturating_add(1));
        }
        longest
    }
}

fn check_length<'s>(kind: &str, spec: Option<&'s TensorSpec>, name: &str, dim: usize) -> Result<&'s TensorSpec, String> {
    let spec = spec.ok_or_else(|| format!("there is no {kind} `{name}`"))?;
    if spec.datatype.size().is_none() || spec.graph_shape.is_some() {
        return Err(format!("{kind} `{name}` cannot be filled up: it is of type BYTES or reshaped"));
    }
    match spec.shape.get(dim) {
        Some(-1) if dim > 0 => Ok(spec),
        Some(_) if dim > 0 => Err(format!("dimension {dim} of {kind} `{name}` is fixed: {}", crate::Dims::from(spec.shape.as_slice()))),
        _ => Err(format!("{kind} `{name}` has no dimension {dim} behind its rows: {}", crate::Dims::from(spec.shape.as_slice()))),
    }
}

/// `value` as an element, little-endian; `None` when the type cannot hold it.
pub fn element(datatype: DataType, value: f64) -> Option<Vec<u8>> {
    macro_rules! whole {
        ($int:ty) => {{
            let fits = value.fract() == 0.0 && value >= <$int>::MIN as f64 && value <= <$int>::MAX as f64;
            fits.then(|| (value as $int).to_le_bytes().to_vec())
        }};
    }
    match datatype {
        DataType::Bool => (value == 0.0 || value == 1.0).then(|| vec![value as u8]),
        DataType::Uint8 => whole!(u8),
        DataType::Uint16 => whole!(u16),
        DataType::Uint32 => whole!(u32),
        DataType::Uint64 => whole!(u64),
        DataType::Int8 => whole!(i8),
        DataType::Int16 => whole!(i16),
        DataType::Int32 => whole!(i32),
        DataType::Int64 => whole!(i64),
        DataType::Fp32 => Some((value as f32).to_le_bytes().to_vec()),
        DataType::Fp64 => Some(value.to_le_bytes().to_vec()),
        // Zero has no bits set; other values of the short types would need their formats here.
        DataType::Fp16 | DataType::Bf16 => (value == 0.0).then(|| vec![0; 2]),
        DataType::Bytes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InputTensor, Shape};
    use proptest::prelude::*;

    fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false, graph_shape: None }
    }

    fn padding(change: impl FnOnce(&mut Padding)) -> Padding {
        let input = |name: &str| PadInput { name: name.into(), dim: 1, value: 0.0 };
        let outputs = vec![PadOutput { name: "y".into(), dim: 1 }];
        let mut padding = Padding { inputs: vec![input("ids"), input("mask")], outputs };
        change(&mut padding);
        padding
    }

    fn signature() -> Signature {
        let inputs =
            vec![spec("ids", DataType::Int64, &[-1, -1]), spec("mask", DataType::Int64, &[-1, -1]), spec("s", DataType::Bytes, &[-1, -1])];
        Signature { max_batch_size: 8, inputs, outputs: vec![spec("y", DataType::Fp32, &[-1, -1, 384])] }
    }

    #[test]
    fn what_does_not_fit_the_model_is_named() {
        let check = |change: fn(&mut Padding)| padding(change).check(&signature()).err().unwrap_or_default();
        assert_eq!(check(|_| {}), "");
        assert_eq!(check(|p| p.inputs.clear()), "names no input");
        assert_eq!(check(|p| p.inputs[0].name = "z".into()), "there is no input `z`");
        assert_eq!(check(|p| p.inputs[0].dim = 0), "input `ids` has no dimension 0 behind its rows: [-1,-1]");
        assert_eq!(check(|p| p.inputs[0].dim = 2), "input `ids` has no dimension 2 behind its rows: [-1,-1]");
        assert_eq!(check(|p| p.inputs[0].value = 0.5), "input `ids` of INT64 cannot be filled up with 0.5");
        assert_eq!(check(|p| p.inputs[0].name = "s".into()), "input `s` cannot be filled up: it is of type BYTES or reshaped");
        assert_eq!(check(|p| p.outputs[0].dim = 2), "dimension 2 of output `y` is fixed: [-1,-1,384]");
        let alone = Signature { max_batch_size: 0, ..signature() };
        assert!(padding(|_| {}).check(&alone).unwrap_err().contains("no batches"));
    }

    #[test]
    fn inputs_that_disagree_have_no_length() {
        let envelope = |ids: &[i64], mask: &[i64]| {
            let input =
                |name: &str, shape: &[i64]| InputTensor { name: name.into(), shape: Shape::from_slice(shape), ..Default::default() };
            Envelope { inputs: vec![input("ids", ids), input("mask", mask)], ..Default::default() }
        };
        let padding = padding(|_| {});
        assert_eq!(padding.length(&envelope(&[1, 7], &[1, 7])), Some(7));
        assert_eq!(padding.length(&envelope(&[1, 7], &[1, 8])), None);
        assert_eq!(padding.length(&envelope(&[1, 0], &[1, 0])), None);
        assert_eq!(padding.length(&Envelope::default()), None);
    }

    proptest! {
        #[test]
        fn a_bucket_adds_a_quarter_at_most(length in 1u64..1_000_000, other in 1u64..1_000_000) {
            let bucket = Padding::bucket(length);
            prop_assert!(bucket >= length && bucket - length <= (length as f64 * PAD_MAX) as u64);
            prop_assert_eq!(Padding::bucket(bucket), bucket);
            prop_assert!(length > other || bucket <= Padding::bucket(other));
        }
    }
}
