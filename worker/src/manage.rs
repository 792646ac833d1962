//! Makes this worker's replicas equal to its placements: watches, reconciles, loads, unloads, reports.

use crate::artifact::Artifacts;
use crate::config::WorkerConfig;
use crate::engine::ort::Runtime;
use crate::error::WorkerError;
use crate::handle::WorkerHandle;
use crate::load::{Warm, core_plan, load};
use crate::offer::publish_holder;
use crate::publish::Publisher;
use policy::reconcile::{Action, Loaded, reconcile};
use policy::{
    ArtifactRecord, Digest, HolderRecord, PlacementRecord, ProfileRecord, ReloadFailure, ReplicaRecord, ReplicaState, SCHEMA, Unknown,
    VariantId, VersionRecord, WorkerRecord,
};
use registry::{Registry, Txn, decode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

mod placements;

use placements::Placements;

/// Loads at once: one computes while the other reads.
const LOADS_MAX: usize = 2;
/// Pause before a replica whose engine failed is loaded again; doubled this many times at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_DOUBLINGS: u32 = 6;
/// How long gateways get to learn that a replica goes before it stops answering.
const NOTICE: Duration = Duration::from_millis(300);

/// What managing needs.
pub(crate) struct Manager {
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) publisher: Publisher,
    pub(crate) handle: WorkerHandle,
    pub(crate) record: WorkerRecord,
    pub(crate) slots: BTreeMap<VariantId, Slot>,
    pub(crate) attempts: u64,
}

/// A placement being served.
pub(crate) struct Slot {
    loaded: Loaded,
    placement: PlacementRecord,
    /// Which load this slot waits for; the result of an older one is dropped.
    attempt: u64,
    report: Option<Report>,
    bytes: u64,
    reload_failed: Option<ReloadFailure>,
    /// Engine failures in a row: each makes the next attempt wait longer.
    failures: u32,
}

/// What a warm replica reports: what serves, while something else may be loading.
struct Report {
    artifact: Digest,
    generation: u64,
    instances: u32,
    latency: policy::profile::Latency,
    provider: crate::engine::ProviderReport,
}

/// What every load shares.
struct Loading {
    permits: Arc<Semaphore>,
    /// Where a replica says that its engine failed.
    failed: mpsc::Sender<(VariantId, u64, String)>,
}

/// A finished load.
struct Finished {
    variant: VariantId,
    attempt: u64,
    class: String,
    result: Result<Warm, WorkerError>,
}

impl Manager {
    /// Manages for ever.
    pub(crate) async fn run(mut self) {
        let mut wanted = Placements::follow(&self.registry, &self.config.keys, self.config.id.as_str());
        // A replica fails at most once, so this many are never waiting.
        let (failed_tx, mut failed_rx) = mpsc::channel::<(VariantId, u64, String)>(256);
        let loading = Loading { permits: Arc::new(Semaphore::new(LOADS_MAX)), failed: failed_tx };
        let mut loads: JoinSet<Finished> = JoinSet::new();
        wanted.synced().await;
        loop {
            for action in self.actions(&wanted) {
                match action {
                    Action::Load(placement) | Action::Reload(placement) => {
                        self.attempts = self.attempts.saturating_add(1);
                        self.begin(placement.clone());
                        loads.spawn(self.load(placement, Duration::ZERO, &loading));
                    }
                    Action::Unload(variant) => self.unload(&variant),
                    Action::IgnoreStale { variant, epoch, newest } => tracing::warn!(%variant, epoch, newest, "stale placement ignored"),
                }
            }
            tokio::select! {
                () = wanted.changed() => {}
                Some(finished) = loads.join_next() => match finished {
                    Ok(finished) => self.finish(finished),
                    Err(error) => tracing::error!(%error, "a load ended abnormally"),
                },
                Some((variant, attempt, reason)) = failed_rx.recv() => {
                    if let Some((placement, pause)) = self.failed(&variant, attempt, reason) {
                        loads.spawn(self.load(placement, pause, &loading));
                    }
                }
            }
        }
    }

    fn actions(&mut self, wanted: &Placements) -> Vec<Action> {
        let seen = wanted.see(self.record.epoch);
        if seen.newest != self.record.epoch {
            self.record.epoch = seen.newest;
            self.publisher.put(self.config.keys.worker(self.config.id.as_str()), &self.record);
        }
        for placement in &seen.placements {
            if let Some(slot) = self.slots.get_mut(&placement.variant).filter(|s| s.placement.epoch < placement.epoch) {
                slot.placement.epoch = placement.epoch; // a new leader wants the same
            }
        }
        let loaded: Vec<Loaded> = self.slots.values().map(|s| s.loaded.clone()).collect();
        let mut actions = reconcile(&seen.placements, &loaded, seen.newest);
        actions.retain(|action| seen.allows(action));
        actions
    }

    /// A slot for a load that starts now. A reload keeps reporting the replica that still serves.
    fn begin(&mut self, placement: PlacementRecord) {
        let (variant, attempt) = (placement.variant.clone(), self.attempts);
        let old = self.slots.remove(&variant);
        let (report, bytes, state) = match old {
            Some(Slot { report: Some(report), bytes, .. }) => (Some(report), bytes, ReplicaState::Ready),
            _ => (None, 0, ReplicaState::Loading("waiting to load".to_owned())),
        };
        let loaded = Loaded { variant: variant.clone(), artifact: placement.artifact.clone(), generation: placement.generation, state };
        self.slots.insert(variant.clone(), Slot { loaded, placement, attempt, report, bytes, reload_failed: None, failures: 0 });
        self.publish(&variant);
    }

    /// The load of the newest attempt, in a task of its own, after `pause`.
    fn load(&self, placement: PlacementRecord, pause: Duration, loading: &Loading) -> impl Future<Output = Finished> + use<> {
        let (config, runtime, registry, artifacts) =
            (self.config.clone(), self.runtime.clone(), self.registry.clone(), self.artifacts.clone());
        let device = config.devices.iter().find(|d| d.name == placement.device).cloned();
        let others = self.slots.values().filter(|s| s.placement.device == placement.device && s.loaded.variant != placement.variant);
        let promised: u64 = others.map(|s| s.bytes).sum();
        let (variant, attempt) = (placement.variant.clone(), self.attempts);
        let (permits, failed) = (loading.permits.clone(), loading.failed.clone());
        async move {
            tokio::time::sleep(pause).await;
            let class = device.as_ref().map(|d| d.class.clone()).unwrap_or_default();
            let work = async {
                let _permit = permits.acquire().await;
                let (version, folder) = prepare(&config, &*registry, &artifacts, &placement).await?;
                let instances = core_plan(&config, &placement).instances.get() as u64;
                fits(&placement, device.as_ref(), version.bytes_resident.saturating_mul(instances), promised)?;
                let on_failed = {
                    let variant = placement.variant.clone();
                    Box::new(move |reason| drop(failed.try_send((variant.clone(), attempt, reason))))
                };
                let blocking = tokio::task::spawn_blocking(move || load(&runtime, &config, &placement, &version, &folder, on_failed));
                blocking.await.map_err(|e| WorkerError::Signature(e.to_string()))?
            };
            Finished { variant, attempt, class, result: work.await }
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { variant, attempt, class, result } = finished;
        let Some(slot) = self.slots.get_mut(&variant).filter(|s| s.attempt == attempt) else {
            return; // unwanted meanwhile: what was loaded goes with the result
        };
        match result {
            Ok(warm) => {
                tracing::info!(%variant, load_ms = warm.load_ms, instances = warm.instances, provider = %warm.provider.summary, "replica ready");
                slot.loaded.state = ReplicaState::Ready;
                slot.bytes = warm.bytes_resident;
                self.keep_profile(&variant, class, &warm);
                let Some(slot) = self.slots.get_mut(&variant) else { return };
                let (artifact, generation) = (slot.loaded.artifact.clone(), slot.loaded.generation);
                slot.report =
                    Some(Report { artifact, generation, instances: warm.instances, latency: warm.latency, provider: warm.provider });
                publish_holder(&self.config, &self.publisher, &slot.placement.artifact);
                if let Some(old) = self.handle.insert(variant.clone(), warm.replica) {
                    tokio::spawn(async move { old.drain().await });
                }
            }
            Err(error) if slot.report.is_some() => {
                // The old replica goes on serving; this placement is not tried again until it changes.
                tracing::error!(%variant, %error, "reload failed, the replica loaded before serves on");
                let Loaded { artifact, generation, .. } = slot.loaded.clone();
                slot.reload_failed = Some(ReloadFailure { artifact, generation, reason: error.to_string() });
            }
            Err(error) => {
                tracing::error!(%variant, %error, "replica failed to load");
                slot.loaded.state = ReplicaState::Failed(error.to_string());
            }
        }
        self.publish(&variant);
    }

    /// An engine of a serving replica failed. Gives what to load again, and after which pause: another worker may not exist,
    /// and what failed once after a thousand answers deserves another try.
    fn failed(&mut self, variant: &VariantId, attempt: u64, reason: String) -> Option<(PlacementRecord, Duration)> {
        let slot = self.slots.get_mut(variant).filter(|s| s.attempt == attempt)?;
        let pause = RETRY.saturating_mul(1 << slot.failures.min(RETRY_DOUBLINGS));
        tracing::error!(%variant, reason, pause_s = pause.as_secs(), "replica failed, it will be loaded again");
        slot.loaded.state = ReplicaState::Failed(reason);
        slot.report = None;
        slot.failures = slot.failures.saturating_add(1);
        self.attempts = self.attempts.saturating_add(1);
        slot.attempt = self.attempts;
        let placement = slot.placement.clone();
        self.handle.remove(variant);
        self.publish(variant);
        Some((placement, pause))
    }

    /// Gateways learn first, then the replica finishes what it has, then its engines go.
    fn unload(&mut self, variant: &VariantId) {
        let Some(mut slot) = self.slots.remove(variant) else { return };
        tracing::info!(%variant, "unloading replica");
        let key = self.replica_key(variant);
        let Some(replica) = self.handle.replica(variant).ok().filter(|_| slot.report.is_some()) else {
            return self.publisher.remove(&key);
        };
        slot.loaded.state = ReplicaState::Draining;
        self.publisher.put(key.clone(), &self.replica_record(&slot));
        let (handle, publisher, variant) = (self.handle.clone(), self.publisher.clone(), variant.clone());
        tokio::spawn(async move {
            tokio::time::sleep(NOTICE).await;
            if handle.remove_if(&variant, &replica) {
                publisher.remove(&key);
            }
            replica.drain().await;
        });
    }

    fn replica_key(&self, variant: &VariantId) -> String {
        self.config.keys.replica(self.config.id.as_str(), &variant.to_string())
    }

    fn publish(&self, variant: &VariantId) {
        if let Some(slot) = self.slots.get(variant) {
            self.publisher.put(self.replica_key(variant), &self.replica_record(slot));
        }
    }

    fn replica_record(&self, slot: &Slot) -> ReplicaRecord {
        let report = slot.report.as_ref();
        ReplicaRecord {
            schema: SCHEMA,
            worker: self.config.id.clone(),
            incarnation: self.record.incarnation,
            variant: slot.loaded.variant.clone(),
            device: slot.placement.device.clone(),
            epoch: slot.placement.epoch,
            state: slot.loaded.state.clone(),
            bytes_resident: slot.bytes,
            instances: report.map_or(0, |r| r.instances),
            provider: report.map_or(slot.placement.provider, |r| r.provider.summary),
            fallback: report.and_then(|r| r.provider.fallback.clone()),
            artifact: report.map_or_else(|| slot.loaded.artifact.clone(), |r| r.artifact.clone()),
            generation: report.map_or(slot.loaded.generation, |r| r.generation),
            reload_failed: slot.reload_failed.clone(),
            alpha_us: report.map_or(0.0, |r| r.latency.alpha_us),
            beta_us: report.map_or(0.0, |r| r.latency.beta_us),
            unknown: Unknown::new(),
        }
    }

    /// Keeps what was measured, for the planner; nothing waits for it.
    fn keep_profile(&self, variant: &VariantId, class: String, warm: &Warm) {
        let Some(slot) = self.slots.get(variant) else { return };
        let profile = ProfileRecord {
            schema: SCHEMA,
            artifact: slot.loaded.artifact.clone(),
            class: class.clone(),
            engine: format!("onnxruntime {}", self.runtime.version()),
            threads: warm.intra_threads,
            alpha_us: warm.latency.alpha_us,
            beta_us: warm.latency.beta_us,
            bytes_resident: warm.bytes_resident,
            load_ms: warm.load_ms,
            unknown: Unknown::new(),
        };
        let key = self.config.keys.profile(slot.loaded.artifact.as_str(), "ort", "fp32", &class);
        let registry = self.registry.clone();
        tokio::spawn(async move {
            let written = match registry::encode(&profile) {
                Ok(value) => registry.txn(Txn::new().put(&key, value)).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::debug!(%error, "profile not written");
            }
        });
    }
}

/// What the version is, and its files on this host.
async fn prepare(
    config: &WorkerConfig,
    registry: &dyn Registry,
    artifacts: &Artifacts,
    placement: &PlacementRecord,
) -> Result<(VersionRecord, std::path::PathBuf), WorkerError> {
    let key = config.keys.version(placement.variant.model.as_str(), placement.variant.version.into());
    let entry = registry.get(&key).await?.ok_or_else(|| WorkerError::Signature(format!("{} has no version record", placement.variant)))?;
    let version: VersionRecord = decode(&entry, SCHEMA)?;
    let artifact = ArtifactRecord { digest: placement.artifact.clone(), files: version.files.clone() };
    let holders = registry.list(&format!("{}/", config.keys.artifact(placement.artifact.as_str()))).await?.entries;
    let holders = holders.iter().filter_map(|e| decode::<HolderRecord>(e, SCHEMA).ok()).filter(|h| h.worker != config.id);
    let addresses: Vec<String> = holders.map(|h| h.admin).collect();
    let folder = artifacts.folder(&artifact, &addresses).await?;
    Ok((version, folder))
}

/// I8: bytes promised on a device never exceed what it has.
fn fits(placement: &PlacementRecord, device: Option<&policy::DeviceRecord>, needed: u64, promised: u64) -> Result<(), WorkerError> {
    let Some(device) = device else {
        return Err(WorkerError::Signature(format!("this worker has no device {}", placement.device)));
    };
    let free = device.memory_bytes.saturating_sub(promised);
    if needed > free {
        return Err(WorkerError::Memory { needed, device: device.name.clone(), free, total: device.memory_bytes });
    }
    Ok(())
}
