//! The `classification` parameter of an output: its scores become the texts of the best few classes.

use crate::check::limits;
use crate::shared_memory::{SharedMemory, remove, whole_number, wrong};
use crate::{DataType, Dims, Envelope, Failure, Labels, OutputTensor, Shape, Signature};
use half::{bf16, f16};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt::Write as _;

/// Output parameter: how many classes are wanted.
pub const CLASSIFICATION: &str = "classification";

/// Most bytes of texts for one output: about what a message may carry.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// The outputs that a request wants as classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classifications {
    /// Name of the output and how many classes are wanted.
    counts: Vec<(String, usize)>,
    /// The first dimension of every output is a batch.
    batched: bool,
}

impl Classifications {
    /// Takes `classification` off the requested outputs; `None` when none has it. To be called before the parameters about
    /// shared memory are taken.
    ///
    /// # Errors
    /// [`Failure::Parameter`] for a count below 1 or of another type, for an output of BYTES, and for an output that is
    /// also to go to shared memory.
    pub fn take(envelope: &mut Envelope, signature: &Signature) -> Result<Option<Self>, Failure> {
        let mut counts = Vec::new();
        for output in &mut envelope.outputs {
            let Some(value) = remove(&mut output.parameters, CLASSIFICATION) else { continue };
            let count = whole_number(&value).filter(|count| *count > 0);
            let count = count.ok_or_else(|| wrong(CLASSIFICATION, &output.name, "a number of classes above 0", Some(&value)))?;
            let refused = |what: &str| Failure::Parameter {
                name: CLASSIFICATION.to_owned(),
                what: format!("output `{}` {what}", output.name.chars().take(limits::NAME_BYTES_MAX).collect::<String>()),
            };
            if SharedMemory::is_named_in(&output.parameters) {
                return Err(refused("cannot be both classified and put into shared memory"));
            }
            if signature.output(&output.name).is_some_and(|spec| spec.datatype == DataType::Bytes) {
                return Err(refused("is of datatype BYTES, which has no scores"));
            }
            counts.push((output.name.clone(), usize::try_from(count).unwrap_or(usize::MAX)));
        }
        Ok(if counts.is_empty() { None } else { Some(Self { counts, batched: signature.max_batch_size > 0 }) })
    }

    /// Is `output` wanted as classes? Only then need its bytes be joined for [`Classifications::apply`].
    pub fn wants(&self, output: &str) -> bool {
        self.count(output).is_some()
    }

    /// Makes `output`, whose bytes are `bytes`, a BYTES tensor of its best classes, and gives the bytes of that. An output
    /// that is not wanted as classes stays as it is, and there are no new bytes.
    ///
    /// # Errors
    /// Those of [`Scores::best`].
    pub fn apply(&self, output: &mut OutputTensor, bytes: &[u8], labels: Option<&Labels>) -> Result<Option<Vec<u8>>, Failure> {
        let Some(count) = self.count(&output.name) else { return Ok(None) };
        let datatype = DataType::parse(&output.datatype)
            .ok_or_else(|| Failure::BadReply { what: format!("output `{}` has an unknown datatype", output.name) })?;
        let labels = labels.filter(|l| l.output == output.name).map_or(&[][..], |l| &l.names);
        let scores = Scores { output: &output.name, datatype, shape: &output.shape, batched: self.batched, bytes };
        let (shape, texts) = scores.best(count, labels)?;
        output.shape = shape;
        output.datatype = DataType::Bytes.as_str().to_owned();
        Ok(Some(texts))
    }

    fn count(&self, output: &str) -> Option<usize> {
        self.counts.iter().find(|(name, _)| name == output).map(|(_, count)| *count)
    }
}

/// Which element of a row of scores is the greatest, the first of equals; none where there is no number at all.
pub(crate) fn greatest(datatype: DataType, row: &[u8]) -> Option<usize> {
    let scores =
        row.chunks_exact(datatype.size()?).enumerate().filter_map(|(index, e)| Some(Ranked { score: Score::read(datatype, e)?, index }));
    scores.min().filter(|best| !matches!(best.score, Score::Real(v) if v.is_nan())).map(|best| best.index)
}

/// An output whose elements are scores, one per class.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Name of the output, for messages.
    pub output: &'a str,
    /// Type of its elements.
    pub datatype: DataType,
    /// Its dimensions.
    pub shape: &'a [i64],
    /// The first dimension counts rows, each with scores of its own; else the whole tensor is one row.
    pub batched: bool,
    /// Little-endian, row-major.
    pub bytes: &'a [u8],
}

impl Scores<'_> {
    /// The `count` best classes of each row, over its flattened dimensions, best first; of equal scores the lower index, NaN
    /// last; all classes when there are fewer. Shape `[rows, count]` or `[count]`, and the raw form of a BYTES tensor whose
    /// elements are `<score>:<index>`, with `:<label>` behind where there is a label that is not empty.
    ///
    /// # Errors
    /// [`Failure::Parameter`] for BYTES, [`Failure::Limit`] when the texts would be too many or too long,
    /// [`Failure::BadReply`] when the bytes do not match the shape.
    pub fn best(&self, count: usize, labels: &[String]) -> Result<(Shape, Vec<u8>), Failure> {
        let Some(width) = self.datatype.size() else {
            let what = format!("output `{}` is of datatype BYTES, which has no scores", self.output);
            return Err(Failure::Parameter { name: CLASSIFICATION.to_owned(), what });
        };
        let (rows, classes) = self.rows_and_classes(width)?;
        let count = count.min(classes);
        self.limit("classes", rows.saturating_mul(count), limits::BYTES_ELEMENTS_MAX)?;
        let (mut texts, mut text, mut best) = (Vec::new(), String::new(), Vec::new());
        if classes > 0 {
            for row in self.bytes.chunks_exact(classes.saturating_mul(width)) {
                best = self.best_of(row, width, count, best);
                for ranked in &best {
                    ranked.write(&mut text, labels);
                    texts.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                    texts.extend_from_slice(text.as_bytes());
                    self.limit("bytes of class names and scores", texts.len(), TEXT_BYTES_MAX as u64)?;
                }
            }
        }
        let wide = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let shape = if self.batched { Shape::from_slice(&[wide(rows), wide(count)]) } else { Shape::from_slice(&[wide(count)]) };
        Ok((shape, texts))
    }

    fn rows_and_classes(&self, width: usize) -> Result<(usize, usize), Failure> {
        let product = |dims: &[i64]| dims.iter().try_fold(1usize, |n, d| usize::try_from(*d).ok().and_then(|d| n.checked_mul(d)));
        let (rows, rest) = match self.shape.split_first() {
            Some((rows, rest)) if self.batched => (usize::try_from(*rows).ok(), rest),
            _ => (Some(1), self.shape),
        };
        let sizes = rows.zip(product(rest));
        let fits =
            |(rows, classes): &(usize, usize)| rows.checked_mul(*classes).and_then(|n| n.checked_mul(width)) == Some(self.bytes.len());
        sizes.filter(fits).ok_or_else(|| {
            let (output, bytes, shape) = (self.output, self.bytes.len(), Dims::from(self.shape));
            Failure::BadReply { what: format!("output `{output}` has {bytes} bytes for shape {shape} of {}", self.datatype) }
        })
    }

    /// One pass that keeps the best so far: a row of any length costs memory for `count` scores only, and rows share `room`.
    fn best_of(&self, row: &[u8], width: usize, count: usize, mut room: Vec<Ranked>) -> Vec<Ranked> {
        room.clear();
        let mut best = BinaryHeap::from(room);
        for (index, element) in row.chunks_exact(width).enumerate() {
            let Some(score) = Score::read(self.datatype, element) else { continue };
            let ranked = Ranked { score, index };
            if best.len() < count {
                best.push(ranked);
            } else if let Some(mut worst) = best.peek_mut()
                && ranked < *worst
            {
                *worst = ranked;
            }
        }
        best.into_sorted_vec()
    }

    fn limit(&self, what: &str, got: usize, limit: u64) -> Result<(), Failure> {
        if got as u64 <= limit {
            return Ok(());
        }
        Err(Failure::Limit { what: format!("{what} of output `{}`", self.output), got: got as u64, limit })
    }
}

/// One score; all of a tensor are of one kind.
#[derive(Debug, Clone, Copy)]
enum Score {
    /// FP16, BF16, FP32 and FP64, all exact here.
    Real(f64),
    /// BOOL and the integers, all exact here.
    Whole(i128),
}

impl Score {
    fn read(datatype: DataType, bytes: &[u8]) -> Option<Self> {
        Some(match datatype {
            DataType::Bool | DataType::Uint8 => Self::Whole(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Uint16 => Self::Whole(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Uint32 => Self::Whole(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Uint64 => Self::Whole(u64::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Int8 => Self::Whole(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Int16 => Self::Whole(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Int32 => Self::Whole(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Int64 => Self::Whole(i64::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Fp16 => Self::Real(f16::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Bf16 => Self::Real(bf16::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Fp32 => Self::Real(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            DataType::Fp64 => Self::Real(f64::from_le_bytes(bytes.try_into().ok()?)),
            DataType::Bytes => return None,
        })
    }

    /// Higher first, NaN last.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Real(a), Self::Real(b)) => b.partial_cmp(a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
            (Self::Whole(a), Self::Whole(b)) => b.cmp(a),
            (Self::Real(_), Self::Whole(_)) | (Self::Whole(_), Self::Real(_)) => Ordering::Equal,
        }
    }
}

impl std::fmt::Display for Score {
    /// As C++'s `std::to_string` writes it, which Triton uses.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Real(v) if v.is_nan() => f.write_str(if v.is_sign_negative() { "-nan" } else { "nan" }),
            Self::Real(v) => write!(f, "{v:.6}"),
            Self::Whole(v) => write!(f, "{v}"),
        }
    }
}

/// A score and its class; the better is the lesser, so that sorted means best first.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    score: Score,
    index: usize,
}

impl Ranked {
    /// Replaces `text` by `<score>:<index>[:<label>]`.
    fn write(&self, text: &mut String, labels: &[String]) {
        text.clear();
        let _ = write!(text, "{}:{}", self.score, self.index); // a String takes everything
        if let Some(label) = labels.get(self.index).filter(|label| !label.is_empty()) {
            text.push(':');
            text.push_str(label);
        }
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.compare(&other.score).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

#[cfg(test)]
mod tests;
