//! A cluster whose engines are fakes: they compute nothing and take the time that a fleet's description says. A gateway and the described
//! workers in one process; router, queues, batches and the sockets between them are the real ones.

use crate::records;
use anyhow::ensure;
use fastrand::Rng;
use gateway::{Dial, Gateway, GatewayConfig, ModelControl, Telemetry};
use loadtest::sim::{Fleet, FleetModel, FleetWorker, noise};
use policy::admit::Budget;
use policy::profile::Latency;
use policy::{ModelName, Signature, WorkerId, WorkerRecord};
use proto::call::Upstream;
use proto::remote::Remote;
use registry::{Keys, RegistryConfig, Txn, encode};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use worker::engine::fake::{FakeEngine, pause};
use worker::engine::{CancelFlag, Engine, EngineSignature, TensorOut, TensorView};
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
        records.worker(&described, worker, &data.local_addr()?.to_string())?;
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
        variant: records::variant(&ModelName::new(&*model.name)?)?,
        signature: signature(model.max_batch_size),
        latency: Latency { alpha_us: worker.alpha_us, beta_us: worker.beta_us },
    })
}

fn signature(max_batch_size: u32) -> Signature {
    Signature { max_batch_size, inputs: vec![records::numbers("x", ELEMENTS)], outputs: vec![records::numbers("y", ELEMENTS)] }
}

/// Takes `slow` times the worker's line times noise, and gives back what it got.
fn engine(worker: &FleetWorker, sigma: f64, mut random: Rng) -> Box<dyn Engine> {
    let (latency, slow) = (Latency { alpha_us: worker.alpha_us, beta_us: worker.beta_us }, worker.slow);
    let signature = EngineSignature {
        inputs: vec![records::numbers("x", ELEMENTS)],
        outputs: vec![records::numbers("y", ELEMENTS)],
        ..EngineSignature::default()
    };
    let compute = move |inputs: &[TensorView<'_>], cancel: &CancelFlag| {
        let rows = inputs.first().and_then(|x| x.shape.first()).and_then(|rows| u32::try_from(*rows).ok()).unwrap_or_default();
        let us = slow * latency.batch_us(rows) * noise(&mut random, sigma);
        pause(Duration::from_secs_f64(us / 1e6), cancel)?;
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
        let name = ModelName::new(&*model.name)?;
        self.put(self.keys.model(&model.name), &records::model(name.clone(), model.slo_ms.map(|ms| ms as u32)))?;
        let version = records::version(name, signature(model.max_batch_size))?;
        self.put(self.keys.version(&model.name, version.version.into()), &version)
    }

    fn worker(&mut self, described: &Described, worker: &FleetWorker, data: &str) -> anyhow::Result<()> {
        let Described { worker: id, variant, signature, latency } = described.clone();
        self.put(self.keys.worker(id.as_str()), &records::worker(id.clone(), ("", &worker.zone), data))?;
        let key = self.keys.replica(id.as_str(), &variant.to_string());
        self.put(key, &records::replica(id, variant, signature, latency, worker.instances)?)
    }
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
