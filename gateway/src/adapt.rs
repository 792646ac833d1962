//! What a client may ask for beyond a model's own tensors: inputs that lie in its shared memory, pictures as files, outputs as classes,
//! outputs put into its shared memory. Done before the request is checked and after it is answered, so that nothing behind the gateway
//! knows of it.

use crate::infer::Context;
use crate::picture;
use crate::shard::Core;
use crate::shm::OutputPlan;
use crate::table::ModelVersion;
use policy::classify::Classifications;
use policy::{Envelope, Failure};
use proto::budget::Permit;
use proto::call::{InferReply, Tensors};
use proto::chain::Chain;

/// What is left to do with the reply.
pub(crate) struct Wishes {
    classes: Option<Classifications>,
    places: OutputPlan,
    /// For what was read from shared memory, and what pictures became.
    _held: Option<Permit>,
}

impl Wishes {
    /// Makes `envelope` and `raw` a plain request for `version`, and notes what is wanted of its reply.
    ///
    /// # Errors
    /// What of it cannot be had.
    pub(crate) async fn take(
        core: &Core,
        context: &Context,
        version: &ModelVersion,
        envelope: &mut Envelope,
        raw: &mut Tensors,
    ) -> Result<Self, Failure> {
        let tenant = &context.caller.tenant;
        let classes = Classifications::take(envelope, version.signature())?;
        let mut held = match raw {
            Tensors::Here(raw) => core.regions.resolve_inputs(tenant, envelope, raw)?,
            Tensors::Coming(_) => None, // names no region
        };
        if let Some(spec) = version.record.image.as_ref().filter(|spec| picture::wants(Some(spec), version.signature(), envelope)) {
            let mut pictures = context.in_time(std::mem::take(raw).collect()).await??;
            context.in_time(core.pictures.replace(spec, version.signature(), envelope, &mut pictures)).await??;
            *raw = Tensors::Here(pictures);
            // A picture of some kilobytes becomes a tensor of some hundred.
            held.get_or_insert_with(|| core.budget.permit()).grow(raw.len())?;
        }
        let places = core.regions.plan_outputs(tenant, envelope)?;
        Ok(Self { classes, places, _held: held })
    }

    /// Makes `reply` what was wanted.
    ///
    /// # Errors
    /// What could not be done.
    pub(crate) fn fulfil(self, version: &ModelVersion, reply: &mut InferReply) -> Result<(), Failure> {
        if let Some(classes) = self.classes {
            for (output, chain) in reply.reply.outputs.iter_mut().zip(&mut reply.raw) {
                if classes.wants(&output.name) {
                    let labels = version.record.labels.iter().find(|labels| labels.output == output.name);
                    let bytes = std::mem::take(chain).into_bytes();
                    *chain = classes.apply(output, &bytes, labels)?.map_or_else(|| Chain::from(bytes), Chain::from);
                }
            }
        }
        self.places.deliver(&mut reply.reply, &mut reply.raw)
    }
}
