//! From a placement to a warm replica: artifact, memory, engines, warm-up, calibration.

use crate::config::{QUEUE_BYTES_MAX, QUEUE_LEN_MAX, WorkerConfig};
use crate::cores::CorePlan;
use crate::engine::{EngineSignature, Fallback, LoadSpec, ProviderReport};
use crate::error::WorkerError;
use crate::gate::Gate;
use crate::memory::Reservation;
use crate::phase::Teller;
use crate::replica::{INLINE_US_MAX, Parts, Replica};
use crate::runner::Loader;
use crate::verdict::How;
use policy::batch::Limits;
use policy::profile::Latency;
use policy::{ExecutionProvider, PlacementRecord, Signature, TensorSpec, VersionRecord};
use proto::model_config;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

mod engines;
#[cfg(test)]
mod tests;
mod warmup;

use engines::Engines;

/// A warm replica and what was measured on the way.
pub(crate) struct Warm {
    pub(crate) replica: Arc<Replica>,
    pub(crate) latency: Latency,
    pub(crate) bytes_resident: u64,
    pub(crate) provider: ProviderReport,
    pub(crate) instances: u32,
    pub(crate) intra_threads: u32,
    pub(crate) load_ms: u64,
}

/// What to load.
pub(crate) struct Wanted<'a> {
    pub(crate) placement: &'a PlacementRecord,
    pub(crate) version: &'a VersionRecord,
    /// The artifact's files.
    pub(crate) folder: &'a Path,
    /// Tells this load from others in this process.
    pub(crate) attempt: u64,
    /// Of its device.
    pub(crate) gate: &'a Arc<Gate>,
    /// Hears how far it is.
    pub(crate) teller: &'a Teller,
}

/// Loads what is wanted and warms it up. Blocks for as long as the engine needs.
///
/// # Errors
/// When an engine refuses the model, or it is not what its version record says.
pub(crate) fn load(
    loader: &Loader,
    config: &WorkerConfig,
    wanted: &Wanted<'_>,
    mut memory: Reservation,
    on_failed: Box<dyn Fn(String) + Send + Sync>,
) -> Result<Warm, WorkerError> {
    let Wanted { placement, version, folder, attempt, gate, teller } = *wanted;
    let started = Instant::now();
    let gone = || WorkerError::Signature(format!("its version's record has no variant {}", placement.variant.name));
    let runs = version.run_of(&placement.variant.name).ok_or_else(gone)?;
    let model = version.config.as_ref().map(model_config::from_json).transpose();
    let model = model.map_err(|e| WorkerError::Signature(format!("its configuration in the registry: {e}")))?.unwrap_or_default();
    let threads = model_config::intra_threads(&model).and_then(|n| NonZeroUsize::new(usize::try_from(n).ok()?));
    if let Some(asked) = threads.filter(|asked| *asked > config.cores.cores) {
        tracing::warn!(variant = %placement.variant, asked, cores = config.cores.cores, "intra_op_thread_count is more than the cores there are");
    }
    let how = How::of(&runs)?;
    let spec = LoadSpec {
        engine: how.engine,
        hint: how.hint,
        provider: placement.provider,
        device_id: device_id(&placement.device),
        fallback: if placement.fallback.is_some() { Fallback::Cpu } else { Fallback::Never },
        cache_dir: Some(config.data_dir.join("compiled")),
        ..LoadSpec::cpu(folder.join(runs.model_file), NonZeroUsize::MIN) // the plan says how many
    };
    let warmups = model_config::warmups(&model);
    let load = engines::Load { loader, device: &placement.device, spec, signature: &version.signature, warmups: &warmups, teller };
    let (plan, first) = plan(&load, core_plan(config, placement), placement, threads)?;
    let intra_threads = u32::try_from(plan.intra_threads.get()).unwrap_or(u32::MAX);
    memory.shrink_to(runs.bytes_resident.saturating_mul(plan.instances.get() as u64));
    let Engines { mut engines, runner, latency } = load.all(&plan, first)?;
    let latency = latency.unwrap_or(Latency::UNKNOWN);
    let provider = engines.first().map(|e| e.provider().clone()).ok_or_else(|| WorkerError::Signature("no engine".to_owned()))?;
    let parts = Parts {
        variant: placement.variant.clone(),
        worker: config.id.clone(),
        signature: version.signature.clone(),
        latency,
        limits: Limits {
            rows_max: version.signature.max_batch_size.max(1),
            queue_len_max: QUEUE_LEN_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
        },
        batching: model_config::batching(&model),
        padding: version.padding.clone(),
        load: attempt,
        inline_us_max: INLINE_US_MAX,
        generation: placement.generation,
        gate: gate.clone(),
        intra_threads,
        runner,
        _memory: Some(memory),
        on_failed,
    };
    let instances = u32::try_from(engines.len()).unwrap_or(u32::MAX);
    // A model that must keep its requests waiting or in order does so on one thread's terms, not between two looks at the sockets; nor
    // do those wait for another process.
    let plain = parts.batching.max_delay_us == 0 && !parts.batching.preserve_ordering && parts.runner.is_none();
    let inline = if plain && latency.batch_us(1) < f64::from(INLINE_US_MAX) && engines.len() > 1 { engines.pop() } else { None };
    let replica = Arc::new(Replica::start(parts, engines, inline).map_err(WorkerError::Thread)?);
    Ok(Warm {
        replica,
        latency,
        bytes_resident: runs.bytes_resident.saturating_mul(u64::from(instances)),
        provider,
        instances,
        intra_threads,
        load_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Instances and threads of a replica: what its placement says, else this worker's plan.
pub(crate) fn core_plan(config: &WorkerConfig, placement: &PlacementRecord) -> CorePlan {
    match placement.instances {
        Some(instances) => {
            let instances = usize::try_from(instances).unwrap_or(usize::MAX);
            CorePlan { bound: config.cores.bound, ..CorePlan::with_instances(config.cores.cores, instances) }
        }
        None => config.cores,
    }
}

/// The plan a replica is loaded by, and an engine that was loaded to find it where that is one of the plan's.
///
/// Whoever said how many instances or threads is obeyed. Else, where the model has a latency target on a processor, one engine of one
/// thread is measured, and what one row takes there decides.
fn plan(
    load: &engines::Load<'_>,
    plan: CorePlan,
    placement: &PlacementRecord,
    threads: Option<NonZeroUsize>,
) -> Result<(CorePlan, Option<engines::Warm>), WorkerError> {
    let said = |plan: CorePlan, why: &str| {
        let (instances, threads) = (plan.instances, plan.intra_threads);
        tracing::info!(variant = %placement.variant, instances, threads, why, "core plan of the replica");
        plan
    };
    if let Some(threads) = threads {
        let plan = CorePlan { intra_threads: threads.min(plan.cores), ..plan };
        return Ok((said(plan, "the model's intra_op_thread_count"), None));
    }
    if plan.given {
        return Ok((said(plan, "a given number of instances"), None));
    }
    let Some(target_us) = placement.latency_target_us.filter(|_| placement.provider == ExecutionProvider::Cpu) else {
        return Ok((said(plan, "throughput: there is no latency target on a processor"), None));
    };
    let one_thread = CorePlan { intra_threads: NonZeroUsize::MIN, ..plan };
    let first = load.one(&one_thread, 0, true)?;
    let plan = match first.latency.map(|latency| latency.batch_us(1)) {
        None => said(plan, "throughput: what a row takes could not be measured"),
        Some(one_row_us) => {
            let chosen = plan.by_profile(one_row_us, target_us as f64);
            let what = if chosen == plan { "throughput" } else { "latency" };
            said(chosen, &format!("{what}: a row takes {one_row_us:.0} us on one thread, the target is {target_us} us"))
        }
    };
    Ok((plan, (plan.intra_threads == one_thread.intra_threads).then_some(first)))
}

/// `cuda:1` is device 1 of its provider.
pub(crate) fn device_id(device: &str) -> i32 {
    device.split_once(':').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}

/// Is `promised` a view of the graph? Tensors go by name: a configuration may list them in another order, leave out outputs, and
/// leave out inputs that the graph does not need.
fn check_signature(promised: &Signature, found: &EngineSignature) -> Result<(), WorkerError> {
    let same = |a: &TensorSpec, b: &TensorSpec| a.name == b.name && a.datatype == b.datatype;
    let all_in = |part: &[TensorSpec], whole: &[TensorSpec]| part.iter().all(|a| whole.iter().any(|b| same(a, b)));
    let missed = |input: &&TensorSpec| !input.optional && promised.input(&input.name).is_none();
    if all_in(&promised.inputs, &found.inputs) && all_in(&promised.outputs, &found.outputs) && !found.inputs.iter().any(|i| missed(&i)) {
        return Ok(());
    }
    let names = |list: &[TensorSpec]| list.iter().map(|t| format!("{} {}", t.name, t.datatype)).collect::<Vec<_>>().join(", ");
    Err(WorkerError::Signature(format!(
        "the graph takes {} and gives {}, but the version record says {} and {}",
        names(&found.inputs),
        names(&found.outputs),
        names(&promised.inputs),
        names(&promised.outputs)
    )))
}
