//! Starts a gateway on its listeners, and stops it.

use crate::config::GatewayConfig;
use crate::health::HealthService;
use crate::oip::Oip;
use crate::service::Front;
use crate::shard::{Core, Shard};
use crate::table::Outlook;
use crate::{admin, counts, demand, rest, sync};
use proto::health::health_server::HealthServer;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use proto::listen::Limits;
use proto::server::Server;
use registry::{Mirror, Registry};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

/// What can go wrong at a gateway's start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The machine gave no thread or runtime.
    #[error("cannot start a network runtime: {0}")]
    Runtime(#[from] std::io::Error),
    /// The reflection service did not take our descriptors: a fault of the build.
    #[error("cannot build the reflection service: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running gateway.
pub struct Gateway {
    core: Arc<Core>,
    server: Server,
    admin: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Starts serving on listeners that are bound already: the front doors, and the admin port. Call it on the control runtime.
    ///
    /// # Errors
    /// When the machine gives no threads.
    pub fn start(
        config: GatewayConfig,
        registry: Arc<dyn Registry>,
        doors: Vec<TcpListener>,
        admin: TcpListener,
    ) -> Result<Self, GatewayError> {
        let core = Arc::new(Core::new(config, registry.clone()));
        sync::install_snapshot(&core);
        tokio::spawn(sync::follow(core.clone(), Mirror::spawn(registry.clone(), core.config.keys.root())));
        tokio::spawn(demand::tell(core.clone(), registry.clone()));
        tokio::spawn(counts::tell(core.clone(), registry));
        // Calls that are not hot have lines of their own to the workers, on this runtime.
        let control = Shard::new(core.clone());
        tokio::spawn(control.clone().keep_upstreams());
        tokio::spawn(control.clone().keep_statistics());
        let router = router(&control)?;
        let front = {
            let core = core.clone();
            move || {
                let shard = Shard::new(core.clone());
                tokio::spawn(shard.clone().keep_upstreams());
                Front { shard, router: router.clone() }
            }
        };
        let server = Server::start(doors, core.config.runtimes, Limits::EDGE, front)?;
        let admin = tokio::spawn(admin::serve(core.clone(), admin));
        Ok(Self { core, server, admin })
    }

    /// Resolves when it can serve.
    pub async fn ready(&self) {
        let mut changed = self.core.changed.subscribe();
        while !self.core.is_ready() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Models that can be asked now.
    pub fn routable(&self) -> usize {
        self.core.table.load().models.values().filter(|m| matches!(m.outlook(), Some(Outlook::Ready))).count()
    }

    /// Resolves when the models named are known and every wanted model is routable or has failed; gives the number routable, and each failure with its reason.
    pub async fn settled(&self, models: &BTreeSet<String>) -> (usize, Vec<(String, String)>) {
        let mut changed = self.core.changed.subscribe();
        loop {
            let table = self.core.table.load_full();
            let outlooks: Vec<_> = table.models.iter().filter_map(|(name, m)| m.outlook().map(|o| (name, o))).collect();
            let known = models.iter().all(|model| table.models.get(model).is_some_and(|m| !m.versions.is_empty()));
            if known && table.is_built && !outlooks.iter().any(|(_, o)| matches!(o, Outlook::Pending)) {
                let ready = outlooks.iter().filter(|(_, o)| matches!(o, Outlook::Ready)).count();
                let failed = outlooks.into_iter().filter_map(|(name, o)| match o {
                    Outlook::Failed(reason) => Some((name.clone(), reason)),
                    Outlook::Ready | Outlook::Pending => None,
                });
                return (ready, failed.collect());
            }
            if changed.changed().await.is_err() {
                return (0, Vec::new());
            }
        }
    }

    /// Says it is going down, finishes what is in flight until `deadline`, then stops.
    pub async fn drain(self, deadline: Instant) {
        self.core.draining.send_replace(true);
        self.server.drain(deadline).await;
        self.admin.abort();
    }
}

/// Largest message and body of calls that carry neither tensors nor files: they are in no budget.
pub(crate) const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Everything that is not hot.
fn router(control: &Shard) -> Result<axum::Router, GatewayError> {
    let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(proto::DESCRIPTORS);
    let oip = Oip(control.clone());
    let inference = GrpcInferenceServiceServer::new(oip.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(CONTROL_BYTES_MAX);
    let grpc = Routes::new(inference)
        .add_service(HealthServer::new(HealthService(control.core.clone())))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(rest::router(oip).merge(grpc.into_axum_router().reset_fallback()))
}
