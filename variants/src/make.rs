//! Makes variants by recipes, and lets none lie: each is loaded and run in a child process, compared with the reference, timed beside it,
//! and written only when it pays. The original is read, never written.

mod existing;
mod folder;
mod order;
mod sensitive;

pub use existing::Existing;
pub use folder::{digest_of, read_card, replay};
pub use order::{Job, Made, Order, Outcome, Outcomes};

use crate::VariantError;
use crate::calibrate::{self, Method};
use crate::fidelity::{self, Answers};
use crate::onnx::Model;
use crate::pass::{Activations, Fold, Pass, Ranges, observed};
use crate::recipe::{Make, Recipe};
use crate::runtime::{Checked, Run, Runtime};
use crate::samples::Samples;
use folder::Staging;
use policy::card::{Calibration, Card, Fidelity, Metric};
use policy::profile::{SpeedVerdict, TIMED_ROWS};
use policy::{Digest, PrecisionHint, VariantName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Samples that are enough to rank by.
const FEW: usize = 32;

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
    needs: Vec<String>,
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
    /// For the activations that some job wants, and by which method.
    ranges: BTreeMap<Activations, Result<(Method, Ranges), VariantError>>,
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
            ranges: BTreeMap::new(),
        };
        for recipe in order.jobs.iter().filter_map(Job::recipe) {
            if let Some(activations) = recipe.calibrates().filter(|wanted| !work.ranges.contains_key(wanted)) {
                progress("measuring ranges of activations");
                let found = work.calibrate(recipe, activations);
                work.ranges.insert(activations, found);
            }
        }
        Ok(work)
    }

    fn calibrate(&self, recipe: &Recipe, activations: Activations) -> Result<(Method, Ranges), VariantError> {
        let names = observed(self.base.graph(), &Recipe::operators(self.base.graph()));
        if names.is_empty() {
            return Err(VariantError::NotApplicable("no Conv, Gemm or MatMul".to_owned()));
        }
        let methods = self.order.method.map_or(Method::ALL.to_vec(), |method| vec![method]);
        let folder = self.staging.folder("calibration")?;
        let found = calibrate::ranges(self.runtime, &self.base, &names, &self.calibration, (&methods, activations), &folder);
        self.staging.remove("calibration");
        self.best(recipe, found?)
    }

    /// The method whose ranges lose least on some of the calibration samples.
    fn best(&self, recipe: &Recipe, mut found: Vec<(Method, Ranges)>) -> Result<(Method, Ranges), VariantError> {
        let mut best: Option<(f64, usize)> = None;
        if found.len() > 1 {
            let few = self.calibration.first(FEW);
            let expected = fidelity::answers(self.runtime.load(&Run::ort(&self.order.model))?.as_mut(), &few)?;
            for (at, (_, ranges)) in found.iter().enumerate() {
                let Some(pass) = recipe.pass(self.base.graph(), ranges, &BTreeSet::new(), self.order.reduce_range) else { continue };
                let sqnr_db = self.tried(&pass, "methods", &expected, &few).unwrap_or(f64::NEG_INFINITY);
                if best.is_none_or(|(known, _)| sqnr_db > known) {
                    best = Some((sqnr_db, at));
                }
            }
            self.staging.remove("methods");
        }
        let at = best.map_or(0, |(_, at)| at);
        if at < found.len() { Ok(found.swap_remove(at)) } else { Err(VariantError::NotApplicable("no ranges were measured".to_owned())) }
    }

    /// Signal over noise of the answers when `pass` is applied.
    fn tried(&self, pass: &Pass, name: &str, expected: &Answers, samples: &Samples) -> Result<f64, VariantError> {
        let mut model = self.base.clone();
        pass.apply(&mut model)?;
        let folder = self.staging.folder(name)?;
        model.write(&folder)?;
        let got = fidelity::answers(self.runtime.load(&Run::ort(&folder.join("model.onnx")))?.as_mut(), samples)?;
        Ok(fidelity::compare(expected, &got, samples, Some(Metric::Cosine))?.sqnr_db)
    }

    fn ranges_for(&self, recipe: &Recipe) -> Result<(Method, Ranges), VariantError> {
        let found = recipe.calibrates().and_then(|activations| self.ranges.get(&activations));
        found.cloned().unwrap_or_else(|| Ok(Default::default()))
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
        let judged = candidate.and_then(|candidate| self.too_low(&made).map_or(Ok(candidate), Err));
        // Only what was seen of it refutes a card.
        if let (Job::Existing(existing), Err(VariantError::Engine(_) | VariantError::Tensor { .. } | VariantError::NotOnnx { .. })) =
            (job, &judged)
        {
            self.staging.strike(existing, made.fidelity.as_ref(), self.order.floor)?;
        }
        match judged {
            Ok(candidate) => Ok((made, Some(candidate))),
            Err(VariantError::NotApplicable(reason) | VariantError::NotTried(reason)) => {
                Ok((Made { outcome: Outcome::NotApplicable(reason), ..made }, None))
            }
            Err(error @ VariantError::File { .. }) => Err(error),
            Err(error) => Ok((Made { outcome: Outcome::Refused(error.to_string()), ..made }, None)),
        }
    }

    /// Why what was made is not accurate enough, if it is not.
    fn too_low(&self, made: &Made) -> Option<VariantError> {
        let (fidelity, floor) = (made.fidelity.as_ref()?, self.order.floor);
        let said = || format!("accuracy {:.4} ({}) is below the floor {floor}", fidelity.accuracy, fidelity.metric);
        (fidelity.accuracy < floor).then(|| VariantError::Engine(said()))
    }

    /// By a recipe; where accuracy is too low, with more and more of the most sensitive nodes left in float.
    fn made(&self, recipe: &'static Recipe, made: &mut Made, progress: Progress<'_>) -> Result<Candidate, VariantError> {
        if let (Make::Same, Some(missing)) = (recipe.make, self.runtime.missing(recipe.engine())) {
            return Err(VariantError::NotApplicable(missing));
        }
        let ranges = self.ranges_for(recipe)?;
        let mut candidate = self.once(recipe, &ranges, &BTreeSet::new(), made)?;
        if self.too_low(made).is_some() && recipe.calibrates().is_some() {
            for keep in self.sensitive(recipe, &ranges.1, progress)? {
                progress(&format!("{}: below the floor; {} nodes left in float", recipe.name, keep.len()));
                candidate = self.once(recipe, &ranges, &keep, made)?;
                if self.too_low(made).is_none() {
                    break;
                }
            }
        }
        Ok(candidate)
    }

    /// Makes, writes, checks and compares.
    fn once(
        &self,
        recipe: &'static Recipe,
        (method, ranges): &(Method, Ranges),
        keep: &BTreeSet<String>,
        made: &mut Made,
    ) -> Result<Candidate, VariantError> {
        let folder = self.staging.folder(recipe.name)?;
        let (mut file, mut passes) = (None, Vec::new());
        if let Some(pass) = recipe.pass(self.base.graph(), ranges, keep, self.order.reduce_range) {
            let mut changed = self.base.clone();
            let done = pass.apply(&mut changed)?;
            let chosen = recipe.calibrates().filter(|_| self.order.method.is_none());
            let chosen = chosen.map(|_| format!("ranges by {}: it lost least", method.as_str()));
            made.lines = chosen.into_iter().chain(self.fold_lines.iter().cloned()).chain(done.lines).collect();
            passes = vec![Pass::Fold(Fold::default()), pass];
            changed.write(&folder)?;
            file = Some(folder.join("model.onnx"));
        }
        let passes = passes.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(|e| VariantError::Card(e.to_string()))?;
        let calibration = recipe.calibrates().map(|_| Calibration {
            data: self.calibration.digest.clone(),
            samples: self.calibration.count as u64,
            method: method.as_str().to_owned(),
        });
        let needs = recipe.needs(self.order.reduce_range).map(str::to_owned).into_iter().collect();
        let origin = Origin { made_by: concat!("sluice ", env!("CARGO_PKG_VERSION")).to_owned(), passes, calibration, needs };
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
            Err(VariantError::NotImplemented(said)) if unprofiled.is_some() => {
                made.lines.push(format!("not compared: ONNX Runtime on the processor says: {said}"));
                None
            }
            Err(error) => return Err(error),
        };
        if unprofiled.is_some() && fidelity.is_some() {
            made.lines
                .push("compared as ONNX Runtime runs it; its card says no accuracy until it is checked where its engine is".to_owned());
        }
        made.fidelity.clone_from(&fidelity);
        let fidelity = fidelity.filter(|_| unprofiled.is_none());
        let card = Card {
            name,
            made_by: origin.made_by,
            made_at: self.order.now,
            source: self.source_digest.clone(),
            model: digest,
            bytes,
            hint,
            needs: origin.needs,
            floor: self.order.floor,
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
        let rows: &[u32] = if self.evaluation.batches() { &TIMED_ROWS } else { &[1] };
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
