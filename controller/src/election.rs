//! Becoming the leader, and the epoch that comes with it.

use policy::reconcile::next_epoch;
use policy::{LeaderRecord, SCHEMA, Unknown};
use registry::admin::Records;
use registry::{Compare, Lease, LeaseId, Registry, RegistryError, State, Txn, encode};

use crate::ControllerConfig;

/// One leadership.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    /// Revision at which the election key was created: what every transaction of this term compares.
    pub(crate) created: i64,
    /// What every placement of this term carries.
    pub(crate) epoch: u64,
    lease: LeaseId,
}

/// Takes the election key if nobody has it. `None`: somebody else was faster.
pub(crate) async fn campaign(registry: &dyn Registry, config: &ControllerConfig) -> Result<Option<(Lease, Term)>, RegistryError> {
    let lease = registry.lease(config.lease_ttl).await?;
    match win(registry, config, lease.id()).await {
        Ok(Some(term)) => Ok(Some((lease, term))),
        // After an error the key may have been written or not: with its lease it goes.
        lost => {
            let _ = lease.revoke().await; // if that fails, too, the lease runs out
            lost.map(|_| None)
        }
    }
}

async fn win(registry: &dyn Registry, config: &ControllerConfig, lease: LeaseId) -> Result<Option<Term>, RegistryError> {
    let key = config.keys.leader();
    let first = encode(&record(&config.id, 0))?;
    let outcome = registry.txn(Txn::new().when(Compare::Absent(key.clone())).put_leased(key, first, lease)).await?;
    if !outcome.applied {
        return Ok(None);
    }
    // Read after the election, so that nothing a former leader wrote can be missed.
    let listing = registry.list(config.keys.root()).await?;
    let entries = listing.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    let records = Records::read(&State { entries, revision: listing.revision, synced: true }, &config.keys);
    let mut term = Term { created: outcome.revision, epoch: 0, lease };
    let epoch = next_epoch(term.created, epochs(&records));
    Ok(term.declare(registry, config, epoch).await?.then_some(term))
}

fn record(id: &str, epoch: u64) -> LeaderRecord {
    LeaderRecord { schema: SCHEMA, id: id.to_owned(), epoch, unknown: Unknown::new() }
}

/// Every epoch that stands in a record.
pub(crate) fn epochs(records: &Records) -> impl Iterator<Item = u64> + '_ {
    let observed = &records.observed;
    let workers = observed.workers.iter().map(|w| w.epoch);
    let replicas = observed.replicas.iter().map(|r| r.epoch);
    let placements = observed.placements.iter().map(|p| p.epoch);
    let plans = records.plans.values().map(|p| p.epoch);
    workers.chain(replicas).chain(placements).chain(plans).chain(records.leader.iter().map(|(l, _)| l.epoch))
}

impl Term {
    /// Stores a new epoch in the election key. False: this term is over.
    async fn declare(&mut self, registry: &dyn Registry, config: &ControllerConfig, epoch: u64) -> Result<bool, RegistryError> {
        let key = config.keys.leader();
        let value = encode(&record(&config.id, epoch))?;
        let outcome = registry.txn(self.txn(config).put_leased(key, value, self.lease)).await?;
        self.epoch = epoch;
        Ok(outcome.applied)
    }

    /// Goes above a greater epoch that a worker turned up with: it outlived a registry that was wiped, and would obey nothing
    /// we write. False: this term is over.
    pub(crate) async fn outdo(
        &mut self,
        registry: &dyn Registry,
        config: &ControllerConfig,
        records: &Records,
    ) -> Result<bool, RegistryError> {
        let newest = epochs(records).max().unwrap_or_default();
        if newest <= self.epoch {
            return Ok(true);
        }
        self.declare(registry, config, next_epoch(self.created, epochs(records))).await
    }

    /// A transaction that is refused once this term is over (I3).
    pub(crate) fn txn(&self, config: &ControllerConfig) -> Txn {
        Txn::new().when(Compare::Created(config.keys.leader(), self.created))
    }
}
