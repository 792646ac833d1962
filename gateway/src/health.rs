//! `grpc.health.v1`: Check, Watch and List over the routing table.

use crate::shard::Core;
use policy::Failure;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_server::Health;
use proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use proto::status::to_tonic;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Services that stand for the whole server.
const SERVER: [&str; 3] = ["", "inference.GRPCInferenceService", "readiness"];
/// Says only that the process runs.
const LIVENESS: &str = "liveness";
/// In front of a model's name.
const MODEL: &str = "models/";

/// Health of what `0` serves.
pub(crate) struct HealthService(pub(crate) Arc<Core>);

impl HealthService {
    /// `None` for a service we do not know.
    fn status(core: &Core, service: &str) -> Option<ServingStatus> {
        let serving = if SERVER.contains(&service) {
            core.is_ready()
        } else if service == LIVENESS {
            true
        } else {
            let name = service.strip_prefix(MODEL)?;
            let table = core.table.load();
            match table.resolve(name, "") {
                Ok(_) => !core.is_draining(),
                Err(Failure::NotReady { .. } | Failure::NoVersion { .. } | Failure::NoTable { .. }) => false,
                Err(_) => return None,
            }
        };
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = Self::status(&self.0, &service).ok_or_else(|| {
            let shown: String = service.chars().take(160).collect();
            let mut status = to_tonic(&Failure::UnknownModel { model: shown.clone() });
            if !service.starts_with(MODEL) {
                status = Status::not_found(format!("service {shown:?} is not known"));
            }
            status
        })?;
        Ok(Response::new(answer(status)))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let models: Vec<String> = self.0.table.load().models.keys().map(|name| format!("{MODEL}{name}")).collect();
        let names = SERVER.into_iter().chain([LIVENESS]).map(str::to_owned).chain(models);
        let statuses = names.filter_map(|name| Self::status(&self.0, &name).map(|s| (name, answer(s)))).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The status now and at every change. An unknown service is SERVICE_UNKNOWN and may become known.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let core = self.0.clone();
        let (tx, rx) = tokio::sync::mpsc::channel(1); // a slow reader gets the newest status, not a backlog
        tokio::spawn(async move {
            let (mut tables, mut draining) = (core.changed.subscribe(), core.draining.subscribe());
            let mut last = None;
            loop {
                let status = Self::status(&core, &service).unwrap_or(ServingStatus::ServiceUnknown);
                if last.replace(status) != Some(status) && tx.send(Ok(answer(status))).await.is_err() {
                    return;
                }
                if core.is_draining() {
                    return; // an open watch must not hold up the stop it has just told
                }
                tokio::select! {
                    changed = tables.changed() => if changed.is_err() { return },
                    changed = draining.changed() => if changed.is_err() { return },
                    () = tx.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}
