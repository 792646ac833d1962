//! `sluice up`: a whole cluster in one process. No socket between gateway and worker, the same code otherwise.

use super::controller::Running;
use super::{Doors, Stop, doors, drain_deadline, gateway, library, worker};
use crate::args::Up;
use crate::telemetry::say;
use ::controller::ControllerConfig;
use ::gateway::{Dial, Gateway, ModelControl, Telemetry};
use ::worker::Worker;
use anyhow::Context as _;
use policy::{WorkerId, WorkerRecord};
use proto::call::Upstream;
use registry::{Keys, RegistryConfig};
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub(crate) async fn run(args: Up, telemetry: Arc<dyn Telemetry>) -> anyhow::Result<()> {
    let started = Instant::now();
    let stop = Stop::listen()?;
    let Doors { front, admin, loopback } = doors(&args.front).await?;
    let models = worker::existing(&args.models)?;
    let data_dir = args.data_dir.clone().map_or_else(|| default_data_dir(&models), Ok)?;
    let registry = registry::open(RegistryConfig::Embedded { data_dir: Some(data_dir.clone()) })?;
    let runtime = library::open(args.engines.onnxruntime.as_deref())?;

    let mut config = worker::config(&args.engines, &args.place, WorkerId::new("local")?, &runtime, data_dir)?;
    config.models = Some(models);
    config.owns_repository = true;
    let worker = Worker::start(config, runtime, registry.clone(), None)?;
    let handle = worker.handle();
    let dial: Dial = Arc::new(move |_: &WorkerRecord| Arc::new(handle.local()) as Arc<dyn Upstream>);
    let by_place = if loopback { ModelControl::Explicit } else { ModelControl::None };
    let control = args.model_control.map_or(by_place, gateway::control);
    let config = gateway::config(&args.front, &args.place, control, None, dial, telemetry);
    let gateway = Gateway::start(config, registry.clone(), front, admin)?;
    let controller = Running::start(registry, ControllerConfig::new("local", Keys::new(&args.place.cluster)));

    let settled = async {
        let models = worker.offered().await;
        gateway.settled(&models).await
    };
    tokio::select! {
        (ready, failed) = settled => {
            failed.iter().for_each(|(model, reason)| say(&format!("not ready: {model}: {reason}")));
            say(&format!("ready: {ready} models in {} ms", started.elapsed().as_millis()));
            stop.wait().await;
        }
        () = stop.wait() => {}
    }
    let deadline = drain_deadline();
    gateway.drain(deadline).await;
    controller.stop().await;
    worker.drain(deadline).await;
    Ok(())
}

/// A folder of this user's for this model directory.
fn default_data_dir(models: &Path) -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or(home);
    let base = base.context("neither HOME nor XDG_DATA_HOME is set: give --data-dir DIR")?;
    let mut hasher = std::hash::DefaultHasher::new();
    models.hash(&mut hasher);
    Ok(base.join("sluice").join(format!("{:016x}", hasher.finish())))
}
