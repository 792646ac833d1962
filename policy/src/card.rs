//! The card of a variant: how it was made and how far its answers are from the reference's. It lies beside the variant's file as
//! `card.toml`. How fast it is depends on the device and is in a profile.

use crate::{Digest, PrecisionHint, VariantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The card's file, in the variant's folder.
pub const FILE: &str = "card.toml";
/// The folder of variants, in the version's.
pub const FOLDER: &str = "variants";

/// What a variant's accuracy is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Share of right labels over the reference's share.
    Labels,
    /// Share of samples for which the greatest output is the reference's.
    Agreement,
    /// Mean cosine with the reference's answers.
    Cosine,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Labels => "labels",
            Self::Agreement => "agreement",
            Self::Cosine => "cosine",
        })
    }
}

/// Share of right labels, with the interval in which it lies with 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LabelAccuracy {
    /// The variant's.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The reference's, on the same samples.
    pub reference: f64,
}

/// What comparing with the reference gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// sha256 of the samples.
    pub data: Digest,
    /// How many.
    pub samples: u64,
    /// What `accuracy` is.
    pub metric: Metric,
    /// Relative to the reference, 0 to 1: what floors are about.
    pub accuracy: f64,
    /// Share of samples with the same greatest output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Mean cosine of answers.
    pub cosine_mean: f64,
    /// Least cosine.
    pub cosine_min: f64,
    /// Greatest absolute difference.
    pub max_error: f64,
    /// Power of the reference's answers over that of the difference, in decibels; at most 200.
    pub sqnr_db: f64,
    /// Where labels were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelAccuracy>,
}

/// Samples a variant was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// sha256 of the samples.
    pub data: Digest,
    /// How many.
    pub samples: u64,
    /// How ranges follow from them.
    pub method: String,
}

/// `card.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The variant, `precision@engine`.
    pub name: VariantName,
    /// What was made, `sluice VERSION`, or who is said to have made it.
    pub made_by: String,
    /// Seconds since 1970.
    pub made_at: u64,
    /// sha256 of the reference's model file.
    pub source: Digest,
    /// sha256 of the variant's model file; the source's where it is the same file, run otherwise.
    pub model: Digest,
    /// Bytes of that file and of its external data.
    pub bytes: u64,
    /// What the engine is told to compute in, where it chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<PrecisionHint>,
    /// Parts of a device class without which its integers overflow on the way, such as `vnni`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// The accuracy that was asked of it: below that it is not offered.
    #[serde(default)]
    pub floor: f64,
    /// Samples that passes went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// What comparing with the reference gave; none for a variant that no engine here runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// Shapes of one sample, by input: what it is timed with wherever it comes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sample: BTreeMap<String, Vec<i64>>,
    /// The passes with all their parameters: with the source they give the file, byte for byte. None for a file made elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<serde_json::Value>,
}
