//! Puts the inputs of a batch side by side: a lone request's bytes go to the engine as they are, several are copied once.

use crate::arena::Arena;
use crate::engine::{EngineError, TensorView};
use policy::{DataType, Envelope, Shape, Signature};
use proto::chain::Chain;
use std::ops::Range;

/// The reusable buffer of one instance.
#[derive(Default)]
pub(crate) struct Assembler {
    arena: Option<Arena>,
}

/// A batch's inputs, ready to run.
pub(crate) struct Inputs<'a> {
    plan: Vec<Planned<'a>>,
    buffer: &'a [u8],
}

struct Planned<'a> {
    name: &'a str,
    datatype: DataType,
    shape: Shape,
    source: Source<'a>,
}

impl Inputs<'_> {
    /// In the signature's order.
    pub(crate) fn views(&self) -> Vec<TensorView<'_>> {
        let mut views = Vec::with_capacity(self.plan.len());
        for Planned { name, datatype, shape, source } in &self.plan {
            let data = match source {
                Source::Slice(slice) => slice,
                Source::Arena(range) => self.buffer.get(range.clone()).unwrap_or_default(),
            };
            views.push(TensorView { name, datatype: *datatype, shape, data });
        }
        views
    }
}

/// Where an input's bytes come from.
enum Source<'a> {
    /// The request's own slice.
    Slice(&'a [u8]),
    /// A range of the arena.
    Arena(Range<usize>),
}

/// Start of each tensor in the arena: what vector instructions like.
const ALIGN: usize = 64;

impl Assembler {
    /// The inputs of `requests`, which are of one group, as one batch.
    ///
    /// # Errors
    /// When a request lacks an input or the buffer cannot grow.
    pub(crate) fn assemble<'a>(
        &'a mut self,
        signature: &'a Signature,
        requests: &[(&'a Envelope, &'a [Chain])],
    ) -> Result<Inputs<'a>, EngineError> {
        let mut plan: Vec<Planned<'a>> = Vec::with_capacity(signature.inputs.len());
        let mut copies: Vec<(Range<usize>, Vec<&'a Chain>)> = Vec::new();
        let mut end = 0usize;
        for spec in &signature.inputs {
            let parts: Vec<(&'a Shape, &'a Chain)> =
                requests.iter().filter_map(|(envelope, raw)| part(envelope, raw, &spec.name)).collect();
            if parts.len() != requests.len() {
                if spec.optional && parts.is_empty() {
                    continue;
                }
                return Err(EngineError::BadInput { what: format!("input `{}` is missing", spec.name) });
            }
            let Some((first_shape, first)) = parts.first() else { continue };
            let mut shape = Shape::clone(first_shape);
            if let (true, Some(rows)) = (parts.len() > 1, shape.first_mut()) {
                *rows = parts.iter().filter_map(|(s, _)| s.first()).fold(0, |sum: i64, n| sum.saturating_add(*n));
            }
            let mut slices = first.slices();
            let source = match (parts.len(), slices.next(), slices.next()) {
                (1, None, _) => Source::Slice(&[]),
                (1, Some(only), None) => Source::Slice(only),
                _ => {
                    let len = parts.iter().fold(0usize, |n, (_, c)| n.saturating_add(c.len()));
                    let start = end.next_multiple_of(ALIGN);
                    end = start.saturating_add(len);
                    copies.push((start..end, parts.iter().map(|(_, c)| *c).collect()));
                    Source::Arena(start..end)
                }
            };
            plan.push(Planned { name: &spec.name, datatype: spec.datatype, shape, source });
        }
        let buffer = self.fill(end, &copies)?;
        Ok(Inputs { plan, buffer })
    }

    fn fill(&mut self, len: usize, copies: &[(Range<usize>, Vec<&Chain>)]) -> Result<&[u8], EngineError> {
        if len == 0 {
            return Ok(&[]);
        }
        let no_room = |reason: String| EngineError::OutOfMemory { reason };
        if self.arena.is_none() {
            self.arena = Some(Arena::new(len).map_err(|e| no_room(e.to_string()))?);
        }
        let Some(arena) = &mut self.arena else { return Ok(&[]) };
        let buffer = arena.slice_mut(len).map_err(|e| no_room(e.to_string()))?;
        for (range, chains) in copies {
            let mut rest = buffer.get_mut(range.clone()).unwrap_or_default();
            for chain in chains {
                let (now, later) = rest.split_at_mut_checked(chain.len()).unwrap_or_default();
                chain.copy_into(now);
                rest = later;
            }
        }
        Ok(buffer)
    }
}

/// Shape and bytes of the input `name`.
fn part<'a>(envelope: &'a Envelope, raw: &'a [Chain], name: &str) -> Option<(&'a Shape, &'a Chain)> {
    envelope.inputs.iter().zip(raw).find(|(input, _)| input.name == name).map(|(input, chain)| (&input.shape, chain))
}
