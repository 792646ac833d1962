//! `sluice worker`.

use super::{Stop, bind, drain_deadline, etcd, host_name, library, network_threads, raise_descriptors};
use crate::args::{self, Engines, Place};
use crate::telemetry::say;
use ::worker::engine::EngineName;
use ::worker::engine::ort::Runtime;
use ::worker::runner::Isolation;
use ::worker::{CorePlan, Worker, WorkerConfig, WorkerPorts, devices};
use anyhow::Context as _;
use policy::{ExecutionProvider, WorkerId};
use registry::Keys;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) async fn run(args: crate::args::Worker) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    raise_descriptors(); // two connections for each network runtime of each gateway, and the memory that runners share
    let data = bind("listen", &args.listen).await?;
    let admin = bind("admin", &args.admin).await?;
    let advertise = |address: std::net::SocketAddr| match &args.advertise {
        Some(host) => format!("{host}:{}", address.port()),
        None => address.to_string(),
    };
    let (data_address, admin_address) = (data.local_addr()?, admin.local_addr()?);
    if data_address.ip().is_unspecified() && args.advertise.is_none() {
        anyhow::bail!("--listen {}: others cannot reach this address; say how with --advertise HOST", args.listen);
    }
    say(&format!("listening: data {data_address}, admin {admin_address}"));
    let _lock = lock(&args.data_dir)?;
    let runtime = library::open(args.engines.onnxruntime.as_deref())?;
    let id = WorkerId::new(args.id.clone().unwrap_or_else(host_name))?;
    let mut config = config(&args.engines, &args.place, id, &runtime, args.data_dir.clone())?;
    config.advertise_data = advertise(data_address);
    config.advertise_admin = advertise(admin_address);
    config.models = args.models.clone().map(|dir| existing(&dir)).transpose()?;
    config.isolation = isolation(&args.engines).unwrap_or(Isolation::Process);
    let registry = etcd(&args.etcd)?;
    let worker = Worker::start(config, runtime, registry, Some(WorkerPorts { data, admin, runtimes: network_threads(None) }))?;
    stop.wait().await;
    worker.drain(drain_deadline()).await;
    Ok(())
}

/// Keeps other processes out of the data directory for as long as it lives.
pub(crate) fn lock(dir: &std::path::Path) -> anyhow::Result<std::fs::File> {
    std::fs::create_dir_all(dir).with_context(|| format!("--data-dir {}", dir.display()))?;
    let path = dir.join("worker.lock");
    let file =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).with_context(|| format!("{}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => anyhow::bail!("--data-dir {} is used by another process; give each process its own", dir.display()),
    }
}

/// A model directory that is there.
pub(crate) fn existing(dir: &std::path::Path) -> anyhow::Result<PathBuf> {
    let path = dir.canonicalize().with_context(|| format!("--models {}", dir.display()))?;
    anyhow::ensure!(path.is_dir(), "--models {} is not a directory", dir.display());
    Ok(path)
}

/// What was asked for.
fn isolation(engines: &Engines) -> Option<Isolation> {
    engines.isolation.map(|asked| match asked {
        args::Isolation::None => Isolation::None,
        args::Isolation::Process => Isolation::Process,
    })
}

/// What is the same for `up` and `worker`. Addresses and models are filled in by the caller.
pub(crate) fn config(engines: &Engines, place: &Place, id: WorkerId, runtime: &Runtime, data_dir: PathBuf) -> anyhow::Result<WorkerConfig> {
    let mut capabilities = devices::discover();
    capabilities.engines.insert(EngineName::Ort.library().to_owned(), runtime.version().to_owned());
    let openvino = library::find_openvino(engines.openvino.as_deref());
    match &openvino {
        Ok(found) => drop(capabilities.engines.insert(EngineName::Openvino.library().to_owned(), found.version.clone())),
        // What was named must be there; without it a worker serves all the same.
        Err(error) if engines.openvino.is_some() => return Err(error.clone().into()),
        Err(error) => tracing::debug!(%error, "serving without OpenVINO"),
    }
    let mut devices = devices::devices(&capabilities);
    if let Some(mib) = engines.memory_mib {
        let bytes = mib.saturating_mul(1 << 20);
        if bytes > capabilities.memory_bytes {
            tracing::warn!(
                asked_mib = mib,
                bytes = capabilities.memory_bytes,
                "--memory-mib is more than this host has, which is used instead"
            );
        }
        devices.iter_mut().filter(|d| d.name == "cpu").for_each(|d| d.memory_bytes = bytes.min(d.memory_bytes));
    }
    let cores = engines.cores.or_else(|| NonZeroUsize::new(usize::try_from(capabilities.cores).unwrap_or(1))).unwrap_or(NonZeroUsize::MIN);
    let cores = engines.instances.map_or_else(|| CorePlan::new(cores), |n| CorePlan::with_instances(cores, n.get()));
    let cores = CorePlan { bound: engines.bind_cores, ..cores };
    tracing::info!("core plan: {cores}");
    Ok(WorkerConfig {
        id,
        keys: Keys::new(&place.cluster),
        site: place.site.clone(),
        zone: place.zone.clone(),
        cost_class: engines.cost_class.clone(),
        host: host_name(),
        advertise_data: String::new(),
        advertise_admin: String::new(),
        models: None,
        owns_repository: false,
        data_dir,
        cores,
        capabilities,
        devices,
        provider: provider(&engines.provider)?,
        isolation: isolation(engines).unwrap_or(Isolation::None),
        binary: std::env::current_exe().context("this program's own path is not known")?,
        library: runtime.path().to_owned(),
        openvino,
        validate_time_max: Duration::from_secs(engines.validate_seconds),
        validate_memory_max: engines.validate_memory_mb.saturating_mul(1 << 20),
        message_bytes_max: i32::MAX as usize, // the gateway's limit is the one that counts
    })
}

fn provider(name: &str) -> anyhow::Result<ExecutionProvider> {
    let known = [ExecutionProvider::Cpu, ExecutionProvider::Cuda, ExecutionProvider::Tensorrt];
    known.into_iter().find(|p| p.as_str() == name).with_context(|| format!("--provider {name:?}: expected cpu, cuda or tensorrt"))
}
