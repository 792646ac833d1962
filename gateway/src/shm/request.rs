//! The tensors of one request that lie in regions: inputs are read before it is checked, outputs are written before it is answered.

use super::{Region, Regions};
use policy::{Envelope, Failure, Reply, SharedMemory};
use proto::budget::Permit;
use proto::chain::Chain;
use std::sync::Arc;

impl Regions {
    /// Reads the inputs that lie in regions: their chains in `raw`, empty until now, get the bytes, and their parameters about
    /// shared memory go. The permit, if any, is for these bytes and to be kept as long as they are.
    ///
    /// # Errors
    /// [`Failure::Refused`] when off, [`Failure::UnknownRegion`], [`Failure::Region`] for a range outside a region,
    /// [`Failure::Parameter`], [`Failure::TypedContents`] for an input that has bytes besides, [`Failure::MessageTooLarge`] for
    /// more bytes than a message may have, and [`Failure::Overloaded`] when the budget is used up.
    pub(crate) fn resolve_inputs(&self, tenant: &str, envelope: &mut Envelope, raw: &mut [Chain]) -> Result<Option<Permit>, Failure> {
        if !envelope.inputs.iter().any(|input| SharedMemory::is_named_in(&input.parameters)) {
            return Ok(None);
        }
        let shared = self.shared()?;
        let mut permit = shared.budget.permit();
        let mut total = raw.iter().fold(0u64, |sum, chain| sum.saturating_add(chain.len() as u64));
        for (input, chain) in envelope.inputs.iter_mut().zip(raw) {
            let Some(SharedMemory { region, offset, byte_size }) = SharedMemory::take(&input.name, &mut input.parameters)? else {
                continue;
            };
            if !chain.is_empty() {
                let what = "carries data and names a shared memory region: use one or the other".to_owned();
                return Err(Failure::TypedContents { input: input.name.clone(), what });
            }
            let region = self.find(tenant, &region)?;
            region.check(offset, byte_size)?;
            total = total.saturating_add(byte_size);
            if total > shared.request_bytes_max {
                return Err(Failure::MessageTooLarge { got: total, limit: shared.request_bytes_max });
            }
            permit.grow(byte_size)?;
            *chain = region.read(offset, byte_size)?.into();
            input.byte_length = byte_size;
        }
        Ok(Some(permit))
    }

    /// Takes the parameters about shared memory off the requested outputs, and finds the regions they name: what cannot be
    /// delivered is refused before it is computed.
    ///
    /// # Errors
    /// [`Failure::Refused`] when off, [`Failure::UnknownRegion`], [`Failure::Region`] for a range outside a region, and
    /// [`Failure::Parameter`].
    pub(crate) fn plan_outputs(&self, tenant: &str, envelope: &mut Envelope) -> Result<OutputPlan, Failure> {
        let mut targets = Vec::new();
        for output in &mut envelope.outputs {
            let Some(place) = SharedMemory::take(&output.name, &mut output.parameters)? else { continue };
            let region = self.find(tenant, &place.region)?;
            region.check(place.offset, place.byte_size)?;
            targets.push(Target { output: output.name.clone(), region, place });
        }
        Ok(OutputPlan(targets))
    }
}

/// The outputs of a request that go to regions.
#[derive(Debug)]
pub(crate) struct OutputPlan(Vec<Target>);

#[derive(Debug)]
struct Target {
    output: String,
    region: Arc<Region>,
    place: SharedMemory,
}

impl OutputPlan {
    /// Writes the planned outputs into their regions, empties their chains in `raw`, which has one per output of `reply`, and
    /// says in their parameters where they are and how long.
    ///
    /// # Errors
    /// [`Failure::Region`] when an output is longer than the room it was given (nothing is written then) or the region's
    /// object shrank, and [`Failure::BadReply`] when an output is not in the reply.
    pub(crate) fn deliver(self, reply: &mut Reply, raw: &mut [Chain]) -> Result<(), Failure> {
        let mut found = Vec::with_capacity(self.0.len());
        for target in self.0 {
            let index = reply.outputs.iter().position(|output| output.name == target.output);
            let len = index.and_then(|index| raw.get(index)).map(|chain| chain.len() as u64);
            let (Some(index), Some(len)) = (index, len) else {
                return Err(Failure::BadReply { what: format!("output `{}` is missing", target.output) });
            };
            if len > target.place.byte_size {
                let what = format!("output `{}` has {len} bytes, the request gives it {}", target.output, target.place.byte_size);
                return Err(Failure::Region { region: target.place.region, what });
            }
            found.push((index, Target { place: SharedMemory { byte_size: len, ..target.place }, ..target }));
        }
        for (index, Target { region, place, .. }) in found {
            let (Some(output), Some(chain)) = (reply.outputs.get_mut(index), raw.get_mut(index)) else { continue };
            region.write(place.offset, &std::mem::take(chain))?;
            output.parameters.extend(place.into_parameters());
        }
        Ok(())
    }
}
