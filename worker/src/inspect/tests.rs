//! Reports on models made here and on fetched ones; the children are this test binary, as in `validate`'s tests.

use super::*;
use crate::testing::{field, library, model, model_of, number, write_model};
use std::time::Duration;

fn without_runtime(model: &Path, shapes: &[(&str, &[u64])]) -> Request {
    Request {
        model: model.to_owned(),
        shapes: shapes.iter().map(|(name, sizes)| ((*name).to_owned(), sizes.to_vec())).collect(),
        binary: std::env::current_exe().unwrap(),
        library: Err("no library".into()),
        threads: NonZeroUsize::MIN,
        limits: Limits::default(),
    }
}

fn request(model: &Path, shapes: &[(&str, &[u64])]) -> Option<Request> {
    Some(Request { library: Ok(library()?), ..without_runtime(model, shapes) })
}

async fn inspected(path: &Path, shapes: &[(&str, &[u64])]) -> Option<Report> {
    Some(inspect(&request(path, shapes)?).await.unwrap())
}

async fn counted(bytes: &[u8], shapes: &[(&str, &[u64])]) -> Option<Counted> {
    let report = inspected(write_model(bytes).path(), shapes).await?;
    match report.flops {
        Flops::Counted(counted) => Some(*counted),
        Flops::Unknown { reason } => panic!("{reason}"),
    }
}

/// An input (11) or output (12) of type FP32; names are open dimensions.
fn tensor(place: u64, name: &str, dims: &[&str]) -> Vec<u8> {
    let dim = |text: &&str| field(1, text.parse().map_or_else(|_| field(2, text), |size| number(1, size)));
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    field(place, [field(1, name), field(2, field(1, [number(1, 1), field(2, shape)].concat()))].concat())
}

/// An initializer of type FP32.
fn weight(name: &str, dims: &[u64]) -> Vec<u8> {
    let sizes: Vec<u8> = dims.iter().flat_map(|size| number(1, *size)).collect();
    let raw = vec![0; dims.iter().product::<u64>() as usize * 4];
    field(5, [sizes, number(2, 1), field(8, name), field(9, raw)].concat())
}

/// A node, with attributes that hold numbers.
fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) -> Vec<u8> {
    let attribute = |(name, value): &(&str, u64)| field(5, [field(1, name), number(3, *value), number(20, 2)].concat());
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| field(1, name)).collect();
    field(1, [inputs, field(2, output), field(4, operator), attributes.iter().flat_map(attribute).collect()].concat())
}

fn by_operator(counted: &Counted) -> Vec<(&str, u64, u64)> {
    counted.by_operator.iter().map(|o| (o.operator.as_str(), o.runs, o.flops)).collect()
}

#[tokio::test]
async fn flops_of_products_are_those_counted_by_hand() {
    // 4 filters of 3x3 over 1 of 2 channels in each of 2 groups, at 3x3 places of 2 pictures; and a bias.
    let conv = [
        node("Conv", &["x", "w", "b"], "y", &[("group", 2)]),
        weight("w", &[4, 1, 3, 3]),
        weight("b", &[4]),
        tensor(11, "x", &["n", "2", "h", "w"]),
        tensor(12, "y", &["n", "4", "h2", "w2"]),
    ];
    let Some(found) = counted(&model_of(&conv.concat()), &[("x", &[2, 2, 5, 5])]).await else { return };
    let outputs = 2 * 4 * 3 * 3;
    assert_eq!(by_operator(&found), [("Conv", 1, 2 * outputs * 9 + outputs)]);
    assert_eq!((found.shapes.shapes["x"].as_slice(), found.shapes.assumed_1.len()), (&[2, 2, 5, 5][..], 0));

    // [3,5] x [5,7], then [3,7] x [11,7] transposed with a bias; neither weight may vanish by being packed.
    let dense = [
        node("MatMul", &["x", "w"], "h", &[]),
        node("Gemm", &["h", "v", "c"], "g", &[("transB", 1)]),
        node("Relu", &["g"], "r", &[]),
        node("Flatten", &["r"], "y", &[]),
        weight("w", &[5, 7]),
        weight("v", &[11, 7]),
        weight("c", &[11]),
        tensor(11, "x", &["n", "5"]),
        tensor(12, "y", &["n", "11"]),
    ];
    let found = counted(&model_of(&dense.concat()), &[("x", &[3, 5])]).await.unwrap();
    assert_eq!(by_operator(&found), [("Gemm", 1, 2 * 3 * 7 * 11 + 33), ("MatMul", 1, 2 * 3 * 5 * 7), ("Relu", 1, 33)]);
    assert_eq!(found.total, 495 + 210 + 33);
    assert_eq!(counted(&model_of(&dense.concat()), &[]).await.unwrap().shapes.assumed_1, ["x[0]"]);
}

#[tokio::test]
async fn a_model_that_refuses_zeros_is_counted_once_on_ones() {
    let scalar = |place, name: &str| field(place, [field(1, name), field(2, field(1, [number(1, 7), field(2, [])].concat()))].concat());
    let constant = |name: &str, value: u64| field(5, [number(2, 7), field(8, name), field(9, value.to_le_bytes())].concat());
    // A step of 0 is refused after `Abs` has run.
    let graph = [
        node("Abs", &["x"], "step", &[]),
        node("Range", &["from", "to", "step"], "y", &[]),
        constant("from", 0),
        constant("to", 3),
        scalar(11, "x"),
        field(12, [field(1, "y"), field(2, field(1, [number(1, 7), field(2, field(1, field(2, "n")))].concat()))].concat()),
    ];
    let Some(found) = counted(&model_of(&graph.concat()), &[]).await else { return };
    assert_eq!(by_operator(&found), [("Abs", 1, 1)]);
}

#[tokio::test]
async fn an_operator_without_a_known_cost_is_named() {
    let equation = field(5, [field(1, "equation"), field(4, "ij,jk->ik"), number(20, 3)].concat());
    let graph = [
        field(1, [field(1, "x"), field(1, "x"), field(2, "e"), field(4, "Einsum"), equation].concat()),
        node("Det", &["e"], "y", &[]),
        tensor(11, "x", &["n", "n"]),
        tensor(12, "y", &[]),
    ];
    let Some(found) = counted(&model_of(&graph.concat()), &[("x", &[4, 4])]).await else { return };
    assert_eq!(by_operator(&found), [("Einsum", 1, 2 * 4 * 4 * 4)]);
    assert_eq!(found.not_counted, [OperatorRuns { operator: "Det".into(), runs: 1 }]);
}

#[tokio::test]
async fn efficientnet_lite0_costs_what_was_published() {
    let Some(path) = model("demo/efficientnet_lite0/1/model.onnx").filter(|p| p.exists()) else { return };
    let Some(report) = inspected(&path, &[("x", &[1, 3, 224, 224])]).await else { return };
    let Flops::Counted(flops) = &report.flops else { panic!("{:?}", report.flops) };
    // 407 million multiplications with additions: github.com/tensorflow/tpu, efficientnet/lite.
    let published = 2.0 * 407e6;
    assert!((flops.total as f64 / published - 1.0).abs() < 0.05, "{}", flops.total);
    assert!(flops.not_counted.is_empty(), "{:?}", flops.not_counted);
    assert_eq!((report.nodes, report.operators[0].operator.as_str(), report.operators[0].count), (94, "Conv", 49));
    assert!(matches!(&report.serving, Serving::Served { variant, max_batch_size: 4, not_exercised: None, .. } if variant == "fp32@ort"));
    assert_eq!(report.weights.len(), 1);
    assert_eq!((report.parameters, report.weight_bytes), (PARAMETERS, PARAMETERS * 4));
}

/// Elements of the initializers of that file, as Python's `onnx` counts them.
const PARAMETERS: u64 = 4_631_002;

#[tokio::test]
async fn a_model_of_a_whole_window_runs_once_its_shape_is_told() {
    let Some(path) = model("demo/silero_vad/1/model.onnx").filter(|p| p.exists()) else { return };
    let Some(report) = inspected(&path, &[("input", &[1, 512])]).await else { return };
    let Flops::Counted(flops) = &report.flops else { panic!("{:?}", report.flops) };
    // Its convolutions and recurrent cell are in the branch that was taken.
    let operators: Vec<_> = flops.by_operator.iter().map(|o| o.operator.as_str()).collect();
    assert!(operators.contains(&"LSTM") && operators.contains(&"Conv"), "{operators:?}");
}

#[tokio::test]
async fn external_data_is_counted_by_its_type() {
    let Some(path) = model("bad/external_ok/model.onnx").filter(|p| p.exists()) else { return };
    let Some(report) = inspected(&path, &[]).await else { return };
    assert_eq!(report.external_files, [PathBuf::from("weights.bin")]);
    let bytes = std::fs::metadata(path.with_file_name("weights.bin")).unwrap().len();
    assert_eq!((report.weight_bytes, report.weights[0].datatype.as_str()), (bytes, "FP32"));
}

#[tokio::test]
async fn a_model_that_cannot_be_served_is_described_with_the_reason() {
    let check = async |name: &str, seconds: u64, expected: &str| {
        let Some(path) = model(name).filter(|p| p.exists()) else { return };
        let Some(request) = request(&path, &[]) else { return };
        let limits = Limits { time: Duration::from_secs(seconds), ..Limits::default() };
        let report = inspect(&Request { limits, ..request }).await.unwrap();
        let Serving::Not { reason } = &report.serving else { panic!("{name}: {:?}", report.serving) };
        assert!(reason.contains(expected), "{name}: {reason}");
        assert_eq!(report.flops, Flops::Unknown { reason: reason.clone() });
        assert!(report.nodes > 0 && !report.operators.is_empty() && report.file_bytes > 0, "{name}");
    };
    check("bad/external_outside.onnx", 60, "leaves the model's folder").await;
    check("bad/external_absolute.onnx", 60, "absolute path").await;
    check("bad/unsupported_op.onnx", 60, "NoSuchOperator").await;
    check("bad/crash.onnx", 60, "the runtime crashed (signal 11, out of stack) while loading").await;
    check("bad/memory_bomb.onnx", 60, "needs more memory").await;
    check("bad/hang.onnx", 5, "stopped while running").await;
    let sequence =
        [node("Identity", &["x"], "y", &[]), tensor(11, "x", &["n"]), field(12, [field(1, "y"), field(2, field(4, []))].concat())];
    let Some(report) = inspected(write_model(&model_of(&sequence.concat())).path(), &[]).await else { return };
    assert_eq!(report.outputs[0].datatype, "a sequence");
    assert!(matches!(report.serving, Serving::Not { reason } if reason.contains("output `y` is a sequence")));
}

#[tokio::test]
async fn a_run_that_fails_costs_only_the_flops() {
    let reason = async |bytes: &[u8], shapes: &[(&str, &[u64])]| {
        let report = inspected(write_model(bytes).path(), shapes).await?;
        assert!(matches!(report.serving, Serving::Served { .. }), "{:?}", report.serving);
        match report.flops {
            Flops::Unknown { reason } => Some(reason),
            Flops::Counted(counted) => panic!("{counted:?}"),
        }
    };
    let Some(text) = reason(&crate::testing::reshape_to([7, 11]), &[]).await else { return };
    assert!(text.contains("Reshape"), "{text}");
    let text = reason(&crate::testing::reshape_to([7, 11]), &[("x", &[1 << 20, 1 << 20])]).await.unwrap();
    assert!(text.contains("input `x` is too large"), "{text}");
}

#[tokio::test]
async fn a_measurement_does_not_fill_the_disk() {
    // A loop whose node has a name of 64 KiB: each pass adds that to the measurement.
    let name = "n".repeat(64 << 10);
    let scalar = |place, name: &str, datatype| {
        field(place, [field(1, name), field(2, field(1, [number(1, datatype), field(2, [])].concat()))].concat())
    };
    let body = [
        field(1, [field(1, "c"), field(2, "c2"), field(4, "Identity")].concat()),
        field(1, [field(1, "a"), field(2, "a2"), field(3, name), field(4, "Relu")].concat()),
        [scalar(11, "i", 7), scalar(11, "c", 9), tensor(11, "a", &["n"]), scalar(12, "c2", 9), tensor(12, "a2", &["n"])].concat(),
        field(2, "body"),
    ];
    let body = field(5, [field(1, "body"), field(6, body.concat()), number(20, 5)].concat());
    let passes = field(5, [number(2, 7), field(8, "passes"), field(9, 6000u64.to_le_bytes())].concat());
    let looped = field(1, [field(1, "passes"), field(1, ""), field(1, "x"), field(2, "y"), field(4, "Loop"), body].concat());
    let graph = [looped, passes, tensor(11, "x", &["n"]), tensor(12, "y", &["n"])];
    let Some(report) = inspected(write_model(&model_of(&graph.concat())).path(), &[]).await else { return };
    assert!(matches!(report.serving, Serving::Served { .. }), "{:?}", report.serving);
    assert!(matches!(&report.flops, Flops::Unknown { reason } if reason.contains("too often for a measurement")), "{:?}", report.flops);
}

#[tokio::test]
async fn the_name_of_a_node_forges_no_run_of_another() {
    let name = "a_kernel_time\", \"args\": {\"op_name\": \"Sub\"}}, {\"name\": \"\\";
    let graph = [
        field(1, [field(1, "x"), field(2, "y"), field(3, name), field(4, "Relu")].concat()),
        tensor(11, "x", &["n"]),
        tensor(12, "y", &["n"]),
    ];
    let Some(found) = counted(&model_of(&graph.concat()), &[]).await else { return };
    assert_eq!((by_operator(&found), found.not_counted.len()), (vec![("Relu", 1, 1)], 0));
}

#[tokio::test]
async fn without_a_runtime_the_file_is_described_all_the_same() {
    let file = write_model(&crate::testing::identity(policy::DataType::Fp32, "Relu"));
    let report = inspect(&without_runtime(file.path(), &[])).await.unwrap();
    assert_eq!((report.inputs[0].name.as_str(), report.operators[0].operator.as_str(), report.opset), ("x", "Relu", Some(17)));
    assert_eq!(report.serving, Serving::Not { reason: "no library".into() });
}

#[tokio::test]
async fn what_is_no_model_or_not_its_shape_is_an_error() {
    let error = async |bytes: &[u8], shapes: &[(&str, &[u64])]| {
        let file = write_model(bytes);
        inspect(&without_runtime(file.path(), shapes)).await.unwrap_err().to_string()
    };
    assert!(error(b"<html>no model here</html>", &[]).await.contains("not an ONNX file"));
    assert!(error(&model_of(&tensor(11, "x", &["n", "5"])), &[("x", &[1, 6])]).await.contains("expected shape [n, 5], got [1, 6]"));
    let missing = without_runtime(Path::new("/nowhere/m.onnx"), &[]);
    assert!(inspect(&missing).await.unwrap_err().to_string().contains("cannot be read: entity not found"));
}
