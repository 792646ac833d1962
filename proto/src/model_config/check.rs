//! What can be said against a configuration without knowing the model: fields that Sluice does not serve, values that mean nothing.

use super::tensor::Listed;
use super::{ConfigError, datatype};
use crate::inference::model_config::SchedulingChoice;
use crate::inference::model_input::Format;
use crate::inference::model_instance_group::Kind;
use crate::inference::model_optimization_policy::{Cuda, ExecutionAccelerators, ModelPriority};
use crate::inference::model_queue_policy::TimeoutAction;
use crate::inference::model_version_policy::PolicyChoice;
use crate::inference::model_warmup::input::InputDataType;
use crate::inference::{ModelConfig, ModelDynamicBatching, ModelOptimizationPolicy, ModelQueuePolicy, ModelWarmup};
use std::collections::HashSet;
use std::path::{Component, Path};

/// Most engine threads one replica may be asked to have, and most threads of one engine call: beyond any host, and still safe to start.
const THREADS_MAX: u32 = 1024;

/// The parameter of ONNX Runtime's backend that Sluice reads.
pub(super) const INTRA_THREADS: &str = "intra_op_thread_count";

type Checked = Result<(), ConfigError>;

/// Checks everything that does not depend on the model's file.
///
/// # Errors
/// The first field that is not supported, or whose value is none that it may have.
pub fn check(config: &ModelConfig) -> Checked {
    supported(config)?;
    not_negative("max_batch_size", config.max_batch_size)?;
    one_of("platform", &config.platform, super::complete::PLATFORM)?;
    one_of("backend", &config.backend, super::complete::BACKEND)?;
    file_name("default_model_filename", &config.default_model_filename)?;
    tensors(config)?;
    version_policy(config)?;
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        dynamic_batching(batching)?;
    }
    instance_groups(config)?;
    config.optimization.as_ref().map_or(Ok(()), optimization)?;
    config.model_warmup.iter().enumerate().try_for_each(|(i, warmup)| model_warmup(i, warmup))?;
    if let Some(threads) = config.parameters.get(INTRA_THREADS) {
        let field = format!("parameters[{INTRA_THREADS}]");
        let known = threads.string_value.trim().parse().is_ok_and(|n: u32| (1..=THREADS_MAX).contains(&n));
        expect(known, field, || format!("{:?}", threads.string_value), || format!("a whole number from 1 to {THREADS_MAX}"))?;
    }
    Ok(())
}

fn expect(holds: bool, field: impl Into<String>, value: impl FnOnce() -> String, expected: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(ConfigError::invalid(field, value(), expected())) }
}

fn refuse(set: bool, field: impl Into<String>, why: &'static str) -> Checked {
    if set { Err(ConfigError::unsupported(field, why)) } else { Ok(()) }
}

fn not_negative(field: &str, number: i32) -> Checked {
    expect(number >= 0, field, || number.to_string(), || "0 or more".to_owned())
}

fn one_of(field: &str, value: &str, only: &str) -> Checked {
    expect(value.is_empty() || value == only, field, || format!("{value:?}"), || format!("{only:?} or nothing: ONNX models are served"))
}

/// A number of an enumeration, which the text format and JSON also take as a bare number.
fn known_number(known: bool, field: impl Into<String>, number: i32) -> Checked {
    expect(known, field, || number.to_string(), || "one of the names".to_owned())
}

/// Empty, or the name of a file that lies right there: a configuration does not reach into other folders.
fn file_name(field: impl Into<String>, name: &str) -> Checked {
    let mut parts = Path::new(name).components();
    let plain =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == name) && !name.contains(['\0', '\\']);
    expect(name.is_empty() || plain, field, || format!("{name:?}"), || "a file's name without folders".to_owned())
}

/// Fields at the top of the message that Sluice does not serve, where they are set to anything but their default.
fn supported(config: &ModelConfig) -> Checked {
    match &config.scheduling_choice {
        Some(SchedulingChoice::SequenceBatching(_)) => refuse(true, "sequence_batching", "requests are not routed by sequence")?,
        Some(SchedulingChoice::EnsembleScheduling(_)) => refuse(true, "ensemble_scheduling", "models are served one by one")?,
        Some(SchedulingChoice::DynamicBatching(_)) | None => {}
    }
    let decoupled = config.model_transaction_policy.as_ref().is_some_and(|policy| policy.decoupled);
    let agents = config.model_repository_agents.as_ref().is_some_and(|agents| !agents.agents.is_empty());
    let operations = config.model_operations.as_ref().is_some_and(|operations| !operations.op_library_filename.is_empty());
    refuse(decoupled, "model_transaction_policy.decoupled", "every request gets exactly one response")?;
    refuse(!config.batch_input.is_empty(), "batch_input", "a batch has no inputs but those of its requests")?;
    refuse(!config.batch_output.is_empty(), "batch_output", "a batch is split by rows only")?;
    refuse(agents, "model_repository_agents", "there are no repository agents")?;
    refuse(operations, "model_operations.op_library_filename", "libraries of custom operations are not loaded")?;
    refuse(!config.runtime.is_empty(), "runtime", "the engine is chosen by the worker")?;
    refuse(!config.cc_model_filenames.is_empty(), "cc_model_filenames", "a version has one model file for all devices")
}

fn tensors(config: &ModelConfig) -> Checked {
    const RAGGED: &str = "requests share a batch only with equal shapes";
    const SHAPE: &str = "only TensorRT plans have shape tensors";
    const NON_LINEAR: &str = "only TensorRT plans have non-linear formats";
    let mut names = HashSet::new();
    for input in &config.input {
        let listed = Listed::from(input);
        listed.check()?;
        refuse(input.is_shape_tensor, listed.field("is_shape_tensor"), SHAPE)?;
        refuse(input.allow_ragged_batch, listed.field("allow_ragged_batch"), RAGGED)?;
        refuse(input.is_non_linear_format_io, listed.field("is_non_linear_format_io"), NON_LINEAR)?;
        let format = Format::try_from(input.format);
        known_number(format.is_ok(), listed.field("format"), input.format)?;
        let fits = format == Ok(Format::None) || input.dims.len() == 3;
        let name = || format!("{} with {} dims", input.format().as_str_name(), input.dims.len());
        expect(fits, listed.field("format"), name, || "three dims, height, width and channels".to_owned())?;
        expect(names.insert(&input.name), listed.field("name"), || "listed twice".to_owned(), || "each input once".to_owned())?;
    }
    names.clear();
    for output in &config.output {
        let listed = Listed::from(output);
        listed.check()?;
        refuse(output.is_shape_tensor, listed.field("is_shape_tensor"), SHAPE)?;
        refuse(output.is_non_linear_format_io, listed.field("is_non_linear_format_io"), NON_LINEAR)?;
        file_name(listed.field("label_filename"), &output.label_filename)?;
        expect(names.insert(&output.name), listed.field("name"), || "listed twice".to_owned(), || "each output once".to_owned())?;
    }
    Ok(())
}

fn version_policy(config: &ModelConfig) -> Checked {
    let Some(PolicyChoice::Specific(specific)) = config.version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref()) else {
        return Ok(());
    };
    const FIELD: &str = "version_policy.specific.versions";
    expect(!specific.versions.is_empty(), FIELD, || "empty".to_owned(), || "at least one version".to_owned())?;
    specific.versions.iter().try_for_each(|&n| expect(n > 0, FIELD, || n.to_string(), || "1 or more".to_owned()))
}

/// Numbers of rows against the batch limit, once that is known.
pub(super) fn rows(config: &ModelConfig) -> Checked {
    let limit = config.max_batch_size;
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        for &rows in &batching.preferred_batch_size {
            let expected = || format!("1 to {limit}, the max_batch_size");
            expect((1..=limit).contains(&rows), "dynamic_batching.preferred_batch_size", || rows.to_string(), expected)?;
        }
    }
    let most = u32::try_from(limit).unwrap_or(0).max(1);
    for (i, ModelWarmup { batch_size, .. }) in config.model_warmup.iter().enumerate() {
        let expected = || format!("1 to {most}, as max_batch_size is {limit}");
        expect((1..=most).contains(batch_size), format!("model_warmup[{i}].batch_size"), || batch_size.to_string(), expected)?;
    }
    Ok(())
}

fn dynamic_batching(batching: &ModelDynamicBatching) -> Checked {
    let field = |name: &str| format!("dynamic_batching.{name}");
    let (levels, default) = (batching.priority_levels, batching.default_priority_level);
    let most = u32::MAX;
    expect(levels <= u64::from(most), field("priority_levels"), || levels.to_string(), || format!("at most {most}"))?;
    let in_levels = |level: u64| (1..=levels).contains(&level);
    let expected = || if levels == 0 { "none without priority_levels".to_owned() } else { format!("1 to {levels}, the priority_levels") };
    expect(in_levels(default) || (default, levels) == (0, 0), field("default_priority_level"), || default.to_string(), expected)?;
    for &level in batching.priority_queue_policy.keys() {
        expect(in_levels(level), field("priority_queue_policy"), || format!("for priority {level}"), expected)?;
    }
    let ordered = batching.preserve_ordering;
    expect(!ordered || levels <= 1, field("priority_levels"), || levels.to_string(), || "at most 1 with preserve_ordering".to_owned())?;
    if let Some(rules) = &batching.default_queue_policy {
        queue_policy(&field("default_queue_policy"), rules, ordered)?;
    }
    for (level, rules) in &batching.priority_queue_policy {
        queue_policy(&field(&format!("priority_queue_policy[{level}]")), rules, ordered)?;
    }
    Ok(())
}

fn queue_policy(path: &str, rules: &ModelQueuePolicy, ordered: bool) -> Checked {
    let field = || format!("{path}.timeout_action");
    let action = TimeoutAction::try_from(rules.timeout_action);
    known_number(action.is_ok(), field(), rules.timeout_action)?;
    let delays = action == Ok(TimeoutAction::Delay) && rules.default_timeout_microseconds > 0;
    expect(!(ordered && delays), field(), || "DELAY".to_owned(), || "REJECT with preserve_ordering".to_owned())
}

fn instance_groups(config: &ModelConfig) -> Checked {
    const FIELD: &str = "instance_group";
    let groups = &config.instance_group;
    let mut gpus = HashSet::<i32>::new();
    for (i, group) in groups.iter().enumerate() {
        let field = |name: &str| format!("{FIELD}[{i}].{name}");
        let kind = Kind::try_from(group.kind);
        known_number(kind.is_ok(), field("kind"), group.kind)?;
        refuse(kind == Ok(Kind::Model), field("kind"), "KIND_MODEL leaves the device to the model, here the worker has it")?;
        let resources = group.rate_limiter.as_ref().is_some_and(|limiter| !limiter.resources.is_empty());
        refuse(resources, field("rate_limiter.resources"), "there is no rate limiter")?;
        refuse(!group.profile.is_empty(), field("profile"), "only TensorRT plans have profiles")?;
        refuse(group.passive, field("passive"), "every instance takes requests")?;
        refuse(!group.secondary_devices.is_empty(), field("secondary_devices"), "an instance has one device")?;
        refuse(!group.host_policy.is_empty(), field("host_policy"), "workers place their threads themselves")?;
        not_negative(&field("count"), group.count)?;
        expect(
            kind != Ok(Kind::Cpu) || group.gpus.is_empty(),
            field("gpus"),
            || format!("{:?}", group.gpus),
            || "none with KIND_CPU".to_owned(),
        )?;
        group.gpus.iter().try_for_each(|&gpu| not_negative(&field("gpus"), gpu))?;
        gpus.extend(&group.gpus);
        refuse(gpus.len() > 1, field("gpus"), "a worker has one device: run one worker per GPU")?;
    }
    let one_kind = groups.windows(2).all(|pair| matches!(pair, [a, b] if a.kind == b.kind));
    refuse(!one_kind, FIELD, "all groups of a model have one kind")?;
    let instances = super::instances(config).unwrap_or(0);
    expect(instances <= THREADS_MAX, FIELD, || format!("{instances} instances"), || format!("at most {THREADS_MAX}"))
}

fn optimization(optimization: &ModelOptimizationPolicy) -> Checked {
    const TENSORRT: &str = "only TensorRT's backend knows it";
    let cuda = optimization.cuda.as_ref().is_some_and(|cuda| *cuda != Cuda::default());
    refuse(cuda, "optimization.cuda", TENSORRT)?;
    refuse(optimization.gather_kernel_buffer_threshold != 0, "optimization.gather_kernel_buffer_threshold", TENSORRT)?;
    refuse(optimization.eager_batching, "optimization.eager_batching", TENSORRT)?;
    known_number(ModelPriority::try_from(optimization.priority).is_ok(), "optimization.priority", optimization.priority)?;
    optimization.execution_accelerators.as_ref().map_or(Ok(()), accelerators)
}

fn accelerators(accelerators: &ExecutionAccelerators) -> Checked {
    let field = |list: &str, name: &str| format!("optimization.execution_accelerators.{list}[{name:.40}]");
    for gpu in &accelerators.gpu_execution_accelerator {
        let known = matches!(gpu.name.as_str(), "tensorrt" | "cuda");
        refuse(!known, field("gpu_execution_accelerator", &gpu.name), "`tensorrt` and `cuda` are known")?;
    }
    for cpu in &accelerators.cpu_execution_accelerator {
        let why = if cpu.name == "openvino" { "this version is built without OpenVINO" } else { "there is no such accelerator" };
        refuse(true, field("cpu_execution_accelerator", &cpu.name), why)?;
    }
    Ok(())
}

/// Most requests of one warm-up: more warm nothing that these have not.
const WARMUP_COUNT_MAX: u32 = 1_000;

fn model_warmup(i: usize, warmup: &ModelWarmup) -> Checked {
    let field = || format!("model_warmup[{i}].count");
    expect(warmup.count <= WARMUP_COUNT_MAX, field(), || warmup.count.to_string(), || format!("at most {WARMUP_COUNT_MAX}"))?;
    for (name, input) in &warmup.inputs {
        let field = |part: &str| format!("model_warmup[{i}].inputs[{name:.40}].{part}");
        known_number(datatype(input.data_type).is_some(), field("data_type"), input.data_type)?;
        match input.input_data_type {
            Some(InputDataType::ZeroData(_) | InputDataType::RandomData(_)) => {}
            Some(InputDataType::InputDataFile(_)) => refuse(true, field("input_data_file"), "use zero_data or random_data")?,
            None => expect(false, field("zero_data"), || "not set".to_owned(), || "zero_data or random_data".to_owned())?,
        }
        let fixed = input.dims.iter().all(|&dim| dim > 0);
        expect(fixed, field("dims"), || super::tensor::text(&input.dims), || "1 or more each".to_owned())?;
    }
    Ok(())
}
