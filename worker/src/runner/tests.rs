//! Engines in a child: this test binary, called as `sluice __runner` would be.

use super::*;
use crate::engine::contract::{Subject, check};
use crate::engine::{CancelFlag, TensorView};
use crate::testing::{model, no_openvino, openvino_library, runtime};
use policy::DataType;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Not a test: what the child runs. The harness takes the subcommand for the name of the only test to run.
#[test]
fn __runner() {
    if std::env::args().nth(1).as_deref() == Some(SUBCOMMAND) {
        child_main();
    }
}

fn loader() -> Option<Loader> {
    Some(Loader::new(runtime()?, no_openvino(), Isolation::Process, std::env::current_exe().unwrap()))
}

fn load(loader: &Loader, name: &str) -> Result<Loaded, EngineError> {
    loader.load("cpu", &LoadSpec::cpu(model(name).unwrap(), NonZeroUsize::MIN))
}

const ADD_SUB: &str = "test/add_sub/1/model.onnx";

/// The engine of `name`, and its process.
fn engine(loader: &Loader, name: &str) -> (Box<dyn Engine>, Arc<Runner>) {
    let loaded = load(loader, name).unwrap();
    (loaded.engine, loaded.runner.unwrap())
}

/// Strings of `len` bytes in all, in and out.
fn echo(engine: &mut dyn Engine, len: usize) -> Result<bytes::Bytes, EngineError> {
    let data = [&(len as u32).to_le_bytes()[..], &vec![b'x'; len]].concat();
    let outputs = engine.run(&[TensorView::new("INPUT0", DataType::Bytes, &[1, 1], &data)], &CancelFlag::new())?;
    assert!(outputs[0].data == data);
    Ok(outputs[0].data.clone())
}

#[test]
fn an_engine_in_a_runner_keeps_the_contract() {
    let Some(loader) = loader() else { return };
    check(&Subject {
        add_sub: &|| engine(&loader, ADD_SUB).0,
        identity_bytes: Some(&|| engine(&loader, "test/identity_string/1/model.onnx").0),
        endless: &|| engine(&loader, "bad/hang.onnx").0,
    });
}

#[test]
fn each_engine_is_loaded_by_its_own_library_and_one_that_is_not_installed_says_so() {
    let Some(without) = loader() else { return };
    let spec = LoadSpec { engine: EngineName::Openvino, ..LoadSpec::cpu(model(ADD_SUB).unwrap(), NonZeroUsize::MIN) };
    let error = without.load("cpu", &spec).map(drop).unwrap_err();
    assert!(error.to_string().contains("openvino is not installed") && without.version_of(EngineName::Openvino).is_none(), "{error}");
    assert!(load(&without, ADD_SUB).is_ok());
    let Some(library) = openvino_library() else { return };
    let found = crate::engine::openvino::find(&[library]);
    for isolation in [Isolation::Process, Isolation::None] {
        let loader = Loader::new(runtime().unwrap(), found.clone(), isolation, std::env::current_exe().unwrap());
        assert!(loader.version_of(EngineName::Openvino).is_some_and(|version| version.starts_with("20")));
        let mut engines = [loader.load("cpu", &spec).unwrap().engine, load(&loader, ADD_SUB).unwrap().engine];
        let used = engines.each_ref().map(|engine| engine.provider().used[0].0.clone());
        assert_eq!(used, ["OpenVINO CPU f32", "CPUExecutionProvider"]);
        for engine in &mut engines {
            crate::engine::sample::find(engine.as_mut()).unwrap();
        }
    }
}

#[test]
fn outputs_of_any_size_come_and_stay_while_others_follow() {
    let Some(loader) = loader() else { return };
    let (mut engine, _runner) = engine(&loader, "test/identity_string/1/model.onnx");
    let kept: Vec<_> = [10, 70_000, 1 << 20, 5, 300_000, 100].into_iter().map(|len| echo(engine.as_mut(), len).unwrap()).collect();
    drop(engine);
    for (bytes, len) in kept.iter().zip([10, 70_000, 1 << 20, 5, 300_000, 100]) {
        assert!(bytes.len() == len + 4 && bytes[4..].iter().all(|b| *b == b'x'), "{len}");
    }
}

#[test]
fn an_error_of_a_load_crosses_whole_and_the_runner_stays() {
    let Some(loader) = loader() else { return };
    let (mut good, runner) = engine(&loader, "test/identity_string/1/model.onnx");
    let error = load(&loader, "bad/unsupported_op.onnx").map(drop).unwrap_err();
    assert!(matches!(&error, EngineError::UnsupportedOperator { operator, .. } if operator.contains("NoSuchOperator")), "{error}");
    assert!(runner.lives());
    echo(good.as_mut(), 10).unwrap();
}

#[test]
fn a_runner_that_dies_fails_its_engines_and_the_next_load_starts_another() {
    let Some(loader) = loader() else { return };
    let (mut running, runner) = engine(&loader, "bad/hang.onnx");
    let (mut idle, same) = engine(&loader, ADD_SUB);
    assert!(Arc::ptr_eq(&runner, &same), "one process per device");
    let flag = CancelFlag::new();
    let run = {
        let flag = flag.clone();
        std::thread::spawn(move || running.run(&[TensorView::new("x", DataType::Fp32, &[1, 4], &[0; 16])], &flag).map(drop))
    };
    let since = Instant::now();
    while !flag.is_armed() && since.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    runner.kill();
    for error in [run.join().unwrap().unwrap_err(), crate::engine::sample::find(idle.as_mut()).map(drop).unwrap_err()] {
        assert!(!error.keeps_engine() && error.to_string().contains("runner process of device cpu is gone"), "{error}");
        assert!(error.to_string().contains("signal 9"), "{error}");
    }
    let (mut again, other) = engine(&loader, ADD_SUB);
    assert!(!Arc::ptr_eq(&runner, &other));
    crate::engine::sample::find(again.as_mut()).unwrap();
}

#[test]
fn a_runner_ends_with_the_last_that_needs_it() {
    let Some(loader) = loader() else { return };
    let (engine, runner) = engine(&loader, ADD_SUB);
    let pid = runner.id();
    let there = || std::path::Path::new(&format!("/proc/{pid}")).exists();
    drop((loader, runner));
    assert!(there(), "an engine needs it");
    drop(engine);
    assert!(!there());
}

#[test]
fn what_owns_the_arena_puts_everything_there() {
    let Some(loader) = loader() else { return };
    let (mut engine, _runner) = engine(&loader, "test/identity_string/1/model.onnx");
    let mut arena = engine.arena().unwrap();
    assert!(engine.arena().is_none(), "there is one");
    let (element, shape) = ([3, 0, 0, 0, b'a', b'b', b'c'], [1, 1]);
    // Longer than the arena was when the runner first looked.
    for len in [0usize, 1 << 20] {
        let mut batch = arena.assemble();
        batch.reserve(len).unwrap();
        let region = batch.gather(std::iter::once(&element[..])).unwrap();
        let placed =
            TensorView { in_arena: Some(region.offset), ..TensorView::new("INPUT0", DataType::Bytes, &shape, batch.bytes(region)) };
        assert_eq!(engine.run(&[placed], &CancelFlag::new()).unwrap()[0].data, element[..]);
    }
    let elsewhere = TensorView::new("INPUT0", DataType::Bytes, &shape, &element);
    assert!(engine.run(&[elsewhere], &CancelFlag::new()).unwrap_err().to_string().contains("not in the engine's arena"));
}
