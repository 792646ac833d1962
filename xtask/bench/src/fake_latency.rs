//! A cluster whose engines are fakes: they compute nothing and take the time that a fleet's description says. A gateway and the described
//! workers in one process; router, queues, batches and the sockets between them are the real ones.

use anyhow::ensure;
use fastrand::Rng;
use gateway::{Dial, Gateway, GatewayConfig, ModelControl, Telemetry};
use loadtest::sim::{Fleet, FleetModel, FleetWorker, noise};
use policy::admit::Budget;
use policy::profile::Latency;
use policy::{Capabilities, DataType, Digest, ExecutionProvider, ModelName, ModelRecord, Origin, ReplicaRecord, ReplicaState};
use policy::{SCHEMA, Signature, Slo, TensorSpec, Unknown, VariantId, VersionRecord, VersionState, WorkerId, WorkerRecord};
use proto::call::Upstream;
use proto::remote::Remote;
use registry::{Keys, RegistryConfig, Txn, encode};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use worker::engine::fake::FakeEngine;
use worker::engine::{CancelFlag, Engine, EngineError, EngineSignature, TensorOut, TensorView, Terminate};
use worker::stand_in::{Described, StandIn};

/// Elements of a row.
const ELEMENTS: i64 = 4;

/// Serves the one model of the described `fleet`, prints its ports, and never returns.
pub(crate) async fn serve(fleet: &Path, seed: u64) -> anyhow::Result<()> {
    let fleet = Fleet::parse(&std::fs::read_to_string(fleet)?)?;
    let [model] = fleet.models.as_slice() else { anyhow::bail!("{} models; expected one", fleet.models.len()) };
    ensure!(fleet.gateways == 1, "{} gateways; expected one", fleet.gateways);
    // A gateway sends only to replicas that take what the version takes.
    ensure!(fleet.workers.iter().all(|worker| worker.rows_max.is_none()), "rows_max of a worker; expected the model's alone");
    let (registry, keys) = (registry::open(RegistryConfig::Embedded { data_dir: None })?, Keys::new("fake"));
    let mut records = Records { keys: keys.clone(), txn: Txn::new() };
    records.model(model)?;
    let (mut random, mut workers) = (Rng::with_seed(seed), Vec::new());
    let described = fleet.workers.iter().flat_map(|worker| (0..worker.count).map(move |_| worker));
    for (number, worker) in described.enumerate() {
        let data = TcpListener::bind("127.0.0.1:0").await?;
        let described = describe(model, worker, number)?;
        records.worker(&described, worker, data.local_addr()?.to_string())?;
        let engines = (0..worker.instances).map(|_| engine(worker, fleet.service_noise, random.fork())).collect();
        workers.push(StandIn::start(described, engines, data)?);
    }
    ensure!(registry.txn(records.txn).await?.applied, "the records were not written");
    let ports = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
    let [http, grpc] = [ports[0].local_addr()?, ports[1].local_addr()?];
    let gateway = Gateway::start(gateway_config(keys), registry, ports.into(), TcpListener::bind("127.0.0.1:0").await?)?;
    gateway.settled(&BTreeSet::from([model.name.clone()])).await;
    println!("listening: http {http}, grpc {grpc}, admin none\nready: {} fake-latency workers", workers.len());
    std::io::stdout().flush()?;
    std::future::pending().await
}

fn describe(model: &FleetModel, worker: &FleetWorker, number: usize) -> anyhow::Result<Described> {
    Ok(Described {
        worker: WorkerId::new(format!("w{number}"))?,
        variant: VariantId::parse(&format!("{}:1:fp32@ort", model.name))?,
        signature: signature(model.max_batch_size),
        latency: Latency { alpha_us: worker.alpha_us, beta_us: worker.beta_us },
    })
}

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype: DataType::Fp32, shape: vec![-1, ELEMENTS], optional: false, graph_shape: None }
}

fn signature(max_batch_size: u32) -> Signature {
    Signature { max_batch_size, inputs: vec![spec("x")], outputs: vec![spec("y")] }
}

/// Takes `slow` times the worker's line times noise, and gives back what it got.
fn engine(worker: &FleetWorker, sigma: f64, mut random: Rng) -> Box<dyn Engine> {
    let (latency, slow) = (Latency { alpha_us: worker.alpha_us, beta_us: worker.beta_us }, worker.slow);
    let signature = EngineSignature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..EngineSignature::default() };
    let compute = move |inputs: &[TensorView<'_>], cancel: &CancelFlag| {
        let rows = inputs.first().and_then(|x| x.shape.first()).and_then(|rows| u32::try_from(*rows).ok()).unwrap_or_default();
        let us = slow * latency.batch_us(rows) * noise(&mut random, sigma);
        let stop = Arc::new(Stop::default());
        let Some(_armed) = cancel.arm(stop.clone()) else { return Err(EngineError::Cancelled) };
        if stop.within(Duration::from_secs_f64(us / 1e6)) {
            return Err(EngineError::Cancelled);
        }
        let output = |x: &TensorView<'_>| TensorOut {
            name: Arc::from("y"),
            datatype: x.datatype,
            shape: x.shape.to_vec(),
            data: bytes::Bytes::copy_from_slice(x.data),
        };
        Ok(inputs.iter().map(output).collect())
    };
    Box::new(FakeEngine::new(signature, Box::new(compute)))
}

/// Takes time, unless it is told to stop.
#[derive(Default)]
struct Stop(Mutex<bool>, Condvar);

impl Stop {
    /// Waits for `length`; true when it was told to stop before that.
    fn within(&self, length: Duration) -> bool {
        let stopped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self.1.wait_timeout_while(stopped, length, |stopped| !*stopped).unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

impl Terminate for Stop {
    fn terminate(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_all();
    }
}

/// What gateways read, as workers and an operator would have written it.
struct Records {
    keys: Keys,
    txn: Txn,
}

impl Records {
    fn put(&mut self, key: String, record: &impl serde::Serialize) -> anyhow::Result<()> {
        self.txn = std::mem::take(&mut self.txn).put(key, encode(record)?);
        Ok(())
    }

    fn model(&mut self, model: &FleetModel) -> anyhow::Result<()> {
        let (name, version) = (ModelName::new(&*model.name)?, policy::Version::try_from(1)?);
        let latency_ms = model.slo_ms.map(|ms| ms as u32);
        let record = ModelRecord {
            schema: SCHEMA,
            name: name.clone(),
            wanted: true,
            versions: Vec::new(),
            latest: None,
            replicas: None,
            provider: ExecutionProvider::Cpu,
            fallback: None,
            instances: None,
            slo: Slo { latency_ms, ..Slo::default() },
            by_call: false,
            derived: true,
            generation: 0,
            unknown: Unknown::new(),
        };
        self.put(self.keys.model(&model.name), &record)?;
        let record = VersionRecord {
            schema: SCHEMA,
            model: name,
            version,
            state: VersionState::Valid,
            reference: policy::VariantName::new("fp32@ort")?,
            artifact: digest()?,
            files: Vec::new(),
            model_file: String::new(),
            config: None,
            signature: signature(model.max_batch_size),
            bytes_resident: 0,
            image: None,
            split: false,
            padding: None,
            labels: Vec::new(),
            origin: Origin::Directory,
            unknown: Unknown::new(),
        };
        self.put(self.keys.version(&model.name, version.into()), &record)
    }

    fn worker(&mut self, described: &Described, worker: &FleetWorker, data: String) -> anyhow::Result<()> {
        let Described { worker: id, variant, signature, latency } = described;
        let record = WorkerRecord {
            schema: SCHEMA,
            id: id.clone(),
            incarnation: 1,
            data,
            admin: String::new(),
            host: id.to_string(),
            site: String::new(),
            zone: worker.zone.clone(),
            devices: Vec::new(),
            capabilities: Capabilities::default(),
            epoch: 1,
            draining: false,
            unknown: Unknown::new(),
        };
        self.put(self.keys.worker(id.as_str()), &record)?;
        let record = ReplicaRecord {
            schema: SCHEMA,
            worker: id.clone(),
            incarnation: 1,
            variant: variant.clone(),
            device: "fake".to_owned(),
            epoch: 1,
            state: ReplicaState::Ready,
            bytes_resident: 0,
            instances: worker.instances,
            provider: ExecutionProvider::Cpu,
            fallback: None,
            artifact: digest()?,
            generation: 0,
            signature: Some(signature.clone()),
            reload_failed: None,
            alpha_us: latency.alpha_us,
            beta_us: latency.beta_us,
            unknown: Unknown::new(),
        };
        self.put(self.keys.replica(id.as_str(), &variant.to_string()), &record)
    }
}

fn digest() -> anyhow::Result<Digest> {
    Ok(Digest::new("0".repeat(64))?)
}

fn gateway_config(keys: Keys) -> GatewayConfig {
    let limit = GatewayConfig::MESSAGE_BYTES_MAX;
    let dial: Dial = Arc::new(move |worker: &WorkerRecord| Arc::new(Remote::connect(&worker.data, limit, 1)) as Arc<dyn Upstream>);
    GatewayConfig {
        keys,
        site: String::new(),
        zone: String::new(),
        message_bytes_max: limit,
        in_flight_bytes_max: GatewayConfig::IN_FLIGHT_BYTES_MAX,
        tenant: Budget::default(),
        trust_tenant: false,
        model_control: ModelControl::None,
        allow_client_shm: false,
        snapshot: None,
        runtimes: 1,
        dial,
        telemetry: Arc::new(NoTelemetry),
    }
}

/// This process logs nothing.
struct NoTelemetry;

impl Telemetry for NoTelemetry {
    fn filter(&self) -> String {
        "off".to_owned()
    }

    fn set_filter(&self, _: &str) -> Result<(), String> {
        Err("a fake-latency cluster logs nothing".to_owned())
    }

    fn exports_traces(&self) -> bool {
        false
    }
}
