//! The routing table: what the registry's records mean for a request. Built whole from the records, then only read.

use crate::metrics::{Metrics, ModelMetrics};
use policy::plan::wanted_versions;
use policy::profile::{Forecast, Latency};
use policy::route::{Distance, Headroom, Path, Spill};
use policy::{
    Failure, ModelRecord, Moment, ReplicaRecord, ReplicaState, Signature, VariantId, Version, VersionRecord, VersionState, WorkerId,
    WorkerRecord,
};
use proto::call::LoadReport;
use registry::{Entry, Key, Keys, decode};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All that is routable, and what is known of what is not.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) models: HashMap<String, Model>,
    pub(crate) workers: HashMap<WorkerId, Arc<WorkerRecord>>,
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
    pub(crate) metrics: ModelMetrics,
    /// What the model promises, in microseconds.
    pub(crate) latency_target_us: Option<f64>,
    /// What choices taught. Outlives the table it was first in.
    learned: Arc<Mutex<Learned>>,
}

/// What this gateway learned of a model's choices.
#[derive(Default)]
pub(crate) struct Learned {
    pub(crate) headroom: Headroom,
    pub(crate) spill: Spill,
}

/// A routable replica.
pub(crate) struct Replica {
    pub(crate) worker: WorkerId,
    pub(crate) variant: VariantId,
    /// It runs what all other variants are measured against.
    pub(crate) is_reference: bool,
    pub(crate) latency: Latency,
    pub(crate) instances: u32,
    pub(crate) distance: Distance,
    pub(crate) gauge: Arc<Gauge>,
}

/// What this gateway saw of a replica. Outlives the table it was first in.
#[derive(Default)]
pub(crate) struct Gauge {
    pub(crate) in_flight: AtomicU32,
    /// Sent since the last report.
    rows_sent: AtomicU32,
    backlog_us: AtomicU64,
    reported_us: AtomicU64,
    /// When it was first seen; 0 before that.
    since_us: AtomicU64,
    doubtful_until_us: AtomicU64,
    /// The last forecast, as bits of four `f32`; zeros before the first.
    forecast: [AtomicU32; 4],
    /// What it said last of who else sends, as bits of an `f32`.
    senders: AtomicU32,
    /// The way there, as bits of two `f32`.
    path: [AtomicU32; 2],
}

impl Gauge {
    /// A reply told the load. Loose atomics: a torn reading costs one worse choice.
    pub(crate) fn report(&self, now: Moment, load: &LoadReport) {
        self.rows_sent.store(0, Ordering::Relaxed);
        self.backlog_us.store(load.backlog_us, Ordering::Relaxed);
        self.reported_us.store(now.as_us(), Ordering::Relaxed);
        self.doubtful_until_us.store(0, Ordering::Relaxed);
        self.senders.store((load.senders as f32).to_bits(), Ordering::Relaxed);
        if let Some(Forecast { latency, kappa, slow }) = load.forecast.filter(|forecast| forecast.latency.is_plausible()) {
            let values = [latency.alpha_us, latency.beta_us, kappa, slow];
            self.forecast.iter().zip(values).for_each(|(bits, value)| bits.store((value as f32).to_bits(), Ordering::Relaxed));
        }
    }

    /// A request of `rows` leaves for it.
    pub(crate) fn sent(&self, rows: u32) {
        self.rows_sent.fetch_add(rows, Ordering::Relaxed);
    }

    /// Rows sent since the last report.
    pub(crate) fn rows_sent(&self) -> u32 {
        self.rows_sent.load(Ordering::Relaxed)
    }

    /// What it said last of its batches; else what was measured when it was loaded.
    pub(crate) fn forecast(&self, at_load: Latency) -> Forecast {
        let [alpha_us, beta_us, kappa, slow] = self.forecast.each_ref().map(|bits| f64::from(f32::from_bits(bits.load(Ordering::Relaxed))));
        if slow > 0.0 { Forecast { latency: Latency { alpha_us, beta_us }, kappa, slow } } else { at_load.into() }
    }

    /// Arrivals there from all gateways over those from this one.
    pub(crate) fn senders(&self) -> f64 {
        f64::from(f32::from_bits(self.senders.load(Ordering::Relaxed)))
    }

    /// What is known of the way there.
    pub(crate) fn path(&self) -> Path {
        Path::from_parts(self.path.each_ref().map(|bits| f32::from_bits(bits.load(Ordering::Relaxed))))
    }

    /// A request of `bytes` took `us` microseconds besides its time at the worker.
    pub(crate) fn travelled(&self, us: f64, bytes: u64) {
        let mut path = self.path();
        path.observe(us, bytes);
        self.path.iter().zip(path.to_parts()).for_each(|(bits, value)| bits.store(value.to_bits(), Ordering::Relaxed));
    }

    /// Microseconds since it was first seen.
    pub(crate) fn age_us(&self, now: Moment) -> u64 {
        let since = self.since_us.load(Ordering::Relaxed);
        if since == 0 {
            self.since_us.store(now.as_us().max(1), Ordering::Relaxed);
            return 0;
        }
        now.us_since(Moment::from_us(since))
    }

    /// The last report.
    pub(crate) fn reported(&self) -> (u64, Moment) {
        (self.backlog_us.load(Ordering::Relaxed), Moment::from_us(self.reported_us.load(Ordering::Relaxed)))
    }

    /// It failed in a way that may last.
    pub(crate) fn doubt(&self, until: Moment) {
        self.doubtful_until_us.store(until.as_us(), Ordering::Relaxed);
    }

    /// Did it fail a moment ago?
    pub(crate) fn is_doubtful(&self, now: Moment) -> bool {
        self.doubtful_until_us.load(Ordering::Relaxed) > now.as_us()
    }
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

/// Told to a client of a gateway that knows nothing yet: about a reconnect to the registry.
const NO_TABLE_RETRY_MS: u32 = 500;

impl Table {
    /// Reads `entries`. Gauges of replicas that `before` had are carried over. Records that cannot be read are skipped and
    /// counted: one bad record must not take the others away.
    pub(crate) fn build(entries: &BTreeMap<String, Entry>, keys: &Keys, here: (&str, &str), metrics: &Metrics, before: &Table) -> Self {
        let revision = entries.values().map(|entry| entry.revision).fold(before.revision, i64::max);
        let mut table = Table { is_built: true, revision, ..Table::default() };
        let mut models: HashMap<String, ModelRecord> = HashMap::new();
        let mut versions: Vec<VersionRecord> = Vec::new();
        let mut replicas: HashMap<(String, Version), Vec<ReplicaRecord>> = HashMap::new();
        for entry in entries.values() {
            match keys.parse(&entry.key) {
                Some(Key::Worker { .. }) => {
                    table.read(entry, |t, w: WorkerRecord| drop(t.workers.insert(w.id.clone(), Arc::new(w))));
                }
                Some(Key::Model { .. }) => table.read(entry, |_, m: ModelRecord| drop(models.insert(m.name.to_string(), m))),
                Some(Key::Version { .. }) => table.read(entry, |_, v| versions.push(v)),
                Some(Key::Replica { .. }) => table.read(entry, |_, r: ReplicaRecord| {
                    replicas.entry((r.variant.model.to_string(), r.variant.version)).or_default().push(r);
                }),
                _ => {}
            }
        }
        for record in versions {
            let name = record.model.to_string();
            let found = replicas.remove(&(name.clone(), record.version)).unwrap_or_default();
            let old = before.models.get(&name).and_then(|m| m.versions.get(&record.version));
            let target_us = models.get(&name).and_then(|m| m.slo.latency_ms).map(|ms| f64::from(ms) * 1e3);
            let version = table.version(record, &found, here, metrics, old, target_us);
            let model = table.models.entry(name).or_default();
            model.versions.insert(version.record.version, Arc::new(version));
        }
        for (name, record) in models {
            table.models.entry(name).or_default().asked = Some(record);
        }
        table
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
        &self,
        record: VersionRecord,
        replicas: &[ReplicaRecord],
        here: (&str, &str),
        metrics: &Metrics,
        old: Option<&Arc<ModelVersion>>,
        latency_target_us: Option<f64>,
    ) -> ModelVersion {
        let (mut waiting, mut failed) = (None, None);
        let mut routable = Vec::new();
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
            let found = Replica {
                worker: replica.worker.clone(),
                variant: replica.variant.clone(),
                is_reference: replica.variant.name == record.reference,
                latency: believed(replica, known.is_none()),
                instances: replica.instances,
                distance: Distance::between(here, (&worker.site, &worker.zone)),
                gauge: known.map(|r| r.gauge.clone()).unwrap_or_default(),
            };
            routable.push((replica.generation, signature, found));
        }
        // The record says what was offered last. Requests are checked against what is loaded: after a reload that failed that is what
        // was there before, and while one is under way the newest that is warm, which only its likes can answer.
        let newest = routable.iter().max_by_key(|(generation, ..)| *generation).map(|(_, signature, _)| *signature);
        let signature = newest.unwrap_or(&record.signature).clone();
        let replicas = routable.into_iter().filter(|(_, loaded, _)| **loaded == signature).map(|(.., replica)| replica).collect();
        let metrics = old.map_or_else(|| metrics.of_model(record.model.as_str(), record.version), |o| o.metrics.clone());
        let learned = old.map(|o| o.learned.clone()).unwrap_or_default();
        ModelVersion { record, replicas, signature, waiting, failed, metrics, latency_target_us, learned }
    }

    /// Has any version of the model been found valid?
    pub(crate) fn is_known_valid(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|m| m.versions.values().any(|v| v.record.state == VersionState::Valid))
    }

    /// The version a request means: the one it names, or the highest that has a replica.
    pub(crate) fn resolve(&self, name: &str, version: &str) -> Result<&Arc<ModelVersion>, Failure> {
        if !self.is_built {
            return Err(Failure::NoTable { retry_ms: NO_TABLE_RETRY_MS }); // NOT_FOUND would be final, and nobody knows that
        }
        let model = self.models.get(name).ok_or_else(|| unknown(name))?;
        if !version.is_empty() {
            let number = Version::parse(version)?;
            let found = model
                .versions
                .get(&number)
                .ok_or_else(|| Failure::UnknownVersion { model: name.to_owned(), version: version.to_owned() })?;
            return if found.is_ready() { Ok(found) } else { Err(model.not_ready(name, found)) };
        }
        let ready = model.versions.values().rev().find(|v| v.is_ready());
        // What may be ready soon is worth asking again; what nobody wants, or what failed, is not there.
        ready.ok_or_else(|| match (model.outlook(), model.latest_wanted().or(model.versions.values().next_back())) {
            (Some(Outlook::Pending), Some(latest)) => model.not_ready(name, latest),
            (Some(Outlook::Pending), None) => {
                Failure::NotReady { model: name.to_owned(), version: "any".to_owned(), reason: "no worker offers its files".to_owned() }
            }
            (Some(Outlook::Failed(reason)), _) => Failure::NoVersion { model: name.to_owned(), reason },
            (Some(Outlook::Ready) | None, _) => Failure::NoVersion { model: name.to_owned(), reason: "unloaded".to_owned() },
        })
    }
}

/// A name that cannot be a model's gets the error that says so; any other is simply not known.
fn unknown(name: &str) -> Failure {
    match policy::ModelName::new(name) {
        Ok(_) => Failure::UnknownModel { model: name.to_owned() },
        Err(_) => Failure::Name(policy::NameError::Model(name.chars().take(128).collect())),
    }
}

impl Model {
    /// A model is served unless somebody has said that it is not.
    pub(crate) fn is_wanted(&self) -> bool {
        self.asked.as_ref().is_none_or(|asked| asked.wanted)
    }

    fn is_version_wanted(&self, version: &ModelVersion) -> bool {
        let known = || self.versions.values().map(|v| &v.record);
        self.asked.as_ref().is_none_or(|asked| wanted_versions(asked, known()).iter().any(|v| v.version == version.record.version))
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
            _ => "no replica yet".to_owned(),
        };
        Failure::NotReady { model: name.to_owned(), version: version.record.version.to_string(), reason }
    }
}

/// What a model is waiting for, if for anything.
pub(crate) enum Outlook {
    /// It can be asked.
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
        if self.versions.values().any(|v| v.is_ready()) {
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

impl ModelVersion {
    /// Can it be asked, without a variant being named?
    pub(crate) fn is_ready(&self) -> bool {
        self.replicas.iter().any(|replica| replica.is_reference)
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
