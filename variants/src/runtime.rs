//! The seam to what runs models: a child process of the worker's, with limits. cli puts it here; tests have their own.

use crate::VariantError;
use bytes::Bytes;
use policy::profile::Timing;
use policy::{DataType, PrecisionHint};
use std::path::{Path, PathBuf};

/// A value that goes into a model or comes out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name in the model.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, rows first.
    pub shape: Vec<i64>,
    /// Elements, little-endian.
    pub data: Bytes,
}

impl Tensor {
    /// The values as floats; `None` for text.
    pub fn floats(&self) -> Option<Vec<f32>> {
        fn read<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
        }
        let data = &self.data;
        Some(match self.datatype {
            DataType::Fp32 => read(data, f32::from_le_bytes),
            DataType::Fp64 => read(data, |b| f64::from_le_bytes(b) as f32),
            DataType::Fp16 => read(data, |b| half::f16::from_le_bytes(b).to_f32()),
            DataType::Bf16 => read(data, |b| half::bf16::from_le_bytes(b).to_f32()),
            DataType::Int64 => read(data, |b| i64::from_le_bytes(b) as f32),
            DataType::Int32 => read(data, |b| i32::from_le_bytes(b) as f32),
            DataType::Int8 => data.iter().map(|b| f32::from(*b as i8)).collect(),
            DataType::Uint8 | DataType::Bool => data.iter().map(|b| f32::from(*b)).collect(),
            _ => return None,
        })
    }
}

/// What a model takes or gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions; -1 is any.
    pub shape: Vec<i64>,
}

/// A model file and how to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The model file.
    pub model: PathBuf,
    /// `ort`, `openvino`.
    pub engine: String,
    /// What to compute in, where the engine chooses.
    pub hint: Option<PrecisionHint>,
    /// Nothing fused: every value inside is what its operators say.
    pub as_written: bool,
}

impl Run {
    /// By ONNX Runtime.
    pub fn ort(model: &Path) -> Self {
        Self { model: model.to_owned(), engine: "ort".to_owned(), hint: None, as_written: false }
    }
}

/// What a first look in a child process found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Inputs that must be given.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Bytes that loading and a run took.
    pub bytes_resident: u64,
}

/// A loaded model.
pub trait Session {
    /// Outputs, in order.
    fn outputs(&self) -> &[Port];

    /// Computes once.
    ///
    /// # Errors
    /// [`VariantError::Engine`] with the engine's words; the session may be used again only where the child lives.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, VariantError>;
}

/// Loads, runs and times models where a crash does no harm.
pub trait Runtime {
    /// Device class and engine of the profiles made here.
    fn class(&self) -> &str;

    /// Why an engine cannot be asked at all on this machine; none where it can.
    fn missing(&self, engine: &str) -> Option<String>;

    /// A first look at a file that nobody knows, in a child with limits of time and memory.
    ///
    /// # Errors
    /// [`VariantError::Engine`]: why it must not be loaded.
    fn check(&self, run: &Run) -> Result<Checked, VariantError>;

    /// Loads what was checked.
    ///
    /// # Errors
    /// [`VariantError::Engine`].
    fn load(&self, run: &Run) -> Result<Box<dyn Session>, VariantError>;

    /// Times all of `runs` in turn with each other, so that what disturbs one disturbs all, on batches of `rows` like `sample`.
    /// One answer for each, in order.
    ///
    /// # Errors
    /// [`VariantError::Engine`] where nothing could be measured at all.
    fn time(&self, runs: &[Run], sample: &[Tensor], rows: &[u32]) -> Result<Vec<Result<Timing, VariantError>>, VariantError>;
}
