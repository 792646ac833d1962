//! A model of the runtime: how it is compiled, its signature, and what it says runs it.

use super::handle::{Compiled, Core, OvError, Port};
use super::message;
use super::request::OvEngine;
use super::tensor;
use crate::engine::{EngineError, EngineSignature, ExecutionProvider, LoadSpec, PrecisionHint, ProviderReport, without_paths};
use crate::onnx::{self, Dim, Scan};
use policy::{DataType, TensorSpec};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;

/// The runtime's name for the processor.
pub(super) const DEVICE: &str = "CPU";

/// Loads `spec`; `fallback` says why it is not on the provider asked for.
pub(super) fn load(core: &Core, spec: &LoadSpec, fallback: Option<String>) -> Result<OvEngine, EngineError> {
    if spec.profile.is_some() {
        return Err(EngineError::Failed { reason: "OpenVINO writes no measurement of nodes; ONNX Runtime does".to_owned() });
    }
    let of_load = |e: OvError| message::of_load(&e, &spec.path);
    // Without a hint the runtime takes bf16 for a model of 32 bits wherever the processor has it.
    let hint = spec.hint.unwrap_or(PrecisionHint::F32);
    check_supported(core, hint).map_err(of_load)??;
    let scan = if is_own_format(spec) { None } else { Some(onnx::scan(&spec.path).map_err(invalid)?) };
    let compiled = core.compile(spec.path.as_os_str().as_bytes(), DEVICE, &properties(spec, hint)).map_err(of_load)?;
    let report = report(&compiled, spec, hint, scan.as_ref(), fallback)?;
    let (signature, inputs, outputs) = signature(&compiled, scan)?;
    let request = compiled.request().map_err(of_load)?;
    Ok(OvEngine::new(compiled, request, inputs, outputs, signature, report, spec.cores.clone()))
}

fn invalid(error: impl std::fmt::Display) -> EngineError {
    EngineError::ModelInvalid { reason: error.to_string() }
}

fn is_own_format(spec: &LoadSpec) -> bool {
    spec.path.extension().is_some_and(|extension| extension == "xml")
}

/// The runtime ignores a hint that the processor cannot follow.
fn check_supported(core: &Core, hint: PrecisionHint) -> Result<Result<(), EngineError>, OvError> {
    let capabilities = core.property(DEVICE, "OPTIMIZATION_CAPABILITIES")?;
    let name = match hint {
        PrecisionHint::F32 => "FP32",
        PrecisionHint::F16 => "FP16",
        PrecisionHint::Bf16 => "BF16",
    };
    let listed = capabilities.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|capability| capability == name);
    let reason = || format!("OpenVINO says that this processor does not compute in {name}; it has {}", capabilities.trim());
    Ok(if listed { Ok(()) } else { Err(EngineError::HintNotSupported { hint, reason: reason() }) })
}

/// One request at a time, on as many threads as told. That threads spin or do not cannot be told.
fn properties(spec: &LoadSpec, hint: PrecisionHint) -> Vec<(&'static str, String)> {
    let mut properties = vec![
        ("NUM_STREAMS", "1".to_owned()),
        ("INFERENCE_NUM_THREADS", spec.intra_threads.to_string()),
        // Every instance would be bound to the same first cores.
        ("ENABLE_CPU_PINNING", "NO".to_owned()),
        ("INFERENCE_PRECISION_HINT", hint.as_str().to_owned()),
        // Else activations that meet compressed weights are rounded to 8 bits, of which the hint says nothing.
        ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0".to_owned()),
    ];
    properties.extend(spec.cache_dir.as_ref().map(|dir| ("CACHE_DIR", dir.to_string_lossy().into_owned())));
    properties
}

/// What really runs the graph, and in which precision (I6).
fn report(
    compiled: &Compiled,
    spec: &LoadSpec,
    hint: PrecisionHint,
    scan: Option<&Scan>,
    fallback: Option<String>,
) -> Result<ProviderReport, EngineError> {
    let told = |key| compiled.property(key).map_err(|e| message::of_load(&e, &spec.path));
    let (devices, precision) = (told("EXECUTION_DEVICES")?, told("INFERENCE_PRECISION_HINT")?);
    // A device takes a graph whole.
    let nodes = scan.and_then(|scan| usize::try_from(scan.nodes).ok()).unwrap_or(0);
    let used = vec![(format!("OpenVINO {devices} {precision}"), nodes)];
    if devices != DEVICE {
        let reason = "it is not what the model was compiled for".to_owned();
        return Err(EngineError::ProviderNotUsed { asked: ExecutionProvider::Cpu, used, available: vec![DEVICE.to_owned()], reason });
    }
    if precision != hint.as_str() {
        return Err(EngineError::HintNotSupported { hint, reason: format!("OpenVINO compiled the model to compute in {precision}") });
    }
    Ok(ProviderReport { asked: spec.provider, used, summary: ExecutionProvider::Cpu, fallback })
}

/// The model's signature and the ports of its inputs and outputs.
type Interface = (EngineSignature, Vec<Port>, Vec<Port>);

/// A port may have several names, of which the runtime gives any: that of the tensor before an Identity, say. Where there is a file to
/// ask, its names count.
fn signature(compiled: &Compiled, scan: Option<Scan>) -> Result<Interface, EngineError> {
    let Some(scan) = scan else {
        let named = |port: Port| Ok((port.any_name()?, port));
        let all = |ports: Result<Vec<Port>, OvError>| ports?.into_iter().map(named).collect::<Result<Vec<_>, OvError>>();
        let unnamed = |e: OvError| invalid(without_paths(&e.text, None));
        let (inputs, outputs) = (all(compiled.inputs()).map_err(unnamed)?, all(compiled.outputs()).map_err(unnamed)?);
        return interface(inputs, outputs, Vec::new(), None);
    };
    let missing = |place: &str, name: &str, e: &OvError| invalid(format!("{place} `{name}`: {}", without_paths(&e.text, None)));
    let input = |t: &onnx::Tensor| Ok((t.name.clone(), compiled.input(&t.name).map_err(|e| missing("input", &t.name, &e))?));
    let output = |t: &onnx::Tensor| Ok((t.name.clone(), compiled.output(&t.name).map_err(|e| missing("output", &t.name, &e))?));
    let inputs = scan.inputs.iter().map(input).collect::<Result<Vec<_>, EngineError>>()?;
    let outputs = scan.outputs.iter().map(output).collect::<Result<Vec<_>, EngineError>>()?;
    interface(inputs, outputs, scan.inputs.iter().map(symbols).collect(), scan.producer)
}

fn interface(
    inputs: Vec<(String, Port)>,
    outputs: Vec<(String, Port)>,
    input_symbols: Vec<Vec<String>>,
    producer: Option<String>,
) -> Result<Interface, EngineError> {
    let specs = |kind: &str, ports: &[(String, Port)]| ports.iter().map(|(name, port)| spec(kind, name, port)).collect::<Result<_, _>>();
    let signature = EngineSignature {
        inputs: specs("input", &inputs)?,
        input_symbols,
        outputs: specs("output", &outputs)?,
        producer: producer.filter(|p| !p.is_empty()),
        metadata: BTreeMap::new(),
    };
    let ports = |named: Vec<(String, Port)>| named.into_iter().map(|(_, port)| port).collect();
    Ok((signature, ports(inputs), ports(outputs)))
}

fn symbols(tensor: &onnx::Tensor) -> Vec<String> {
    let symbol = |dim: &Dim| if let Dim::Open(Some(name)) = dim { name.clone() } else { String::new() };
    tensor.shape.iter().flatten().map(symbol).collect()
}

fn spec(kind: &str, name: &str, port: &Port) -> Result<TensorSpec, EngineError> {
    let refused = |why: String| EngineError::ModelInvalid { reason: format!("{kind} `{name}` {why}") };
    let failed = |e: OvError| refused(without_paths(&e.text, None));
    let raw = port.element().map_err(failed)?;
    let datatype = tensor::datatype(raw).ok_or_else(|| refused(format!("has element type {raw}, which is not served")))?;
    match datatype {
        DataType::Bytes => {
            return Err(refused("has elements of type BYTES, which OpenVINO cannot take as they are; ONNX Runtime can".into()));
        }
        DataType::Fp64 => return Err(refused("has elements of type FP64, which OpenVINO computes in FP32; ONNX Runtime does not".into())),
        _ => {}
    }
    let shape = match port.shape().map_err(failed)? {
        Some(shape) => shape,
        None if kind == "output" => Vec::new(),
        None => return Err(refused("does not tell its number of dimensions; export the model with a shape for it".into())),
    };
    Ok(TensorSpec { name: name.to_owned(), datatype, shape, optional: false, graph_shape: None })
}
