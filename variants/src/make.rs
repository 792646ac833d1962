//! Makes variants by recipes, and lets none lie: each is loaded and run in a child process, compared with the reference, timed beside it,
//! and written only when it pays. The original is read, never written.

mod existing;
mod folder;
mod sensitive;

pub use existing::Existing;
pub use folder::{digest_of, read_card, replay};

use crate::VariantError;
use crate::calibrate::{self, Method};
use crate::fidelity::{self, Answers};
use crate::onnx::Model;
use crate::pass::{Activations, Fold, Pass, Ranges, observed};
use crate::recipe::{Make, Recipe, method_name};
use crate::runtime::{Checked, Run, Runtime, Timing};
use crate::samples::Samples;
use folder::Staging;
use policy::card::{Calibration, Card, Fidelity, Metric};
use policy::profile::SpeedVerdict;
use policy::{Digest, PrecisionHint, VariantName};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Batch sizes that are timed, where the model takes batches.
pub const ROWS: [u32; 3] = [1, 4, 16];

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
    /// How ranges follow from samples.
    pub method: Method,
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
    fn name(&self) -> &str {
        match self {
            Self::Recipe(recipe) => recipe.name,
            Self::Existing(existing) => existing.name.as_str(),
        }
    }

    /// The ranges it needs.
    fn calibrates(&self) -> Option<Activations> {
        match self {
            Self::Recipe(recipe) => recipe.calibrates(),
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

/// What a caller may show while it waits.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Does all of `order`.
///
/// # Errors
/// What keeps every job from being tried: a model that is no ONNX or does not run, samples that do not fit it, a full disk. Nothing is
/// left behind then.
pub fn make(order: &Order, runtime: &dyn Runtime, progress: Progress<'_>) -> Result<Outcomes, VariantError> {
    let staging = Staging::new(&order.out)?;
    let reference = Run::ort(&order.model);
    progress("checking the reference in a child process");
    let checked = runtime.check(&reference)?;
    let source = Model::read(&order.model)?;
    let work = Work::new(order, runtime, &staging, source, &checked, progress)?;
    let mut made: Vec<(Made, Option<Candidate>)> = Vec::new();
    for job in &order.jobs {
        progress(&format!("{}: making and checking", job.name()));
        made.push(work.attempt(job, progress)?);
    }
    work.finish(made, &reference, progress)
}

/// A variant that was made and is right; whether it is fast is not known yet.
struct Candidate {
    card: Card,
    run: Run,
    /// Its folder, for now.
    folder: PathBuf,
    /// Why it cannot be timed here.
    unprofiled: Option<String>,
}

/// Where a variant's file comes from.
struct Origin {
    made_by: String,
    passes: Vec<serde_json::Value>,
    calibration: Option<Calibration>,
}

struct Work<'a> {
    order: &'a Order,
    runtime: &'a dyn Runtime,
    staging: &'a Staging,
    source_digest: Digest,
    source_bytes: u64,
    /// The reference, folded.
    base: Model,
    fold_lines: Vec<String>,
    calibration: Samples,
    evaluation: Samples,
    answers: Answers,
    ranges: [Option<Result<Ranges, VariantError>>; 2],
}

impl<'a> Work<'a> {
    fn new(
        order: &'a Order,
        runtime: &'a dyn Runtime,
        staging: &'a Staging,
        source: Model,
        checked: &Checked,
        progress: Progress<'_>,
    ) -> Result<Self, VariantError> {
        let calibration =
            Samples::read(&order.calibration, order.labels.as_deref().filter(|_| order.evaluation.is_none()), &checked.inputs)?;
        let evaluation = match &order.evaluation {
            Some(path) => Samples::read(path, order.labels.as_deref(), &checked.inputs)?,
            None => calibration.clone(),
        };
        let (source_digest, source_bytes) = folder::digest_of(&order.model)?;
        progress("running the reference on the samples");
        let mut session = runtime.load(&Run::ort(&order.model))?;
        let answers = fidelity::answers(session.as_mut(), &evaluation)?;
        let mut base = source;
        let fold_lines = match Pass::Fold(Fold::default()).apply(&mut base) {
            Ok(done) => done.lines,
            Err(VariantError::NotApplicable(_)) => Vec::new(), // every pass will say so
            Err(error) => return Err(error),
        };
        let mut work = Self {
            order,
            runtime,
            staging,
            source_digest,
            source_bytes,
            base,
            fold_lines,
            calibration,
            evaluation,
            answers,
            ranges: [None, None],
        };
        for (at, activations) in [Activations::U8, Activations::S8].into_iter().enumerate() {
            // Min-max ranges are the same for both.
            if order.jobs.iter().any(|job| job.calibrates() == Some(activations))
                && let Some(slot) = work.ranges.get(at)
                && slot.is_none()
            {
                progress("measuring ranges of activations");
                let found = work.calibrate(activations);
                if let Some(slot) = work.ranges.get_mut(at) {
                    *slot = Some(found);
                }
            }
        }
        Ok(work)
    }

    fn calibrate(&self, activations: Activations) -> Result<Ranges, VariantError> {
        let names = observed(self.base.graph(), &Recipe::operators(self.base.graph()));
        if names.is_empty() {
            return Err(VariantError::NotApplicable("no Conv, Gemm or MatMul".to_owned()));
        }
        let folder = self.staging.folder("calibration")?;
        let ranges = calibrate::ranges(self.runtime, &self.base, &names, &self.calibration, self.order.method, activations, &folder);
        self.staging.remove("calibration");
        ranges
    }

    fn ranges_for(&self, recipe: &Recipe) -> Result<Ranges, VariantError> {
        let at = match recipe.calibrates() {
            None => return Ok(Ranges::default()),
            Some(Activations::U8) => 0,
            Some(Activations::S8) => 1,
        };
        self.ranges.get(at).cloned().flatten().unwrap_or_else(|| Ok(Ranges::default()))
    }

    /// Has one variant. An error is one of the disk; all else is an outcome.
    fn attempt(&self, job: &Job, progress: Progress<'_>) -> Result<(Made, Option<Candidate>), VariantError> {
        let mut made = Made {
            name: job.name().to_owned(),
            outcome: Outcome::Kept,
            lines: Vec::new(),
            bytes: None,
            fidelity: None,
            timing: None,
            speedup: None,
        };
        let candidate = match job {
            Job::Recipe(recipe) => self.made(recipe, &mut made, progress),
            Job::Existing(existing) => self.existing(existing, &mut made),
        };
        match candidate.and_then(|candidate| self.within_floor(candidate)) {
            Ok(candidate) => Ok((made, Some(candidate))),
            Err(VariantError::NotApplicable(reason)) => Ok((Made { outcome: Outcome::NotApplicable(reason), ..made }, None)),
            Err(error @ VariantError::File { .. }) => Err(error),
            Err(error) => Ok((Made { outcome: Outcome::Refused(error.to_string()), ..made }, None)),
        }
    }

    fn is_too_low(&self, candidate: &Candidate) -> bool {
        candidate.card.fidelity.as_ref().is_some_and(|f| f.accuracy < self.order.floor)
    }

    fn within_floor(&self, candidate: Candidate) -> Result<Candidate, VariantError> {
        match &candidate.card.fidelity {
            Some(f) if f.accuracy < self.order.floor => {
                Err(VariantError::Engine(format!("accuracy {:.4} ({}) is below the floor {}", f.accuracy, f.metric, self.order.floor)))
            }
            _ => Ok(candidate),
        }
    }

    /// By a recipe; where accuracy is too low, with more and more of the most sensitive nodes left in float.
    fn made(&self, recipe: &'static Recipe, made: &mut Made, progress: Progress<'_>) -> Result<Candidate, VariantError> {
        if let (Make::Same, Some(missing)) = (recipe.make, self.runtime.missing(recipe.engine())) {
            return Err(VariantError::NotApplicable(missing));
        }
        let ranges = self.ranges_for(recipe)?;
        let mut candidate = self.once(recipe, &ranges, &BTreeSet::new(), made)?;
        if self.is_too_low(&candidate) && recipe.calibrates().is_some() {
            for keep in self.sensitive(recipe, &ranges, progress)? {
                progress(&format!("{}: below the floor; {} nodes left in float", recipe.name, keep.len()));
                candidate = self.once(recipe, &ranges, &keep, made)?;
                if !self.is_too_low(&candidate) {
                    break;
                }
            }
        }
        Ok(candidate)
    }

    /// Makes, writes, checks and compares.
    fn once(&self, recipe: &'static Recipe, ranges: &Ranges, keep: &BTreeSet<String>, made: &mut Made) -> Result<Candidate, VariantError> {
        let folder = self.staging.folder(recipe.name)?;
        let (mut file, mut passes) = (None, Vec::new());
        if let Some(pass) = recipe.pass(self.base.graph(), ranges, keep, self.order.reduce_range) {
            let mut changed = self.base.clone();
            made.lines = self.fold_lines.iter().cloned().chain(pass.apply(&mut changed)?.lines).collect();
            passes = vec![Pass::Fold(Fold::default()), pass];
            changed.write(&folder)?;
            file = Some(folder.join("model.onnx"));
        }
        let passes = passes.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(|e| VariantError::Card(e.to_string()))?;
        let calibration = recipe.calibrates().map(|_| Calibration {
            data: self.calibration.digest.clone(),
            samples: self.calibration.count as u64,
            method: method_name(self.order.method).to_owned(),
        });
        let origin = Origin { made_by: concat!("sluice ", env!("CARGO_PKG_VERSION")).to_owned(), passes, calibration };
        let name = VariantName::new(recipe.name).map_err(|e| VariantError::Card(e.to_string()))?;
        self.judged(name, recipe.hint, file, folder, origin, made)
    }

    /// Checks the file, or the reference's where it has none of its own, compares its answers and writes what came of it on a card.
    fn judged(
        &self,
        name: VariantName,
        hint: Option<PrecisionHint>,
        file: Option<PathBuf>,
        folder: PathBuf,
        origin: Origin,
        made: &mut Made,
    ) -> Result<Candidate, VariantError> {
        let (digest, bytes) = match &file {
            Some(path) => folder::digest_of(path)?,
            None => (self.source_digest.clone(), self.source_bytes),
        };
        made.bytes = Some(bytes);
        let model = file.unwrap_or_else(|| self.order.model.clone());
        let run = Run { model, engine: name.engine().to_owned(), hint, as_written: false };
        // Where its engine is missing, ONNX Runtime on the processor still says whether it is a model and what it answers.
        let unprofiled = self.runtime.missing(name.engine());
        let stand_in = if unprofiled.is_some() { Run::ort(&run.model) } else { run.clone() };
        let fidelity = match self.runtime.check(&stand_in).and_then(|_| self.compare(&stand_in)) {
            Ok(fidelity) => Some(fidelity),
            Err(error) if unprofiled.is_some() => {
                made.lines.push(format!("not compared: ONNX Runtime on the processor says: {error}"));
                None
            }
            Err(error) => return Err(error),
        };
        made.fidelity.clone_from(&fidelity);
        let card = Card {
            name,
            made_by: origin.made_by,
            made_at: self.order.now,
            source: self.source_digest.clone(),
            model: digest,
            bytes,
            hint,
            calibration: origin.calibration,
            fidelity,
            sample: self.evaluation.batch(0, 1).into_iter().map(|t| (t.name, t.shape)).collect(),
            passes: origin.passes,
        };
        Ok(Candidate { card, run, folder, unprofiled })
    }

    fn compare(&self, run: &Run) -> Result<Fidelity, VariantError> {
        let mut session = self.runtime.load(run)?;
        let answers = fidelity::answers(session.as_mut(), &self.evaluation)?;
        fidelity::compare(&self.answers, &answers, &self.evaluation, self.order.metric)
    }

    /// Times what was made, and moves what pays to its place.
    fn finish(&self, mut made: Vec<(Made, Option<Candidate>)>, reference: &Run, progress: Progress<'_>) -> Result<Outcomes, VariantError> {
        let timed: Vec<Run> =
            made.iter().filter_map(|(_, c)| c.as_ref()).filter(|c| c.unprofiled.is_none()).map(|c| c.run.clone()).collect();
        let runs: Vec<Run> = std::iter::once(reference.clone()).chain(timed).collect();
        let rows: &[u32] = if self.evaluation.batches() { &ROWS } else { &[1] };
        progress(&format!("timing {} in turn on {}", runs.len(), self.runtime.class()));
        let mut times = self.runtime.time(&runs, &self.evaluation.batch(0, 1), rows)?.into_iter();
        let reference = times.next().transpose()?;
        for (line, candidate) in &mut made {
            let Some(found) = candidate else { continue };
            if let Some(missing) = &found.unprofiled {
                line.outcome = Outcome::NotProfiled(missing.clone());
                continue;
            }
            match times.next() {
                Some(Ok(timing)) => {
                    let verdict = reference.as_ref().and_then(|r| SpeedVerdict::of(&r.batches, &timing.batches));
                    line.speedup = verdict.as_ref().map(SpeedVerdict::speedup);
                    line.timing = Some(timing);
                    if let Some(reason) = verdict.as_ref().and_then(SpeedVerdict::refusal) {
                        line.outcome = Outcome::Refused(reason.to_owned());
                    }
                }
                Some(Err(error)) => line.outcome = Outcome::Refused(error.to_string()),
                None => line.outcome = Outcome::Refused("was not timed".to_owned()),
            }
        }
        for (line, candidate) in &made {
            // A candidate is right; all that it may be refused for by now is its speed here, or that it could not be timed.
            let slow = line.timing.is_some() && self.order.keep_slow;
            if let Some(found) = candidate
                && (slow || matches!(line.outcome, Outcome::Kept | Outcome::NotProfiled(_)))
            {
                self.staging.keep(&found.folder, &found.card)?;
            }
        }
        let made = made.into_iter().map(|(line, _)| line).collect();
        Ok(Outcomes { class: self.runtime.class().to_owned(), reference_bytes: self.source_bytes, reference, made })
    }
}

/// The model file of a version's folder, as `MODEL` or `MODEL/VERSION` in a repository or by itself.
pub fn model_file(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let own = path.join("model.onnx");
    if own.is_file() {
        return Some(own);
    }
    let versions = path.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let newest = path.join(versions.max()?.to_string()).join("model.onnx");
    newest.is_file().then_some(newest)
}
