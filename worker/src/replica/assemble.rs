//! Puts the inputs of a batch side by side: a lone request's bytes go to the engine as they are, several are copied once, as are all that
//! go to an engine with an arena of its own.

use super::padded::Padded;
use crate::arena::{Arena, ArenaError, Assembly, Region};
use crate::engine::{EngineError, TensorView};
use policy::{DataType, Dims, Envelope, Shape, Signature, TensorSpec};
use proto::chain::Chain;

/// The reusable buffer of one instance.
pub(crate) struct Assembler {
    arena: Option<Arena>,
    /// The arena is the engine's: everything must be in it.
    always: bool,
}

/// A batch's inputs, ready to run.
pub(crate) struct Inputs<'a> {
    plan: Vec<Planned<'a>>,
    /// Where the copied ones lie; none when nothing was copied.
    copied: Option<Assembly<'a>>,
}

struct Planned<'a> {
    name: &'a str,
    datatype: DataType,
    shape: Shape,
    source: Source<'a>,
}

impl Inputs<'_> {
    /// In the signature's order, in the shapes the graph sees.
    pub(crate) fn views(&self) -> Vec<TensorView<'_>> {
        let mut views = Vec::with_capacity(self.plan.len());
        for Planned { name, datatype, shape, source } in &self.plan {
            let (data, in_arena) = match source {
                Source::Slice(slice) => (*slice, None),
                Source::Arena(region) => (self.copied.as_ref().map_or(&[][..], |copied| copied.bytes(*region)), Some(region.offset)),
            };
            views.push(TensorView { name, datatype: *datatype, shape, data, in_arena });
        }
        views
    }
}

/// Where an input's bytes come from.
enum Source<'a> {
    /// The request's own slice.
    Slice(&'a [u8]),
    /// A copy in the arena.
    Arena(Region),
}

/// Memory an instance keeps between batches; what a larger one took goes back to the system.
const KEEP_BYTES: usize = 16 << 20;

impl Assembler {
    /// Assembles where the engine wants it, `None` when that is anywhere.
    pub(crate) fn new(arena: Option<Arena>) -> Self {
        Self { always: arena.is_some(), arena }
    }

    /// The inputs of `requests`, which are of one group, as one batch.
    ///
    /// # Errors
    /// When a request lacks an input, an input cannot be reshaped, or the buffer cannot grow.
    pub(crate) fn assemble<'a>(
        &'a mut self,
        signature: &'a Signature,
        requests: &[(&'a Envelope, &'a [Chain])],
        padded: Option<&Padded<'_>>,
    ) -> Result<Inputs<'a>, EngineError> {
        let mut plan: Vec<Planned<'a>> = Vec::with_capacity(signature.inputs.len());
        let mut copied: Option<Assembly<'a>> = None;
        let (always, mut arena) = (self.always, Some(&mut self.arena));
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
            if let Some(padded) = padded {
                padded.shape(&spec.name, &mut shape);
            }
            if let Some(graph) = &spec.graph_shape {
                shape = graph_shape(spec, graph, &shape)?;
            }
            let mut slices = first.slices();
            let source = match (parts.len(), slices.next(), slices.next()) {
                (1, None, _) if !always => Source::Slice(&[]),
                (1, Some(only), None) if !always => Source::Slice(only),
                _ => {
                    if let (None, Some(arena)) = (&copied, arena.take()) {
                        copied = Some(begin(arena).map_err(no_room)?);
                    }
                    let Some(copied) = &mut copied else { continue };
                    let chunks = parts.iter().flat_map(|(_, chain)| chain.slices().map(|slice| slice.as_ref()));
                    Source::Arena(match padded.filter(|padded| padded.fills(&spec.name)) {
                        Some(padded) => filled(copied, padded, spec, &parts)?,
                        None => copied.gather(chunks).map_err(no_room)?,
                    })
                }
            };
            plan.push(Planned { name: &spec.name, datatype: spec.datatype, shape, source });
        }
        Ok(Inputs { plan, copied })
    }
}

/// The bytes of an input of several requests, each filled up to the longest.
fn filled(copied: &mut Assembly<'_>, padded: &Padded<'_>, spec: &TensorSpec, parts: &[(&Shape, &Chain)]) -> Result<Region, EngineError> {
    let wrong = || EngineError::BadInput { what: format!("input `{}` cannot be filled up", spec.name) };
    let lens = parts.iter().map(|(shape, _)| padded.len(&spec.name, spec.datatype, shape));
    let lens = lens.collect::<Option<Vec<usize>>>().ok_or_else(wrong)?;
    let region = copied.reserve(lens.iter().fold(0, |sum: usize, len| sum.saturating_add(*len))).map_err(no_room)?;
    let mut rest = copied.bytes_mut(region);
    for ((shape, chain), len) in parts.iter().zip(lens) {
        let room = rest.split_off_mut(..len).ok_or_else(wrong)?;
        padded.fill(&spec.name, spec.datatype, shape, chain, room).ok_or_else(wrong)?;
    }
    Ok(region)
}

/// Starts a batch in the instance's arena, which is made at the first.
fn begin(arena: &mut Option<Arena>) -> Result<Assembly<'_>, ArenaError> {
    if arena.is_none() {
        *arena = Some(Arena::new(0)?);
    }
    let Some(arena) = arena else { return Err(ArenaError::TooLarge) };
    if arena.capacity() > KEEP_BYTES {
        arena.trim(KEEP_BYTES)?;
    }
    Ok(arena.assemble())
}

fn no_room(error: ArenaError) -> EngineError {
    EngineError::OutOfMemory { reason: error.to_string() }
}

/// The shape the graph sees of an input that the client gave in `shape`.
fn graph_shape(spec: &TensorSpec, graph: &[i64], shape: &[i64]) -> Result<Shape, EngineError> {
    policy::reshape(&spec.shape, graph, shape).ok_or_else(|| {
        let (name, graph, client) = (&spec.name, Dims::from(graph), Dims::from(spec.shape.as_slice()));
        EngineError::BadInput {
            what: format!("input `{name}` has shape {}, which is not {client} and cannot become {graph}", Dims::from(shape)),
        }
    })
}

/// Shape and bytes of the input `name`.
fn part<'a>(envelope: &'a Envelope, raw: &'a [Chain], name: &str) -> Option<(&'a Shape, &'a Chain)> {
    envelope.inputs.iter().zip(raw).find(|(input, _)| input.name == name).map(|(input, chain)| (&input.shape, chain))
}
