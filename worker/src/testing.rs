//! What tests of this crate share: the runtime and models they find, and models they make.

use crate::config::WorkerConfig;
use crate::cores::CorePlan;
use crate::engine::ort::Runtime;
use crate::engine::{EngineError, EngineName, Found, openvino};
use crate::runner::Isolation;
use policy::DataType;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const MISSING: &str = "not run: needs SLUICE_ONNXRUNTIME (cargo xtask test sets it)";

/// The library that `cargo xtask test` names.
pub(crate) fn library() -> Option<PathBuf> {
    let path = std::env::var_os("SLUICE_ONNXRUNTIME").map(PathBuf::from);
    if path.is_none() {
        eprintln!("{MISSING}");
    }
    path
}

/// The runtime in it, if the test models are there too.
pub(crate) fn runtime() -> Option<Arc<Runtime>> {
    model("")?;
    Some(Runtime::open(&[library()?]).unwrap())
}

/// That OpenVINO is not installed.
pub(crate) fn no_openvino() -> Result<Found, EngineError> {
    Err(EngineError::LibraryMissing { engine: EngineName::Openvino, tried: vec![] })
}

/// The OpenVINO library that `cargo xtask test` names.
pub(crate) fn openvino_library() -> Option<PathBuf> {
    let path = std::env::var_os("SLUICE_OPENVINO").map(PathBuf::from);
    if path.is_none() {
        eprintln!("{}", MISSING.replace("ONNXRUNTIME", "OPENVINO"));
    }
    path
}

/// The runtime in it, if the test models are there too.
pub(crate) fn openvino() -> Option<Arc<openvino::Runtime>> {
    model("")?;
    Some(openvino::Runtime::open(&[openvino_library()?]).unwrap())
}

/// The file `name` among the test models.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SLUICE_TEST_MODELS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("{}", MISSING.replace("ONNXRUNTIME", "TEST_MODELS"));
    }
    Some(folder?.join(name))
}

/// A worker on one core that keeps its data in `dir`, and offers nothing.
pub(crate) fn config(dir: &Path) -> WorkerConfig {
    WorkerConfig {
        id: policy::WorkerId::new("w").unwrap(),
        keys: registry::Keys::new("c"),
        site: String::new(),
        zone: String::new(),
        cost_class: String::new(),
        host: String::new(),
        advertise_data: String::new(),
        advertise_admin: String::new(),
        models: None,
        owns_repository: false,
        data_dir: dir.join("data"),
        cores: CorePlan::with_instances(NonZeroUsize::MIN, 1),
        capabilities: policy::Capabilities::default(),
        devices: vec![],
        provider: policy::ExecutionProvider::Cpu,
        isolation: Isolation::None,
        binary: "no binary".into(),
        library: "library".into(),
        openvino: no_openvino(),
        validate_time_max: Duration::from_secs(1),
        validate_memory_max: 1,
        message_bytes_max: 1 << 20,
    }
}

/// A protobuf field that holds bytes.
pub(crate) fn field(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// A protobuf field that holds a number.
pub(crate) fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A model around the fields of a graph.
pub(crate) fn model_of(graph: &[u8]) -> Vec<u8> {
    [number(1, 8), field(2, "sluice-test"), field(8, number(2, 17)), field(7, [&field(2, "g"), graph].concat())].concat()
}

/// An input (11) or output (12) of a graph, of rank 2 with any dimensions.
pub(crate) fn interface(place: u64, name: &str, datatype: DataType) -> Vec<u8> {
    let dims = [field(1, field(2, "n")), field(1, field(2, "m"))].concat();
    let element = (0..32).find(|n| crate::onnx::datatype(*n) == Some(datatype)).unwrap();
    let tensor = [number(1, element), field(2, dims)].concat();
    field(place, [field(1, name), field(2, field(1, tensor))].concat())
}

/// A node with one input and one output.
pub(crate) fn node(operator: &str, input: &str, output: &str) -> Vec<u8> {
    field(1, [field(1, input), field(2, output), field(4, operator)].concat())
}

/// `y = x`, through a node.
pub(crate) fn identity(datatype: DataType, operator: &str) -> Vec<u8> {
    model_of(&[node(operator, "x", "y"), interface(11, "x", datatype), interface(12, "y", datatype)].concat())
}

/// The output is the input itself.
pub(crate) fn pass_through() -> Vec<u8> {
    model_of(&[interface(11, "x", DataType::Fp32), interface(12, "x", DataType::Fp32)].concat())
}

/// A file with these bytes.
pub(crate) fn write_model(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// `y` is `x`, of `[n,m]`, in a shape that must have as many elements.
pub(crate) fn reshape_to(shape: [i64; 2]) -> Vec<u8> {
    let raw: Vec<u8> = shape.iter().flat_map(|d| d.to_le_bytes()).collect();
    let shape = field(5, [number(1, 2), number(2, 7), field(8, "shape"), field(9, raw)].concat());
    let reshape = field(1, [field(1, "x"), field(1, "shape"), field(2, "y"), field(4, "Reshape")].concat());
    model_of(&[reshape, shape, interface(11, "x", DataType::Fp32), interface(12, "y", DataType::Fp32)].concat())
}
