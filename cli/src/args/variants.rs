//! Arguments of `variants`.

use super::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Variants {
    /// Make variants of a model, compare each with it, time each beside it, and keep what pays
    Make(Box<VariantsMake>),
    /// Look at variants that are there, whoever made them, and write their cards anew
    Check(Box<VariantsCheck>),
    /// Take in a file that another tool made of the model, if it is right and pays
    Import(Box<VariantsImport>),
}

#[derive(Debug, Args)]
pub(crate) struct VariantsMake {
    /// The model: its file, its folder in a model directory (the newest version), or one version's folder
    pub(crate) model: PathBuf,
    /// What to make, separated by commas: int8-dynamic, int8-qdq, bf16@openvino, …
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub(crate) recipes: Vec<String>,
    /// How ranges follow from samples: min-max, percentile, entropy, mse, or best: the one that loses least
    #[arg(long, default_value = "best")]
    pub(crate) method: String,
    /// Where variants go; `variants` beside the model file when not given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trial: Trial,
}

#[derive(Debug, Args)]
pub(crate) struct VariantsCheck {
    /// The model, of which all variants are looked at: its folder in a model directory (the newest version), or one version's folder
    pub(crate) model: PathBuf,
    /// Only these variants, separated by commas: int8-qdq@ort, …
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) only: Vec<String>,
    #[command(flatten)]
    pub(crate) trial: Trial,
}

#[derive(Debug, Args)]
pub(crate) struct VariantsImport {
    /// The file to take in
    #[arg(value_name = "FILE.onnx")]
    pub(crate) file: PathBuf,
    /// The model it was made of: its folder in a model directory (the newest version), or one version's folder
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// What to call it: precision@engine, such as int8@ort
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// What the engine is told to compute in, where it chooses: f32, f16, bf16
    #[arg(long)]
    pub(crate) hint: Option<String>,
    #[command(flatten)]
    pub(crate) trial: Trial,
}

/// How variants are compared with the model and timed.
#[derive(Debug, Args)]
pub(crate) struct Trial {
    /// Samples: FILE.npz, or a folder of NAME.npy files, an array for each input with samples along its first dimension
    #[arg(long, value_name = "DIR|FILE.npz")]
    pub(crate) calib: PathBuf,
    /// Samples that fidelity is measured on; those of --calib when not given
    #[arg(long, value_name = "DIR|FILE.npz")]
    pub(crate) eval: Option<PathBuf>,
    /// Right classes of the samples that fidelity is measured on; an array `labels` among them when not given
    #[arg(long, value_name = "FILE.npy")]
    pub(crate) labels: Option<PathBuf>,
    /// Least accuracy relative to the model's own; accuracy=0.99 when not given
    #[arg(long, value_name = "accuracy=SHARE")]
    pub(crate) floor: Option<String>,
    /// What accuracy is: labels, agreement or cosine; labels where there are some, agreement for scores of classes, else cosine
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// Where the picture of latency against accuracy goes; variants.svg among the variants when not given
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Keep variants that are right and not faster on this machine, for others: where each pays is measured there
    #[arg(long)]
    pub(crate) keep_slow: bool,
    /// Milliseconds for which each variant is timed at each batch size
    #[arg(long, default_value_t = 1500)]
    pub(crate) budget_ms: u64,
    /// ONNX Runtime library; the fetched or the system's when not given
    #[arg(long, env = "SLUICE_ONNXRUNTIME", value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// OpenVINO library; the fetched or the system's when not given, and none is no error
    #[arg(long, env = "SLUICE_OPENVINO", value_name = "FILE")]
    pub(crate) openvino: Option<PathBuf>,
    /// Longest check or run of a model, in seconds
    #[arg(long, env = "SLUICE_VALIDATE_SECONDS", default_value_t = 60)]
    pub(crate) validate_seconds: u64,
    /// Most memory of a check, in MiB
    #[arg(long, env = "SLUICE_VALIDATE_MEMORY_MB", default_value_t = 8192)]
    pub(crate) validate_memory_mb: u64,
    /// Form of the answer
    #[arg(short = 'o', long = "output", default_value = "table")]
    pub(crate) output: Output,
}
