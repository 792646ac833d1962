//! Inputs made up to run a model whose real ones are not known: to validate it, to warm it up, to measure it.

use super::{CancelFlag, Engine, EngineError, EngineSignature, TensorView};
use policy::{DataType, TensorSpec};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most bytes of made-up inputs: a model of fixed size that wants more is not run.
const BYTES_MAX: usize = 256 << 20;
/// Sizes tried for dimensions that the model leaves open. 1 suits most; 32 and 64 suit models that halve a picture five
/// times; 224 and 512 suit those that want a whole picture or window of sound.
const SIZES: [i64; 6] = [1, 8, 32, 64, 224, 512];
/// Largest of them tried for the first dimension too, where models without rows may have their length.
const ROWS_MAX: i64 = 64;
/// No further guess is tried after this long.
const GUESSING_MAX: Duration = Duration::from_secs(10);

/// What is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guess {
    /// For an open first dimension, and for those of the same name.
    pub rows: i64,
    /// For the other open dimensions.
    pub size: i64,
    /// For every element: 0 or 1.
    pub fill: u8,
}

/// The first guess that `engine` takes, and how long that run took. Zeros come before ones, since zeros are the safer
/// indices; one row before more.
///
/// # Errors
/// Of the first guess, when all were refused: the model is not bad for that. [`EngineError::OutOfMemory`] when the first
/// and least guess needs too much, and at once any error after which the engine cannot be used.
pub fn find(engine: &mut dyn Engine) -> Result<(Guess, Duration), EngineError> {
    let started = Instant::now();
    let mut first_error = None;
    for guess in guesses(engine.signature()) {
        match run(engine, guess) {
            Ok(took) => return Ok((guess, took)),
            Err(e @ EngineError::OutOfMemory { .. }) if first_error.is_none() => return Err(e),
            Err(e) if !e.keeps_engine() => return Err(e),
            Err(e) => first_error = first_error.or(Some(e)),
        }
        if started.elapsed() > GUESSING_MAX {
            break;
        }
    }
    Err(first_error.unwrap_or(EngineError::NotComputed { reason: "there was nothing to try".to_owned() }))
}

/// Runs `engine` on inputs of the given shapes, by name: zeros, and where the model does not take them, ones. How long
/// the run that succeeded took.
///
/// # Errors
/// The engine's for the zeros, or [`EngineError::NotComputed`] for inputs too large to make up; [`EngineError::BadInput`]
/// when a shape is missing.
pub fn run_shaped(engine: &mut dyn Engine, shapes: &BTreeMap<String, Vec<i64>>) -> Result<Duration, EngineError> {
    let mut signature = engine.signature().clone();
    for input in &mut signature.inputs {
        let missing = || EngineError::BadInput { what: format!("input `{}`: no shape was given", input.name) };
        input.shape = shapes.get(&input.name).ok_or_else(missing)?.clone();
    }
    let mut attempt = |fill| run_on(engine, &signature, Guess { rows: 1, size: 1, fill });
    match attempt(0) {
        Err(error) if error.keeps_engine() => attempt(1).map_err(|_| error),
        other => other,
    }
}

/// Runs `engine` once on made-up inputs; how long the run itself took.
///
/// # Errors
/// The engine's, or [`EngineError::NotComputed`] for inputs too large to make up.
pub fn run(engine: &mut dyn Engine, guess: Guess) -> Result<Duration, EngineError> {
    let signature = engine.signature().clone();
    run_on(engine, &signature, guess)
}

fn run_on(engine: &mut dyn Engine, signature: &EngineSignature, guess: Guess) -> Result<Duration, EngineError> {
    let samples = samples(signature, guess)?;
    let mut views = Vec::with_capacity(samples.len());
    for (spec, (shape, data)) in signature.inputs.iter().filter(|input| !input.optional).zip(&samples) {
        views.push(TensorView::new(&spec.name, spec.datatype, shape, data));
    }
    let started = Instant::now();
    engine.run(&views, &CancelFlag::new())?;
    Ok(started.elapsed())
}

fn guesses(signature: &EngineSignature) -> Vec<Guess> {
    let open = signature.inputs.iter().filter(|i| !i.optional).any(|i| i.shape.iter().any(|d| *d < 0));
    let one_row = SIZES.into_iter().map(|size| (1, size));
    let more_rows = SIZES.into_iter().skip(1).filter(|size| *size <= ROWS_MAX).map(|size| (size, size));
    let sizes: Vec<_> = one_row.chain(more_rows).take(if open { usize::MAX } else { 1 }).collect();
    [0, 1].into_iter().flat_map(|fill| sizes.iter().map(move |(rows, size)| Guess { rows: *rows, size: *size, fill })).collect()
}

/// Shape and bytes of an input.
type Sample = (Vec<i64>, Vec<u8>);

/// One per input without a default: those that have one keep it.
fn samples(signature: &EngineSignature, guess: Guess) -> Result<Vec<Sample>, EngineError> {
    let symbols = |i: usize| signature.input_symbols.get(i).map(Vec::as_slice).unwrap_or_default();
    let row_symbol = symbols(0).first().map(String::as_str).unwrap_or_default();
    let (mut samples, mut budget) = (Vec::with_capacity(signature.inputs.len()), BYTES_MAX);
    for (i, spec) in signature.inputs.iter().enumerate().filter(|(_, spec)| !spec.optional) {
        let is_row = |d: usize| d == 0 || symbols(i).get(d).is_some_and(|s| !s.is_empty() && s == row_symbol);
        let too_large = || EngineError::NotComputed {
            reason: format!("input `{}` is too large for a trial run: all inputs together may have {} MiB", spec.name, BYTES_MAX >> 20),
        };
        let (shape, data) = sample(spec, is_row, guess, budget).ok_or_else(too_large)?;
        budget = budget.saturating_sub(data.len());
        samples.push((shape, data));
    }
    Ok(samples)
}

/// `None` if it is more than `budget` bytes.
fn sample(spec: &TensorSpec, is_row: impl Fn(usize) -> bool, guess: Guess, budget: usize) -> Option<Sample> {
    let size = |(i, d): (usize, &i64)| match *d {
        fixed @ 0.. => fixed,
        _ if is_row(i) => guess.rows,
        _ => guess.size,
    };
    let shape: Vec<i64> = spec.shape.iter().enumerate().map(size).collect();
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
    let element = element(spec.datatype, guess.fill);
    let fits = count.checked_mul(element.len())? <= budget;
    fits.then(|| (shape, element.repeat(count)))
}

/// Zero or one; for BYTES an empty or a one-letter string.
fn element(datatype: DataType, fill: u8) -> Vec<u8> {
    match (datatype, fill) {
        (DataType::Bytes, 0) => vec![0; 4],
        (DataType::Bytes, _) => vec![1, 0, 0, 0, b'1'],
        (_, 0) => vec![0; datatype.size().unwrap_or(1)],
        (DataType::Fp16, _) => half::f16::ONE.to_le_bytes().to_vec(),
        (DataType::Bf16, _) => half::bf16::ONE.to_le_bytes().to_vec(),
        (DataType::Fp32, _) => 1f32.to_le_bytes().to_vec(),
        (DataType::Fp64, _) => 1f64.to_le_bytes().to_vec(),
        // Integers: a one in the lowest byte, which comes first.
        _ => 1u64.to_le_bytes().into_iter().take(datatype.size().unwrap_or(1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> EngineSignature {
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype: DataType::Int64,
            shape: shape.to_vec(),
            optional: false,
            graph_shape: None,
        };
        let symbols = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        EngineSignature {
            inputs: vec![spec("a", &[-1, -1]), spec("state", &[2, -1, 3])],
            input_symbols: vec![symbols(&["batch", "length"]), symbols(&["", "batch", ""])],
            ..EngineSignature::default()
        }
    }

    #[test]
    fn rows_go_to_every_dimension_of_that_name() {
        let made = samples(&signature(), Guess { rows: 5, size: 7, fill: 1 }).unwrap();
        assert_eq!(made.iter().map(|(shape, _)| shape.as_slice()).collect::<Vec<_>>(), [&[5, 7][..], &[2, 5, 3]]);
        assert_eq!(made[0].1, 1i64.to_le_bytes().repeat(35));
    }

    #[test]
    fn guesses_start_least_and_are_few_where_nothing_is_open() {
        let all = guesses(&signature());
        assert_eq!(all[0], Guess { rows: 1, size: 1, fill: 0 });
        assert_eq!(all.len(), 18);
        let fixed = EngineSignature { inputs: signature().inputs.into_iter().skip(2).collect(), ..EngineSignature::default() };
        assert_eq!(guesses(&fixed).len(), 2);
    }

    #[test]
    fn what_is_too_large_to_make_up_is_not_made() {
        let mut large = signature();
        large.inputs[0].shape = vec![i64::MAX, -1];
        let error = samples(&large, Guess { rows: 1, size: 8, fill: 0 }).unwrap_err();
        assert!(error.to_string().contains("too large for a trial run") && error.keeps_engine(), "{error}");
    }
}
