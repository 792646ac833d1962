//! The contract on ONNX Runtime, and what is particular to it. Needs a library and the test models.

use super::*;
use crate::engine::contract::{Subject, check};
use crate::engine::{CancelFlag, TensorView};
use crate::testing::{model, runtime};
use policy::DataType;
use std::num::NonZeroUsize;

fn cpu(model: &str) -> Option<LoadSpec> {
    Some(LoadSpec::cpu(self::model(model)?, NonZeroUsize::MIN))
}

fn load(runtime: &Runtime, name: &str) -> Box<dyn Engine> {
    runtime.load(&cpu(name).unwrap()).unwrap()
}

fn run_one(engine: &mut dyn Engine, datatype: DataType, shape: &[i64], data: &[u8]) -> TensorOutParts {
    let name = engine.signature().inputs[0].name.clone();
    let outputs = engine.run(&[TensorView::new(&name, datatype, shape, data)], &CancelFlag::new()).unwrap();
    (outputs[0].datatype, outputs[0].shape.clone(), outputs[0].data.to_vec())
}

type TensorOutParts = (DataType, Vec<i64>, Vec<u8>);

#[test]
fn onnx_runtime_keeps_the_contract() {
    let Some(runtime) = runtime() else { return };
    check(&Subject {
        add_sub: &|| load(&runtime, "test/add_sub/1/model.onnx"),
        identity_bytes: Some(&|| load(&runtime, "test/identity_string/1/model.onnx")),
        endless: &|| load(&runtime, "bad/hang.onnx"),
    });
}

#[test]
fn i6_the_provider_is_read_back_from_the_session() {
    let Some(runtime) = runtime() else { return };
    let engine = load(&runtime, "test/add_sub/1/model.onnx");
    let report = engine.provider();
    assert_eq!(report.used, [("CPUExecutionProvider".to_owned(), 2)]);
    assert_eq!((report.summary, &report.fallback), (ExecutionProvider::Cpu, &None));
}

#[test]
fn i6_a_provider_that_does_not_run_the_graph_is_an_error_unless_fallback_is_allowed() {
    let Some(runtime) = runtime() else { return };
    for provider in [ExecutionProvider::Cuda, ExecutionProvider::Tensorrt] {
        let mut spec = LoadSpec { provider, ..cpu("test/add_sub/1/model.onnx").unwrap() };
        let error = match runtime.load(&spec) {
            Ok(engine) => {
                // A host that has it: then the graph really is there.
                assert_eq!(engine.provider().summary, provider);
                assert!(engine.provider().used.iter().any(|(name, nodes)| *name == *session::provider_name(provider) && *nodes > 0));
                continue;
            }
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(matches!(error, EngineError::ProviderNotUsed { .. }), "{text}");
        assert!(
            text.contains(provider.as_str())
                && text.contains("CPUExecutionProvider")
                && !text.contains(&*crate::testing::library().unwrap().to_string_lossy()),
            "{text}"
        );
        assert!(runtime.has(provider) || text.contains("onnxruntime-gpu"), "{text}");
        eprintln!("{text}");
        spec.fallback = Fallback::Cpu;
        let engine = runtime.load(&spec).unwrap();
        assert_eq!(engine.provider().asked, provider);
        assert_eq!(engine.provider().summary, ExecutionProvider::Cpu);
        assert_eq!(engine.provider().fallback.as_deref(), Some(&*text));
    }
}

#[test]
fn the_signature_is_the_models() {
    let Some(runtime) = runtime() else { return };
    let engine = load(&runtime, "test/add_sub/1/model.onnx");
    let text: Vec<_> = engine.signature().inputs.iter().map(|s| format!("{} {} {:?}", s.name, s.datatype, s.shape)).collect();
    assert_eq!(text, ["INPUT0 FP32 [-1, 16]", "INPUT1 FP32 [-1, 16]"]);
    assert_eq!(engine.signature().outputs.len(), 2);
    assert_eq!(engine.signature().input_symbols, [["batch", ""], ["batch", ""]]);
    assert_eq!(engine.signature().producer.as_deref(), Some("sluice"));
}

#[test]
fn every_type_passes_unchanged() {
    let Some(runtime) = runtime() else { return };
    let models = [
        ("fp32", DataType::Fp32),
        ("fp16", DataType::Fp16),
        ("int64", DataType::Int64),
        ("uint8", DataType::Uint8),
        ("bool", DataType::Bool),
    ];
    for (name, datatype) in models {
        let mut engine = load(&runtime, &format!("test/identity_{name}/1/model.onnx"));
        check_identity(engine.as_mut(), datatype);
    }
    for datatype in DataType::ALL {
        let file = crate::testing::write_model(&crate::testing::identity(datatype, "Identity"));
        let mut engine = runtime.load(&LoadSpec::cpu(file.path(), NonZeroUsize::MIN)).unwrap();
        check_identity(engine.as_mut(), datatype);
    }
}

fn check_identity(engine: &mut dyn Engine, datatype: DataType) {
    let data: Vec<u8> = match datatype.size() {
        None => [[2, 0, 0, 0, 7, 0], [2, 0, 0, 0, 255, 1]].concat().repeat(3),
        Some(1) if datatype == DataType::Bool => vec![0, 1, 1, 0, 0, 1],
        Some(size) => (0..6 * size).map(|i| (i * 7 % 251) as u8).collect(),
    };
    assert_eq!(run_one(engine, datatype, &[2, 3], &data), (datatype, vec![2, 3], data), "{datatype}");
}

#[test]
fn an_input_given_back_as_output_outlives_the_request() {
    let Some(runtime) = runtime() else { return };
    let file = crate::testing::write_model(&crate::testing::pass_through());
    let mut engine = runtime.load(&LoadSpec::cpu(file.path(), NonZeroUsize::MIN)).unwrap();
    let mut data = vec![1u8; 16];
    let name = engine.signature().inputs[0].name.clone();
    let outputs = engine.run(&[TensorView::new(&name, DataType::Fp32, &[1, 4], &data)], &CancelFlag::new()).unwrap();
    data.fill(2);
    assert_eq!(outputs[0].data, vec![1u8; 16]);
}

#[test]
fn an_operator_without_a_kernel_is_named_and_no_path_is_told() {
    let Some(runtime) = runtime() else { return };
    let error = runtime.load(&cpu("bad/unsupported_op.onnx").unwrap()).map(drop).unwrap_err();
    let EngineError::UnsupportedOperator { operator, .. } = &error else { panic!("{error}") };
    assert!(operator.contains("NoSuchOperator"), "{operator}");
    let error = runtime.load(&cpu("bad/truncated.onnx").unwrap()).map(drop).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, EngineError::ModelInvalid { .. }), "{text}");
    assert!(text.contains("truncated.onnx") && !text.contains('/'), "{text}");
}

#[test]
fn a_run_too_large_for_memory_leaves_the_engine_usable() {
    let Some(runtime) = runtime() else { return };
    let mut engine = load(&runtime, "bad/memory_bomb.onnx");
    let error = engine.run(&[TensorView::new("x", DataType::Fp32, &[1, 4], &[0; 16])], &CancelFlag::new()).unwrap_err();
    assert!(error.keeps_engine(), "{error}");
    assert!(matches!(error, EngineError::OutOfMemory { .. }), "{error}");
}

#[test]
fn a_kernel_that_refuses_its_operands_leaves_the_engine_usable() {
    let Some(runtime) = runtime() else { return };
    let mut engine = load(&runtime, "bad/crash_at_run.onnx");
    let twos: Vec<u8> = [2f32; 4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let input = TensorView::new("x", DataType::Fp32, &[1, 4], &twos);
    let error = engine.run(&[input], &CancelFlag::new()).unwrap_err();
    assert!(error.keeps_engine(), "{error}");
    assert!(engine.run(&[TensorView { data: &[0; 16], ..input }], &CancelFlag::new()).is_ok());
}

#[test]
fn a_second_library_is_refused() {
    let Some(runtime) = runtime() else { return };
    let again = Runtime::open(&[runtime.path().to_owned()]).unwrap();
    assert_eq!(again.version(), runtime.version());
    let error = Runtime::open(&[PathBuf::from("/elsewhere/libonnxruntime.so")]).unwrap_err();
    assert!(error.to_string().contains("second library"), "{error}");
}
