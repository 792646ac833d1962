//! Measures variants on this worker's processor, each in turn with its reference, and writes what came of it as a profile: how long
//! batches take, what it holds, and whether it pays here. Anew when the engine's version or the device class is new, and when what replicas
//! measure says that a profile no longer holds.
//!
//! Only while nothing is asked of this worker: a measurement disturbs requests, and they it.

use crate::artifact::Artifacts;
use crate::config::WorkerConfig;
use crate::engine::LoadSpec;
use crate::error::WorkerError;
use crate::handle::WorkerHandle;
use crate::lab::{BUDGET, Input, Lab, Terms};
use crate::manage::fetch;
use crate::memory::Ledger;
use crate::phase::Teller;
use crate::verdict::{How, Verdicts};
use policy::plan::{Observed, drifts};
use policy::profile::{Latency, SpeedVerdict, TIMED_ROWS, Timing, is_worth_measuring, no_longer_holds};
use policy::{EngineName, PrecisionHint, ProfileRecord, Runs, SCHEMA, Unknown, VariantId, VariantRecord, VersionRecord, VersionState};
use registry::{Mirror, Registry, RegistryError, Txn, decode};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// How long nothing must have been asked.
const IDLE: Duration = Duration::from_secs(2);
/// How often what failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// By key of a profile, how far off replicas were when it was measured anew and came to the same.
type Confirmed = BTreeMap<String, f64>;

/// See the module.
pub(crate) struct Profiler {
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) verdicts: Verdicts,
    pub(crate) handle: WorkerHandle,
    pub(crate) lab: Arc<Lab>,
    pub(crate) ledger: Ledger,
}

impl Profiler {
    /// Measures for ever what has no profile that holds.
    pub(crate) async fn run(self) {
        let Some(class) = self.config.devices.iter().find(|d| d.name == "cpu").map(|d| d.class.clone()) else { return };
        let mut versions = Mirror::spawn(self.registry.clone(), &self.config.keys.versions());
        versions.synced().await;
        // What failed is not tried again before the version is written anew, or a minute has passed.
        let (mut failed, mut confirmed) = (BTreeSet::new(), Confirmed::new());
        loop {
            let snapshot = versions.snapshot();
            for entry in snapshot.entries.values() {
                let Ok(version) = decode::<VersionRecord>(entry, SCHEMA) else { continue };
                for variant in version.variants.iter().filter(|_| version.state == VersionState::Valid) {
                    let (name, id) = (variant.name.clone(), (entry.key.clone(), entry.revision, variant.name.clone()));
                    if failed.contains(&id) {
                        continue;
                    }
                    if let Err(error) = self.profile(&version, variant, &class, &mut confirmed).await {
                        tracing::warn!(model = %version.model, version = %version.version, variant = %name, %error, "not profiled");
                        failed.insert(id);
                    }
                }
            }
            tokio::select! {
                () = versions.changed() => {}
                () = tokio::time::sleep(AGAIN) => failed.clear(),
            }
        }
    }

    /// Measures `variant` unless a profile of this engine's version is there, and it and the reference's still hold.
    async fn profile(
        &self,
        version: &VersionRecord,
        variant: &VariantRecord,
        class: &str,
        confirmed: &mut Confirmed,
    ) -> Result<(), WorkerError> {
        let runs = variant.runs();
        // An engine that is not here is another worker's to measure.
        let Some(engine) = EngineName::parse(runs.name.engine()).and_then(|engine| self.lab.engine_version(engine)) else { return Ok(()) };
        let known = self.known(&runs, class).await?;
        let is_new = !known.is_some_and(|known| known.engine == engine && known.speed.is_some());
        let both = [version.reference_runs(), runs];
        if !is_new {
            let mut is_stale = false;
            for runs in &both {
                let times = self.drift(version, runs, class).await?;
                is_stale |= times.is_some_and(|times| is_worth_measuring(times, confirmed.get(&self.key(runs, class)).copied()));
            }
            if !is_stale {
                return Ok(());
            }
            tracing::info!(model = %version.model, variant = %variant.name, class, "its profile no longer holds, it is measured anew");
        }
        if let Some(refused) = SpeedVerdict::lacking(&variant.needs, class) {
            tracing::info!(model = %version.model, variant = %variant.name, class, reason = refused.refusal(), "not for this device class");
            return self.put(&runs, class, engine, Timing::default(), Some(refused)).await;
        }
        let mut specs = Vec::new();
        for runs in &both {
            let folder = fetch(&self.config, &*self.registry, &self.artifacts, runs, &Teller::silent()).await?;
            let (how, file) = (How::of(runs)?, folder.join(runs.model_file));
            self.verdicts.of(runs.artifact, &file, how).await?;
            specs.push(LoadSpec { engine: how.engine, hint: how.hint, ..LoadSpec::cpu(file, NonZeroUsize::MIN) });
        }
        let device =
            self.config.devices.iter().find(|d| d.name == "cpu").ok_or_else(|| WorkerError::Signature("no processor".to_owned()))?;
        let bytes = both.iter().map(|runs| runs.bytes_resident).fold(0, u64::saturating_add);
        let rows: Vec<u32> = TIMED_ROWS.into_iter().filter(|rows| *rows <= version.signature.max_batch_size.max(1)).collect();
        let row = inputs(version, variant)?;
        let measured = loop {
            let before = self.idle().await;
            // Not while it waits: replicas that are to be loaded meanwhile have the memory first (I8).
            let _memory = self.ledger.reserve(device, bytes)?;
            let (lab, handle, specs, row, rows) = (self.lab.clone(), self.handle.clone(), specs.clone(), row.clone(), rows.clone());
            // Whoever asks goes first: it is begun anew when they are done.
            let time = move || lab.time(&specs, &row, &rows, &Terms { budget: BUDGET, stop: &|| answered(&handle) != before });
            if let Some(measured) = tokio::task::spawn_blocking(time).await.map_err(|e| WorkerError::Signature(e.to_string()))? {
                break measured;
            }
        };
        let mut measured = measured.into_iter();
        let (Some(reference), Some(timing)) = (measured.next(), measured.next()) else { return Ok(()) };
        let (reference, timing) = (reference?, timing?);
        let speed = SpeedVerdict::of(&reference.batches, &timing.batches);
        let (speedup, refused) = (speed.as_ref().map(SpeedVerdict::speedup), speed.as_ref().and_then(SpeedVerdict::refusal));
        tracing::info!(model = %version.model, variant = %variant.name, class, speedup, refused, "profiled");
        // Timed in the same shapes: the line that was measured at its load may be one of far smaller ones.
        self.write_reference(version, class, reference).await?;
        self.put(&runs, class, engine, timing, speed).await?;
        for runs in &both {
            let key = self.key(runs, class);
            match self.drift(version, runs, class).await? {
                Some(times) => confirmed.insert(key, times),
                None => confirmed.remove(&key),
            };
        }
        Ok(())
    }

    async fn known(&self, runs: &Runs<'_>, class: &str) -> Result<Option<ProfileRecord>, WorkerError> {
        let entry = self.registry.get(&self.key(runs, class)).await?;
        Ok(entry.and_then(|entry| decode(&entry, SCHEMA).ok()))
    }

    /// How many times as long as its profile says batches take, where that no longer holds. Only what this worker runs itself is looked
    /// at, and others' replicas only where its own is off.
    async fn drift(&self, version: &VersionRecord, runs: &Runs<'_>, class: &str) -> Result<Option<f64>, WorkerError> {
        let variant = VariantId { model: version.model.clone(), version: version.version, name: runs.name.clone() };
        let Some(measured) = self.handle.replica(&variant).ok().and_then(|replica| replica.measured()) else { return Ok(None) };
        let Some(known) = self.known(runs, class).await? else { return Ok(None) };
        if no_longer_holds(known.line(), [&measured]).is_none() {
            return Ok(None);
        }
        let observed = Observed {
            workers: self.all(&self.config.keys.workers()).await?,
            replicas: self.all(&self.config.keys.replicas()).await?,
            versions: vec![version.clone()],
            profiles: vec![known],
            ..Observed::default()
        };
        Ok(drifts(&observed).first().map(|(_, times)| *times))
    }

    /// The records under `prefix` that can be read.
    async fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, RegistryError> {
        let listing = self.registry.list(prefix).await?;
        Ok(listing.entries.iter().filter_map(|entry| decode(entry, SCHEMA).ok()).collect())
    }

    async fn write_reference(&self, version: &VersionRecord, class: &str, timing: Timing) -> Result<(), WorkerError> {
        let runs = version.reference_runs();
        let Some(engine) = EngineName::parse(runs.name.engine()).and_then(|engine| self.lab.engine_version(engine)) else { return Ok(()) };
        self.put(&runs, class, engine, timing, None).await
    }

    async fn put(
        &self,
        runs: &Runs<'_>,
        class: &str,
        engine: String,
        timing: Timing,
        speed: Option<SpeedVerdict>,
    ) -> Result<(), WorkerError> {
        let fit: Vec<(u32, f64)> = timing.batches.iter().map(|b| (b.rows, b.p50_us)).collect();
        let latency = Latency::fit(&fit);
        let profile = ProfileRecord {
            schema: SCHEMA,
            artifact: runs.artifact.clone(),
            class: class.to_owned(),
            engine,
            threads: 1,
            alpha_us: latency.alpha_us,
            beta_us: latency.beta_us,
            bytes_resident: runs.bytes_resident,
            load_ms: timing.load_ms,
            hint: runs.hint,
            batches: timing.batches,
            speed,
            unknown: Unknown::new(),
        };
        self.registry.txn(Txn::new().put(self.key(runs, class), registry::encode(&profile)?)).await?;
        Ok(())
    }

    fn key(&self, runs: &Runs<'_>, class: &str) -> String {
        let hint = runs.hint.map_or("fp32", PrecisionHint::as_str);
        self.config.keys.profile(runs.artifact.as_str(), runs.name.engine(), hint, class)
    }

    /// Resolves when nothing was answered for a while; with the rows answered until then.
    async fn idle(&self) -> u64 {
        loop {
            let before = answered(&self.handle);
            tokio::time::sleep(IDLE).await;
            if answered(&self.handle) == before {
                return before;
            }
        }
    }
}

/// Rows answered by the replicas there are.
fn answered(worker: &WorkerHandle) -> u64 {
    worker.all().iter().map(|replica| replica.statistics().inference_count).fold(0, u64::wrapping_add)
}

/// One row of zeros in the shapes of the sample that the variant was compared on.
fn inputs(version: &VersionRecord, variant: &VariantRecord) -> Result<Vec<Input>, WorkerError> {
    let input = |(name, shape): (&String, &Vec<i64>)| {
        let spec = version.signature.inputs.iter().find(|input| input.name == *name)?;
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
        let bytes = elements.checked_mul(spec.datatype.size()?).filter(|bytes| *bytes <= SAMPLE_BYTES_MAX)?;
        Some(Input { name: name.clone(), datatype: spec.datatype, shape: shape.clone(), data: vec![0; bytes].into() })
    };
    let inputs: Option<Vec<Input>> = variant.sample.iter().map(input).collect();
    let wrong = || WorkerError::Signature(format!("the sample in the card of {} does not fit the model's inputs", variant.name));
    inputs.filter(|inputs| !inputs.is_empty()).ok_or_else(wrong)
}

/// Most bytes of an input that is made up.
const SAMPLE_BYTES_MAX: usize = 256 << 20;
