//! Sample inputs, and labels where there are some: `FILE.npz`, or a folder of `NAME.npy` files, an array for each input with samples along
//! its first dimension. An array `labels` that is no input holds the right class of each.
//!
//! Samples are rows where the model's first dimension is open (or 1). Where it is something else, such as a state of two layers, or where an
//! input is a scalar, an array has one dimension more than the input, and each sample is a run of its own.

use crate::VariantError;
use crate::npy::{self, Array};
use crate::runtime::{Port, Tensor};
use policy::DataType;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The array of right answers.
const LABELS: &str = "labels";
/// Fewest samples a calibration is believed of.
pub const LEAST: usize = 8;

/// Samples that fit a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    names: Vec<String>,
    /// With whether its samples are whole inputs, not rows of one.
    arrays: Vec<(Array, bool)>,
    /// Right classes, one for each sample.
    pub labels: Option<Vec<i64>>,
    /// How many.
    pub count: usize,
    /// sha256 over names, types, shapes and bytes.
    pub digest: policy::Digest,
    /// Most rows of one run; 1 where the model's first dimension is fixed.
    rows_max: usize,
}

impl Samples {
    /// Reads `path` for a model that takes `inputs`; labels from `labels` (a `.npy`), or else from among the arrays.
    ///
    /// # Errors
    /// [`VariantError::Samples`]: a file that cannot be read, a missing or unknown name, a type or shape that the model does not take, arrays
    /// of different lengths, too few samples.
    pub fn read(path: &Path, labels: Option<&Path>, inputs: &[Port]) -> Result<Self, VariantError> {
        let refuse = |reason: String| VariantError::Samples { path: path.to_owned(), reason };
        let mut found = if path.is_dir() { folder(path)? } else { npy::read_archive(path).map_err(refuse)?.into_iter().collect() };
        if labels.is_some() && inputs.iter().all(|i| i.name != LABELS) {
            found.remove(LABELS); // others were given
        }
        let labels = match labels {
            Some(file) => Some(array(file)?),
            None if inputs.iter().all(|i| i.name != LABELS) => found.remove(LABELS),
            None => None,
        };
        if let Some(unknown) = found.keys().find(|name| inputs.iter().all(|i| i.name != **name)) {
            let known: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(refuse(format!("array `{unknown}` is no input of the model; it takes {}", known.join(", "))));
        }
        let (mut names, mut arrays, mut hash) = (Vec::new(), Vec::new(), Sha256::new());
        let mut count: Option<usize> = None;
        for input in inputs {
            let missing = || refuse(format!("no array for input `{}` ({} {:?})", input.name, input.datatype, input.shape));
            let array = found.remove(&input.name).ok_or_else(missing)?;
            let stacked = is_stacked(input, &array).map_err(|what| refuse(format!("array `{}`: {what}", input.name)))?;
            let own = array.shape.first().and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
            if count.is_some_and(|n| n != own) {
                return Err(refuse(format!("array `{}` has {own} samples, those before it {}", input.name, count.unwrap_or(0))));
            }
            count = Some(own);
            hash.update(format!("{} {} {:?}\n", input.name, array.datatype, array.shape));
            hash.update(&array.data);
            names.push(input.name.clone());
            arrays.push((array, stacked));
        }
        let count = count.unwrap_or(0);
        if count < LEAST {
            return Err(refuse(format!("{count} samples; at least {LEAST} are needed, a few hundred are usual")));
        }
        let labels = labels.map(|array| classes(&array, count).map_err(refuse)).transpose()?;
        labels.iter().flatten().for_each(|label| hash.update(label.to_le_bytes()));
        let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let digest = policy::Digest::new(hex).map_err(|e| refuse(e.to_string()))?;
        let open = inputs.iter().all(|i| i.shape.first().is_some_and(|d| *d < 0)) && !arrays.iter().any(|(_, stacked)| *stacked);
        Ok(Self { names, arrays, labels, count, digest, rows_max: if open { usize::MAX } else { 1 } })
    }

    /// The inputs of a run with samples `from..from + rows`.
    pub fn batch(&self, from: usize, rows: usize) -> Vec<Tensor> {
        let cut = |(name, (array, stacked)): (&String, &(Array, bool))| {
            let row = array.data.len().checked_div(self.count).unwrap_or(0);
            let end = (from + rows).min(self.count);
            let rows = (!stacked).then_some(end.saturating_sub(from) as i64);
            let shape = rows.into_iter().chain(array.shape.iter().skip(1).copied()).collect();
            Tensor { name: name.clone(), datatype: array.datatype, shape, data: array.data.slice((from * row).min(end * row)..end * row) }
        };
        self.names.iter().zip(&self.arrays).map(cut).collect()
    }

    /// All samples in runs of at most `rows`, or of one where the model takes one: where each starts and how long it is.
    pub fn runs(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, count) = (rows.clamp(1, self.rows_max), self.count);
        (0..count).step_by(rows).map(move |from| (from, rows.min(count - from)))
    }

    /// Can several samples share a run?
    pub fn batches(&self) -> bool {
        self.rows_max > 1
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let count = count.min(self.count);
        let mut first = self.clone();
        for (array, _) in &mut first.arrays {
            let row = array.data.len().checked_div(self.count).unwrap_or(0);
            array.data = array.data.slice(..row * count);
            array.shape.iter_mut().take(1).for_each(|d| *d = count as i64);
        }
        first.count = count;
        first.labels.iter_mut().for_each(|labels| labels.truncate(count));
        first
    }
}

/// Are the samples of `array` whole inputs? `false`: they are rows.
fn is_stacked(input: &Port, array: &Array) -> Result<bool, String> {
    if input.datatype != array.datatype {
        return Err(format!("{} where the model takes {}", array.datatype, input.datatype));
    }
    let fits = |wanted: &[i64], got: &[i64]| wanted.len() == got.len() && wanted.iter().zip(got).all(|(w, g)| *g > 0 && (*w < 0 || w == g));
    let one = array.shape.get(1..).unwrap_or_default();
    match input.shape.split_first() {
        Some((first, rest)) if (*first < 0 || *first == 1) && fits(rest, one) => Ok(false),
        _ if !array.shape.is_empty() && fits(&input.shape, one) => Ok(true),
        _ => Err(format!("shape {:?} where the model takes {:?}, samples along the first dimension", array.shape, input.shape)),
    }
}

fn classes(array: &Array, count: usize) -> Result<Vec<i64>, String> {
    let tensor = Tensor { name: LABELS.to_owned(), datatype: array.datatype, shape: array.shape.clone(), data: array.data.clone() };
    let whole = matches!(array.datatype, DataType::Int64 | DataType::Int32 | DataType::Uint8 | DataType::Int8);
    let values = tensor.floats().filter(|v| whole && v.len() == count);
    let values = values
        .ok_or_else(|| format!("labels: {} {:?}; expected one whole number for each of {count} samples", array.datatype, array.shape))?;
    Ok(values.into_iter().map(|v| v as i64).collect())
}

fn folder(path: &Path) -> Result<BTreeMap<String, Array>, VariantError> {
    let mut found = BTreeMap::new();
    for entry in path.read_dir().map_err(|e| VariantError::file(path, &e))? {
        let file = entry.map_err(|e| VariantError::file(path, &e))?.path();
        if let (Some("npy"), Some(name)) = (file.extension().and_then(|e| e.to_str()), file.file_stem().and_then(|n| n.to_str())) {
            found.insert(name.to_owned(), array(&file)?);
        }
    }
    Ok(found)
}

fn array(path: &Path) -> Result<Array, VariantError> {
    npy::read(path).map_err(|reason| VariantError::Samples { path: path.to_owned(), reason })
}
