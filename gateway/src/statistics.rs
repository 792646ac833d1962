//! ModelStatistics of the whole cluster: what every replica counted, summed, and never less than before while a model is up.

use crate::shard::Shard;
use futures_util::future::join_all;
use policy::statistics::Statistics;
use policy::{ModelName, VariantId, Version, WorkerId};
use proto::call::ReplicaStatistics;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a worker may take to tell; one that does not is counted as it was last.
const ASK_MAX: Duration = Duration::from_secs(1);

/// How often workers are asked though nobody wants to know, so that little is forgotten with one that dies.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// What replicas counted, those that are gone too. It grows with the number of loads, not with time: a new generation of a variant
/// takes the place of the older ones.
#[derive(Default)]
pub(crate) struct Totals(Mutex<BTreeMap<VariantId, OfVariant>>);

/// Counters start anew with each generation, as Triton's do with a reload.
#[derive(Default)]
struct OfVariant {
    generation: u64,
    loads: BTreeMap<Load, Statistics>,
}

/// One load in one process.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    worker: WorkerId,
    incarnation: u64,
    number: u64,
}

impl Totals {
    /// A worker told its counters.
    fn told(&self, worker: &WorkerId, incarnation: u64, counted: Vec<ReplicaStatistics>) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ReplicaStatistics { variant, load, generation, statistics } in counted {
            let of_variant = totals.entry(variant).or_default();
            if generation < of_variant.generation {
                continue; // a replica that a reload is about to replace
            }
            if generation > of_variant.generation {
                *of_variant = OfVariant { generation, ..OfVariant::default() };
            }
            let known = of_variant.loads.entry(Load { worker: worker.clone(), incarnation, number: load }).or_default();
            // Two answers under way may come in the wrong order.
            if (statistics.success.count, statistics.fail.count) >= (known.success.count, known.fail.count) {
                *known = statistics;
            }
        }
    }

    /// The sum over the variants and replicas of a version.
    pub(crate) fn of(&self, model: &ModelName, version: Version) -> Statistics {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Statistics::default();
        let of_version = totals.iter().filter(|(variant, _)| variant.model == *model && variant.version == version);
        of_version.flat_map(|(_, of_variant)| of_variant.loads.values()).for_each(|statistics| sum.merge(statistics));
        sum
    }
}

impl Shard {
    /// Asks every worker for its counters.
    pub(crate) async fn collect_statistics(&self) {
        let table = self.core.table.load_full();
        let ask = table.workers.values().map(|worker| async move {
            let upstream = self.upstream(&worker.id)?;
            let counted = tokio::time::timeout(ASK_MAX, upstream.statistics()).await.ok()?;
            match counted {
                Ok(counted) => self.core.totals.told(&worker.id, worker.incarnation, counted),
                Err(error) => tracing::debug!(worker = %worker.id, %error, "no statistics"),
            }
            Some(())
        });
        join_all(ask).await;
    }

    /// Asks now and then, for ever.
    pub(crate) async fn keep_statistics(self) {
        loop {
            self.collect_statistics().await;
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(load: u64, generation: u64, count: u64) -> ReplicaStatistics {
        let mut statistics = Statistics { inference_count: count, ..Statistics::default() };
        statistics.success.add(count, 1);
        ReplicaStatistics { variant: VariantId::parse("m:1:fp32@ort").unwrap(), load, generation, statistics }
    }

    fn count(totals: &Totals) -> u64 {
        totals.of(&ModelName::new("m").unwrap(), Version::try_from(1).unwrap()).inference_count
    }

    #[test]
    fn a_worker_that_is_gone_stays_in_the_sum() {
        let totals = Totals::default();
        let worker = |id: &str| WorkerId::new(id).unwrap();
        totals.told(&worker("a"), 1, vec![counted(1, 0, 10)]);
        totals.told(&worker("b"), 1, vec![counted(1, 0, 5)]);
        totals.told(&worker("a"), 1, vec![counted(1, 0, 12)]);
        assert_eq!(count(&totals), 17);
        totals.told(&worker("a"), 1, vec![counted(1, 0, 11)]);
        assert_eq!(count(&totals), 17, "an answer that comes late is older");
        totals.told(&worker("a"), 2, vec![counted(1, 0, 1)]); // it died and came back
        totals.told(&worker("b"), 1, vec![counted(2, 0, 3)]); // its replica was taken away and came back
        assert_eq!(count(&totals), 21);
        assert_eq!(totals.of(&ModelName::new("m").unwrap(), Version::try_from(2).unwrap()), Statistics::default());
    }

    #[test]
    fn a_reload_starts_anew_and_its_predecessor_does_not_come_back() {
        let totals = Totals::default();
        let worker = WorkerId::new("a").unwrap();
        totals.told(&worker, 1, vec![counted(1, 0, 10)]);
        totals.told(&worker, 1, vec![counted(2, 1, 3)]);
        totals.told(&worker, 1, vec![counted(1, 0, 11)]);
        assert_eq!(count(&totals), 3);
    }
}
