//! Tells the controller what is counted here of the rollouts that run: a leased record, written when it may decide something.

use crate::shard::Core;
use policy::rollout::Counts;
use policy::{Counted, CountsRecord, ModelName, SCHEMA, Unknown};
use registry::{Lease, Registry, RegistryError, Txn, encode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What may decide something is told within this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whatever else changed is told this often: every record brings a plan about.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// So many pairs, or late answers, more may decide something.
const NEWS: u64 = 25;
/// How long what a gateway told outlives it.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// Most models told of: a record has 64 KiB.
const MODELS_MAX: usize = 100;

/// Goes on for ever. Without a registry it goes on trying, and nothing else is the worse for it (I2).
pub(crate) async fn tell(core: Arc<Core>, registry: Arc<dyn Registry>) {
    let gateway = format!("gw-{:016x}", fastrand::u64(..));
    let mut lease: Option<Lease> = None;
    let mut told: BTreeMap<ModelName, Counted> = BTreeMap::new();
    let mut told_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if lease.as_ref().is_some_and(Lease::is_lost) {
            (lease, told) = (None, BTreeMap::new()); // the record went with it
        }
        let now = counted(&core);
        if now == told || !(told_at.elapsed() >= TELL_EVERY || is_news(&now, &told)) {
            continue;
        }
        match write(&core, &*registry, &gateway, &mut lease, now.clone()).await {
            Ok(()) => (told, told_at) = (now, Instant::now()),
            Err(error) => tracing::debug!(%error, "the registry was not told what rollouts came to"),
        }
    }
}

/// What was counted of each rollout that runs.
fn counted(core: &Core) -> BTreeMap<ModelName, Counted> {
    let (now, table) = (core.now(), core.table.load());
    let running = table.models.values().filter_map(|model| {
        let rolling = model.rolling.as_ref()?;
        Some((rolling.record.model.clone(), rolling.counted(now)?))
    });
    let mut running: Vec<_> = running.collect();
    running.sort_by(|(a, _), (b, _)| a.cmp(b));
    running.truncate(MODELS_MAX);
    running.into_iter().collect()
}

/// May the difference decide something?
fn is_news(now: &BTreeMap<ModelName, Counted>, told: &BTreeMap<ModelName, Counted>) -> bool {
    let counts = |c: &Counts| [c.pairs.compared, c.latency.candidate.long.late, c.pairs.disagreed.saturating_mul(NEWS)];
    let news = |(model, now): (&ModelName, &Counted)| {
        let Some(told) = told.get(model) else { return true };
        let grown = counts(&now.counts).into_iter().zip(counts(&told.counts)).any(|(now, told)| now >= told.saturating_add(NEWS));
        (now.rollout, now.counts.look) != (told.rollout, told.counts.look) || grown
    };
    now.iter().any(news) || now.len() != told.len()
}

async fn write(
    core: &Core,
    registry: &dyn Registry,
    gateway: &str,
    lease: &mut Option<Lease>,
    models: BTreeMap<ModelName, Counted>,
) -> Result<(), RegistryError> {
    let id = match lease {
        Some(lease) => lease.id(),
        None => lease.insert(registry.lease(LEASE_TTL).await?).id(),
    };
    let record = CountsRecord { schema: SCHEMA, gateway: gateway.to_owned(), models, unknown: Unknown::new() };
    registry.txn(Txn::new().put_leased(core.config.keys.counts(gateway), encode(&record)?, id)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::rolling_out;
    use policy::rollout::Pairs;
    use registry::{Embedded, decode};

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_told_to_whoever_leads_and_no_more_often_than_it_changes() {
        let (shard, ask) = rolling_out().await;
        let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
        let task = tokio::spawn(tell(shard.core.clone(), registry.clone()));
        for _ in 0..30 {
            ask(shard.clone()).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let told = registry.list(&shard.core.config.keys.counts("")).await.unwrap();
        let [entry] = &told.entries[..] else { panic!("{told:?}") };
        let record: CountsRecord = decode(entry, SCHEMA).unwrap();
        let counted = record.models[&ModelName::new("m").unwrap()];
        assert_eq!((counted.rollout, counted.counts.look, counted.counts.pairs.compared), (7, 1, 30));
        assert_eq!((counted.counts.latency.candidate.long.total, counted.counts.latency.baseline.long.total), (30, 30));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let later = registry.list(&shard.core.config.keys.counts("")).await.unwrap();
        assert_eq!(later.entries[0].revision, entry.revision);
        task.abort();
    }

    #[test]
    fn what_may_decide_something_is_told_at_once() {
        let of = |rollout, look, compared, disagreed| {
            let counts = Counts { look, pairs: Pairs { compared, disagreed }, ..Counts::default() };
            BTreeMap::from([(ModelName::new("m").unwrap(), Counted { rollout, counts })])
        };
        let told = of(7, 1, 100, 1);
        let check = |now: BTreeMap<ModelName, Counted>, news| assert_eq!(is_news(&now, &told), news, "{now:?}");
        check(of(7, 1, 124, 1), false);
        check(of(7, 1, 125, 1), true);
        check(of(7, 1, 101, 2), true);
        check(of(7, 2, 0, 0), true);
        check(of(8, 1, 100, 1), true);
        check(BTreeMap::new(), true);
        let mut late = told.clone();
        late.values_mut().for_each(|c| c.counts.latency.candidate.long.late = 25);
        check(late, true);
    }
}
