//! The routing table: what the registry's records mean for a request. Built whole from the records, then only read.

mod waits;

use crate::gauge::{DeviceGauge, Gauge};
use crate::metrics::{Metrics, ModelMetrics};
use crate::rollout::Rolling;
use policy::demand::Offered;
use policy::plan::wanted_versions;
use policy::profile::Latency;
use policy::rollout::{AliasError, Candidate, Side, resolve_version};
use policy::route::{Distance, Headroom, Spill};
use policy::{
    Failure, ModelRecord, Moment, Phase, PlanRecord, ReplicaRecord, ReplicaState, Rest, RolloutRecord, ShareRecord, Signature, Slo,
    TenantDefaults, VariantId, VariantName, Version, VersionRecord, VersionState, WorkerId, WorkerRecord,
};
use registry::{Entry, Key, Keys, decode};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use waits::Waits;

/// All that is routable, and what is known of what is not.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) models: HashMap<String, Model>,
    pub(crate) workers: HashMap<WorkerId, Arc<WorkerRecord>>,
    devices: HashMap<(WorkerId, u64, String), Arc<DeviceGauge>>,
    /// Built from records; false for the table of a gateway that has neither registry nor snapshot yet.
    pub(crate) is_built: bool,
    /// Records that could not be read.
    pub(crate) unreadable: usize,
    /// The newest record that it, or a table before it, was built from.
    pub(crate) revision: i64,
}

/// A model and its versions, ascending.
#[derive(Default)]
pub(crate) struct Model {
    /// What is wanted of it, if anybody has said.
    asked: Option<ModelRecord>,
    /// What is asked of it here. Outlives the table it was first in.
    pub(crate) offered: Arc<Mutex<Offered>>,
    /// What is to take over, if anything; also after it has, or has not.
    pub(crate) rolling: Option<Arc<Rolling>>,
    pub(crate) versions: BTreeMap<Version, Arc<ModelVersion>>,
}

/// A version and where it can be asked.
pub(crate) struct ModelVersion {
    pub(crate) record: VersionRecord,
    /// Those that take and give what `signature` says.
    pub(crate) replicas: Vec<Replica>,
    signature: Signature,
    /// What a replica that is not ready yet does.
    pub(crate) waiting: Option<String>,
    /// Why a replica did not load.
    pub(crate) failed: Option<String>,
    /// Why the leader cannot place it, where it may sleep.
    unplaced: Option<String>,
    /// It has no replica because nobody asked; a request may wait for one.
    pub(crate) resting: Option<Resting>,
    pub(crate) metrics: ModelMetrics,
    /// Share of answers that may be later than that, 0 to 1.
    pub(crate) allowance: f64,
    /// What the model promises, in microseconds.
    pub(crate) latency_target_us: Option<f64>,
    /// Accuracy that every answer must have, where a request says none.
    pub(crate) min_accuracy: Option<f64>,
    /// What requests of a tenant mean where they say nothing.
    pub(crate) tenants: BTreeMap<String, TenantDefaults>,
    /// What is asked of the model.
    pub(crate) offered: Arc<Mutex<Offered>>,
    /// What choices taught. Outlives the table it was first in.
    learned: Arc<Mutex<Learned>>,
}

/// A version that is asleep, or waking.
pub(crate) struct Resting {
    /// The model's `idle_s`.
    pub(crate) idle_s: u32,
    /// Since when this gateway sees it loading; none while it is asleep.
    pub(crate) waking_since: Option<Instant>,
    load_ms: Option<u64>,
}

impl Resting {
    fn of(asked: Option<&ModelRecord>, plan: Option<&PlanRecord>, before: Option<&Resting>) -> Option<Self> {
        let (idle_s, idle) = (asked?.idle_s?, plan?.idle);
        let waking = idle.rest? == Rest::Waking;
        let since = || before.and_then(|b| b.waking_since).unwrap_or_else(Instant::now);
        Some(Self { idle_s, waking_since: waking.then(since), load_ms: idle.load_ms })
    }

    /// Milliseconds until it should be loaded, where it is known how long that takes.
    pub(crate) fn remaining_ms(&self) -> Option<u64> {
        let gone = self.waking_since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.load_ms.map(|load_ms| load_ms.saturating_sub(gone))
    }
}

/// What this gateway learned of a model's choices.
pub(crate) struct Learned {
    pub(crate) headroom: Headroom,
    pub(crate) spill: Spill,
    /// Accuracy of the tier that the last request went to.
    pub(crate) tier: f64,
}

impl Default for Learned {
    fn default() -> Self {
        Self { headroom: Headroom::default(), spill: Spill::default(), tier: f64::NAN }
    }
}

/// A routable replica.
pub(crate) struct Replica {
    pub(crate) worker: WorkerId,
    pub(crate) variant: VariantId,
    /// Relative to the reference, as its card says.
    pub(crate) accuracy: f64,
    /// The same for choosing: the reference's is above all, also above what was measured to be as good.
    pub(crate) tier: f64,
    /// The same where the model's floor counts it: measured by the metric and on the samples it asks for.
    pub(crate) proven_accuracy: Option<f64>,
    /// It may answer who names no variant.
    pub(crate) is_offered: bool,
    /// Rows a second that the leader's plan means for it; 0 where it means none or there is no plan.
    pub(crate) planned: f64,
    /// Longest wait in microseconds that may be in front of a request there; infinite while there is room for all.
    pub(crate) wait_us_max: f64,
    pub(crate) latency: Latency,
    pub(crate) instances: u32,
    pub(crate) distance: Distance,
    pub(crate) gauge: Arc<Gauge>,
}

/// What was measured of a replica at its load. What cannot be is not believed, which is said of a `new` one: at 0 microseconds it would
/// get every request.
fn believed(replica: &ReplicaRecord, new: bool) -> Latency {
    let told = Latency { alpha_us: replica.alpha_us, beta_us: replica.beta_us };
    if new && !told.is_plausible() {
        let (worker, variant) = (&replica.worker, &replica.variant);
        tracing::warn!(%worker, %variant, alpha_us = told.alpha_us, beta_us = told.beta_us, "no latency that can be; 10 ms a row is assumed");
    }
    told.believed()
}

/// Tier of a variant that was measured to be as accurate as the reference: samples are few, and who is in no hurry gets the reference.
const BELOW_REFERENCE: f64 = 1.0 - 1e-9;

/// Told to a client of a gateway that knows nothing yet: about a reconnect to the registry.
const NO_TABLE_RETRY_MS: u32 = 500;

impl Table {
    /// Reads `entries`. Gauges of replicas that `before` had are carried over. Records that cannot be read are skipped and
    /// counted: one bad record must not take the others away.
    pub(crate) fn build(entries: &BTreeMap<String, Entry>, keys: &Keys, here: (&str, &str), metrics: &Metrics, before: &Table) -> Self {
        let revision = entries.values().map(|entry| entry.revision).fold(before.revision, i64::max);
        let mut table = Table { is_built: true, revision, devices: before.devices.clone(), ..Table::default() };
        let mut models: HashMap<String, ModelRecord> = HashMap::new();
        let mut versions: Vec<VersionRecord> = Vec::new();
        let mut replicas: HashMap<(String, Version), Vec<ReplicaRecord>> = HashMap::new();
        let mut plans: HashMap<String, PlanRecord> = HashMap::new();
        let mut rollouts: HashMap<String, RolloutRecord> = HashMap::new();
        for entry in entries.values() {
            match keys.parse(&entry.key) {
                Some(Key::Worker { .. }) => {
                    table.read(entry, |t, w: WorkerRecord| drop(t.workers.insert(w.id.clone(), Arc::new(w))));
                }
                Some(Key::Model { .. }) => table.read(entry, |_, m: ModelRecord| drop(models.insert(m.name.to_string(), m))),
                Some(Key::Plan { .. }) => table.read(entry, |_, p: PlanRecord| drop(plans.insert(p.model.to_string(), p))),
                Some(Key::Rollout { .. }) => table.read(entry, |_, r: RolloutRecord| drop(rollouts.insert(r.model.to_string(), r))),
                Some(Key::Version { .. }) => table.read(entry, |_, v| versions.push(v)),
                Some(Key::Replica { .. }) => table.read(entry, |_, r: ReplicaRecord| {
                    replicas.entry((r.variant.model.to_string(), r.variant.version)).or_default().push(r);
                }),
                _ => {}
            }
        }
        let waits = Waits::new(replicas.values().flatten(), &models, &plans);
        let asleep = plans.values().filter(|plan| plan.idle.rest.is_some()).filter_map(|plan| models.get(plan.model.as_str()));
        let may_wake = asleep.filter(|m| m.wanted).flat_map(|m| wanted_versions(m, rollouts.get(m.name.as_str()), versions.iter()));
        let may_wake = may_wake.filter(|v| v.state == VersionState::Valid).map(|v| (v.model.clone(), v.version));
        let may_wake: HashSet<_> = may_wake.collect();
        for record in versions {
            let name = record.model.to_string();
            let found = replicas.remove(&(name.clone(), record.version)).unwrap_or_default();
            let old = before.models.get(&name).and_then(|m| m.versions.get(&record.version));
            let offered = table.model(&name, before).offered.clone();
            let rests = may_wake.contains(&(record.model.clone(), record.version));
            let said = Said { asked: models.get(&name), plan: plans.get(&name), rollout: rollouts.get(&name) };
            let mut version = table.version(record, &found, here, metrics, old, (said, &waits, offered));
            if rests {
                version.resting = Resting::of(models.get(&name), plans.get(&name), old.and_then(|old| old.resting.as_ref()));
            }
            table.model(&name, before).versions.insert(version.record.version, Arc::new(version));
        }
        for (name, record) in models {
            let old = before.models.get(&name).and_then(|m| m.rolling.as_ref());
            let model = table.model(&name, before);
            model.rolling = Rolling::of(&record, rollouts.remove(&name), &model.versions, old).map(Arc::new);
            model.asked = Some(record);
        }
        let workers = &table.workers;
        table.devices.retain(|(worker, incarnation, _), _| workers.get(worker).is_some_and(|w| w.incarnation == *incarnation));
        table
    }

    /// The model of this name, with what the table before counted of it.
    fn model(&mut self, name: &str, before: &Table) -> &mut Model {
        let offered = || before.models.get(name).map(|m| m.offered.clone()).unwrap_or_default();
        self.models.entry(name.to_owned()).or_insert_with(|| Model { offered: offered(), ..Model::default() })
    }

    fn read<T: DeserializeOwned>(&mut self, entry: &Entry, take: impl FnOnce(&mut Self, T)) {
        match decode(entry, policy::SCHEMA) {
            Ok(record) => take(self, record),
            Err(error) => {
                self.unreadable = self.unreadable.saturating_add(1);
                tracing::debug!(%error, "record skipped");
            }
        }
    }

    fn version(
        &mut self,
        record: VersionRecord,
        replicas: &[ReplicaRecord],
        here: (&str, &str),
        metrics: &Metrics,
        old: Option<&Arc<ModelVersion>>,
        (said, waits, offered): (Said<'_>, &Waits, Arc<Mutex<Offered>>),
    ) -> ModelVersion {
        let (asked, plan, withheld) = (said.asked, said.plan, said.withheld());
        let (mut waiting, mut failed) = (None, None);
        let (mut routable, no_slo) = (Vec::new(), Slo::default());
        let slo = asked.map_or(&no_slo, |asked| &asked.slo);
        for replica in replicas {
            match &replica.state {
                ReplicaState::Ready => {}
                ReplicaState::Loading(step) => {
                    waiting.get_or_insert_with(|| step.clone());
                    continue;
                }
                ReplicaState::Failed(reason) => {
                    failed = Some(reason.clone());
                    continue;
                }
                ReplicaState::Draining => continue,
            }
            // A replica of another incarnation went with its process (I1: routable means warm now).
            let Some(worker) = self.workers.get(&replica.worker).filter(|w| w.incarnation == replica.incarnation && !w.draining) else {
                continue;
            };
            let signature = replica.signature.as_ref().unwrap_or(&record.signature);
            let known = old.and_then(|o| o.replicas.iter().find(|r| r.worker == replica.worker && r.variant == replica.variant));
            let name = &replica.variant.name;
            let proven_accuracy = record.proven_accuracy(name, slo);
            let found = Replica {
                worker: replica.worker.clone(),
                variant: replica.variant.clone(),
                accuracy: record.accuracy_of(name).unwrap_or_default(),
                tier: if *name == record.reference { 1.0 } else { record.accuracy_of(name).unwrap_or_default().min(BELOW_REFERENCE) },
                proven_accuracy,
                planned: plan.map_or(0.0, |plan| {
                    let mine = |s: &&ShareRecord| s.variant == replica.variant && s.worker == replica.worker;
                    plan.shares.iter().find(mine).map_or(0.0, |share| share.rate)
                }),
                wait_us_max: waits.max_us(replica),
                is_offered: asked.is_none_or(|asked| asked.variants.is_empty() || asked.variants.contains(name)) && withheld != Some(name),
                latency: believed(replica, known.is_none()),
                instances: replica.instances,
                distance: Distance::between(here, (&worker.site, &worker.zone)),
                gauge: known.map_or_else(|| Arc::new(Gauge::on(self.device(replica))), |r| r.gauge.clone()),
            };
            routable.push((replica.generation, signature, found));
        }
        // The record says what was offered last. Requests are checked against what is loaded: after a reload that failed that is what
        // was there before, and while one is under way the newest that is warm, which only its likes can answer.
        let newest = routable.iter().max_by_key(|(generation, ..)| *generation).map(|(_, signature, _)| *signature);
        let signature = newest.unwrap_or(&record.signature).clone();
        let replicas = routable.into_iter().filter(|(_, loaded, _)| **loaded == signature).map(|(.., replica)| replica).collect();
        let metrics = old.map_or_else(|| metrics.of_model(record.model.as_str(), record.version), |o| o.metrics.clone());
        let may_sleep = plan.filter(|_| asked.is_some_and(|asked| asked.idle_s.is_some()));
        let about = |u: &&policy::UnplacedRecord| !u.waits && u.version.is_none_or(|v| v == record.version);
        let unplaced = may_sleep.and_then(|plan| plan.unplaced.iter().find(about)).map(|u| u.reason.clone());
        let learned = old.map(|o| o.learned.clone()).unwrap_or_default();
        ModelVersion {
            record,
            replicas,
            signature,
            waiting,
            failed,
            unplaced,
            resting: None,
            metrics,
            allowance: slo.allowance(),
            latency_target_us: asked.and_then(|m| m.slo.latency_ms).map(|ms| f64::from(ms) * 1e3),
            min_accuracy: asked.and_then(|m| m.slo.min_accuracy),
            tenants: asked.map(|m| m.tenants.clone()).unwrap_or_default(),
            offered,
            learned,
        }
    }

    /// The gauge of the device that a replica is on.
    fn device(&mut self, replica: &ReplicaRecord) -> Arc<DeviceGauge> {
        let key = (replica.worker.clone(), replica.incarnation, replica.device.clone());
        self.devices.entry(key).or_default().clone()
    }

    /// Has any version of the model been found valid?
    pub(crate) fn is_known_valid(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|m| m.versions.values().any(|v| v.record.state == VersionState::Valid))
    }

    /// The model of this name.
    pub(crate) fn find(&self, name: &str) -> Result<&Model, Failure> {
        if !self.is_built {
            return Err(Failure::NoTable { retry_ms: NO_TABLE_RETRY_MS }); // NOT_FOUND would be final, and nobody knows that
        }
        self.models.get(name).ok_or_else(|| unknown(name))
    }

    /// The version a request means: the one it names, or the highest that has a replica.
    pub(crate) fn resolve(&self, name: &str, version: &str) -> Result<&Arc<ModelVersion>, Failure> {
        self.find(name)?.resolve(name, version)
    }
}

/// What is said of a model.
struct Said<'r> {
    asked: Option<&'r ModelRecord>,
    plan: Option<&'r PlanRecord>,
    rollout: Option<&'r RolloutRecord>,
}

impl<'r> Said<'r> {
    /// The variant that answers only who asks for it: one that is to take over and has not begun to, or has failed to.
    fn withheld(&self) -> Option<&'r VariantName> {
        let asked = self.asked?;
        let Candidate::Variant(variant) = &asked.rollout.as_ref()?.candidate else { return None };
        let phase = RolloutRecord::of(self.rollout, asked).map_or(Phase::Waits, RolloutRecord::phase);
        (!phase.may_answer(Side::Candidate)).then_some(variant)
    }
}

/// A name that cannot be a model's gets the error that says so; any other is simply not known.
fn unknown(name: &str) -> Failure {
    match policy::ModelName::new(name) {
        Ok(_) => Failure::UnknownModel { model: name.to_owned() },
        Err(_) => Failure::Name(policy::NameError::Model(name.chars().take(128).collect())),
    }
}

/// Of what a client wrote in the place of a version, as much as a message may repeat.
fn short(error: AliasError) -> AliasError {
    let cut = |text: String| text.chars().take(64).collect();
    match error {
        AliasError::Name(text) => AliasError::Name(cut(text)),
        AliasError::Unknown { alias, known } => AliasError::Unknown { alias: cut(alias), known },
        AliasError::Version(error) => AliasError::Version(error),
    }
}

impl Model {
    /// The number that a version's text means, itself or as an alias; none where it is empty.
    pub(crate) fn number(&self, name: &str, text: &str) -> Result<Option<Version>, Failure> {
        let none = BTreeMap::new();
        resolve_version(text, self.asked.as_ref().map_or(&none, |asked| &asked.aliases)).map_err(|error| match error {
            AliasError::Version(error) => error.into(),
            error => Failure::Alias { model: name.chars().take(128).collect(), error: short(error) },
        })
    }

    /// The version a request means: the one it names, or the highest that has a replica, unless a rollout says otherwise, or else
    /// the highest that is asleep.
    pub(crate) fn resolve(&self, name: &str, text: &str) -> Result<&Arc<ModelVersion>, Failure> {
        if let Some(number) = self.number(name, text)? {
            let found = self.versions.get(&number);
            let found = found.ok_or_else(|| Failure::UnknownVersion { model: name.to_owned(), version: text.to_owned() })?;
            return if found.can_be_asked() { Ok(found) } else { Err(self.not_ready(name, found)) };
        }
        let ready = match self.rolling.as_deref() {
            None => self.versions.values().rev().find(|v| v.is_ready()),
            Some(rolling) => match rolling.phase {
                Phase::Promoted => self.of_side(rolling, Side::Candidate).or_else(|| self.of_side(rolling, Side::Baseline)),
                Phase::Runs | Phase::RolledBack => self.of_side(rolling, Side::Baseline),
                // It may be what was served until the rollout was asked for.
                Phase::Waits => self.of_side(rolling, Side::Baseline).or_else(|| self.of_side(rolling, Side::Candidate)),
            },
        };
        let ready = ready.or_else(|| self.versions.values().rev().find(|v| v.resting.is_some()));
        // What may be ready soon is worth asking again; what nobody wants, or what failed, is not there.
        ready.ok_or_else(|| match (self.outlook(), self.latest_wanted().or(self.versions.values().next_back())) {
            (Some(Outlook::Pending), Some(latest)) => self.not_ready(name, latest),
            (Some(Outlook::Pending), None) => {
                Failure::NotReady { model: name.to_owned(), version: "any".to_owned(), reason: "no worker offers its files".to_owned() }
            }
            (Some(Outlook::Failed(reason)), _) => Failure::NoVersion { model: name.to_owned(), reason },
            (Some(Outlook::Ready) | None, _) => Failure::NoVersion { model: name.to_owned(), reason: "unloaded".to_owned() },
        })
    }

    /// A model is served unless somebody has said that it is not.
    pub(crate) fn is_wanted(&self) -> bool {
        self.asked.as_ref().is_none_or(|asked| asked.wanted)
    }

    /// Seconds after which no replica of it is kept if nobody asks.
    pub(crate) fn idle_s(&self) -> Option<u32> {
        self.asked.as_ref().filter(|asked| asked.wanted).and_then(|asked| asked.idle_s)
    }

    fn is_version_wanted(&self, version: &ModelVersion) -> bool {
        let known = || self.versions.values().map(|v| &v.record);
        let rollout = self.rolling.as_ref().map(|rolling| &rolling.record);
        self.asked.as_ref().is_none_or(|asked| wanted_versions(asked, rollout, known()).iter().any(|v| v.version == version.record.version))
    }

    fn latest_wanted(&self) -> Option<&Arc<ModelVersion>> {
        self.versions.values().rev().find(|version| self.is_version_wanted(version))
    }

    /// Is a replica of it on its way?
    pub(crate) fn is_loading(&self, version: &ModelVersion) -> bool {
        self.is_wanted() && !version.is_ready() && version.waiting.is_some()
    }

    fn not_ready(&self, name: &str, version: &ModelVersion) -> Failure {
        let reason = match (&version.record.state, self.is_wanted(), version.waiting.as_ref().or(version.failed.as_ref())) {
            (VersionState::Invalid(reason), ..) => reason.clone(),
            (_, false, _) => "unloaded".to_owned(),
            (_, _, Some(step)) => step.clone(),
            _ if !self.is_version_wanted(version) => "not one of the versions that its model wants served".to_owned(),
            _ => version.unplaced.clone().unwrap_or_else(|| "no replica yet".to_owned()),
        };
        Failure::NotReady { model: name.to_owned(), version: version.record.version.to_string(), reason }
    }
}

/// What a model is waiting for, if for anything.
pub(crate) enum Outlook {
    /// It can be asked, asleep or not.
    Ready,
    /// It will not be before something changes.
    Failed(String),
    /// It may be soon.
    Pending,
}

impl Model {
    /// Where the model stands; `None` when nobody wants it.
    pub(crate) fn outlook(&self) -> Option<Outlook> {
        if !self.is_wanted() {
            return None;
        }
        if self.versions.values().any(|v| v.can_be_asked()) {
            return Some(Outlook::Ready);
        }
        // Where none is named, an invalid version is not wanted, but tells why there is none.
        let newest = || self.versions.values().next_back().filter(|v| v.record.state != VersionState::Valid);
        Some(match self.latest_wanted().or_else(newest).map(|v| (&v.record.state, &v.failed)) {
            Some((VersionState::Invalid(reason), _)) => Outlook::Failed(reason.clone()),
            Some((VersionState::Valid, Some(reason))) => Outlook::Failed(reason.clone()),
            None if !self.versions.is_empty() => Outlook::Failed("no worker offers a version that it wants served".to_owned()),
            Some((VersionState::Valid, None)) | None => Outlook::Pending,
        })
    }
}

impl Replica {
    /// Does it run the variant that all others are measured against?
    pub(crate) fn is_reference(&self) -> bool {
        self.tier >= 1.0
    }
}

impl ModelVersion {
    /// Can it be asked, without a variant being named?
    pub(crate) fn is_ready(&self) -> bool {
        self.replicas.iter().any(|replica| replica.is_offered)
    }

    /// The same, or it will be there for whoever waits.
    pub(crate) fn can_be_asked(&self) -> bool {
        self.is_ready() || self.resting.is_some()
    }

    /// A request of `rows` rows was offered, whatever comes of it.
    pub(crate) fn is_asked(&self, now: Moment, rows: u32) {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).arrive(now, rows);
    }

    /// Held for the length of a choice, never over an await.
    pub(crate) fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }
}

#[cfg(test)]
mod tests;
