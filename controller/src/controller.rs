//! The loop: elect, then observe, plan, write, until stopped or replaced.

use policy::plan::{Rollouts, Unplaced, plan};
use policy::{Moment, ReplicaRecord, ReplicaState, SCHEMA};
use registry::admin::Records;
use registry::{Entry, Key, Keys, Lease, Mirror, Registry, RegistryError, State, decode};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::ControllerConfig;
use crate::election::{Term, campaign};
use crate::write::{difference, pieces};

/// A leader that is told to stop gives its lease back within this, or lets it run out.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// What a controller is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// This one leads.
    pub is_leader: bool,
    /// Who leads, as far as is known.
    pub leader: Option<String>,
    /// Epoch of this controller's last term; 0 before its first.
    pub epoch: u64,
    /// Placements of its last plan.
    pub placements: usize,
    /// What its last plan could not place.
    pub unplaced: Vec<Unplaced>,
    /// Records it could not read.
    pub malformed: usize,
    /// The last call to the registry did not fail.
    pub is_registry_up: bool,
}

/// Tells what a controller is doing.
#[derive(Debug, Clone)]
pub struct Handle {
    status: watch::Receiver<Status>,
}

impl Handle {
    /// Now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// As soon as `is` holds; at once if the controller has ended.
    pub async fn wait_for(&mut self, is: impl FnMut(&Status) -> bool) -> Status {
        let found = self.status.wait_for(is).await.map(|status| status.clone());
        found.unwrap_or_else(|_| self.status())
    }
}

/// Why a term ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("somebody else holds the election key")]
    Replaced,
    #[error("the registry was silent for {0:?}")]
    Silent(Duration),
}

/// Leads the cluster, or waits to.
pub struct Controller {
    registry: Arc<dyn Registry>,
    config: ControllerConfig,
    status: watch::Sender<Status>,
    /// Keys of records that were unreadable last time, so that each is logged once.
    malformed: BTreeSet<String>,
    /// Those of this term.
    rollouts: Rollouts,
    origin: Instant,
}

impl Controller {
    /// A controller and what tells about it.
    pub fn new(registry: Arc<dyn Registry>, config: ControllerConfig) -> (Self, Handle) {
        let (status, receiver) = watch::channel(Status { is_registry_up: true, ..Status::default() });
        let (malformed, rollouts, origin) = (BTreeSet::new(), Rollouts::default(), Instant::now());
        (Self { registry, config, status, malformed, rollouts, origin }, Handle { status: receiver })
    }

    /// Runs until `stop` resolves; then gives leadership back, so that another takes over at once.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let mut mirror = Mirror::spawn(self.registry.clone(), self.config.keys.root());
        let mut stop = std::pin::pin!(stop);
        loop {
            let (lease, term) = tokio::select! {
                biased;
                () = &mut stop => return,
                won = self.elect(&mut mirror) => won,
            };
            let stopped = tokio::select! {
                biased;
                () = &mut stop => true,
                () = lease.lost() => { tracing::warn!(epoch = term.epoch, "lost the lease, no longer leading"); false }
                end = self.lead(&mut mirror, term) => { tracing::warn!(epoch = term.epoch, %end, "no longer leading"); false }
            };
            self.status.send_modify(|s| (s.is_leader, s.leader) = (false, None));
            self.give_back(lease).await;
            if stopped {
                return;
            }
        }
    }

    async fn give_back(&self, lease: Lease) {
        match tokio::time::timeout(HAND_OVER_MAX, lease.revoke()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not give leadership back, it runs out"),
            Err(_) => tracing::warn!("could not give leadership back in time, it runs out"),
        }
    }

    /// Waits until nobody leads, then tries to.
    async fn elect(&mut self, mirror: &mut Mirror) -> (Lease, Term) {
        loop {
            let state = mirror.snapshot();
            let leader = state.entries.get(&self.config.keys.leader());
            if !state.synced || leader.is_some() {
                let name = leader.and_then(|e| registry::decode::<policy::LeaderRecord>(e, policy::SCHEMA).ok()).map(|l| l.id);
                self.status.send_if_modified(|s| std::mem::replace(&mut s.leader, name.clone()) != name);
                mirror.changed().await;
                continue;
            }
            match campaign(&*self.registry, &self.config).await {
                Ok(Some((lease, term))) => {
                    self.registry_is_up();
                    let id = self.config.id.clone();
                    tracing::info!(id, epoch = term.epoch, "leading");
                    self.status.send_modify(|s| (s.is_leader, s.leader, s.epoch) = (true, Some(id), term.epoch));
                    return (lease, term);
                }
                Ok(None) => {
                    self.registry_is_up();
                    mirror.changed().await;
                }
                Err(error) => {
                    self.registry_is_down(&error);
                    tokio::time::sleep(self.config.retry_after).await;
                }
            }
        }
    }

    async fn lead(&mut self, mirror: &mut Mirror, mut term: Term) -> End {
        let mut heard = Instant::now();
        self.rollouts = Rollouts::default(); // another may have led since
        let mut planned: Option<Instant> = None;
        // What was last planned for.
        let mut seen: Option<Arc<State>> = None;
        // The mirror must have seen our own election, and then our own last write: an older view would be planned upon twice.
        let mut revision_min = term.created;
        loop {
            let state = mirror.snapshot();
            let silence_ends = heard + self.config.silence_max;
            let due = planned.is_none_or(|at| at.elapsed() >= self.config.replan_every);
            let call = async {
                if due && state.revision >= revision_min {
                    self.plan(&state, &mut term).await.map(|at| (at, true))
                } else {
                    self.still_leads(&term).await.map(|leads| (leads.then_some(revision_min), false))
                }
            };
            let wait = match timeout_at(silence_ends, call).await {
                Err(_) => return End::Silent(self.config.silence_max),
                Ok(Ok((None, _))) => return End::Replaced,
                Ok(Ok((Some(at), has_planned))) => {
                    self.registry_is_up();
                    (heard, revision_min) = (Instant::now(), at);
                    if has_planned {
                        (planned, seen) = (Some(heard), Some(state.clone()));
                    }
                    self.config.confirm_every
                }
                Ok(Err(error)) => {
                    self.registry_is_down(&error);
                    self.config.retry_after
                }
            };
            let wake = (Instant::now() + wait).min(heard + self.config.silence_max);
            tokio::select! {
                () = mirror.changed() => {
                    tokio::time::sleep(self.config.settle).await;
                    if !seen.as_ref().is_some_and(|seen| is_progress_only(seen, &mirror.snapshot(), &self.config.keys)) {
                        planned = None;
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            if heard.elapsed() >= self.config.silence_max {
                return End::Silent(self.config.silence_max);
            }
        }
    }

    async fn still_leads(&self, term: &Term) -> Result<bool, RegistryError> {
        let entry = self.registry.get(&self.config.keys.leader()).await?;
        Ok(entry.is_some_and(|entry| entry.created == term.created))
    }

    /// Plans and writes what differs. Gives the revision of the last write; `None` if this term is over.
    async fn plan(&mut self, state: &State, term: &mut Term) -> Result<Option<i64>, RegistryError> {
        let mut records = Records::read(state, &self.config.keys);
        self.note_malformed(&records);
        if !term.outdo(&*self.registry, &self.config, &records).await? {
            return Ok(None);
        }
        records.observed.now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        let (at_ms, wanted) = (records.observed.now_s.unwrap_or_default().saturating_mul(1_000), records.wanted());
        let now = Moment::default().after(self.origin.elapsed());
        self.rollouts.look(&records.observed, &wanted, state.revision, now, at_ms);
        records.observed.rollouts = self.rollouts.records().map(|r| (r.model.clone(), r.clone())).collect();
        let (began, budget) = (std::time::Instant::now(), self.config.plan_max);
        let plan = plan(&records.observed, &wanted, term.epoch, &mut || began.elapsed() < budget);
        let ops = difference(state, &self.config.keys, &records, &plan, term.epoch)?;
        if ops.is_empty() && !self.still_leads(term).await? {
            return Ok(None);
        }
        if !ops.is_empty() {
            let (placements, unplaced) = (plan.placements.len(), plan.unplaced.len());
            tracing::info!(epoch = term.epoch, placements, unplaced, changes = ops.len(), "planned");
        }
        let mut revision = state.revision.max(term.created);
        for piece in pieces(ops) {
            let mut txn = term.txn(&self.config);
            txn.then = piece;
            let outcome = self.registry.txn(txn).await?;
            if !outcome.applied {
                return Ok(None);
            }
            revision = revision.max(outcome.revision);
        }
        self.status.send_if_modified(|s| {
            let new = Status { epoch: term.epoch, placements: plan.placements.len(), unplaced: plan.unplaced, ..s.clone() };
            std::mem::replace(s, new.clone()) != new
        });
        Ok(Some(revision))
    }

    /// Counts records that cannot be read, and logs each once while it stays so.
    fn note_malformed(&mut self, records: &Records) {
        let mut keys = BTreeSet::new();
        for error in &records.malformed {
            let text = error.to_string();
            if !self.malformed.contains(&text) {
                tracing::warn!(%error, "ignoring a record");
            }
            keys.insert(text);
        }
        self.malformed = keys;
        let count = records.malformed.len();
        self.status.send_if_modified(|s| std::mem::replace(&mut s.malformed, count) != count);
    }

    fn registry_is_up(&self) {
        let was_down = self.status.send_if_modified(|s| !std::mem::replace(&mut s.is_registry_up, true));
        if was_down {
            tracing::info!("the registry answers");
        }
    }

    fn registry_is_down(&self, error: &RegistryError) {
        let was_up = self.status.send_if_modified(|s| std::mem::replace(&mut s.is_registry_up, false));
        if was_up {
            tracing::warn!(%error, "the registry does not answer, nothing is planned");
        }
    }
}

/// Do two states differ only in how far loads are? That is told every second, and is nothing to plan for.
pub(crate) fn is_progress_only(before: &State, now: &State, keys: &Keys) -> bool {
    let loading = |entry: &Entry| {
        let replica = matches!(keys.parse(&entry.key), Some(Key::Replica { .. })).then(|| decode::<ReplicaRecord>(entry, SCHEMA).ok());
        let replica =
            replica.flatten().filter(|replica| matches!(replica.state, ReplicaState::Loading(_)) || replica.reloading.is_some())?;
        let state = if matches!(replica.state, ReplicaState::Loading(_)) { ReplicaState::Loading(String::new()) } else { replica.state };
        Some(ReplicaRecord { state, reloading: None, ..replica })
    };
    let same = |(a, b): (&Entry, &Entry)| a == b || loading(a).is_some_and(|a| loading(b) == Some(a));
    before.entries.len() == now.entries.len()
        && before.entries.keys().eq(now.entries.keys())
        && before.entries.values().zip(now.entries.values()).all(same)
}
