//! What is asked for, and what came of it.

use super::Existing;
use crate::calibrate::Method;
use crate::recipe::Recipe;
use policy::card::{Fidelity, Metric};
use policy::profile::Timing;
use std::path::PathBuf;

/// What to make of which model.
#[derive(Debug, Clone)]
pub struct Order {
    /// The reference's model file.
    pub model: PathBuf,
    /// Where variants go, a folder for each.
    pub out: PathBuf,
    /// Samples for calibration.
    pub calibration: PathBuf,
    /// Samples for fidelity; those of calibration where none are given.
    pub evaluation: Option<PathBuf>,
    /// Right classes of the samples fidelity is measured on.
    pub labels: Option<PathBuf>,
    /// What accuracy is measured by, where it is not to be guessed.
    pub metric: Option<Metric>,
    /// What to make, or to look at.
    pub jobs: Vec<Job>,
    /// Least accuracy.
    pub floor: f64,
    /// How ranges follow from samples; none: by whatever method loses least.
    pub method: Option<Method>,
    /// Does this machine lack VNNI?
    pub reduce_range: bool,
    /// Keep what is right and not faster here: for other machines.
    pub keep_slow: bool,
    /// Seconds since 1970, for the cards.
    pub now: u64,
}

/// One variant to be had.
#[derive(Debug, Clone)]
pub enum Job {
    /// Made here.
    Recipe(&'static Recipe),
    /// Made by someone, or here before.
    Existing(Box<Existing>),
}

impl Job {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Recipe(recipe) => recipe.name,
            Self::Existing(existing) => existing.name.as_str(),
        }
    }

    /// The recipe, if it is made here.
    pub(super) fn recipe(&self) -> Option<&'static Recipe> {
        match self {
            Self::Recipe(recipe) => Some(recipe),
            Self::Existing(_) => None,
        }
    }
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is there.
    Kept,
    /// It was made and is not worth having, or wrong: why.
    Refused(String),
    /// There is nothing in this model for it: why.
    NotApplicable(String),
    /// It is there as a file; no engine here can say how fast it is.
    NotProfiled(String),
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The variant.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What passes did and left.
    pub lines: Vec<String>,
    /// Bytes of its file.
    pub bytes: Option<u64>,
    /// Against the reference.
    pub fidelity: Option<Fidelity>,
    /// Times beside the reference's.
    pub timing: Option<Timing>,
    /// Times faster than the reference.
    pub speedup: Option<f64>,
}

/// All that came of an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcomes {
    /// Device class on which times hold.
    pub class: String,
    /// Bytes of the reference's file.
    pub reference_bytes: u64,
    /// Times of the reference.
    pub reference: Option<Timing>,
    /// A line for each job, in order.
    pub made: Vec<Made>,
}
