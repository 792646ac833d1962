//! Tells the controller what is asked here: a leased record, written when it would change a plan.

use crate::shard::Core;
use policy::demand::{Demand, quiet_after_us};
use policy::{DemandRecord, ModelName, SCHEMA, Unknown};
use registry::{Lease, Registry, RegistryError, Txn, encode};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A rise is told within this; that somebody asks for a model that is asleep, at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long what a gateway told outlives it.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// Most models told of, those that are asked most: a record has 64 KiB.
const MODELS_MAX: usize = 400;

/// Goes on for ever. Without a registry it goes on trying, and nothing else is the worse for it (I2).
pub(crate) async fn tell(core: Arc<Core>, registry: Arc<dyn Registry>) {
    let gateway = format!("gw-{:016x}", fastrand::u64(..));
    let mut lease: Option<Lease> = None;
    let mut told: BTreeMap<ModelName, Demand> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = core.sleepers.rung() => {}
        }
        if lease.as_ref().is_some_and(Lease::is_lost) {
            (lease, told) = (None, BTreeMap::new()); // the record went with it
        }
        let now = demands(&core);
        if !is_news(&now, &told) {
            continue;
        }
        match write(&core, &*registry, &gateway, &mut lease, now.clone()).await {
            Ok(()) => told = now,
            Err(error) => tracing::debug!(%error, "the registry was not told what is asked"),
        }
    }
}

/// What is asked of each model now.
fn demands(core: &Core) -> BTreeMap<ModelName, Demand> {
    let (now, table) = (core.now(), core.table.load());
    let asked = table.models.iter().filter_map(|(name, model)| {
        let mut offered = model.offered.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a model that may sleep it is told whether anybody asks, too: the rate tells what is left of the last minutes.
        let keeps_awake = model.idle_s().map(|idle_s| offered.is_asked_within(now, quiet_after_us(idle_s)));
        let demand = Demand { quiet: keeps_awake == Some(false), ..offered.demand(now) };
        let keeps_awake = keeps_awake == Some(true);
        (keeps_awake || demand.rate() > 0.0).then(|| Some((ModelName::new(name).ok()?, demand, keeps_awake))).flatten()
    });
    let mut asked: Vec<_> = asked.collect();
    asked.sort_by(|(_, a, a_awake), (_, b, b_awake)| b_awake.cmp(a_awake).then(b.rate().total_cmp(&a.rate())));
    asked.truncate(MODELS_MAX);
    asked.into_iter().map(|(model, demand, _)| (model, demand)).collect()
}

fn is_news(now: &BTreeMap<ModelName, Demand>, told: &BTreeMap<ModelName, Demand>) -> bool {
    let changed = now.iter().any(|(model, demand)| told.get(model).is_none_or(|told| demand.is_news(told)));
    changed || told.keys().any(|model| !now.contains_key(model))
}

async fn write(
    core: &Core,
    registry: &dyn Registry,
    gateway: &str,
    lease: &mut Option<Lease>,
    models: BTreeMap<ModelName, Demand>,
) -> Result<(), RegistryError> {
    let id = match lease {
        Some(lease) => lease.id(),
        None => lease.insert(registry.lease(LEASE_TTL).await?).id(),
    };
    let record = DemandRecord { schema: SCHEMA, gateway: gateway.to_owned(), models, unknown: Unknown::new() };
    registry.txn(Txn::new().put_leased(core.config.keys.demand(gateway), encode(&record)?, id)).await.map(drop)
}
