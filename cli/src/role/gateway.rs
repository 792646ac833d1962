//! `sluice gateway`.

use super::{Doors, Stop, doors, drain_deadline, etcd, network_threads};
use crate::args::{Control, Front, Place};
use crate::telemetry::say;
use ::gateway::{Dial, Gateway, GatewayConfig, ModelControl, Telemetry};
use policy::WorkerRecord;
use policy::admit::{Budget, Rate};
use proto::call::Upstream;
use proto::remote::Remote;
use registry::Keys;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub(crate) async fn run(args: crate::args::Gateway, telemetry: Arc<dyn Telemetry>) -> anyhow::Result<()> {
    let started = Instant::now();
    let stop = Stop::listen()?;
    let Doors { front, admin, .. } = doors(&args.front).await?;
    let registry = etcd(&args.etcd)?;
    let limit = message_bytes(&args.front);
    let id = fastrand::u64(..);
    let dial: Dial = Arc::new(move |worker: &WorkerRecord| Arc::new(Remote::connect(&worker.data, limit, id)) as Arc<dyn Upstream>);
    let snapshot = args.data_dir.map(|dir| dir.join("routing.json"));
    let config = config(&args.front, &args.place, control(args.model_control), snapshot, dial, telemetry);
    let gateway = Gateway::start(config, registry, front, admin)?;
    tokio::select! {
        () = gateway.ready() => {
            say(&format!("ready: {} models in {} ms", gateway.routable(), started.elapsed().as_millis()));
            stop.wait().await;
        }
        () = stop.wait() => {}
    }
    gateway.drain(drain_deadline()).await;
    Ok(())
}

pub(crate) fn control(control: Control) -> ModelControl {
    match control {
        Control::None => ModelControl::None,
        Control::Explicit => ModelControl::Explicit,
    }
}

fn message_bytes(front: &Front) -> usize {
    usize::try_from(front.message_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20)
}

/// What a tenant may hold. Where nobody is believed there is one tenant, and a share of its own would only make the whole smaller.
fn tenant_budget(front: &Front) -> Budget {
    let whole = GatewayConfig::IN_FLIGHT_BYTES_MAX;
    let share = if front.trust_tenant { whole.div_ceil(4) } else { whole };
    Budget {
        requests_max: front.tenant_requests,
        bytes_max: front.tenant_mib.map_or(share, |mib| u64::from(mib) << 20),
        rate: front.tenant_rate.map(|per_second| Rate { per_second, burst: per_second }),
    }
}

/// What is the same for `up` and `gateway`.
pub(crate) fn config(
    front: &Front,
    place: &Place,
    model_control: ModelControl,
    snapshot: Option<PathBuf>,
    dial: Dial,
    telemetry: Arc<dyn Telemetry>,
) -> GatewayConfig {
    GatewayConfig {
        keys: Keys::new(&place.cluster),
        site: place.site.clone(),
        zone: place.zone.clone(),
        message_bytes_max: message_bytes(front),
        in_flight_bytes_max: GatewayConfig::IN_FLIGHT_BYTES_MAX,
        tenant: tenant_budget(front),
        trust_tenant: front.trust_tenant,
        model_control,
        allow_client_shm: front.allow_client_shm,
        snapshot,
        runtimes: network_threads(front.network_threads),
        dial,
        telemetry,
    }
}
