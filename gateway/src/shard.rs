//! What a request sees: the shared core of a gateway, and the connections of the network runtime it came in on.

use crate::admit::Door;
use crate::config::GatewayConfig;
use crate::metrics::Metrics;
use crate::picture::{PictureLimits, Pictures};
use crate::settings::Settings;
use crate::shadow::Copies;
use crate::shm::Regions;
use crate::statistics::Totals;
use crate::table::Table;
use crate::wake::Sleepers;
use arc_swap::ArcSwap;
use policy::admit::Limits;
use policy::{Moment, WorkerId, WorkerRecord};
use proto::budget::Budget;
use proto::call::Upstream;
use registry::Registry;
use registry::admin::AdminService;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Shared by all network runtimes.
pub(crate) struct Core {
    pub(crate) config: GatewayConfig,
    /// Changes what is wanted, for an operator.
    pub(crate) operator: AdminService,
    pub(crate) table: ArcSwap<Table>,
    /// Counts tables, so that tasks can wait for the next one.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) metrics: Metrics,
    pub(crate) totals: Totals,
    pub(crate) settings: Settings,
    pub(crate) regions: Regions,
    pub(crate) pictures: Pictures,
    pub(crate) draining: watch::Sender<bool>,
    pub(crate) default_tenant: Arc<str>,
    origin: Instant,
    /// Bytes of requests held.
    pub(crate) budget: Budget,
    /// Whose requests are worked on.
    pub(crate) door: Door,
    /// Who waits for models that were asleep.
    pub(crate) sleepers: Sleepers,
    /// What is sent once more, to be compared.
    pub(crate) copies: Copies,
}

impl Core {
    pub(crate) fn new(config: GatewayConfig, registry: Arc<dyn Registry>) -> Self {
        let budget = Budget::new(config.in_flight_bytes_max);
        // The rest is for those who wait.
        let worked_on = config.in_flight_bytes_max.div_ceil(4).saturating_mul(3);
        let limits = Limits { bytes_max: worked_on, budget: config.tenant, ..Default::default() };
        let sleepers = Sleepers::new(config.in_flight_bytes_max.div_ceil(4));
        let operator = AdminService::new(registry, config.keys.clone());
        let regions = if config.allow_client_shm { Regions::on(budget.clone(), config.message_bytes_max as u64) } else { Regions::off() };
        let settings = Settings::new(config.telemetry.clone());
        Self {
            config,
            operator,
            table: ArcSwap::default(),
            changed: watch::channel(0).0,
            metrics: Metrics::new(),
            totals: Totals::default(),
            settings,
            regions,
            pictures: Pictures::new(PictureLimits::default()),
            draining: watch::channel(false).0,
            default_tenant: Arc::from("default"),
            origin: Instant::now(),
            budget,
            door: Door::new(limits),
            sleepers,
            copies: Copies::default(),
        }
    }

    /// Now, on this process's clock.
    pub(crate) fn now(&self) -> Moment {
        Moment::default().after(self.origin.elapsed())
    }

    /// Puts a new table in place of the old one.
    pub(crate) fn install(&self, table: Table) {
        self.table.store(Arc::new(table));
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// One network runtime's view: the core, and its own way to each worker.
#[derive(Clone)]
pub(crate) struct Shard {
    pub(crate) core: Arc<Core>,
    upstreams: Arc<ArcSwap<HashMap<WorkerId, Line>>>,
}

#[derive(Clone)]
struct Line {
    incarnation: u64,
    upstream: Arc<dyn Upstream>,
}

impl Shard {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, upstreams: Arc::default() }
    }

    /// The way to `worker`, when there is one and it stands.
    pub(crate) fn upstream(&self, worker: &WorkerId) -> Option<Arc<dyn Upstream>> {
        self.upstreams.load().get(worker).map(|line| line.upstream.clone()).filter(|u| u.reachable())
    }

    /// Keeps this runtime's connections to the workers of the table: a new incarnation gets a new one.
    pub(crate) async fn keep_upstreams(self) {
        let mut changed = self.core.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let table = self.core.table.load_full();
            let old = self.upstreams.load_full();
            let line = |worker: &WorkerRecord| match old.get(&worker.id) {
                Some(line) if line.incarnation == worker.incarnation => line.clone(),
                _ => Line { incarnation: worker.incarnation, upstream: (self.core.config.dial)(worker) },
            };
            let lines = table.workers.iter().map(|(id, worker)| (id.clone(), line(worker))).collect();
            self.upstreams.store(Arc::new(lines));
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}
