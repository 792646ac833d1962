//! Requests of different lengths in one batch: inputs are filled up to the longest, outputs are cut to each one's own.

use crate::engine::EngineError;
use bytes::{Buf as _, Bytes};
use policy::{DataType, Envelope, Padding, Shape, padding};
use proto::chain::Chain;
use smallvec::SmallVec;

/// How a batch is filled up.
pub(crate) struct Padded<'p> {
    padding: &'p Padding,
    /// Length of each request.
    lengths: SmallVec<[u64; 8]>,
    longest: u64,
}

impl<'p> Padded<'p> {
    /// Of `requests`; none when all are equally long, which need nothing.
    pub(crate) fn of<'e>(padding: Option<&'p Padding>, requests: impl Iterator<Item = &'e Envelope>) -> Option<Self> {
        let padding = padding?;
        let lengths: SmallVec<[u64; 8]> = requests.map(|envelope| padding.length(envelope)).collect::<Option<_>>()?;
        let longest = lengths.iter().copied().max()?;
        let differ = lengths.iter().any(|length| *length != longest);
        differ.then_some(Self { padding, lengths, longest })
    }

    /// The shape of input `name` for all, of which `shape` is one request's.
    pub(crate) fn shape(&self, name: &str, shape: &mut Shape) {
        if let Some(dim) = self.padding.input(name).and_then(|input| shape.get_mut(input.dim)) {
            *dim = i64::try_from(self.longest).unwrap_or(i64::MAX);
        }
    }

    /// Is input `name` filled up?
    pub(crate) fn fills(&self, name: &str) -> bool {
        self.padding.input(name).is_some()
    }

    /// Bytes of input `name` of a request of `shape`, when it is as long as the longest.
    pub(crate) fn len(&self, name: &str, datatype: DataType, shape: &Shape) -> Option<usize> {
        let mut full = shape.clone();
        self.shape(name, &mut full);
        product(&full)?.checked_mul(datatype.size()?)
    }

    /// Writes a request's bytes of input `name` to `target`, which has room for it as long as the longest.
    pub(crate) fn fill(&self, name: &str, datatype: DataType, shape: &Shape, data: &Chain, target: &mut [u8]) -> Option<()> {
        let input = self.padding.input(name)?;
        let inner = product(shape.get(input.dim.checked_add(1)?..)?)?.checked_mul(datatype.size()?)?;
        let own = usize::try_from(*shape.get(input.dim)?).ok()?.checked_mul(inner)?;
        let full = usize::try_from(self.longest).ok()?.checked_mul(inner)?;
        let element = padding::element(datatype, input.value)?;
        let mut data = data.clone();
        for block in target.chunks_exact_mut(full.max(1)) {
            let (head, tail) = block.split_at_mut_checked(own)?;
            if data.remaining() < own {
                return None;
            }
            data.copy_to_slice(head);
            tail.chunks_exact_mut(element.len()).for_each(|room| room.copy_from_slice(&element));
        }
        Some(())
    }

    /// Cuts output `name` of request `index`, of `shape` in the batch, to its own length. A length that is not the longest's is the
    /// model's own, and then nobody knows what to cut.
    pub(crate) fn cut(&self, name: &str, index: usize, datatype: DataType, shape: &mut Shape, data: Bytes) -> Result<Bytes, EngineError> {
        let Some(dim) = self.padding.output(name) else { return Ok(data) };
        let wrong = || EngineError::NotComputed {
            reason: format!("output `{name}` has shape {:?}, but its dimension {dim} should be the {} of the batch", shape, self.longest),
        };
        let own = self.lengths.get(index).copied().ok_or_else(wrong)?;
        if shape.get(dim).and_then(|length| u64::try_from(*length).ok()) != Some(self.longest) {
            return Err(wrong());
        }
        let sizes = (|| {
            let inner = product(shape.get(dim.checked_add(1)?..)?)?.checked_mul(datatype.size()?)?;
            let blocks = product(shape.get(..dim)?)?;
            Some((blocks, usize::try_from(own).ok()?.checked_mul(inner)?, usize::try_from(self.longest).ok()?.checked_mul(inner)?))
        })();
        let (blocks, kept, full) = sizes.ok_or_else(wrong)?;
        if let Some(length) = shape.get_mut(dim) {
            *length = i64::try_from(own).unwrap_or(i64::MAX);
        }
        if own == self.longest {
            return Ok(data);
        }
        if blocks == 1 {
            return Ok(data.slice(..kept.min(data.len())));
        }
        Ok(data.chunks_exact(full.max(1)).flat_map(|block| block.get(..kept).unwrap_or_default()).copied().collect())
    }
}

/// The product of dimensions, none below zero.
fn product(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?))
}
