//! What a leader makes of the rollouts that models ask for, each time it looks: who the two sides are, whether they are there, and what
//! [`crate::rollout::Progress`] says. The plan keeps loaded what [`super::wanted_versions`] and the records say.

use super::target::plainly_wanted;
use super::view::View;
use super::{Observed, Wanted};
use crate::rollout::{Action, Candidate, Counts, Guard};
use crate::{Digest, ModelName, ModelRecord, Moment, Phase, RolloutRecord, VariantName, Version, VersionRecord, VersionState};
use std::collections::BTreeMap;

/// Without news a rollout is looked at this often, in microseconds: each look writes its record, which brings the next plan about.
const LOOK_US: u64 = 5_000_000;

/// The rollouts of a cluster, as one leader leads them. A new leader begins with none and goes on from the records.
#[derive(Debug, Default)]
pub struct Rollouts(BTreeMap<ModelName, Led>);

#[derive(Debug)]
struct Led {
    record: RolloutRecord,
    /// When it was looked at last, and what was counted then.
    looked: Option<(Moment, Counts)>,
}

/// Who can answer for the two sides.
struct Sides {
    baseline: Version,
    artifact: Digest,
}

impl Rollouts {
    /// Looks at what is there and what gateways counted. `revision` is the newest that the leader has seen, `now` on its own clock, `at_ms`
    /// in milliseconds since the Unix epoch.
    pub fn look(&mut self, observed: &Observed, wanted: &Wanted, revision: i64, now: Moment, at_ms: u64) {
        let view = View::new(observed);
        self.0.retain(|name, _| wanted.models.iter().any(|model| model.name == *name && model.rollout.is_some()));
        for model in &wanted.models {
            let Some(rollout) = &model.rollout else { continue };
            let known = observed.rollouts.get(&model.name);
            let is_taken_over = !self.0.contains_key(&model.name);
            let before = self.0.remove(&model.name).or_else(|| Some(Led { record: known?.clone(), looked: None }));
            let last = before.as_ref().map_or(0, |led| led.record.id);
            let mut led = before.filter(|led| led.record.rollout.is(rollout) && !is_another(&led.record, &view)).unwrap_or_else(|| Led {
                record: RolloutRecord::new(model.name.clone(), revision.max(last.saturating_add(1)), rollout.clone()),
                looked: None,
            });
            // Both are gone after an unload, or a restart of everything: which of them comes back first says nothing of the other.
            let resumes = !model.wanted || (known.is_some() && is_taken_over && sides(model, &led.record, &view).is_err());
            if led.record.phase() == Phase::Runs && resumes {
                led.record.baseline = None;
            }
            if model.wanted {
                led.look(model, &view, observed, now, at_ms);
            } else {
                led.record.waits = Some("the model is unloaded".to_owned());
            }
            led.share();
            self.0.insert(model.name.clone(), led);
        }
    }

    /// Where each stands.
    pub fn records(&self) -> impl Iterator<Item = &RolloutRecord> {
        self.0.values().map(|led| &led.record)
    }
}

/// Has a candidate that is being looked at other files by now? What was seen of it was of another.
fn is_another(record: &RolloutRecord, view: &View<'_>) -> bool {
    let now = candidate_of(record, view).map(|(_, artifact)| artifact);
    record.progress.end.is_none() && record.artifact.is_some() && now.is_some_and(|now| record.artifact.as_ref() != Some(&now))
}

/// Version and artifact of the candidate, once the baseline is known.
fn candidate_of(record: &RolloutRecord, view: &View<'_>) -> Option<(Version, Digest)> {
    let (version, variant) = match &record.rollout.candidate {
        Candidate::Version(version) => (*version, None),
        Candidate::Variant(variant) => (record.baseline?, Some(variant)),
    };
    let known = view.versions.get(&(&record.model, version))?;
    let artifact = variant.map_or(Some(&known.artifact), |variant| known.run_of(variant).map(|runs| runs.artifact));
    artifact.map(|artifact| (version, artifact.clone()))
}

impl Led {
    fn look(&mut self, model: &ModelRecord, view: &View<'_>, observed: &Observed, now: Moment, at_ms: u64) {
        if self.record.phase() == Phase::Waits {
            match sides(model, &self.record, view) {
                Ok(sides) => (self.record.baseline, self.record.artifact) = (Some(sides.baseline), Some(sides.artifact)),
                Err(waits) => self.record.waits = Some(waits),
            }
        }
        if self.record.phase() == Phase::Runs {
            self.decide(model, view, observed, now, at_ms);
        }
    }

    /// Writes down what each side answers now.
    fn share(&mut self) {
        let begun = self.record.phase() != Phase::Waits;
        let record = &mut self.record;
        record.weight = if begun { record.progress.weight(&record.rollout) } else { 0.0 };
        record.shadow = if begun { record.progress.shadow(&record.rollout) } else { 0.0 };
        if record.progress.end.is_some() {
            record.waits = None;
        }
    }

    fn decide(&mut self, model: &ModelRecord, view: &View<'_>, observed: &Observed, now: Moment, at_ms: u64) {
        let record = &mut self.record;
        let of_this = observed.counts.iter().filter_map(|told| told.models.get(&model.name)).filter(|c| c.rollout == record.id);
        let counts = Counts::sum(record.progress.look, of_this.map(|counted| &counted.counts));
        if self.looked.is_some_and(|(at, seen)| seen == counts && now.us_since(at) < LOOK_US) {
            return;
        }
        let accuracy = match (&record.rollout.candidate, record.baseline) {
            (Candidate::Variant(variant), Some(version)) => view.versions.get(&(&model.name, version)).and_then(|v| v.accuracy_of(variant)),
            _ => None,
        };
        let guard = Guard::new(&record.rollout, accuracy, &model.slo);
        record.skipped = counts.skipped;
        record.waits = match record.progress.decide(&guard, now, at_ms, &counts) {
            Action::Hold(waits) => Some(waits),
            Action::Advance => Some(format!("step {} has begun", record.progress.step.saturating_add(1))),
            Action::Promote | Action::RollBack(_) => None,
        };
        self.looked = Some((now, Counts { look: record.progress.look, ..counts }));
    }
}

/// Who the two sides are, if each could answer now.
fn sides(model: &ModelRecord, record: &RolloutRecord, view: &View<'_>) -> Result<Sides, String> {
    let ready = |version: Version, is: &dyn Fn(&VariantName) -> bool| {
        let offered = |name: &VariantName| model.variants.is_empty() || model.variants.contains(name);
        view.replicas.values().any(|r| {
            let (same, variant) = (r.variant.model == model.name && r.variant.version == version, &r.variant.name);
            let draining = view.workers.get(&r.worker).is_none_or(|w| w.draining);
            // One that is about to be loaded anew from other files is not what will be compared.
            let known = view.versions.get(&(&model.name, version)).and_then(|v| v.run_of(variant));
            let current = known.is_some_and(|runs| *runs.artifact == r.artifact);
            same && current && !draining && r.state == crate::ReplicaState::Ready && is(variant) && offered(variant)
        })
    };
    let all = || view.versions_of(&model.name).collect::<Vec<&VersionRecord>>();
    match &record.rollout.candidate {
        Candidate::Version(candidate) => {
            let others = all().into_iter().filter(|v| v.version != *candidate).collect();
            let valid = |v: &&VersionRecord| v.state == VersionState::Valid;
            let base = plainly_wanted(model, others).into_iter().rfind(valid).map(|v| v.version);
            let base = base.ok_or_else(|| format!("nothing but version {candidate} could be served: it would take over from nobody"))?;
            let known = view.versions.get(&(&model.name, *candidate)).ok_or_else(|| format!("no worker offers version {candidate}"))?;
            if let VersionState::Invalid(reason) = &known.state {
                return Err(format!("version {candidate} is invalid: {reason}"));
            }
            match [base, *candidate].into_iter().find(|version| !ready(*version, &|_| true)) {
                Some(version) => Err(format!("version {version} has no replica that is ready yet")),
                None => Ok(Sides { baseline: base, artifact: known.artifact.clone() }),
            }
        }
        Candidate::Variant(candidate) => {
            let version = plainly_wanted(model, all()).pop().ok_or("no version is there to be served")?;
            let (number, runs) = (version.version, version.run_of(candidate));
            let runs = runs.ok_or_else(|| format!("nobody offers `{candidate}` of version {number}"))?;
            if !ready(number, &|name| name == candidate) {
                return Err(format!("`{candidate}` of version {number} has no replica that is ready yet"));
            }
            if !ready(number, &|name| name != candidate) {
                return Err(format!("no other variant of version {number} has a replica that is ready"));
            }
            Ok(Sides { baseline: number, artifact: runs.artifact.clone() })
        }
    }
}
