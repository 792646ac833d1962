//! One session: its options, its signature, its runs.
#![allow(unsafe_code, reason = "runs over borrowed bytes, and a few facts about a graph, exist only in the C API")]

use super::message::{self, EngineResult};
use super::tensor::{self, Output, Value};
use super::{Runtime, assignment};
use crate::engine::{
    CancelFlag, Engine, EngineError, EngineSignature, ExecutionProvider, LoadSpec, ProviderReport, TensorOut, TensorView, Terminate,
    check_inputs, without_paths,
};
use ::ort::ep;
use ::ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ::ort::session::{RunOptions, Session};
use ::ort::value::{Outlet, ValueType};
use ::ort::{AsPointer, Error, sys};
use policy::TensorSpec;
use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Longest value of a model's own key-value pairs that is kept, and how many are.
const METADATA_VALUE_LEN_MAX: usize = 4096;
const METADATA_KEYS_MAX: usize = 64;

/// The runtime's name of a provider.
pub(super) const fn provider_name(provider: ExecutionProvider) -> &'static str {
    match provider {
        ExecutionProvider::Cpu => "CPUExecutionProvider",
        ExecutionProvider::Cuda => "CUDAExecutionProvider",
        ExecutionProvider::Tensorrt => "TensorrtExecutionProvider",
    }
}

/// Loads `spec` on `provider`; `fallback` says why that is not the one asked for.
pub(super) fn load(
    runtime: &Runtime,
    spec: &LoadSpec,
    provider: ExecutionProvider,
    fallback: Option<String>,
) -> Result<OrtEngine, EngineError> {
    let refused =
        |reason: String, used| EngineError::ProviderNotUsed { asked: provider, used, available: runtime.available.clone(), reason };
    if !runtime.has(provider) {
        let reason = "this ONNX Runtime library was built without it (a GPU build is the PyPI package onnxruntime-gpu)".to_owned();
        return Err(refused(reason, Vec::new()));
    }
    let builder = options(runtime, spec).map_err(|e| message::of_load(&e, &spec.path))?;
    let mut builder =
        with_provider(builder, spec, provider).map_err(|e| refused(without_paths(e.message(), Some(&spec.path)), Vec::new()))?;
    let session = builder.commit_from_file(&spec.path).map_err(|e| match provider {
        ExecutionProvider::Cpu => message::of_load(&e, &spec.path),
        // Device, driver or provider libraries may be at fault as well as the model: a fallback shows which.
        _ if !message::blames_model(&e) => refused(without_paths(e.message(), Some(&spec.path)), Vec::new()),
        _ => message::of_load(&e, &spec.path),
    })?;
    let used = assignment::read(&session).map_err(|e| message::of_load(&e, &spec.path))?;
    let took = used.iter().any(|(name, nodes)| name == provider_name(provider) && *nodes > 0);
    // A graph without nodes (constants, or inputs passed through) runs on the processor by itself.
    if !took && (provider != ExecutionProvider::Cpu || !used.is_empty()) {
        return Err(refused("it took no node of the graph".to_owned(), used));
    }
    let report = ProviderReport { asked: spec.provider, used, summary: provider, fallback };
    OrtEngine::new(session, report, spec.cores.clone()).map_err(|e| match e {
        LoadError::Runtime(e) => message::of_load(&e, &spec.path),
        LoadError::Model(reason) => EngineError::ModelInvalid { reason },
    })
}

fn options(runtime: &Runtime, spec: &LoadSpec) -> EngineResult<SessionBuilder> {
    let level = if spec.as_written || spec.profile.is_some() { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::All };
    let builder = Session::builder(&runtime.environment)?
        .with_optimization_level(level)?
        .with_intra_threads(spec.intra_threads.get())?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_intra_op_spinning(spec.allow_spinning)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(true)?
        .with_config_entry(assignment::RECORD, "1")?;
    match &spec.profile {
        // A packed weight is missing among the inputs of its node.
        Some(prefix) => Ok(builder.with_config_entry("session.disable_prepacking", "1")?.with_profiling(prefix)?),
        None => Ok(builder),
    }
}

fn with_provider(builder: SessionBuilder, spec: &LoadSpec, provider: ExecutionProvider) -> EngineResult<SessionBuilder> {
    let cuda = || ep::CUDA::default().with_device_id(spec.device_id).build().error_on_failure();
    let providers = match provider {
        ExecutionProvider::Cpu => return Ok(builder),
        ExecutionProvider::Cuda => vec![cuda()],
        ExecutionProvider::Tensorrt => {
            let mut tensorrt = ep::TensorRT::default().with_device_id(spec.device_id);
            if let Some(cache) = &spec.cache_dir {
                let path = cache.to_string_lossy();
                tensorrt =
                    tensorrt.with_engine_cache(true).with_engine_cache_path(&path).with_timing_cache(true).with_timing_cache_path(&path);
            }
            // What TensorRT leaves goes to CUDA rather than to the processor.
            vec![tensorrt.build().error_on_failure(), cuda()]
        }
    };
    Ok(builder.with_execution_providers(providers)?)
}

/// Why a session that came to be cannot serve.
enum LoadError {
    Runtime(Error),
    Model(String),
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        Self::Runtime(error)
    }
}

/// A session and what each run needs.
pub(super) struct OrtEngine {
    session: Session,
    signature: EngineSignature,
    report: ProviderReport,
    cores: Vec<usize>,
    input_names: Vec<CString>,
    output_names: Vec<(CString, Arc<str>)>,
    memory: MemoryInfo<'static>,
    stop: Arc<Stop>,
    /// Per input, for bytes that come at an address that does not suit their type. Kept, since fresh pages cost more than
    /// the copy; bounded by the largest input seen.
    scratch: Vec<Vec<u8>>,
}

struct Stop(RunOptions);

impl Terminate for Stop {
    fn terminate(&self) {
        // Fails only on a pointer that is null, which this one is not.
        let _ = self.0.terminate();
    }
}

impl OrtEngine {
    fn new(session: Session, report: ProviderReport, cores: Vec<usize>) -> Result<Self, LoadError> {
        let signature = signature(&session)?;
        let c_name = |spec: &TensorSpec| CString::new(spec.name.as_str()).map_err(|e| LoadError::Runtime(e.into()));
        let input_names = signature.inputs.iter().map(c_name).collect::<Result<_, _>>()?;
        let named = |spec: &TensorSpec| Ok::<_, LoadError>((c_name(spec)?, Arc::from(spec.name.as_str())));
        let output_names = signature.outputs.iter().map(named).collect::<Result<_, _>>()?;
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        let scratch = signature.inputs.iter().map(|_| Vec::new()).collect();
        let stop = Arc::new(Stop(RunOptions::new()?));
        Ok(Self { session, signature, report, cores, input_names, output_names, memory, stop, scratch })
    }

    fn call(&mut self, inputs: &[TensorView<'_>], places: &[usize], cancel: &CancelFlag) -> Result<Vec<Output>, RunError> {
        let mut scratch: Vec<_> = self.scratch.iter_mut().map(Some).collect();
        let (mut names, mut values) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        for (view, place) in inputs.iter().zip(places) {
            let (name, scratch) = (self.input_names.get(*place), scratch.get_mut(*place).and_then(Option::take));
            let (Some(name), Some(scratch)) = (name, scratch) else { continue };
            names.push(name.as_ptr());
            values.push(Value::input(&self.memory, view, scratch)?);
        }
        let pointers: Vec<_> = values.iter().map(Value::as_ptr).collect();
        let output_names: Vec<_> = self.output_names.iter().map(|(name, _)| name.as_ptr()).collect();
        let mut outputs = vec![ptr::null_mut::<sys::OrtValue>(); output_names.len()];
        let armed = cancel.arm(self.stop.clone()).ok_or(RunError::Cancelled)?;
        // SAFETY: session, options, names, values and the bytes under them live through the call, each array is as long
        // as told, and `&mut self` makes this the session's only run.
        let status = unsafe {
            let (session, options) = (self.session.ptr().cast_mut(), self.stop.0.ptr());
            let (names, count) = (names.as_ptr(), names.len());
            let (wanted, wanted_count) = (output_names.as_ptr(), output_names.len());
            let status = (::ort::api().Run)(session, options, names, pointers.as_ptr(), count, wanted, wanted_count, outputs.as_mut_ptr());
            Error::result_from_status(status)
        };
        drop(armed);
        let wrap = |value: &*mut sys::OrtValue| {
            // SAFETY: the run gave this value to us alone.
            NonNull::new(*value).map(|pointer| unsafe { Output::new(pointer, self.session.inner()) })
        };
        // All are owned before any is judged, so that none is lost.
        let outputs: Vec<Option<Output>> = outputs.iter().map(wrap).collect();
        if cancel.is_cancelled() {
            self.stop.0.unterminate()?;
            return Err(RunError::Cancelled);
        }
        status?;
        let missing = || Error::new("a run gave no value for one of its outputs").into();
        outputs.into_iter().collect::<Option<_>>().ok_or_else(missing)
    }
}

/// Why a run gave nothing.
enum RunError {
    Runtime(Error),
    Cancelled,
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        Self::Runtime(error)
    }
}

impl Engine for OrtEngine {
    fn cores(&self) -> &[usize] {
        &self.cores
    }

    fn provider(&self) -> &ProviderReport {
        &self.report
    }

    fn signature(&self) -> &EngineSignature {
        &self.signature
    }

    fn run(&mut self, inputs: &[TensorView<'_>], cancel: &CancelFlag) -> Result<Vec<TensorOut>, EngineError> {
        let places = check_inputs(&self.signature, inputs)?;
        let provider = self.report.summary;
        let outputs = self.call(inputs, &places, cancel).map_err(|e| match e {
            RunError::Cancelled => EngineError::Cancelled,
            RunError::Runtime(e) => message::of_run(&e, provider),
        })?;
        let mut answers = Vec::with_capacity(outputs.len());
        for (output, (_, name)) in outputs.into_iter().zip(&self.output_names) {
            let (datatype, shape, data) = output.into_parts(inputs).map_err(|e| message::of_run(&e, provider))?;
            answers.push(TensorOut { name: name.clone(), datatype, shape, data });
        }
        Ok(answers)
    }
}

fn signature(session: &Session) -> Result<EngineSignature, LoadError> {
    let mut inputs = session.inputs().iter().map(|o| spec("input", o.name(), o.dtype())).collect::<Result<Vec<_>, _>>()?;
    let outputs = session.outputs().iter().map(|o| spec("output", o.name(), o.dtype())).collect::<Result<Vec<_>, _>>()?;
    for (i, input) in inputs.iter().enumerate().filter(|(_, s)| s.shape.is_empty()) {
        if !input_has_rank(session, i)? {
            let reason = format!("input `{}` does not tell its number of dimensions; export the model with a shape for it", input.name);
            return Err(LoadError::Model(reason));
        }
    }
    // An input with a default; one that could not be served is left at its default.
    let defaults = session.overridable_initializers();
    let defaults = defaults.iter().filter_map(|o| spec("input", o.name(), o.dtype()).ok());
    inputs.extend(defaults.map(|spec| TensorSpec { optional: true, ..spec }));
    let metadata = session.metadata()?;
    let pairs = metadata.custom_keys()?.into_iter().filter_map(|key| metadata.custom(&key).map(|value| (key, value)));
    Ok(EngineSignature {
        input_symbols: session.inputs().iter().map(symbols).collect(),
        inputs,
        outputs,
        producer: metadata.producer().filter(|p| !p.is_empty()),
        metadata: pairs.filter(|(_, value)| value.len() <= METADATA_VALUE_LEN_MAX).take(METADATA_KEYS_MAX).collect(),
    })
}

fn spec(kind: &str, name: &str, value: &ValueType) -> Result<TensorSpec, LoadError> {
    let name = name.to_owned();
    let ValueType::Tensor { ty, shape, .. } = value else {
        return Err(LoadError::Model(format!("{kind} `{name}` is a {value}; only tensors are served, so export the model without it")));
    };
    let datatype = tensor::datatype(sys::ONNXTensorElementDataType::from(*ty) as i32);
    let datatype = datatype.ok_or_else(|| LoadError::Model(format!("{kind} `{name}` has element type {ty}, which is not served")))?;
    Ok(TensorSpec { name, datatype, shape: shape.to_vec(), optional: false, graph_shape: None })
}

fn symbols(outlet: &Outlet) -> Vec<String> {
    match outlet.dtype() {
        ValueType::Tensor { dimension_symbols, .. } => dimension_symbols.iter().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Tells a scalar from an input of unknown rank; both have no dimensions.
fn input_has_rank(session: &Session, index: usize) -> EngineResult<bool> {
    let (api, mut info, mut tensor) = (::ort::api(), ptr::null_mut(), ptr::null());
    // SAFETY: the session lives, the index is one of its inputs; the information given is released below.
    unsafe { Error::result_from_status((api.SessionGetInputTypeInfo)(session.ptr(), index, &mut info)) }?;
    // SAFETY: `info` was just given; `tensor` becomes a part of it, or null when it is no tensor.
    let cast = unsafe { Error::result_from_status((api.CastTypeInfoToTensorInfo)(info, &mut tensor)) };
    // SAFETY: `tensor` is asked only where it is not null, before `info` is released, once.
    let has_rank = cast.is_ok() && !tensor.is_null() && unsafe { (api.TensorTypeAndShape_HasShape)(tensor) };
    // SAFETY: as above.
    unsafe { (api.ReleaseTypeInfo)(info) };
    cast.map(|()| has_rank)
}
