//! Makes this worker's replicas equal to its placements: watches, reconciles, loads, unloads, reports.

use crate::artifact::Artifacts;
use crate::config::WorkerConfig;
use crate::engine::Fallback;
use crate::error::WorkerError;
use crate::gate::Gates;
use crate::handle::WorkerHandle;
use crate::load::{Wanted, Warm, core_plan, device_id, load};
use crate::memory::Ledger;
use crate::offer::publish_holder;
use crate::phase::{Phase, Phases, Teller};
use crate::publish::Publisher;
use crate::runner::Loader;
use crate::verdict::{How, Verdicts};
use policy::reconcile::{Action, Loaded, reconcile};
use policy::{
    ArtifactRecord, HolderRecord, PlacementRecord, ProfileRecord, ReloadFailure, ReplicaState, Runs, SCHEMA, Unknown, VariantId,
    VariantName, VersionRecord, WorkerRecord,
};
use registry::{Registry, Txn, decode};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

mod placements;
mod slot;

use placements::Placements;
use slot::AfterFailure;
pub(crate) use slot::Slot;

/// Loads at once: one computes while the other reads.
const LOADS_MAX: usize = 2;
/// How often replicas look for runs that do not end.
const WATCH: Duration = Duration::from_secs(1);
/// How long gateways get to learn that a replica goes before it stops answering.
const NOTICE: Duration = Duration::from_millis(300);

/// What managing needs.
pub(crate) struct Manager {
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) verdicts: Verdicts,
    pub(crate) publisher: Publisher,
    pub(crate) handle: WorkerHandle,
    pub(crate) record: WorkerRecord,
    pub(crate) slots: BTreeMap<VariantId, Slot>,
    pub(crate) ledger: Ledger,
    /// Where the replicas of a device take turns.
    pub(crate) gates: Gates,
    pub(crate) attempts: u64,
}

/// What is under way outside the manager.
struct Underway {
    permits: Arc<Semaphore>,
    /// How far each load is.
    phases: Phases,
    /// Where a replica says that its engine failed.
    failed: mpsc::Sender<(VariantId, u64, String)>,
    loads: JoinSet<Finished>,
    /// Replicas whose notice is over.
    unloads: JoinSet<VariantId>,
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
        let (failed, mut failed_rx) = mpsc::channel::<(VariantId, u64, String)>(256);
        let permits = Arc::new(Semaphore::new(LOADS_MAX));
        let phases = Phases::default();
        let mut told = phases.subscribe();
        let mut underway = Underway { permits, phases, failed, loads: JoinSet::new(), unloads: JoinSet::new() };
        wanted.synced().await;
        let mut watch = tokio::time::interval(WATCH);
        loop {
            for action in self.actions(&wanted) {
                match action {
                    Action::Load(placement) | Action::Reload(placement) => self.begin(placement, &mut underway),
                    Action::Unload(variant) => self.unload(&variant, &mut underway),
                    Action::IgnoreStale { variant, epoch, newest } => tracing::warn!(%variant, epoch, newest, "stale placement ignored"),
                }
            }
            tokio::select! {
                () = wanted.changed() => {}
                Ok(()) = told.changed() => {
                    let phases = told.borrow_and_update().clone();
                    phases.iter().for_each(|(variant, (attempt, phase))| self.tell(variant, *attempt, *phase));
                }
                _ = watch.tick() => self.watch(),
                Some(finished) = underway.loads.join_next() => match finished {
                    Ok(finished) => self.finish(finished, &mut underway),
                    Err(error) => tracing::error!(%error, "a load ended abnormally"),
                },
                Some(Ok(variant)) = underway.unloads.join_next() => {
                    // It may have been wanted again meanwhile; then its record is a new one.
                    if !self.slots.contains_key(&variant) {
                        self.publisher.remove(&self.replica_key(&variant));
                    }
                }
                Some((variant, attempt, reason)) = failed_rx.recv() => self.failed(&variant, attempt, reason, &mut underway),
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

    /// Loads `placement`. A reload keeps reporting the replica that still serves.
    fn begin(&mut self, placement: PlacementRecord, underway: &mut Underway) {
        let variant = placement.variant.clone();
        let serving = self.slots.remove(&variant).and_then(|old| old.report);
        self.slots.insert(variant.clone(), Slot::loading(placement, serving));
        self.attempt(&variant, Duration::ZERO, underway);
    }

    /// One more attempt to load what `variant`'s slot wants, after `pause`.
    fn attempt(&mut self, variant: &VariantId, pause: Duration, underway: &mut Underway) {
        self.attempts = self.attempts.saturating_add(1);
        let Some(slot) = self.slots.get_mut(variant) else { return };
        slot.attempt = self.attempts;
        let placement = slot.placement.clone();
        let load = self.load(placement, pause, underway);
        underway.loads.spawn(load);
        self.publish(variant);
    }

    /// The load of the newest attempt, in a task of its own, after `pause`.
    fn load(&self, placement: PlacementRecord, pause: Duration, underway: &Underway) -> impl Future<Output = Finished> + use<> {
        let (config, loader, registry) = (self.config.clone(), self.loader.clone(), self.registry.clone());
        let (artifacts, verdicts, ledger) = (self.artifacts.clone(), self.verdicts.clone(), self.ledger.clone());
        let device = config.devices.iter().find(|d| d.name == placement.device).map(|d| (d.clone(), self.gates.of(&d.name)));
        let (variant, attempt) = (placement.variant.clone(), self.attempts);
        let (permits, failed) = (underway.permits.clone(), underway.failed.clone());
        let teller = Teller::new(underway.phases.clone(), variant.clone(), attempt);
        async move {
            tokio::time::sleep(pause).await;
            let class = device.as_ref().map(|(d, _)| d.class.clone()).unwrap_or_default();
            let work = async {
                let _permit = permits.acquire().await;
                let (version, folder) = prepare(&config, &*registry, &artifacts, &placement, &teller).await?;
                let runs = version.run_of(&placement.variant.name).ok_or_else(|| gone(&placement))?;
                teller.say(Phase::Validating);
                verdicts.of(&placement.artifact, &folder.join(runs.model_file), how(&placement, &runs)?).await?;
                let (device, gate) =
                    device.ok_or_else(|| WorkerError::Signature(format!("this worker has no device {}", placement.device)))?;
                let instances = core_plan(&config, &placement).instances.get() as u64;
                let memory = ledger.reserve(&device, runs.bytes_resident.saturating_mul(instances))?;
                let on_failed = {
                    let variant = placement.variant.clone();
                    Box::new(move |reason| drop(failed.try_send((variant.clone(), attempt, reason))))
                };
                let blocking = tokio::task::spawn_blocking(move || {
                    let wanted =
                        Wanted { placement: &placement, version: &version, folder: &folder, attempt, gate: &gate, teller: &teller };
                    load(&loader, &config, &wanted, memory, on_failed)
                });
                blocking.await.map_err(|e| WorkerError::Signature(e.to_string()))?
            };
            Finished { variant, attempt, class, result: work.await }
        }
    }

    fn finish(&mut self, finished: Finished, underway: &mut Underway) {
        let Finished { variant, attempt, class, result } = finished;
        underway.phases.send_if_modified(|all| {
            if all.get(&variant).is_some_and(|(of, _)| *of == attempt) {
                all.remove(&variant);
            }
            false
        });
        let Some(slot) = self.slots.get_mut(&variant).filter(|s| s.attempt == attempt) else {
            return; // unwanted meanwhile: what was loaded goes with the result
        };
        match result {
            Ok(warm) => {
                tracing::info!(%variant, load_ms = warm.load_ms, instances = warm.instances, provider = %warm.provider.summary, "replica ready");
                slot.serves(&warm, attempt);
                publish_holder(&self.config, &self.publisher, &self.artifacts, &slot.placement.artifact);
                self.keep_profile(&variant, class, &warm);
                if let Some(old) = self.handle.insert(variant.clone(), warm.replica) {
                    tokio::spawn(async move { old.drain().await });
                }
            }
            Err(error) if error.may_pass() => {
                let pause = slot.next_pause();
                tracing::warn!(%variant, %error, pause_ms = pause.as_millis(), "replica not loaded yet, trying again");
                slot.retries(&error.to_string());
                return self.attempt(&variant, pause, underway);
            }
            Err(error) if slot.report.is_some() => {
                // The old replica goes on serving; this placement is not tried again until it changes.
                tracing::error!(%variant, %error, "reload failed, the replica loaded before serves on");
                let Loaded { artifact, generation, .. } = slot.loaded.clone();
                slot.reload_failed = Some(ReloadFailure { artifact, generation, reason: error.to_string() });
                slot.reloading = None;
            }
            Err(error) => {
                tracing::error!(%variant, %error, "replica failed to load");
                slot.loaded.state = ReplicaState::Failed(error.to_string());
            }
        }
        self.publish(&variant);
    }

    /// A load is at `phase`.
    fn tell(&mut self, variant: &VariantId, attempt: u64, phase: Phase) {
        if let Some(slot) = self.slots.get_mut(variant).filter(|slot| slot.attempt == attempt)
            && slot.is_at(phase)
        {
            self.publish(variant);
        }
    }

    /// An engine of a serving replica failed.
    fn failed(&mut self, variant: &VariantId, attempt: u64, reason: String, underway: &mut Underway) {
        let Some(slot) = self.slots.get_mut(variant) else { return };
        match slot.engine_failed(attempt, &reason) {
            AfterFailure::Nothing => {}
            AfterFailure::Wait => {
                tracing::error!(%variant, reason, "replica failed while its successor loads");
                self.handle.remove(variant);
                self.publish(variant);
            }
            AfterFailure::LoadAgain(pause) => {
                tracing::error!(%variant, reason, pause_ms = pause.as_millis(), "replica failed, it will be loaded again");
                self.handle.remove(variant);
                self.attempt(variant, pause, underway);
            }
        }
    }

    /// Looks for runs that do not end, and at what batches take.
    fn watch(&mut self) {
        let mut news = Vec::new();
        for (variant, slot) in &mut self.slots {
            let Ok(replica) = self.handle.replica(variant) else { continue };
            if slot.takes(replica.measured()) {
                news.push(variant.clone());
            }
        }
        news.iter().for_each(|variant| self.publish(variant));
        self.handle.all().iter().for_each(|replica| replica.watch());
    }

    /// Gateways learn first, then the replica finishes what it has, then its engines go.
    fn unload(&mut self, variant: &VariantId, underway: &mut Underway) {
        let Some(mut slot) = self.slots.remove(variant) else { return };
        tracing::info!(%variant, "unloading replica");
        let key = self.replica_key(variant);
        let Some(replica) = self.handle.replica(variant).ok().filter(|_| slot.report.is_some()) else {
            return self.publisher.remove(&key);
        };
        slot.loaded.state = ReplicaState::Draining;
        self.publisher.put(key, &slot.record(&self.record));
        let (handle, variant) = (self.handle.clone(), variant.clone());
        underway.unloads.spawn(async move {
            tokio::time::sleep(NOTICE).await;
            handle.remove_if(&variant, &replica);
            tokio::spawn(async move { replica.drain().await });
            variant
        });
    }

    fn replica_key(&self, variant: &VariantId) -> String {
        self.config.keys.replica(self.config.id.as_str(), &variant.to_string())
    }

    fn publish(&self, variant: &VariantId) {
        if let Some(slot) = self.slots.get(variant) {
            self.publisher.put(self.replica_key(variant), &slot.record(&self.record));
        }
    }

    /// Keeps what was measured, for the planner; nothing waits for it.
    fn keep_profile(&self, variant: &VariantId, class: String, warm: &Warm) {
        // Other variants have a full profile, or they would not be here.
        let Some(slot) = self.slots.get(variant).filter(|_| variant.name.as_str() == VariantName::REFERENCE) else { return };
        let profile = ProfileRecord {
            schema: SCHEMA,
            artifact: slot.loaded.artifact.clone(),
            class: class.clone(),
            engine: format!("onnxruntime {}", self.loader.version()),
            threads: warm.intra_threads,
            alpha_us: warm.latency.alpha_us,
            beta_us: warm.latency.beta_us,
            bytes_resident: warm.bytes_resident,
            load_ms: warm.load_ms,
            hint: None,
            batches: Vec::new(),
            speed: None,
            unknown: Unknown::new(),
        };
        let key = self.config.keys.profile(slot.loaded.artifact.as_str(), "ort", "fp32", &class);
        let registry = self.registry.clone();
        tokio::spawn(async move {
            // One that was timed in the shapes of real samples tells more than a load can.
            let known = registry.get(&key).await.ok().flatten().and_then(|entry| registry::decode::<ProfileRecord>(&entry, SCHEMA).ok());
            if known.is_some_and(|known| !known.batches.is_empty() && known.engine == profile.engine) {
                return;
            }
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

/// How a placement is run.
fn how(placement: &PlacementRecord, runs: &Runs<'_>) -> Result<How, WorkerError> {
    let fallback = if placement.fallback.is_some() { Fallback::Cpu } else { Fallback::Never };
    Ok(How { provider: placement.provider, device_id: device_id(&placement.device), fallback, ..How::of(runs)? })
}

fn gone(placement: &PlacementRecord) -> WorkerError {
    WorkerError::Signature(format!("its version's record has no variant {}", placement.variant.name))
}

/// What the version is, and its files on this host.
async fn prepare(
    config: &WorkerConfig,
    registry: &dyn Registry,
    artifacts: &Artifacts,
    placement: &PlacementRecord,
    teller: &Teller,
) -> Result<(VersionRecord, PathBuf), WorkerError> {
    let key = config.keys.version(placement.variant.model.as_str(), placement.variant.version.into());
    let entry = registry.get(&key).await?.ok_or_else(|| WorkerError::Signature(format!("{} has no version record", placement.variant)))?;
    let version: VersionRecord = decode(&entry, SCHEMA)?;
    let runs = version.run_of(&placement.variant.name).ok_or_else(|| gone(placement))?;
    let folder = fetch(config, registry, artifacts, &Runs { artifact: &placement.artifact, ..runs }, teller).await?;
    Ok((version, folder))
}

/// The files of a variant on this host, fetched from a holder where they are not here.
pub(crate) async fn fetch(
    config: &WorkerConfig,
    registry: &dyn Registry,
    artifacts: &Artifacts,
    runs: &Runs<'_>,
    teller: &Teller,
) -> Result<PathBuf, WorkerError> {
    // Both come from the registry, which others can write: the file to load must be one that was listed and hashed.
    if !runs.files.iter().any(|f| f.path == runs.model_file) {
        return Err(WorkerError::Signature(format!("{} has no file {}", runs.name, runs.model_file)));
    }
    let artifact = ArtifactRecord { digest: runs.artifact.clone(), files: runs.files.to_vec() };
    let holders = registry.list(&format!("{}/", config.keys.artifact(runs.artifact.as_str()))).await?.entries;
    let holders = holders.iter().filter_map(|e| decode::<HolderRecord>(e, SCHEMA).ok()).filter(|h| h.worker != config.id);
    let addresses: Vec<String> = holders.map(|h| h.admin).collect();
    artifacts.folder(&artifact, &addresses, teller).await
}
