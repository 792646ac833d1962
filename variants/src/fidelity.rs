//! How far a variant's answers are from the reference's, on the same inputs.

use crate::VariantError;
use crate::runtime::{Session, Tensor};
use crate::samples::Samples;
use policy::DataType;
use policy::card::{Fidelity, LabelAccuracy, Metric};

/// Rows of one run.
const ROWS: usize = 16;

/// What the reference said of each sample.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// For each output that holds floats: values of all samples, one after the other.
    outputs: Vec<(String, Vec<f32>)>,
    count: usize,
}

/// Runs all samples.
///
/// # Errors
/// The engine's; [`VariantError::Engine`] for a model that gives no floats, or another number of rows than it was given.
pub fn answers(session: &mut dyn Session, samples: &Samples) -> Result<Answers, VariantError> {
    let mut all = Answers { outputs: Vec::new(), count: samples.count };
    for (from, rows) in samples.runs(ROWS) {
        let given = session.run(&samples.batch(from, rows))?;
        let floats = given.iter().filter(|t| is_float(t)).collect::<Vec<&Tensor>>();
        if floats.is_empty() {
            return Err(VariantError::Engine("the model gives no floats: nothing to compare".to_owned()));
        }
        if all.outputs.is_empty() {
            all.outputs = floats.iter().map(|t| (t.name.clone(), Vec::new())).collect();
        }
        for ((name, values), tensor) in all.outputs.iter_mut().zip(floats) {
            let new = tensor.floats().unwrap_or_default();
            if samples.batches() && tensor.shape.first().is_some_and(|n| *n != rows as i64) {
                return Err(VariantError::Engine(format!("output `{name}` is {:?} for {rows} samples: not a row for each", tensor.shape)));
            }
            values.extend(new);
        }
    }
    Ok(all)
}

fn is_float(tensor: &Tensor) -> bool {
    matches!(tensor.datatype, DataType::Fp32 | DataType::Fp16 | DataType::Bf16 | DataType::Fp64)
}

/// The greatest of a row, first of equals.
fn greatest(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(at, _)| at)
}

/// Compares `variant` with `reference`; the metric is `asked`, or else label accuracy where there are labels, agreement where the first
/// output looks like classes, cosine otherwise.
///
/// # Errors
/// [`VariantError::Engine`] when the two do not give the same number of values.
pub fn compare(reference: &Answers, variant: &Answers, samples: &Samples, asked: Option<Metric>) -> Result<Fidelity, VariantError> {
    let same = reference.outputs.len() == variant.outputs.len()
        && reference.outputs.iter().zip(&variant.outputs).all(|((a, x), (b, y))| a == b && x.len() == y.len());
    let Some((_, first)) = reference.outputs.first().filter(|_| same) else {
        return Err(VariantError::Engine("its outputs are not the reference's".to_owned()));
    };
    for (whose, answers) in [("the reference's", reference), ("its", variant)] {
        if let Some((name, _)) = answers.outputs.iter().find(|(_, values)| values.iter().any(|v| !v.is_finite())) {
            return Err(VariantError::Engine(format!("{whose} output `{name}` has values that are no numbers: nothing to compare")));
        }
    }
    let mut compared = Compared::default();
    for ((_, expected), (_, got)) in reference.outputs.iter().zip(&variant.outputs) {
        compared.add(expected, got, reference.count);
    }
    // Rows of different lengths cannot be told apart, so they have no choice in common.
    let whole = first.len().checked_rem(reference.count) == Some(0);
    let width = first.len().checked_div(reference.count).filter(|_| whole).unwrap_or(0);
    let choices = |answers: &Answers| -> Vec<Option<usize>> {
        answers.outputs.first().map_or(Vec::new(), |(_, values)| values.chunks(width.max(1)).map(greatest).collect())
    };
    let (expected, got) = (choices(reference), choices(variant));
    let agreed = expected.iter().zip(&got).filter(|(a, b)| a == b).count();
    let agreement = (width > 1).then(|| agreed as f64 / reference.count.max(1) as f64);
    let labels = samples.labels.as_ref().filter(|_| width > 1).map(|labels| {
        let right = |chosen: &[Option<usize>]| {
            let right = labels.iter().zip(chosen).filter(|(label, at)| at.is_some_and(|at| at as i64 == **label));
            right.count() as f64 / labels.len().max(1) as f64
        };
        let (value, of_reference) = (right(&got), right(&expected));
        let (low, high) = wilson(value, labels.len());
        LabelAccuracy { value, low, high, reference: of_reference }
    });
    let metric = asked.unwrap_or(match (&labels, agreement) {
        (Some(_), _) => Metric::Labels,
        (None, Some(_)) if looks_like_classes(reference.outputs.first(), width) => Metric::Agreement,
        _ => Metric::Cosine,
    });
    let accuracy = match (metric, &labels, agreement) {
        (Metric::Labels, Some(labels), _) => labels.value / labels.reference.max(f64::MIN_POSITIVE),
        (Metric::Agreement, _, Some(agreement)) => agreement,
        (Metric::Cosine, ..) => compared.cosine_mean(),
        (metric, ..) => return Err(VariantError::Engine(format!("there is nothing to measure {metric:?} by"))),
    };
    if !accuracy.is_finite() {
        return Err(VariantError::Engine(format!("its accuracy ({metric}) is {accuracy}: nothing to compare")));
    }
    Ok(Fidelity {
        data: samples.digest.clone(),
        samples: samples.count as u64,
        metric,
        accuracy: accuracy.clamp(0.0, 1.0),
        agreement,
        cosine_mean: compared.cosine_mean(),
        cosine_min: compared.cosine_min,
        max_error: compared.max_error,
        sqnr_db: compared.sqnr_db(),
        labels,
    })
}

/// Named like scores of classes, or probabilities.
fn looks_like_classes(output: Option<&(String, Vec<f32>)>, width: usize) -> bool {
    let Some((name, values)) = output else { return false };
    let name = name.to_lowercase();
    let named = ["logit", "prob", "score", "class", "softmax"].iter().any(|part| name.contains(part));
    let sums_to_one = |row: &[f32]| (row.iter().sum::<f32>() - 1.0).abs() < 1e-3 && row.iter().all(|v| *v >= 0.0);
    named || values.chunks(width.max(1)).take(16).all(sums_to_one)
}

/// The interval in which a share measured on `n` lies with 95 % (Wilson's).
fn wilson(share: f64, n: usize) -> (f64, f64) {
    let (n, z) = (n.max(1) as f64, 1.96);
    let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[derive(Default)]
struct Compared {
    cosines: f64,
    rows: u64,
    cosine_min: f64,
    max_error: f64,
    signal: f64,
    noise: f64,
}

impl Compared {
    fn add(&mut self, expected: &[f32], got: &[f32], count: usize) {
        let width = expected.len().checked_div(count).unwrap_or(0).max(1);
        for (a, b) in expected.chunks(width).zip(got.chunks(width)) {
            let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
            for (x, y) in a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
                (dot, aa, bb) = (dot + x * y, aa + x * x, bb + y * y);
                self.max_error = self.max_error.max((x - y).abs());
                (self.signal, self.noise) = (self.signal + x * x, self.noise + (x - y).powi(2));
            }
            let cosine = if aa > 0.0 && bb > 0.0 { dot / (aa * bb).sqrt() } else { f64::from(u8::from(aa == bb)) };
            self.cosine_min = if self.rows == 0 { cosine } else { self.cosine_min.min(cosine) };
            self.cosines += cosine;
            self.rows += 1;
        }
    }

    fn cosine_mean(&self) -> f64 {
        self.cosines / self.rows.max(1) as f64
    }

    /// Signal over noise; 200 where there is none.
    fn sqnr_db(&self) -> f64 {
        if self.noise <= 0.0 || self.signal <= 0.0 { 200.0 } else { (10.0 * (self.signal / self.noise).log10()).min(200.0) }
    }
}
