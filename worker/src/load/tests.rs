use super::*;
use crate::engine::{EngineError, Found, openvino};
use crate::memory::Ledger;
use crate::runner::Isolation;
use crate::testing::{model, no_openvino, openvino_library, runtime};
use policy::{DataType, DeviceRecord};
use serde_json::json;

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

/// Loads of one model by one worker.
struct Bench {
    loader: Loader,
    config: WorkerConfig,
    version: VersionRecord,
    _dir: tempfile::TempDir,
}

/// What one instance is said to hold.
const INSTANCE_BYTES: u64 = 100;

impl Bench {
    fn new(cores: CorePlan, openvino: Result<Found, EngineError>) -> Option<Self> {
        let loader = Loader::new(runtime()?, openvino, Isolation::None, "no binary".into());
        let spec = LoadSpec::cpu(model("test/add_sub/1/model.onnx")?, NonZeroUsize::MIN);
        let found = loader.load("cpu", &spec).unwrap().engine.signature().clone();
        let signature = Signature { max_batch_size: 0, inputs: found.inputs, outputs: found.outputs };
        let version = json!({
            "model": "m", "version": 1, "state": "valid", "reference": "fp32@ort", "artifact": "0".repeat(64), "files": [],
            "signature": signature, "bytes_resident": INSTANCE_BYTES, "variants": [beside("fp32@abacus"), beside("fp32@openvino")],
        });
        let dir = tempfile::tempdir().unwrap();
        let config = WorkerConfig { cores, ..crate::testing::config(dir.path()) };
        Some(Self { loader, config, version: serde_json::from_value(version).unwrap(), _dir: dir })
    }

    /// The replica of a placement that says `asks`.
    fn try_load(&self, asks: &serde_json::Value, memory: Reservation) -> Result<Warm, WorkerError> {
        let mut placement = json!({
            "worker": "w", "variant": "m:1:fp32@ort", "device": "cpu", "epoch": 1, "artifact": "0".repeat(64), "provider": "cpu",
        });
        placement.as_object_mut().unwrap().extend(asks.as_object().unwrap().clone());
        let placement = serde_json::from_value(placement).unwrap();
        let folder = model("test/add_sub/1").unwrap();
        let gate = &Gate::of_cores(self.config.cores.cores);
        let wanted = Wanted { placement: &placement, version: &self.version, folder: &folder, attempt: 1, gate, teller: &Teller::silent() };
        load(&self.loader, &self.config, &wanted, memory, Box::new(drop))
    }

    /// The same, how many threads came with it, and how much of four instances' memory it left.
    fn load(&self, asks: serde_json::Value) -> (Warm, usize, u64) {
        let (ledger, device) =
            (Ledger::default(), DeviceRecord { name: "cpu".into(), class: "c".into(), memory_bytes: 4 * INSTANCE_BYTES });
        let memory = ledger.reserve(&device, device.memory_bytes).unwrap();
        let before = threads();
        let warm = self.try_load(&asks, memory).unwrap();
        let left = (0..4).map_while(|_| ledger.reserve(&device, INSTANCE_BYTES).ok()).collect::<Vec<_>>().len();
        (warm, threads() - before, left as u64 * INSTANCE_BYTES)
    }
}

/// The same file as the reference's, run otherwise.
fn beside(name: &str) -> serde_json::Value {
    let zeros = "0".repeat(64);
    json!({ "name": name, "artifact": zeros, "files": [], "bytes_resident": INSTANCE_BYTES, "accuracy": 1.0, "metric": "cosine", "data": zeros })
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_model_that_would_be_late_on_one_thread_gets_more_unless_somebody_said_how_many() {
    let four = NonZeroUsize::new(4).unwrap();
    let Some(mut bench) = Bench::new(CorePlan::new(four), no_openvino()) else { return };
    let mut kept = Vec::new(); // so that no thread of one load ends during the next
    let mut check = |bench: &Bench, asks: serde_json::Value, expected: (u32, u32)| {
        let (warm, started, left) = bench.load(asks.clone());
        assert_eq!((warm.instances, warm.intra_threads), expected, "{asks}");
        // The instance's own is one of the threads that work on its run.
        let all = warm.instances * warm.intra_threads;
        let inline = u32::from(warm.latency.batch_us(1) < f64::from(INLINE_US_MAX) && warm.instances > 1);
        assert_eq!(started as u32, all - inline, "{asks}: threads that really are there");
        assert_eq!(warm.bytes_resident, INSTANCE_BYTES * u64::from(expected.0));
        assert_eq!(left, 4 * INSTANCE_BYTES - warm.bytes_resident, "{asks}: more is kept than is held");
        kept.push(warm);
    };
    let tight = json!({ "latency_target_us": 1 });
    check(&bench, json!({}), (4, 1));
    check(&bench, json!({ "latency_target_us": 60_000_000 }), (4, 1));
    check(&bench, tight.clone(), (1, 4));
    check(&bench, json!({ "latency_target_us": 1, "instances": 2 }), (2, 2));
    bench.config.cores = CorePlan::with_instances(four, 2);
    check(&bench, tight.clone(), (2, 2));
    bench.config.cores = CorePlan::new(four);
    bench.version.config = Some(json!({ "parameters": { "intra_op_thread_count": { "string_value": "1" } } }));
    check(&bench, tight, (4, 1));
}

#[test]
fn i6_a_variant_is_loaded_by_the_engine_that_its_name_says() {
    let Some(library) = openvino_library() else { return };
    let one = CorePlan::with_instances(NonZeroUsize::MIN, 1);
    let (Some(with), Some(without)) = (Bench::new(one, openvino::find(&[library])), Bench::new(one, no_openvino())) else { return };
    let used = |bench: &Bench, variant: &str| {
        let device = DeviceRecord { name: "cpu".into(), class: "c".into(), memory_bytes: INSTANCE_BYTES };
        let memory = Ledger::default().reserve(&device, INSTANCE_BYTES).unwrap();
        bench.try_load(&json!({ "variant": variant }), memory).map(|warm| warm.provider.used[0].0.clone()).map_err(|e| e.to_string())
    };
    assert_eq!(used(&with, "m:1:fp32@ort").unwrap(), "CPUExecutionProvider");
    assert_eq!(used(&with, "m:1:fp32@openvino").unwrap(), "OpenVINO CPU f32");
    assert!(used(&without, "m:1:fp32@openvino").unwrap_err().contains("openvino is not installed"));
    assert!(used(&with, "m:1:fp32@abacus").unwrap_err().contains("no engine is called `abacus`"));
}
