//! From a placement to a warm replica: artifact, memory, engines, warm-up, calibration.

use crate::config::{QUEUE_BYTES_MAX, QUEUE_LEN_MAX, WorkerConfig};
use crate::cores::CorePlan;
use crate::engine::sample::{self, Guess};
use crate::engine::{Engine, EngineError, EngineSignature, Fallback, LoadSpec, ProviderReport};
use crate::error::WorkerError;
use crate::memory::Reservation;
use crate::replica::{INLINE_US_MAX, Parts, Replica};
use crate::runner::Loader;
use policy::batch::Limits;
use policy::profile::Latency;
use policy::{PlacementRecord, Signature, TensorSpec, VersionRecord};
use proto::model_config;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod warmup;

/// Longest calibration of a replica at load.
const CALIBRATION_MAX: Duration = Duration::from_millis(200);
/// Batch sizes measured at load.
const CALIBRATION_ROWS: [u32; 3] = [1, 2, 4];
/// Runs of each.
const CALIBRATION_RUNS: usize = 5;

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
}

/// Loads what is wanted and warms it up. Blocks for as long as the engine needs.
///
/// # Errors
/// When an engine refuses the model, or it is not what its version record says.
pub(crate) fn load(
    loader: &Loader,
    config: &WorkerConfig,
    wanted: &Wanted<'_>,
    memory: Reservation,
    on_failed: Box<dyn Fn(String) + Send + Sync>,
) -> Result<Warm, WorkerError> {
    let Wanted { placement, version, folder, attempt } = *wanted;
    let started = Instant::now();
    let plan = core_plan(config, placement);
    let model = version.config.as_ref().map(model_config::from_json).transpose();
    let model = model.map_err(|e| WorkerError::Signature(format!("its configuration in the registry: {e}")))?.unwrap_or_default();
    let threads = model_config::intra_threads(&model).and_then(|n| NonZeroUsize::new(usize::try_from(n).ok()?));
    let intra_threads = threads.unwrap_or(plan.intra_threads).min(plan.cores);
    if let Some(asked) = threads.filter(|asked| *asked > intra_threads) {
        tracing::warn!(variant = %placement.variant, asked, cores = intra_threads, "intra_op_thread_count is more than the cores there are");
    }
    let spec = LoadSpec {
        provider: placement.provider,
        device_id: device_id(&placement.device),
        fallback: if placement.fallback.is_some() { Fallback::Cpu } else { Fallback::Never },
        cache_dir: Some(config.data_dir.join("compiled")),
        ..LoadSpec::cpu(folder.join(&version.model_file), intra_threads)
    };
    let (mut engines, mut runner) = (Vec::with_capacity(plan.instances.get()), None);
    for at in 0..plan.instances.get() {
        let spec = LoadSpec { cores: plan.of_instance(at, intra_threads), ..spec.clone() };
        let loaded = loader.load(&placement.device, &spec)?;
        engines.push(loaded.engine);
        runner = loaded.runner;
    }
    let mut latency = None;
    for engine in &mut engines {
        check_signature(&version.signature, engine.signature())?;
        warmup::run(engine.as_mut(), &version.signature, &model_config::warmups(&model))?;
        let guess = warm_up(engine.as_mut())?;
        if let (None, Some(guess)) = (&latency, guess) {
            latency = Some(calibrate(engine.as_mut(), &version.signature, guess)?);
        }
    }
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
        bytes_resident: version.bytes_resident.saturating_mul(u64::from(instances)),
        provider,
        instances,
        intra_threads: u32::try_from(intra_threads.get()).unwrap_or(u32::MAX),
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

/// Runs once; gives the made-up inputs that worked, `None` when the model refused every guess.
fn warm_up(engine: &mut dyn Engine) -> Result<Option<Guess>, EngineError> {
    match sample::find(engine) {
        Ok((guess, _)) => Ok(Some(guess)),
        Err(error) if error.keeps_engine() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Measures small batches for a short time. The least of each size counts: noise only adds.
fn calibrate(engine: &mut dyn Engine, signature: &Signature, guess: Guess) -> Result<Latency, EngineError> {
    let started = Instant::now();
    let mut samples: Vec<(u32, f64)> = Vec::new();
    for rows in CALIBRATION_ROWS.into_iter().filter(|rows| *rows <= signature.max_batch_size.max(1)) {
        let guess = if signature.max_batch_size > 0 { Guess { rows: i64::from(rows), ..guess } } else { guess };
        let mut best_us = f64::INFINITY;
        for _ in 0..CALIBRATION_RUNS {
            best_us = best_us.min(sample::run(engine, guess)?.as_secs_f64() * 1e6);
            if started.elapsed() >= CALIBRATION_MAX {
                break;
            }
        }
        samples.push((rows, best_us));
        if started.elapsed() >= CALIBRATION_MAX {
            break;
        }
    }
    Ok(Latency::fit(&samples))
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::DataType;

    fn spec(name: &str, optional: bool) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1], optional, graph_shape: None }
    }

    fn specs(names: &[&str]) -> Vec<TensorSpec> {
        names.iter().map(|name| spec(name.trim_end_matches('?'), name.ends_with('?'))).collect()
    }

    #[test]
    fn a_signature_may_be_a_view_of_the_graph() {
        let graph = EngineSignature { inputs: specs(&["a", "b", "c?"]), outputs: specs(&["x", "y"]), ..EngineSignature::default() };
        let check = |inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, expected: bool| {
            let result = check_signature(&Signature { max_batch_size: 0, inputs, outputs }, &graph);
            assert_eq!(result.is_ok(), expected, "{result:?}");
        };
        check(specs(&["a", "b", "c?"]), specs(&["x", "y"]), true);
        check(specs(&["c", "b", "a"]), specs(&["y", "x"]), true);
        check(specs(&["b", "a"]), specs(&["y"]), true);
        check(specs(&["a", "c?"]), specs(&["x"]), false);
        check(specs(&["a", "b", "d?"]), specs(&["x"]), false);
        check(specs(&["a", "b"]), specs(&["z"]), false);
        let other = TensorSpec { datatype: DataType::Int32, ..spec("a", false) };
        check(vec![other.clone(), spec("b", false)], specs(&["x"]), false);
        check(specs(&["a", "b"]), vec![TensorSpec { name: "x".into(), ..other }], false);
    }
}
