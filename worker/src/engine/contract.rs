//! The one test of the [`Engine`] contract, run on every implementation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use super::{CancelFlag, Engine, EngineError, TensorOut, TensorView};
use policy::DataType;
use std::time::{Duration, Instant};

/// Engines of one implementation, freshly loaded.
pub struct Subject<'a> {
    /// FP32 `INPUT0`, `INPUT1` of `[-1,16]` to their sum `OUTPUT0` and difference `OUTPUT1`.
    pub add_sub: &'a dyn Fn() -> Box<dyn Engine>,
    /// BYTES `INPUT0` of `[-1,-1]` to `OUTPUT0`, unchanged; none where the engine refuses to load such a model.
    pub identity_bytes: Option<&'a dyn Fn() -> Box<dyn Engine>>,
    /// FP32 `x` of `[-1,4]` to `y`, which never comes.
    pub endless: &'a dyn Fn() -> Box<dyn Engine>,
}

/// Runs every promise of the contract.
///
/// # Panics
/// When one is broken.
pub fn check(subject: &Subject<'_>) {
    answers_row_per_row((subject.add_sub)().as_mut());
    misaligned_inputs_give_the_same_answer((subject.add_sub)().as_mut());
    usable_after_bad_input((subject.add_sub)().as_mut());
    an_empty_batch_is_answered((subject.add_sub)().as_mut());
    answers_outlive_the_engine((subject.add_sub)());
    if let Some(identity_bytes) = subject.identity_bytes {
        any_bytes_pass(identity_bytes().as_mut());
    }
    usable_after_cancel((subject.add_sub)().as_mut());
    stops_when_cancelled((subject.endless)());
}

fn floats(rows: usize, scale: f32) -> Vec<f32> {
    (0..rows * 16).map(|i| i as f32 * scale).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn values(tensor: &TensorOut) -> Vec<f32> {
    tensor.data.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn view<'a>(name: &'a str, shape: &'a [i64], data: &'a [u8]) -> TensorView<'a> {
    TensorView::new(name, DataType::Fp32, shape, data)
}

fn add_sub(engine: &mut dyn Engine, rows: usize, a: &[u8], b: &[u8]) -> Result<Vec<TensorOut>, EngineError> {
    let shape = [rows as i64, 16];
    // Not in the signature's order: names decide.
    engine.run(&[view("INPUT1", &shape, b), view("INPUT0", &shape, a)], &CancelFlag::new())
}

fn assert_add_sub(outputs: &[TensorOut], rows: usize) {
    let (a, b) = (floats(rows, 1.0), floats(rows, 0.5));
    assert_eq!(outputs.iter().map(|o| &*o.name).collect::<Vec<_>>(), ["OUTPUT0", "OUTPUT1"]);
    assert!(outputs.iter().all(|o| o.shape == [rows as i64, 16] && o.datatype == DataType::Fp32));
    assert_eq!(values(&outputs[0]), a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<_>>());
    assert_eq!(values(&outputs[1]), a.iter().zip(&b).map(|(a, b)| a - b).collect::<Vec<_>>());
}

fn answers_row_per_row(engine: &mut dyn Engine) {
    for rows in [1, 3, 64, 2] {
        let (a, b) = (bytes(&floats(rows, 1.0)), bytes(&floats(rows, 0.5)));
        assert_add_sub(&add_sub(engine, rows, &a, &b).unwrap(), rows);
    }
}

fn misaligned_inputs_give_the_same_answer(engine: &mut dyn Engine) {
    let (a, b) = (bytes(&floats(2, 1.0)), bytes(&floats(2, 0.5)));
    for offset in 0..8 {
        let shifted: Vec<u8> = vec![0; offset].into_iter().chain(a.iter().copied()).collect();
        assert_add_sub(&add_sub(engine, 2, &shifted[offset..], &b).unwrap(), 2);
    }
}

fn usable_after_bad_input(engine: &mut dyn Engine) {
    let (a, b) = (bytes(&floats(1, 1.0)), bytes(&floats(1, 0.5)));
    let shape = [1, 16];
    let (good_a, good_b) = (view("INPUT0", &shape, &a), view("INPUT1", &shape, &b));
    let wrong: [Vec<TensorView<'_>>; 6] = [
        vec![],
        vec![good_a],
        vec![good_a, good_a],
        vec![good_a, good_b, view("INPUT2", &shape, &a)],
        vec![good_a, view("INPUT1", &[1, 15], &b[4..])],
        vec![good_a, TensorView { datatype: DataType::Int32, ..good_b }],
    ];
    for inputs in wrong {
        let error = engine.run(&inputs, &CancelFlag::new()).unwrap_err();
        assert!(matches!(error, EngineError::BadInput { .. }) && error.keeps_engine(), "{error}");
        assert_add_sub(&add_sub(engine, 1, &a, &b).unwrap(), 1);
    }
    // Inputs that disagree with each other: what that gives is the model's affair, but the engine stays.
    let _ = engine
        .run(&[view("INPUT0", &[2, 16], &bytes(&floats(2, 1.0))), view("INPUT1", &[3, 16], &bytes(&floats(3, 1.0)))], &CancelFlag::new())
        .map_err(|e| assert!(e.keeps_engine(), "{e}"));
    assert_add_sub(&add_sub(engine, 1, &a, &b).unwrap(), 1);
}

fn an_empty_batch_is_answered(engine: &mut dyn Engine) {
    assert_add_sub(&add_sub(engine, 0, &[], &[]).unwrap(), 0);
}

fn answers_outlive_the_engine(mut engine: Box<dyn Engine>) {
    let (a, b) = (bytes(&floats(8, 1.0)), bytes(&floats(8, 0.5)));
    let first = add_sub(engine.as_mut(), 8, &a, &b).unwrap();
    let _second = add_sub(engine.as_mut(), 8, &b, &a).unwrap();
    drop((engine, a, b));
    assert_add_sub(&first, 8);
    std::thread::spawn(move || assert_add_sub(&first, 8)).join().unwrap();
}

fn any_bytes_pass(engine: &mut dyn Engine) {
    let long = vec![7u8; 100_000];
    let elements: [&[u8]; 6] = [b"", b"plain", b"nul\0inside", &[0xff, 0xfe, 0x80], &long, b""];
    let data: Vec<u8> = elements.iter().flat_map(|e| (e.len() as u32).to_le_bytes().into_iter().chain(e.iter().copied())).collect();
    let input = TensorView::new("INPUT0", DataType::Bytes, &[2, 3], &data);
    let outputs = engine.run(&[input], &CancelFlag::new()).unwrap();
    assert_eq!(outputs[0].shape, [2, 3]);
    assert!(outputs[0].data == data);
    let empty = TensorView::new("INPUT0", DataType::Bytes, &[0, 3], &[]);
    assert!(engine.run(&[empty], &CancelFlag::new()).unwrap()[0].data.is_empty());
    let lying = TensorView::new("INPUT0", DataType::Bytes, &[1, 1], &[9, 0, 0, 0, 1]);
    assert!(matches!(engine.run(&[lying], &CancelFlag::new()), Err(EngineError::BadInput { .. })));
}

fn usable_after_cancel(engine: &mut dyn Engine) {
    let (a, b) = (bytes(&floats(1, 1.0)), bytes(&floats(1, 0.5)));
    let shape = [1, 16];
    let cancelled = CancelFlag::new();
    cancelled.cancel();
    let result = engine.run(&[view("INPUT0", &shape, &a), view("INPUT1", &shape, &b)], &cancelled);
    assert!(matches!(result, Err(EngineError::Cancelled)));
    assert_add_sub(&add_sub(engine, 1, &a, &b).unwrap(), 1);
    // Setting the flag of a run that is over touches no later run.
    let late = CancelFlag::new();
    engine.run(&[view("INPUT0", &shape, &a), view("INPUT1", &shape, &b)], &late).unwrap();
    late.cancel();
    assert_add_sub(&add_sub(engine, 1, &a, &b).unwrap(), 1);
}

fn stops_when_cancelled(mut engine: Box<dyn Engine>) {
    for _ in 0..2 {
        let flag = CancelFlag::new();
        let other = flag.clone();
        let started = Instant::now();
        let run = std::thread::spawn(move || {
            let result = engine.run(&[view("x", &[1, 4], &[0; 16])], &flag);
            (engine, result.map(drop))
        });
        while !other.is_armed() && started.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        other.cancel();
        let (same, result) = run.join().unwrap();
        assert!(matches!(result, Err(EngineError::Cancelled)), "{result:?}");
        assert!(started.elapsed() < Duration::from_secs(20));
        engine = same;
    }
}
