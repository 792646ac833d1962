//! The contract on OpenVINO, and what is particular to it. Needs a library and the test models; some compare with ONNX Runtime.

use super::*;
use crate::engine::contract::{Subject, check};
use crate::engine::{CancelFlag, EngineName, PrecisionHint, TensorView};
use crate::testing::{field, interface, model, model_of, node, number, openvino, pass_through, runtime, write_model};
use policy::DataType;
use std::num::NonZeroUsize;

fn cpu(model: &str) -> LoadSpec {
    of_file(&self::model(model).unwrap())
}

fn of_file(path: &Path) -> LoadSpec {
    LoadSpec { engine: EngineName::Openvino, ..LoadSpec::cpu(path, NonZeroUsize::MIN) }
}

fn load(runtime: &Runtime, name: &str) -> Box<dyn Engine> {
    runtime.load(&cpu(name)).unwrap()
}

fn refusal(runtime: &Runtime, spec: &LoadSpec) -> EngineError {
    runtime.load(spec).map(drop).unwrap_err()
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| ((i * 31 % 257) as f32 / 128.0 - 1.0).to_le_bytes()).collect()
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect()
}

/// `y` is a chain of products of large matrices made of `x`: minutes of work in steps of a fraction of a second.
fn endless() -> Vec<u8> {
    let raw: Vec<u8> = [2048i64, 512].iter().flat_map(|d| d.to_le_bytes()).collect();
    let times = field(5, [number(1, 2), number(2, 7), field(8, "times"), field(9, raw)].concat());
    let two = |operator: &str, a: &str, b: &str, y: &str| field(1, [field(1, a), field(1, b), field(2, y), field(4, operator)].concat());
    let mut nodes = two("Tile", "x", "times", "m0");
    for i in 0..600 {
        nodes.extend(two("MatMul", &format!("m{i}"), &format!("m{i}"), &if i == 599 { "y".to_owned() } else { format!("m{}", i + 1) }));
    }
    // Its second dimension is known, as the contract has it.
    let dims = [field(1, field(2, "n")), field(1, number(1, 4))].concat();
    let x = field(11, [field(1, "x"), field(2, field(1, [number(1, 1), field(2, dims)].concat()))].concat());
    model_of(&[nodes, times, x, interface(12, "y", DataType::Fp32)].concat())
}

#[test]
fn openvino_keeps_the_contract() {
    let Some(runtime) = openvino() else { return };
    let file = write_model(&endless());
    check(&Subject {
        add_sub: &|| load(&runtime, "test/add_sub/1/model.onnx"),
        identity_bytes: None,
        endless: &|| runtime.load(&of_file(file.path())).unwrap(),
    });
}

#[test]
fn i6_device_and_precision_are_read_back_and_that_of_the_file_is_the_default() {
    let Some(runtime) = openvino() else { return };
    for hint in [None, Some(PrecisionHint::F32)] {
        let engine = runtime.load(&LoadSpec { hint, ..cpu("test/add_sub/1/model.onnx") }).unwrap();
        let report = engine.provider();
        assert_eq!(report.used, [("OpenVINO CPU f32".to_owned(), 2)]);
        assert_eq!((report.asked, report.summary, &report.fallback), (ExecutionProvider::Cpu, ExecutionProvider::Cpu, &None));
    }
}

#[test]
fn i6_a_precision_that_the_processor_lacks_is_an_error_that_names_it() {
    let Some(runtime) = openvino() else { return };
    let has = runtime.core.property(model::DEVICE, "OPTIMIZATION_CAPABILITIES").unwrap();
    for (hint, capability) in [(PrecisionHint::Bf16, "BF16"), (PrecisionHint::F16, "FP16")] {
        let spec = LoadSpec { hint: Some(hint), ..cpu("demo/efficientnet_lite0/1/model.onnx") };
        if has.contains(capability) {
            let report = runtime.load(&spec).unwrap().provider().clone();
            assert!(report.used[0].0.ends_with(&format!(" {hint}")), "{report:?}");
        } else {
            let error = refusal(&runtime, &spec);
            assert!(matches!(error, EngineError::HintNotSupported { .. }) && error.to_string().contains(capability), "{error}");
        }
        eprintln!("{hint}: this processor has {has}");
    }
}

#[test]
fn i6_another_provider_is_an_error_unless_fallback_is_allowed() {
    let Some(runtime) = openvino() else { return };
    let mut spec = LoadSpec { provider: ExecutionProvider::Cuda, ..cpu("test/add_sub/1/model.onnx") };
    let error = refusal(&runtime, &spec);
    assert!(matches!(error, EngineError::ProviderNotUsed { .. }), "{error}");
    spec.fallback = Fallback::Cpu;
    let report = runtime.load(&spec).unwrap().provider().clone();
    assert_eq!((report.summary, report.fallback), (ExecutionProvider::Cpu, Some(error.to_string())));
}

/// Runs the model `name` on both engines, `rows` of each.
fn same_answers(name: &str, sizes: &[usize], input: &str, shape: &[i64]) {
    let (Some(ov), Some(ort)) = (openvino(), runtime()) else { return };
    let (mut ov, mut ort) = (load(&ov, name), ort.load(&LoadSpec::cpu(model(name).unwrap(), NonZeroUsize::MIN)).unwrap());
    assert_eq!((&ov.signature().inputs, &ov.signature().outputs), (&ort.signature().inputs, &ort.signature().outputs));
    assert_eq!(ov.signature().input_symbols, ort.signature().input_symbols);
    assert_eq!(ov.signature().producer, ort.signature().producer);
    for rows in sizes {
        let shape: Vec<i64> = std::iter::once(*rows as i64).chain(shape.iter().copied()).collect();
        let data = floats(shape.iter().product::<i64>() as usize);
        let view = TensorView::new(input, DataType::Fp32, &shape, &data);
        let (a, b) = (ov.run(&[view], &CancelFlag::new()).unwrap(), ort.run(&[view], &CancelFlag::new()).unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((&a.name, a.datatype, &a.shape), (&b.name, b.datatype, &b.shape));
            let (a, b) = (values(&a.data), values(&b.data));
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(a.len() == b.len() && worst < 1e-4, "{name}, {rows} rows: {worst}");
            eprintln!("{name}, {rows} rows: apart by {worst} at most");
        }
    }
}

#[test]
fn answers_are_those_of_onnx_runtime() {
    same_answers("demo/efficientnet_lite0/1/model.onnx", &[1, 3, 2], "x", &[3, 224, 224]);
    same_answers("test/identity_fp32/1/model.onnx", &[1, 5], "INPUT0", &[4]);
    same_answers("test/slow/1/model.onnx", &[1, 2], "INPUT0", &[256]);
}

#[test]
fn hundreds_of_tokens_are_read_as_onnx_runtime_reads_them() {
    let (Some(ov), Some(ort)) = (openvino(), runtime()) else { return };
    let name = "demo/minilm_l6/1/model.onnx";
    let (mut ov, mut ort) = (load(&ov, name), ort.load(&LoadSpec::cpu(model(name).unwrap(), NonZeroUsize::MIN)).unwrap());
    assert_eq!(ov.signature(), ort.signature());
    let inputs = ov.signature().inputs.clone();
    for (rows, length) in [(1i64, 128i64), (3, 17)] {
        let ids: Vec<u8> = (0..rows * length).flat_map(|i| (1000 + i * 7 % 20_000).to_le_bytes()).collect();
        let (ones, zeros) = (1i64.to_le_bytes().repeat((rows * length) as usize), vec![0u8; ids.len()]);
        let data = |name: &str| {
            if name.contains("mask") {
                &ones
            } else if name.contains("type") {
                &zeros
            } else {
                &ids
            }
        };
        let shape = [rows, length];
        let views: Vec<_> = inputs.iter().map(|i| TensorView::new(&i.name, i.datatype, &shape, data(&i.name))).collect();
        let (a, b) = (ov.run(&views, &CancelFlag::new()).unwrap(), ort.run(&views, &CancelFlag::new()).unwrap());
        let worst = values(&a[0].data).iter().zip(&values(&b[0].data)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(a[0].shape == b[0].shape && worst < 1e-4, "{rows} rows of {length}: {worst}");
    }
}

#[test]
fn every_type_passes_unchanged_or_is_refused_with_the_reason() {
    let Some(runtime) = openvino() else { return };
    for datatype in DataType::ALL {
        let file = write_model(&crate::testing::identity(datatype, "Identity"));
        let spec = of_file(file.path());
        if matches!(datatype, DataType::Bytes | DataType::Fp64) {
            let error = refusal(&runtime, &spec).to_string();
            assert!(error.contains("input `x` has elements of type") && error.contains("ONNX Runtime"), "{error}");
            continue;
        }
        let mut engine = runtime.load(&spec).unwrap();
        let size = datatype.size().unwrap();
        let data: Vec<u8> = match datatype {
            DataType::Bool => vec![0, 1, 1, 0, 0, 1],
            // Of more than 16 bits, but not of 32.
            DataType::Int64 | DataType::Uint64 | DataType::Uint32 => {
                (0..6).flat_map(|i| (i * 400_000_000u64).to_le_bytes().into_iter().take(size)).collect()
            }
            _ => (0..6 * size).map(|i| (i * 7 % 251) as u8).collect(),
        };
        let outputs = engine.run(&[TensorView::new("x", datatype, &[2, 3], &data)], &CancelFlag::new()).unwrap();
        assert_eq!((outputs[0].datatype, &*outputs[0].shape, &*outputs[0].data), (datatype, &[2, 3][..], &data[..]), "{datatype}");
    }
}

#[test]
fn a_number_that_would_be_cut_to_32_bits_is_refused() {
    let Some(runtime) = openvino() else { return };
    let check = |datatype: DataType, value: &[u8], shown: &str| {
        let file = write_model(&crate::testing::identity(datatype, "Identity"));
        let mut engine = runtime.load(&of_file(file.path())).unwrap();
        let error = engine.run(&[TensorView::new("x", datatype, &[1, 1], value)], &CancelFlag::new()).unwrap_err();
        assert!(matches!(&error, EngineError::BadInput { what } if what.contains(shown)), "{error}");
    };
    check(DataType::Int64, &(1i64 << 31).to_le_bytes(), "2147483648");
    check(DataType::Int64, &i64::MIN.to_le_bytes(), "-9223372036854775808");
    check(DataType::Uint64, &u64::MAX.to_le_bytes(), "18446744073709551615");
    check(DataType::Uint32, &u32::MAX.to_le_bytes(), "4294967295");
}

#[test]
fn an_output_has_the_name_that_the_file_gives_it() {
    let Some(runtime) = openvino() else { return };
    let graph = [node("Relu", "x", "a"), node("Identity", "a", "y"), node("Identity", "a", "b")].concat();
    let outputs = ["y", "b", "a"].map(|name| interface(12, name, DataType::Fp32)).concat();
    let file = write_model(&model_of(&[graph, interface(11, "x", DataType::Fp32), outputs].concat()));
    let mut engine = runtime.load(&of_file(file.path())).unwrap();
    let data = floats(2);
    let outputs = engine.run(&[TensorView::new("x", DataType::Fp32, &[1, 2], &data)], &CancelFlag::new()).unwrap();
    assert_eq!(outputs.iter().map(|o| &*o.name).collect::<Vec<_>>(), ["y", "b", "a"]);
    assert!(outputs.iter().all(|o| values(&o.data) == values(&data).iter().map(|v| v.max(0.0)).collect::<Vec<_>>()));
    // And where the tensor before it has a name of its own.
    let graph = [node("Relu", "x", "a"), node("Identity", "a", "y")].concat();
    let file = write_model(&model_of(&[graph, interface(11, "x", DataType::Fp32), interface(12, "y", DataType::Fp32)].concat()));
    assert_eq!(runtime.load(&of_file(file.path())).unwrap().signature().outputs[0].name, "y");
}

#[test]
fn an_input_given_back_as_output_outlives_the_request() {
    let Some(runtime) = openvino() else { return };
    let file = write_model(&pass_through());
    let mut engine = runtime.load(&of_file(file.path())).unwrap();
    let mut data = vec![1u8; 16];
    let outputs = engine.run(&[TensorView::new("x", DataType::Fp32, &[1, 4], &data)], &CancelFlag::new()).unwrap();
    data.fill(2);
    assert_eq!(outputs[0].data, vec![1u8; 16]);
}

#[test]
fn an_operator_without_a_kernel_is_named_and_no_path_is_told() {
    let Some(runtime) = openvino() else { return };
    let error = refusal(&runtime, &cpu("bad/unsupported_op.onnx"));
    assert!(matches!(&error, EngineError::UnsupportedOperator { operator, .. } if operator.contains("NoSuchOperator")), "{error}");
    for bad in ["bad/truncated.onnx", "bad/external_outside.onnx", "no/such.onnx"] {
        let error = refusal(&runtime, &cpu(bad));
        let folder = model("").unwrap();
        assert!(matches!(error, EngineError::ModelInvalid { .. }) && !error.to_string().contains(&*folder.to_string_lossy()), "{error}");
    }
}

#[test]
fn a_run_that_fails_is_an_error_and_no_empty_answer() {
    let Some(runtime) = openvino() else { return };
    let mut engine = load(&runtime, "test/add_sub/1/model.onnx");
    let (two, three) = (floats(2 * 16), floats(3 * 16));
    let of = |name, shape, data| TensorView::new(name, DataType::Fp32, shape, data);
    let error = engine.run(&[of("INPUT0", &[2, 16], &two), of("INPUT1", &[3, 16], &three)], &CancelFlag::new()).unwrap_err();
    assert!(matches!(error, EngineError::NotComputed { .. }), "{error}");
    assert!(engine.run(&[of("INPUT0", &[2, 16], &two), of("INPUT1", &[2, 16], &two)], &CancelFlag::new()).is_ok());
}

#[test]
fn what_was_compiled_before_gives_the_same_answers_and_is_not_taken_for_another_precision() {
    let Some(runtime) = openvino() else { return };
    let cache = tempfile::tempdir().unwrap();
    let data = floats(3 * 224 * 224);
    let answer = |hint: Option<PrecisionHint>| {
        let cache_dir = Some(cache.path().to_owned());
        let mut engine = runtime.load(&LoadSpec { cache_dir, hint, ..cpu("demo/efficientnet_lite0/1/model.onnx") }).unwrap();
        let view = TensorView::new("x", DataType::Fp32, &[1, 3, 224, 224], &data);
        let answer = engine.run(&[view], &CancelFlag::new()).unwrap().remove(0).data;
        assert!(std::fs::read_dir(cache.path()).unwrap().count() > 0, "nothing was kept");
        (engine.signature().clone(), engine.provider().clone(), answer)
    };
    let first = answer(None);
    assert!(first == answer(None));
    if runtime.core.property(model::DEVICE, "OPTIMIZATION_CAPABILITIES").unwrap().contains("BF16") {
        let rounded = answer(Some(PrecisionHint::Bf16));
        assert!(rounded.1.used[0].0.ends_with("bf16") && rounded.2 != first.2 && rounded == answer(Some(PrecisionHint::Bf16)));
    }
    assert!(first == answer(None));
}

#[test]
fn a_second_library_is_refused() {
    let Some(runtime) = openvino() else { return };
    assert_eq!(Runtime::open(&[runtime.path().to_owned()]).unwrap().version(), runtime.version());
    let error = Runtime::open(&[PathBuf::from("/elsewhere/libopenvino_c.so")]).unwrap_err();
    assert!(error.to_string().contains("second library"), "{error}");
}
