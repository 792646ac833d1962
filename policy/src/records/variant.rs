//! Variants of a version: what is known of each, and how each is run.

use super::{ArtifactFile, ProfileRecord, Slo, VersionRecord, model_file};
use crate::card::Metric;
use crate::profile::Latency;
use crate::{Digest, EngineName, PrecisionHint, VariantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A variant beside the reference, as its card says it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantRecord {
    /// `precision@engine`.
    pub name: VariantName,
    /// Its artifact: the reference's where it is the same file, run otherwise.
    pub artifact: Digest,
    /// The artifact's files.
    pub files: Vec<ArtifactFile>,
    /// The file that the engine loads.
    #[serde(default = "model_file")]
    pub model_file: String,
    /// What the engine is told to compute in, where it chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<PrecisionHint>,
    /// Bytes one loaded and run instance held in the validating process.
    pub bytes_resident: u64,
    /// Relative to the reference, 0 to 1.
    pub accuracy: f64,
    /// What that is.
    pub metric: Metric,
    /// sha256 of the samples it was measured on.
    pub data: Digest,
    /// Parts of a device class without which its integers overflow on the way, such as `vnni`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Shapes of one sample, by input: what it is timed with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sample: BTreeMap<String, Vec<i64>>,
}

impl VariantRecord {
    /// How it is run.
    pub fn runs(&self) -> Runs<'_> {
        Runs {
            name: &self.name,
            artifact: &self.artifact,
            files: &self.files,
            model_file: &self.model_file,
            hint: self.hint,
            bytes_resident: self.bytes_resident,
        }
    }
}

/// How a variant of a version is run, the reference or another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Runs<'a> {
    /// `precision@engine`.
    pub name: &'a VariantName,
    /// Its artifact.
    pub artifact: &'a Digest,
    /// The artifact's files.
    pub files: &'a [ArtifactFile],
    /// The file that the engine loads.
    pub model_file: &'a str,
    /// What the engine is told to compute in.
    pub hint: Option<PrecisionHint>,
    /// Bytes one loaded and run instance held in the validating process.
    pub bytes_resident: u64,
}

impl VersionRecord {
    /// How its reference is run.
    pub fn reference_runs(&self) -> Runs<'_> {
        Runs {
            name: &self.reference,
            artifact: &self.artifact,
            files: &self.files,
            model_file: &self.model_file,
            hint: None,
            bytes_resident: self.bytes_resident,
        }
    }

    /// How each of its variants is run, the reference first.
    pub fn runs(&self) -> impl Iterator<Item = Runs<'_>> {
        std::iter::once(self.reference_runs()).chain(self.variants.iter().map(VariantRecord::runs))
    }

    /// The accuracy of the variant of this name, relative to the reference.
    pub fn accuracy_of(&self, name: &VariantName) -> Option<f64> {
        let beside = || self.variants.iter().find(|v| v.name == *name).map(|v| v.accuracy);
        if *name == self.reference { Some(1.0) } else { beside() }
    }

    /// The same as far as a model's floor counts it: measured by the metric and on the samples it names. The reference's always is.
    pub fn proven_accuracy(&self, name: &VariantName, slo: &Slo) -> Option<f64> {
        if *name == self.reference {
            return Some(1.0);
        }
        let record = self.variants.iter().find(|v| v.name == *name)?;
        let metric = slo.accuracy_metric.is_none_or(|metric| metric == record.metric);
        let data = slo.accuracy_data.as_ref().is_none_or(|data| *data == record.data);
        (metric && data).then_some(record.accuracy)
    }

    /// How the variant of this name is run.
    pub fn run_of(&self, name: &VariantName) -> Option<Runs<'_>> {
        self.runs().find(|runs| runs.name == name)
    }
}

impl ProfileRecord {
    /// How long batches take, as measured.
    pub fn line(&self) -> Latency {
        Latency { alpha_us: self.alpha_us, beta_us: self.beta_us }
    }

    /// Is it the profile of something run this way by this engine, whatever its version?
    pub fn is_of(&self, runs: &Runs<'_>) -> bool {
        let engine = self.engine.split_whitespace().next().unwrap_or_default();
        let named = EngineName::parse(runs.name.engine()).map(EngineName::library);
        self.artifact == *runs.artifact && self.hint == runs.hint && named == Some(engine)
    }
}
