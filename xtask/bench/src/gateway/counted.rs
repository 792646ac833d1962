//! The gateway's crate in a process of the bench's that counts allocations: the same code and settings as `sluice gateway`.

use super::fleet::registry;
use super::upstream::say;
use crate::ALLOCATOR;
use crate::allocations;
use gateway::{Gateway, GatewayConfig, ModelControl, Telemetry};
use policy::WorkerRecord;
use policy::admit::Budget;
use proto::call::Upstream;
use proto::remote::Remote;
use registry::Keys;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves `cluster` in the etcd at `url`, and never returns. The port it calls `http` tells what it allocated.
pub(crate) async fn serve(url: &str, cluster: &str) -> anyhow::Result<()> {
    let (counts, door, admin) =
        (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    say(&format!("listening: http {}, grpc {}, admin none", counts.local_addr()?, door.local_addr()?))?;
    let dial = |worker: &WorkerRecord| Arc::new(Remote::connect(&worker.data, GatewayConfig::MESSAGE_BYTES_MAX, 1)) as Arc<dyn Upstream>;
    let config = GatewayConfig {
        keys: Keys::new(cluster),
        site: "default".to_owned(),
        zone: "default".to_owned(),
        message_bytes_max: GatewayConfig::MESSAGE_BYTES_MAX,
        in_flight_bytes_max: GatewayConfig::IN_FLIGHT_BYTES_MAX,
        tenant: Budget { bytes_max: GatewayConfig::IN_FLIGHT_BYTES_MAX, ..Budget::default() },
        trust_tenant: false,
        model_control: ModelControl::None,
        allow_client_shm: false,
        snapshot: None,
        runtimes: 1,
        dial: Arc::new(dial),
        telemetry: Arc::new(Silent),
    };
    let gateway = Gateway::start(config, registry(url).await?, vec![door], admin)?;
    gateway.ready().await;
    say("ready: gateway")?;
    allocations::tell(counts, &ALLOCATOR).await;
    Ok(())
}

/// No logs, no traces.
struct Silent;

impl Telemetry for Silent {
    fn filter(&self) -> String {
        "off".to_owned()
    }

    fn set_filter(&self, _: &str) -> Result<(), String> {
        Err("there is no log".to_owned())
    }

    fn exports_traces(&self) -> bool {
        false
    }
}
