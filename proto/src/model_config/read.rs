//! What a checked configuration means to the parts of Sluice, in the words of `policy`.
//!
//! None of these fail: [`check`](super::check()) has refused what they could not read.

use super::datatype;
use crate::inference::model_config::SchedulingChoice;
use crate::inference::model_instance_group::Kind;
use crate::inference::model_queue_policy::TimeoutAction as PbTimeoutAction;
use crate::inference::model_version_policy::PolicyChoice;
use crate::inference::model_warmup::input::InputDataType;
use crate::inference::{ModelConfig, ModelDynamicBatching, ModelQueuePolicy, ModelWarmup};
use policy::batch::{Batching, QueuePolicy, TimeoutAction};
use policy::{DataType, ExecutionProvider, Version};

/// Which versions of a model are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// So many of the highest numbers, at least 1.
    Latest(u32),
    /// All there are.
    All,
    /// Exactly these.
    Specific(Vec<Version>),
}

/// Requests that a replica must answer before it takes others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmup {
    /// What its author calls it.
    pub name: String,
    /// Rows of each request; 1 for a model without a batch dimension.
    pub batch_size: u32,
    /// How many such requests, at least 1.
    pub count: u32,
    /// Its inputs by name.
    pub inputs: Vec<WarmupInput>,
}

/// One input of a [`Warmup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupInput {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: DataType,
    /// Its dimensions, all fixed, without the batch dimension.
    pub dims: Vec<i64>,
    /// What it is filled with.
    pub fill: Fill,
}

/// What an input of a [`Warmup`] is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zeros; empty elements for BYTES.
    Zero,
    /// Any values.
    Random,
}

/// How requests wait for each other. Without `dynamic_batching`, nobody does.
pub fn batching(config: &ModelConfig) -> Batching {
    let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice else { return Batching::default() };
    let ModelDynamicBatching { max_queue_delay_microseconds, preserve_ordering, priority_levels, default_priority_level, .. } = *batching;
    // A full batch leaves at once anyway, and what a full one is the calibration may still lower.
    let preferred = batching.preferred_batch_size.iter().filter(|&&rows| rows < config.max_batch_size);
    let priority = |level: u64| u32::try_from(level).unwrap_or(u32::MAX);
    Batching {
        max_delay_us: max_queue_delay_microseconds,
        preferred_rows: preferred.filter_map(|&rows| u32::try_from(rows).ok()).collect(),
        preserve_ordering,
        priority_levels: priority(priority_levels),
        default_priority: priority(default_priority_level),
        queue: batching.default_queue_policy.as_ref().map(queue_policy).unwrap_or_default(),
        queue_by_priority: batching.priority_queue_policy.iter().map(|(&level, rules)| (priority(level), queue_policy(rules))).collect(),
    }
}

fn queue_policy(rules: &ModelQueuePolicy) -> QueuePolicy {
    QueuePolicy {
        timeout_action: match rules.timeout_action() {
            PbTimeoutAction::Reject => TimeoutAction::Reject,
            PbTimeoutAction::Delay => TimeoutAction::Delay,
        },
        default_timeout_us: rules.default_timeout_microseconds,
        allow_timeout_override: rules.allow_timeout_override,
        queue_len_max: rules.max_queue_size,
    }
}

/// Engine threads per replica that the author asks for: of all groups together, a group that gives no `count` having one. None when
/// the author names no group; [`complete`](super::complete()) adds one, so ask it, or before.
pub fn instances(config: &ModelConfig) -> Option<u32> {
    let counts = config.instance_group.iter().map(|group| u32::try_from(group.count).unwrap_or(0).max(1));
    counts.reduce(u32::saturating_add)
}

/// What the author wants it run on. None when no group says (KIND_AUTO) and no accelerator does; [`complete`](super::complete()) makes
/// such groups KIND_CPU, so ask it, or before.
pub fn provider(config: &ModelConfig) -> Option<ExecutionProvider> {
    let kind = config.instance_group.first().map_or(Kind::Auto, |group| group.kind());
    let accelerators = config.optimization.as_ref().and_then(|o| o.execution_accelerators.as_ref());
    let accelerator = accelerators.and_then(|a| a.gpu_execution_accelerator.first()).map(|a| a.name.as_str());
    match (kind, accelerator) {
        (Kind::Cpu, _) => Some(ExecutionProvider::Cpu),
        (_, Some("tensorrt")) => Some(ExecutionProvider::Tensorrt),
        (_, Some(_)) | (Kind::Gpu, None) => Some(ExecutionProvider::Cuda),
        (Kind::Auto | Kind::Model, None) => None,
    }
}

/// Which versions are served; the latest one when the configuration does not say.
pub fn version_policy(config: &ModelConfig) -> VersionPolicy {
    match config.version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref()) {
        None => VersionPolicy::Latest(1),
        Some(PolicyChoice::Latest(latest)) => VersionPolicy::Latest(latest.num_versions.max(1)),
        Some(PolicyChoice::All(_)) => VersionPolicy::All,
        Some(PolicyChoice::Specific(specific)) => {
            let versions = specific.versions.iter().filter_map(|&number| Version::try_from(u64::try_from(number).ok()?).ok());
            VersionPolicy::Specific(versions.collect())
        }
    }
}

/// Its warm-up requests, in the author's order; their inputs by name.
pub fn warmups(config: &ModelConfig) -> Vec<Warmup> {
    config.model_warmup.iter().map(warmup).collect()
}

fn warmup(warmup: &ModelWarmup) -> Warmup {
    let input = |(name, input): (&String, &crate::inference::model_warmup::Input)| {
        let fill = match input.input_data_type {
            Some(InputDataType::RandomData(_)) => Fill::Random,
            _ => Fill::Zero,
        };
        Some(WarmupInput { name: name.clone(), datatype: datatype(input.data_type)?, dims: input.dims.clone(), fill })
    };
    let mut inputs: Vec<_> = warmup.inputs.iter().filter_map(input).collect();
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    Warmup { name: warmup.name.clone(), batch_size: warmup.batch_size, count: warmup.count.max(1), inputs }
}

/// Threads of one engine call, from the parameter `intra_op_thread_count`.
pub fn intra_threads(config: &ModelConfig) -> Option<u32> {
    config.parameters.get(super::check::INTRA_THREADS)?.string_value.trim().parse().ok()
}

/// Outputs that have a label file: their names and the file's, beside the configuration.
pub fn label_files(config: &ModelConfig) -> impl Iterator<Item = (&str, &str)> {
    let labelled = config.output.iter().filter(|output| !output.label_filename.is_empty());
    labelled.map(|output| (output.name.as_str(), output.label_filename.as_str()))
}
