//! Ranges of the values inside a model, from sample inputs: the model gives those values as further outputs, and what comes is measured.
//!
//! Min-max takes all that was seen. The others cut rare values off for smaller steps: percentile leaves out the outermost share, MSE
//! minimises the squared error of rounding and cutting, entropy the divergence of the two distributions (as TensorRT's calibrator and ONNX
//! Runtime's `entropy`). These work on histograms over the range that a first pass found.

use crate::VariantError;
use crate::graph::Names;
use crate::onnx::{Model, pb};
use crate::pass::{Activations, Ranges};
use crate::runtime::{Run, Runtime, Session};
use crate::samples::Samples;
use policy::DataType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Bins of a histogram.
const BINS: usize = 2048;
/// Least share of a range that is tried by the searching methods.
const SHARES: std::ops::RangeInclusive<usize> = 8..=32;

/// How ranges follow from what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Least and greatest.
    #[default]
    MinMax,
    /// All but one in 100,000 at each end.
    Percentile,
    /// Least divergence of the distributions before and after.
    Entropy,
    /// Least squared error.
    Mse,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MinMax, Self::Percentile, Self::Entropy, Self::Mse];

    /// As written in arguments and cards.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MinMax => "min-max",
            Self::Percentile => "percentile",
            Self::Entropy => "entropy",
            Self::Mse => "mse",
        }
    }

    /// The one that is written `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

/// The ranges of the values `names` of `model` over `samples`, by each of `methods`. A file is written into `folder` and stays there.
///
/// # Errors
/// The engine's words.
pub fn ranges(
    runtime: &dyn Runtime,
    model: &Model,
    names: &[String],
    samples: &Samples,
    (methods, activations): (&[Method], Activations),
    folder: &Path,
) -> Result<Vec<(Method, Ranges)>, VariantError> {
    let mut observed = Observed::open(runtime, model, names, folder)?;
    let mut seen: BTreeMap<String, [f32; 2]> = BTreeMap::new();
    observed.for_each(samples, |name, values| {
        let range = seen.entry(name.to_owned()).or_insert([f32::INFINITY, f32::NEG_INFINITY]);
        for value in values {
            // A mask of -inf is no range: what takes it stays in float.
            let [low, high] = *range;
            *range = if value.is_finite() { [low.min(*value), high.max(*value)] } else { [f32::NEG_INFINITY, f32::INFINITY] };
        }
    })?;
    seen.retain(|_, [low, high]| low <= high && low.is_finite() && high.is_finite());
    if methods == [Method::MinMax] {
        return Ok(vec![(Method::MinMax, Ranges(seen))]);
    }
    let mut histograms: BTreeMap<String, Histogram> = seen.into_iter().map(|(name, range)| (name, Histogram::new(range))).collect();
    observed.for_each(samples, |name, values| {
        if let Some(histogram) = histograms.get_mut(name) {
            values.iter().for_each(|v| histogram.add(*v));
        }
    })?;
    let by = |method: &Method| {
        let range = |(name, histogram): (&String, &Histogram)| (name.clone(), histogram.range(*method, activations));
        (*method, Ranges(histograms.iter().map(range).collect()))
    };
    Ok(methods.iter().map(by).collect())
}

/// A model whose outputs are the values inside it that are looked at.
struct Observed {
    session: Box<dyn Session>,
    /// What each output is called in the model.
    names: Vec<String>,
}

impl Observed {
    fn open(runtime: &dyn Runtime, model: &Model, names: &[String], folder: &Path) -> Result<Self, VariantError> {
        let mut observed = model.clone();
        let known = std::mem::take(&mut observed.graph_mut().output);
        let mut free = Names::of(model.graph());
        let is_input = |name: &String| model.graph().input.iter().any(|input| input.name() == name);
        for name in names {
            // An input cannot be an output under its own name; an engine infers the type of an output that does not say it.
            let output = if is_input(name) { free.fresh(&format!("{name}_observed")) } else { name.clone() };
            if output != *name {
                observed.graph_mut().node.push(crate::graph::node("Identity", &[name], &[&output]));
            }
            let as_known = known.iter().find(|o| o.name() == output).cloned();
            let bare = || pb::ValueInfoProto { name: Some(output.clone()), ..pb::ValueInfoProto::default() };
            observed.graph_mut().output.push(as_known.unwrap_or_else(bare));
        }
        observed.write(folder)?;
        // Fused, a value is rounded otherwise in its last bit; as ONNX Runtime's calibrator has it, it is not.
        let run = Run { as_written: true, ..Run::ort(&folder.join("model.onnx")) };
        runtime.check(&run)?;
        Ok(Self { session: runtime.load(&run)?, names: names.to_vec() })
    }

    /// Shows `look` every value of every tensor that holds floats, over all samples.
    fn for_each(&mut self, samples: &Samples, mut look: impl FnMut(&str, &[f32])) -> Result<(), VariantError> {
        for (from, rows) in samples.runs(1) {
            let given = self.session.run(&samples.batch(from, rows))?;
            for (name, tensor) in self.names.iter().zip(given).filter(|(_, tensor)| tensor.datatype == DataType::Fp32) {
                look(name, &tensor.floats().unwrap_or_default());
            }
        }
        Ok(())
    }
}

struct Histogram {
    low: f32,
    high: f32,
    bins: Vec<u64>,
}

impl Histogram {
    fn new([low, high]: [f32; 2]) -> Self {
        Self { low, high, bins: vec![0; BINS] }
    }

    fn width(&self) -> f64 {
        (f64::from(self.high) - f64::from(self.low)) / BINS as f64
    }

    fn add(&mut self, value: f32) {
        let at = ((f64::from(value) - f64::from(self.low)) / self.width()) as usize; // saturates; of NaN comes 0
        if let Some(bin) = self.bins.get_mut(at.min(BINS - 1)) {
            *bin += 1;
        }
    }

    fn middle(&self, at: usize) -> f64 {
        f64::from(self.low) + (at as f64 + 0.5) * self.width()
    }

    fn range(&self, method: Method, activations: Activations) -> [f32; 2] {
        if self.width() <= 0.0 {
            return [self.low, self.high];
        }
        match method {
            Method::MinMax => [self.low, self.high],
            Method::Percentile => self.percentile(1e-5),
            Method::Mse => self.search(activations, |histogram, range, steps| histogram.squared_error(range, steps)),
            Method::Entropy => self.search(activations, |histogram, range, steps| histogram.divergence(range, steps)),
        }
    }

    fn percentile(&self, share: f64) -> [f32; 2] {
        let total: u64 = self.bins.iter().sum();
        let cut = (total as f64 * share) as u64;
        let edge = |bins: &mut dyn Iterator<Item = (usize, &u64)>| {
            let mut left = cut;
            for (at, bin) in bins {
                if *bin > left {
                    return at;
                }
                left -= bin;
            }
            0
        };
        let low = edge(&mut self.bins.iter().enumerate());
        let high = edge(&mut self.bins.iter().enumerate().rev());
        [(self.middle(low) - self.width() / 2.0) as f32, (self.middle(high) + self.width() / 2.0) as f32]
    }

    /// The best of ranges that are a share of the whole, by `cost`.
    fn search(&self, activations: Activations, cost: impl Fn(&Self, [f64; 2], f64) -> f64) -> [f32; 2] {
        let steps = if activations == Activations::U8 { 255.0 } else { 254.0 };
        let (low, high) = (f64::from(self.low.min(0.0)), f64::from(self.high.max(0.0)));
        let of_share = |share: usize| {
            let share = share as f64 / *SHARES.end() as f64;
            if activations == Activations::S8 {
                let most = high.max(-low) * share;
                [-most, most]
            } else {
                [low * share, high * share]
            }
        };
        let best = SHARES.map(of_share).map(|range| (cost(self, range, steps), range));
        let best = best.min_by(|a, b| a.0.total_cmp(&b.0)).map_or([low, high], |(_, range)| range);
        [best[0] as f32, best[1] as f32]
    }

    fn squared_error(&self, [low, high]: [f64; 2], steps: f64) -> f64 {
        let step = (high - low) / steps;
        let error = |(at, count): (usize, &u64)| {
            let value = self.middle(at);
            let kept = (((value.clamp(low, high) - low) / step).round() * step) + low;
            (value - kept).powi(2) * *count as f64
        };
        self.bins.iter().enumerate().map(error).sum()
    }

    /// Kullback-Leibler divergence of what is kept, cut values at the edges, from its form in `steps` steps.
    fn divergence(&self, [low, high]: [f64; 2], steps: f64) -> f64 {
        let mut kept = vec![0.0; BINS];
        let (first, last) = (self.bin_of(low), self.bin_of(high));
        for (at, count) in self.bins.iter().enumerate() {
            if let Some(bin) = kept.get_mut(at.clamp(first, last)) {
                *bin += *count as f64;
            }
        }
        let step_of = |at: usize| (((self.middle(at) - low) / (high - low)) * steps).round() as i64;
        // Each step's count is spread evenly over those of its bins that hold something.
        let mut sums: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
        for (at, count) in self.bins.iter().enumerate().take(last + 1).skip(first) {
            let (sum, filled) = sums.entry(step_of(at)).or_default();
            *sum += *count as f64;
            *filled += f64::from(u8::from(*count > 0));
        }
        let total: f64 = kept.iter().sum();
        let inside: f64 = sums.values().map(|(sum, _)| sum).sum::<f64>().max(1.0);
        let of_bin = |at: usize, p: f64| {
            let (sum, filled) = sums.get(&step_of(at)).copied().unwrap_or_default();
            let q = if filled > 0.0 { sum / filled / inside } else { 0.0 };
            if p > 0.0 { p / total * ((p / total) / q.max(1e-12)).ln() } else { 0.0 }
        };
        kept.iter().enumerate().map(|(at, p)| of_bin(at, *p)).sum()
    }

    fn bin_of(&self, value: f64) -> usize {
        (((value - f64::from(self.low)) / self.width()) as usize).min(BINS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand values from -1 to 1 and one at 100.
    fn outlier() -> Histogram {
        let mut histogram = Histogram::new([-1.0, 100.0]);
        (0..300_000u32).for_each(|i| histogram.add(f64::from(i % 2001) as f32 / 1000.0 - 1.0));
        histogram.add(100.0);
        histogram
    }

    #[test]
    fn a_rare_value_is_cut_off_by_every_method_but_min_max() {
        let histogram = outlier();
        assert_eq!(histogram.range(Method::MinMax, Activations::U8), [-1.0, 100.0]);
        let [low, high] = histogram.range(Method::Percentile, Activations::U8);
        assert!((-1.1..=-0.9).contains(&low) && (0.9..1.2).contains(&high), "{low} {high}");
        for method in [Method::Mse, Method::Entropy] {
            let [low, high] = histogram.range(method, Activations::S8);
            assert!(low == -high && high < 100.0, "{method:?}: {low} {high}");
        }
    }
}
