//! A configuration and a graph become one: what the author left out comes from the model's file, what they said must fit it.

use super::tensor::{self, Listed};
use super::{ConfigError, check, datatype, instances, provider};
use crate::inference::model_config::SchedulingChoice;
use crate::inference::model_instance_group::Kind;
use crate::inference::model_optimization_policy::PinnedMemoryBuffer;
use crate::inference::model_version_policy::{Latest, PolicyChoice};
use crate::inference::{ModelConfig, ModelInstanceGroup, ModelVersionPolicy, ModelWarmup};
use policy::{ExecutionProvider, Signature, TensorSpec};

/// Triton's name for ONNX models run by ONNX Runtime.
pub(super) const PLATFORM: &str = "onnxruntime_onnx";
/// Triton's backend for them.
pub(super) const BACKEND: &str = "onnxruntime";
const MODEL_FILE: &str = "model.onnx";

/// Most bytes of one input of a warm-up request: what one message could carry.
const WARMUP_INPUT_BYTES_MAX: i64 = i32::MAX as i64;

/// A configuration that says everything, and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed {
    /// What a client is told. Completing it again changes nothing.
    pub config: ModelConfig,
    /// What requests are checked against: inputs and outputs in the configuration's order.
    pub signature: Signature,
    /// [`instances`] of what the author wrote, which the completed configuration no longer tells.
    pub instances: Option<u32>,
    /// [`provider`] of what the author wrote.
    pub provider: Option<ExecutionProvider>,
}

/// Checks `config` and completes it as Triton does for ONNX models.
///
/// `graph_inputs` and `graph_outputs` are the graph's own: the batch dimension included, -1 for open ones, `optional` for an input
/// with a default. `default_max_batch` is the batch limit of a batchable model that names none; None is Triton's 4.
///
/// # Errors
/// As [`check`](super::check()), and when it is for another model or says something of an input or output that the graph does not.
pub fn complete(
    config: Option<ModelConfig>,
    model: &str,
    graph_inputs: &[TensorSpec],
    graph_outputs: &[TensorSpec],
    default_max_batch: Option<u32>,
) -> Result<Completed, ConfigError> {
    let mut config = config.unwrap_or_default();
    check::check(&config)?;
    if !config.name.is_empty() && config.name != model {
        return Err(ConfigError::invalid("name", format!("{:?}", config.name), format!("{model:?}, the model's folder, or nothing")));
    }
    let (instances, provider) = (instances(&config), provider(&config));
    fill_tensors(&mut config, graph_inputs, graph_outputs, default_max_batch);
    check::rows(&config)?;
    fill_rest(&mut config, model, provider);
    let signature = signature(&config, graph_inputs, graph_outputs)?;
    config.model_warmup.iter().enumerate().try_for_each(|(i, warmup)| check_warmup(i, warmup, &signature))?;
    Ok(Completed { config, signature, instances, provider })
}

/// Lists that the author left empty come from the graph. Only then is the batch limit completed too: with both lists given, a
/// `max_batch_size` of 0 is what they mean.
/// Inputs with a default are offered only where the author lists them, as in Triton.
fn fill_tensors(config: &mut ModelConfig, inputs: &[TensorSpec], outputs: &[TensorSpec], default_max_batch: Option<u32>) {
    let inputs: Vec<_> = inputs.iter().filter(|input| !input.optional).cloned().collect();
    let (no_inputs, no_outputs) = (config.input.is_empty(), config.output.is_empty());
    if (no_inputs || no_outputs) && config.max_batch_size == 0 {
        let limit = Signature::complete(inputs.clone(), outputs.to_vec(), default_max_batch).max_batch_size;
        config.max_batch_size = i32::try_from(limit).unwrap_or(i32::MAX);
    }
    if (no_inputs || no_outputs) && config.max_batch_size > 1 && config.scheduling_choice.is_none() {
        config.scheduling_choice = Some(SchedulingChoice::DynamicBatching(Default::default()));
    }
    let batches = config.max_batch_size > 0;
    if no_inputs {
        config.input = inputs.iter().map(|input| tensor::completed_input(input, batches)).collect();
    }
    if no_outputs {
        config.output = outputs.iter().map(|output| tensor::completed_output(output, batches)).collect();
    }
}

fn fill_rest(config: &mut ModelConfig, model: &str, provider: Option<ExecutionProvider>) {
    for (field, value) in [
        (&mut config.name, model),
        (&mut config.platform, PLATFORM),
        (&mut config.backend, BACKEND),
        (&mut config.default_model_filename, MODEL_FILE),
    ] {
        if field.is_empty() {
            *field = value.to_owned();
        }
    }
    let policy = config.version_policy.get_or_insert_with(ModelVersionPolicy::default);
    match policy.policy_choice.get_or_insert(PolicyChoice::Latest(Latest { num_versions: 1 })) {
        PolicyChoice::Latest(latest) => latest.num_versions = latest.num_versions.max(1),
        PolicyChoice::All(_) | PolicyChoice::Specific(_) => {}
    }
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &mut config.scheduling_choice
        && batching.preferred_batch_size.is_empty()
        && config.max_batch_size > 0
    {
        batching.preferred_batch_size = vec![config.max_batch_size];
    }
    let optimization = config.optimization.get_or_insert_default();
    optimization.input_pinned_memory.get_or_insert(PinnedMemoryBuffer { enable: true });
    optimization.output_pinned_memory.get_or_insert(PinnedMemoryBuffer { enable: true });
    if config.instance_group.is_empty() {
        config.instance_group.push(ModelInstanceGroup::default());
    }
    let on_gpu = matches!(provider, Some(ExecutionProvider::Cuda | ExecutionProvider::Tensorrt));
    for (i, group) in config.instance_group.iter_mut().enumerate() {
        group.count = group.count.max(1);
        if group.name.is_empty() {
            group.name = format!("{model}_{i}");
        }
        if group.kind() == Kind::Auto {
            group.set_kind(if on_gpu { Kind::Gpu } else { Kind::Cpu });
        }
    }
}

/// What the lists of a completed configuration offer, each entry against the graph.
fn signature(config: &ModelConfig, graph_inputs: &[TensorSpec], graph_outputs: &[TensorSpec]) -> Result<Signature, ConfigError> {
    let batches = config.max_batch_size > 0;
    let place = |listed: Listed, graph: &[TensorSpec]| match graph.iter().find(|tensor| tensor.name == listed.name) {
        Some(tensor) => listed.place(tensor, batches),
        None => {
            let names: Vec<_> = graph.iter().map(|tensor| format!("`{}`", tensor.name)).collect();
            Err(ConfigError::contradiction(listed.title(), "lists it", format!("has {}", names.join(", "))))
        }
    };
    let inputs = config.input.iter().map(|input| place(input.into(), graph_inputs)).collect::<Result<Vec<_>, _>>()?;
    let outputs = config.output.iter().map(|output| place(output.into(), graph_outputs)).collect::<Result<Vec<_>, _>>()?;
    let required = graph_inputs.iter().filter(|input| !input.optional);
    for needed in required {
        if !inputs.iter().any(|input| input.name == needed.name) {
            return Err(ConfigError::contradiction(format!("input `{}`", needed.name), "does not list it", "needs it"));
        }
    }
    Ok(Signature { max_batch_size: u32::try_from(config.max_batch_size).unwrap_or(0), inputs, outputs })
}

/// A warm-up request is a request: its inputs are the model's, all that are needed, in shapes that the model takes.
fn check_warmup(i: usize, warmup: &ModelWarmup, signature: &Signature) -> Result<(), ConfigError> {
    let field = |name: &str| format!("model_warmup[{i}].inputs[{name}]");
    let batches = signature.max_batch_size > 0;
    for (name, given) in &warmup.inputs {
        let Some(input) = signature.input(name) else {
            return Err(ConfigError::invalid(field(name), "there", "an input of the model"));
        };
        let dims = if batches { input.shape.get(1..).unwrap_or_default() } else { &input.shape };
        let fits = |(&wanted, &dim): (&i64, &i64)| wanted == -1 || wanted == dim;
        let same_type = datatype(given.data_type) == Some(input.datatype);
        if !same_type || given.dims.len() != dims.len() || !dims.iter().zip(&given.dims).all(fits) {
            let got = datatype(given.data_type).map_or_else(|| given.data_type.to_string(), |d| d.to_string());
            let expected = format!("{} {}", input.datatype, tensor::text(dims));
            return Err(ConfigError::invalid(field(name), format!("{got} {}", tensor::text(&given.dims)), expected));
        }
        // A BYTES element takes four bytes at least.
        let element = i64::try_from(input.datatype.size().unwrap_or(4)).unwrap_or(i64::MAX);
        let sizes = given.dims.iter().copied().chain([i64::from(warmup.batch_size)]);
        let bytes = sizes.into_iter().try_fold(element, i64::checked_mul);
        if bytes.is_none_or(|bytes| bytes > WARMUP_INPUT_BYTES_MAX) {
            let value = format!("{} with batch_size {}", tensor::text(&given.dims), warmup.batch_size);
            return Err(ConfigError::invalid(field(name), value, format!("at most {WARMUP_INPUT_BYTES_MAX} bytes")));
        }
    }
    match signature.inputs.iter().find(|input| !input.optional && !warmup.inputs.contains_key(&input.name)) {
        Some(missing) => Err(ConfigError::invalid(field(&missing.name), "missing", "all inputs that a request needs")),
        None => Ok(()),
    }
}
