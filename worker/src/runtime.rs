//! Starts a worker and stops it.

use crate::admin;
use crate::artifact::Artifacts;
use crate::config::WorkerConfig;
use crate::engine::ort::Runtime;
use crate::error::WorkerError;
use crate::gate::Gates;
use crate::handle::WorkerHandle;
use crate::lab::Lab;
use crate::manage::Manager;
use crate::memory::Ledger;
use crate::offer::{Offers, Turns};
use crate::profiler::Profiler;
use crate::publish::{self, Publisher, Who};
use crate::runner::Loader;
use crate::serve::DataPort;
use crate::validate;
use crate::verdict::Verdicts;
use policy::{SCHEMA, Unknown, WorkerRecord};
use proto::listen::Limits;
use proto::server::Server;
use registry::Registry;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long gateways get to learn that a worker goes before its connections do.
const NOTICE: Duration = Duration::from_millis(500);

/// Listeners of a worker that other processes reach.
pub struct WorkerPorts {
    /// Calls of gateways.
    pub data: TcpListener,
    /// Artifacts, liveness.
    pub admin: TcpListener,
    /// Network runtimes of the data port.
    pub runtimes: usize,
}

/// A running worker.
pub struct Worker {
    config: Arc<WorkerConfig>,
    handle: WorkerHandle,
    record: WorkerRecord,
    publisher: Publisher,
    server: Option<Server>,
    tasks: Vec<JoinHandle<()>>,
    registration: JoinHandle<()>,
    stop: watch::Sender<bool>,
    offered: watch::Receiver<Option<BTreeSet<String>>>,
}

impl Worker {
    /// Starts a worker. Without `ports` only this process reaches it, through [`Worker::handle`].
    ///
    /// # Errors
    /// When the data directory cannot be used or the system gives no thread.
    pub fn start(
        config: WorkerConfig,
        runtime: Arc<Runtime>,
        registry: Arc<dyn Registry>,
        ports: Option<WorkerPorts>,
    ) -> Result<Self, WorkerError> {
        let config = Arc::new(config);
        let artifacts = Arc::new(Artifacts::open(&config.data_dir)?);
        let verdicts = Verdicts::new(config.clone());
        let (publisher, records) = Publisher::new();
        let offers = Arc::new(Offers {
            config: config.clone(),
            registry: registry.clone(),
            artifacts: artifacts.clone(),
            verdicts: verdicts.clone(),
            publisher: publisher.clone(),
            turns: Turns::default(),
            described: Default::default(),
        });
        let handle = WorkerHandle::new(offers.clone());
        let record = worker_record(&config);
        publisher.put(config.keys.worker(config.id.as_str()), &record);
        let (stop, stopped) = watch::channel(false);
        let who = Who { keys: config.keys.clone(), worker: config.id.to_string(), incarnation: record.incarnation };
        let registration = tokio::spawn(publish::run(registry.clone(), who, records, stopped));
        let mut tasks = Vec::new();
        let ledger = Ledger::default();
        let limits = validate::Limits { time: config.validate_time_max, memory_bytes: config.validate_memory_max };
        let profiler = Profiler {
            config: config.clone(),
            registry: registry.clone(),
            artifacts: artifacts.clone(),
            verdicts: verdicts.clone(),
            handle: handle.clone(),
            lab: Arc::new(Lab::new(runtime.clone(), config.openvino.clone(), config.binary.clone(), limits)),
            ledger: ledger.clone(),
        };
        tasks.push(tokio::spawn(profiler.run()));
        let manager = Manager {
            config: config.clone(),
            loader: Arc::new(Loader::new(runtime, config.openvino.clone(), config.isolation, config.binary.clone())),
            registry,
            artifacts: artifacts.clone(),
            verdicts,
            publisher: publisher.clone(),
            handle: handle.clone(),
            record: record.clone(),
            slots: Default::default(),
            ledger,
            gates: Gates::new(config.cores.cores),
            attempts: 0,
        };
        tasks.push(tokio::spawn(manager.run()));
        let (offered_tx, offered) = watch::channel(config.models.is_none().then(BTreeSet::new));
        if let Some(dir) = config.models.clone() {
            tasks.push(tokio::spawn(offers.run(dir, offered_tx)));
        }
        let server = match ports {
            Some(WorkerPorts { data, admin, runtimes }) => {
                tasks.push(tokio::spawn(admin::serve(admin, artifacts, handle.clone())));
                let (handle, message_bytes_max) = (handle.clone(), config.message_bytes_max);
                Some(
                    Server::start(vec![data], runtimes, Limits::INNER, move || DataPort { worker: handle.local(), message_bytes_max })
                        .map_err(WorkerError::Thread)?,
                )
            }
            None => None,
        };
        Ok(Self { config, handle, record, publisher, server, tasks, registration, stop, offered })
    }

    /// The worker as an upstream in this process.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Resolves when everything in the model directory is described in the registry; gives the models.
    pub async fn offered(&self) -> BTreeSet<String> {
        let mut offered = self.offered.clone();
        let models = offered.wait_for(Option::is_some).await;
        models.ok().and_then(|models| models.clone()).unwrap_or_default()
    }

    /// Says it is going, answers what it has until `deadline`, gives up its lease, stops.
    pub async fn drain(self, deadline: Instant) {
        let record = WorkerRecord { draining: true, ..self.record };
        self.publisher.put(self.config.keys.worker(self.config.id.as_str()), &record);
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(server) = self.server {
            tokio::time::sleep(NOTICE).await;
            server.drain(deadline).await;
        }
        self.handle.stop();
        let replicas = self.handle.all();
        let drained = async {
            for replica in replicas {
                replica.drain().await;
            }
        };
        if tokio::time::timeout_at(deadline.into(), drained).await.is_err() {
            tracing::warn!("work cut at the end of the drain");
        }
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.registration).await; // the lease ends by itself otherwise
    }
}

fn worker_record(config: &WorkerConfig) -> WorkerRecord {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WorkerRecord {
        schema: SCHEMA,
        id: config.id.clone(),
        // Grows with every start, as long as the host's clock does not go back by more than the time between two starts.
        incarnation: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        data: config.advertise_data.clone(),
        admin: config.advertise_admin.clone(),
        host: config.host.clone(),
        site: config.site.clone(),
        zone: config.zone.clone(),
        cost_class: config.cost_class.clone(),
        devices: config.devices.clone(),
        capabilities: config.capabilities.clone(),
        epoch: 0,
        draining: false,
        unknown: Unknown::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_record_says_where_it_is_and_what_it_costs() {
        let dir = tempfile::tempdir().unwrap();
        let config = WorkerConfig { zone: "z".to_owned(), cost_class: "spot".to_owned(), ..crate::testing::config(dir.path()) };
        let record = worker_record(&config);
        assert_eq!((record.zone.as_str(), record.cost_class.as_str()), ("z", "spot"));
        let silent = worker_record(&WorkerConfig { cost_class: String::new(), ..config });
        assert!(!serde_json::to_string(&silent).unwrap().contains("cost_class"), "older readers of records see nothing new");
    }
}
