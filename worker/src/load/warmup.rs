//! Warm-up requests that a model's configuration asks for: run before the replica is routable (I1), and a failure of one is a
//! failure of the load.

use crate::engine::{CancelFlag, Engine, EngineError, TensorView};
use policy::{DataType, Signature, reshape};
use proto::model_config::{Fill, Warmup, WarmupInput};
use std::time::{Duration, Instant};

/// Longest all warm-ups of one engine may take: a load cannot be stopped while they run.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Most bytes of one warm-up request.
const BYTES_MAX: usize = 1 << 30;

/// Runs `warmups` on `engine`, each as often as it says.
///
/// # Errors
/// The first that did not work, by its name.
pub(super) fn run(engine: &mut dyn Engine, signature: &Signature, warmups: &[Warmup]) -> Result<(), EngineError> {
    let started = Instant::now();
    for warmup in warmups {
        let inputs = warmup.inputs.iter().map(|input| made_up(input, warmup.batch_size, signature)).collect::<Option<Vec<_>>>();
        let inputs = inputs.ok_or_else(|| EngineError::BadInput {
            what: format!("warm-up `{}`: its inputs are larger than {} MiB, or do not fit the model", warmup.name, BYTES_MAX >> 20),
        })?;
        let views: Vec<_> = warmup.inputs.iter().zip(&inputs).map(|(input, (shape, data))| view(input, shape, data)).collect();
        for done in 0..warmup.count {
            if started.elapsed() > TIME_MAX {
                let (seconds, count) = (TIME_MAX.as_secs(), warmup.count);
                let what =
                    format!("warm-up `{}`: {done} of {count} requests done when the {seconds} s for warm-ups were over", warmup.name);
                return Err(EngineError::BadInput { what });
            }
            let ran = engine.run(&views, &CancelFlag::default());
            ran.map_err(|error| if error.keeps_engine() { in_warmup(&warmup.name, &error) } else { error })?;
        }
    }
    Ok(())
}

fn in_warmup(name: &str, error: &EngineError) -> EngineError {
    EngineError::BadInput { what: format!("warm-up `{name}`: {error}") }
}

fn view<'a>(input: &'a WarmupInput, shape: &'a [i64], data: &'a [u8]) -> TensorView<'a> {
    TensorView::new(&input.name, input.datatype, shape, data)
}

/// Shape in the graph, and bytes.
fn made_up(input: &WarmupInput, rows: u32, signature: &Signature) -> Option<(Vec<i64>, Vec<u8>)> {
    let batch = (signature.max_batch_size > 0).then_some(i64::from(rows));
    let shape: Vec<i64> = batch.into_iter().chain(input.dims.iter().copied()).collect();
    let spec = signature.input(&input.name)?;
    let shape = match &spec.graph_shape {
        Some(graph) => reshape(&spec.shape, graph, &shape)?.into_vec(),
        None => shape,
    };
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
    let bytes = count.checked_mul(input.datatype.size().unwrap_or(4)).filter(|bytes| *bytes <= BYTES_MAX)?;
    let data = match (input.fill, input.datatype) {
        (Fill::Zero, _) | (Fill::Random, DataType::Bytes) => vec![0; bytes],
        (Fill::Random, DataType::Bool) => std::iter::repeat_with(|| fastrand::u8(0..2)).take(bytes).collect(),
        (Fill::Random, DataType::Fp32) => values(count, || fastrand::f32().to_le_bytes()),
        (Fill::Random, DataType::Fp64) => values(count, || fastrand::f64().to_le_bytes()),
        (Fill::Random, DataType::Fp16) => values(count, || half::f16::from_f32(fastrand::f32()).to_le_bytes()),
        (Fill::Random, DataType::Bf16) => values(count, || half::bf16::from_f32(fastrand::f32()).to_le_bytes()),
        (Fill::Random, _) => std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect(),
    };
    Some((shape, data))
}

fn values<const N: usize>(count: usize, value: impl FnMut() -> [u8; N]) -> Vec<u8> {
    std::iter::repeat_with(value).take(count).flatten().collect()
}
