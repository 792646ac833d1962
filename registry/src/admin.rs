//! The operator's door: `sluice.v1.Admin` on any process that has the registry, and the helpers behind it, which load and
//! unload calls of other protocols use too.
//!
//! It reads and writes records and decides nothing: what a model lacks is judged by `policy::plan::progress`.

mod delete;
mod desired;
mod records;
mod shown;
#[cfg(test)]
mod tests;
mod wait;

use policy::Failure;
use proto::sluice::admin_server::{Admin, AdminServer};
use proto::sluice::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, PlanRequest, PlanResponse, Record, WatchResponse,
};
use proto::status::to_tonic;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{Entry, Keys, Mirror, Registry, RegistryError, State};
pub use desired::{Change, parse_model, parse_models, set_models};
pub use records::Records;
use wait::Waiter;
pub use wait::{Outcome, wait_routable};

/// Answers waiting for a slow reader. Each is a complete list or a change of state, so few suffice.
const ANSWERS_MAX: usize = 4;
/// Changes within this time are told together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Kinds that are a prefix of keys.
const KINDS: [&str; 11] =
    ["models", "versions", "workers", "replicas", "placements", "profiles", "artifacts", "plan", "demand", "rollouts", "counts"];

/// Serves `sluice.v1.Admin`.
#[derive(Clone)]
pub struct AdminService {
    registry: Arc<dyn Registry>,
    keys: Keys,
    mirror: Mirror,
}

impl AdminService {
    /// Follows the cluster from now on. Needs a tokio runtime around it.
    pub fn new(registry: Arc<dyn Registry>, keys: Keys) -> Self {
        let mirror = Mirror::spawn(registry.clone(), keys.root());
        Self { registry, keys, mirror }
    }

    /// As a service for tonic.
    pub fn into_server(self) -> AdminServer<Self> {
        AdminServer::new(self)
    }

    /// Writes a change of desired state and waits until it is true, or for the reason why not.
    /// See [`set_models`] and [`wait_routable`].
    ///
    /// # Errors
    /// Those of both.
    pub async fn change(&self, change: Change, timeout: Duration) -> Result<String, Failure> {
        let revision = set_models(&*self.registry, &self.keys, std::slice::from_ref(&change)).await?;
        wait_routable(&self.mirror, &self.keys, change.model(), revision, timeout).await
    }

    /// Revision of the newest record that this service has seen: what a change that it waited for consists of is not newer.
    pub fn seen(&self) -> i64 {
        self.mirror.snapshot().entries.values().map(|entry| entry.revision).max().unwrap_or_default()
    }

    /// What the registry holds, asked of it and not of the mirror.
    async fn listed(&self) -> Result<State, RegistryError> {
        let listing = self.registry.list(self.keys.root()).await?;
        let entries = listing.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        Ok(State { entries, revision: listing.revision, synced: true })
    }

    /// Asked of the store, so that who has just written reads what it wrote; the mirror answers while the store is away (I2).
    async fn state(&self) -> Result<Arc<State>, Status> {
        match self.listed().await {
            Ok(state) => Ok(Arc::new(state)),
            Err(error) => {
                let known = self.mirror.snapshot();
                if known.synced { Ok(known) } else { Err(to_tonic(&desired::of_registry(&error))) }
            }
        }
    }

    /// The records of a kind in `state`, in the order of their keys.
    fn select(&self, state: &State, kind: &str, name: &str) -> Vec<Record> {
        let prefix = format!("{}{kind}/{name}", self.keys.root());
        let from = state.entries.range(prefix.clone()..);
        let entries = from.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, entry)| self.record(entry));
        match kind {
            "variants" => {
                shown::variants(&Records::read(state, &self.keys)).into_iter().filter(|r| below(&r.key).starts_with(name)).collect()
            }
            "placements" => shown::placements(entries, &Records::read(state, &self.keys)),
            "profiles" => shown::profiles(entries, &Records::read(state, &self.keys)),
            _ => entries.collect(),
        }
    }

    fn record(&self, entry: &Entry) -> Record {
        let key = entry.key.strip_prefix(self.keys.root()).unwrap_or(&entry.key).to_owned();
        Record { key, json: String::from_utf8_lossy(&entry.value).into_owned(), revision: entry.revision }
    }
}

/// A key without its kind.
fn below(key: &str) -> &str {
    key.split_once('/').map_or("", |(_, rest)| rest)
}

fn check_kind(kind: &str) -> Result<(), Status> {
    if kind == "variants" || KINDS.contains(&kind) {
        return Ok(());
    }
    let known = KINDS.join(", ");
    Err(to_tonic(&Failure::Malformed { what: format!("kind {kind:?} is not one of variants, {known}") }))
}

/// Longest search for a plan that is only told: as long as a leader's, and as long again for what would help.
const PLAN_MAX: Duration = Duration::from_secs(2);

#[tonic::async_trait]
impl Admin for AdminService {
    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let instead = parse_models(&request.into_inner().models).map_err(|f| to_tonic(&f))?;
        let state = self.state().await?;
        let mut records = Records::read(&state, &self.keys);
        for record in instead {
            let revision = records.models.get(&record.name).map_or(0, |(_, revision)| *revision);
            records.models.insert(record.name.clone(), (record, revision));
        }
        let told = tokio::task::spawn_blocking(move || {
            let began = std::time::Instant::now();
            policy::plan::tell(&records.observed, &records.wanted(), &mut || began.elapsed() < PLAN_MAX)
        });
        let told = told.await.map_err(|error| to_tonic(&Failure::thread_ended(&error)))?;
        let json = serde_json::to_string(&told).map_err(|error| to_tonic(&Failure::Malformed { what: error.to_string() }))?;
        Ok(Response::new(PlanResponse { json }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let GetRequest { kind, name } = request.into_inner();
        check_kind(&kind)?;
        let state = self.state().await?;
        Ok(Response::new(GetResponse { records: self.select(&state, &kind, &name), revision: state.revision }))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<GetRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let GetRequest { kind, name } = request.into_inner();
        check_kind(&kind)?;
        let (tx, rx) = mpsc::channel(ANSWERS_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tx.closed() => {}
                () = service.follow(&kind, &name, &tx) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    type ApplyStream = ReceiverStream<Result<ApplyResponse, Status>>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<Self::ApplyStream>, Status> {
        let ApplyRequest { models, wait_ms, reload } = request.into_inner();
        let records = parse_models(&models).map_err(|f| to_tonic(&f))?;
        let changes: Vec<_> = records.into_iter().map(|record| Change::Apply { record: Box::new(record), reload }).collect();
        let revision = set_models(&*self.registry, &self.keys, &changes).await.map_err(|f| to_tonic(&f))?;
        let names: Vec<_> = changes.iter().map(|c| c.model().clone()).collect();
        let (tx, rx) = mpsc::channel(ANSWERS_MAX);
        if wait_ms > 0 {
            let timeout = Duration::from_millis(u64::from(wait_ms));
            let waiter = Waiter::new(self.mirror.clone(), self.keys.clone(), names, revision, timeout);
            tokio::spawn(async move {
                tokio::select! {
                    () = tx.closed() => {}
                    () = report(waiter, &tx) => {}
                }
            });
        }
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let DeleteRequest { model, force, wait_ms } = request.into_inner();
        let model = policy::ModelName::new(model).map_err(|error| to_tonic(&error.into()))?;
        let timeout = Duration::from_millis(u64::from(wait_ms));
        let note = AdminService::delete(self, &model, force, timeout).await.map_err(|failure| to_tonic(&failure))?;
        Ok(Response::new(DeleteResponse { note }))
    }
}

impl AdminService {
    /// Sends the complete list, and again after each change of it.
    async fn follow(&self, kind: &str, name: &str, tx: &mpsc::Sender<Result<WatchResponse, Status>>) {
        let mut mirror = self.mirror.clone();
        while !mirror.snapshot().synced {
            mirror.changed().await;
        }
        let mut sent = None;
        loop {
            let state = mirror.snapshot();
            let records = self.select(&state, kind, name);
            if sent.as_ref() != Some(&records) {
                let answer = WatchResponse { records: records.clone(), revision: state.revision };
                if tx.send(Ok(answer)).await.is_err() {
                    return;
                }
                sent = Some(records);
            }
            mirror.changed().await;
            tokio::time::sleep(TOGETHER).await;
        }
    }
}

async fn report(mut waiter: Waiter, tx: &mpsc::Sender<Result<ApplyResponse, Status>>) {
    while let Some(news) = waiter.next().await {
        for (model, outcome) in news {
            let (state, reason) = match outcome {
                Outcome::Waiting(reason) => ("waiting", reason),
                Outcome::Ready(note) => ("ready", note),
                Outcome::Unloaded => ("unloaded", String::new()),
                Outcome::Failed(reason) => ("failed", reason),
            };
            let answer = ApplyResponse { model: model.to_string(), state: state.to_owned(), reason };
            if tx.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }
}
