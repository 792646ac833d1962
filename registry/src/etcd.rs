//! The registry in an etcd cluster (3.4 or later; 3.5.30 or 3.6.11 and later for production).

mod follow;
mod keep;
mod members;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, TxnOp};
use tokio::time::Instant;

use crate::{Compare, Entry, EtcdConfig, Lease, LeaseId, Listing, Op, Registry, RegistryError, Txn, TxnOutcome, Watch};
use members::{Members, Repeat};

/// Records asked for at once: 16 MiB if each is as large as a record may be.
const PAGE_LEN: i64 = 256;
/// Most bytes taken in one answer: a page of records that someone else made too large still fits.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A registry in etcd. Cheap to make: members are connected to when first needed, and again whenever they come back.
#[derive(Debug)]
pub struct Etcd {
    members: Arc<Members>,
}

/// A listing, and which cluster it is from.
#[derive(Debug)]
struct Listed {
    listing: Listing,
    cluster: u64,
}

impl Etcd {
    /// Takes the settings; fails only for settings that can never work, not because etcd is away.
    pub fn connect(config: EtcdConfig) -> Result<Self, RegistryError> {
        Ok(Self { members: Arc::new(Members::new(config)?) })
    }
}

#[async_trait]
impl Registry for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        if key.is_empty() {
            return Err(RegistryError::EmptyKey);
        }
        let call = |client: etcd_client::Client| async move { client.kv_client().get(key, None).await };
        let answer = self.members.call(Repeat::Safe, call).await?;
        Ok(answer.kvs().first().and_then(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, RegistryError> {
        Ok(list(&self.members, prefix).await?.listing)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, RegistryError> {
        txn.check()?;
        let lease = txn.then.iter().find_map(|op| if let Op::Put { lease, .. } = op { *lease } else { None });
        let when: Vec<_> = txn.when.into_iter().map(compare).collect();
        let then: Vec<_> = txn.then.into_iter().map(operation).collect();
        let request = etcd_client::Txn::new().when(when).and_then(then);
        let call = |client: etcd_client::Client| {
            let request = request.clone();
            async move { client.kv_client().txn(request).await }
        };
        let answer = self.members.call(Repeat::IfUnsent, call).await.map_err(|error| match (error, lease) {
            // etcd does not say which; with several leases in one transaction the first stands for all.
            (RegistryError::LeaseGone { .. }, Some(id)) => RegistryError::LeaseGone { id },
            (error, _) => error,
        })?;
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(TxnOutcome { applied: answer.succeeded(), revision })
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, RegistryError> {
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let asked = Instant::now();
        // Safe to repeat: a grant whose answer was lost runs out unused.
        let call = |client: etcd_client::Client| async move { client.lease_client().grant(seconds, None).await };
        let granted = self.members.call(Repeat::Safe, call).await?;
        let ttl = Duration::from_secs(granted.ttl().max(1).unsigned_abs());
        let id = LeaseId(granted.id());
        let (lease, keeper) = Lease::new(id);
        tokio::spawn(keep::keep(self.members.clone(), id, ttl, asked, keeper));
        Ok(lease)
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (members, prefix) = (self.members.clone(), prefix.to_owned());
        Watch::spawn(|changes| follow::follow(members, prefix, changes))
    }
}

/// Everything under `prefix`, read page by page at the revision of the first.
async fn list(members: &Members, prefix: &str) -> Result<Listed, RegistryError> {
    let mut entries = Vec::new();
    let mut revision = 0;
    let mut from = prefix.as_bytes().to_vec();
    loop {
        let options = if revision == 0 {
            GetOptions::new().with_prefix()
        } else {
            GetOptions::new().with_range(end_of(prefix)).with_revision(revision)
        };
        let call = |client: etcd_client::Client| {
            let (from, options) = (from.clone(), options.clone().with_limit(PAGE_LEN));
            async move { client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX).get(from, Some(options)).await }
        };
        let page = members.call(Repeat::Safe, call).await?;
        let cluster = page.header().map_or(0, |header| header.cluster_id());
        if revision == 0 {
            revision = page.header().map_or(0, |header| header.revision());
        }
        entries.extend(page.kvs().iter().filter_map(entry));
        let Some(last) = page.kvs().last().filter(|_| page.more()) else {
            return Ok(Listed { listing: Listing { entries, revision }, cluster });
        };
        from = last.key().to_vec();
        from.push(0); // the least key beyond the last
    }
}

/// The least key that comes after all that begin with `prefix`; etcd reads a zero byte as the end of all keys.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// A record as we know it. A key that is not text is not ours.
fn entry(kv: &KeyValue) -> Option<Entry> {
    let key = kv.key_str().ok()?.to_owned();
    Some(Entry { key, value: kv.value().to_vec(), revision: kv.mod_revision(), created: kv.create_revision() })
}

fn compare(compare: Compare) -> etcd_client::Compare {
    match compare {
        Compare::Absent(key) => etcd_client::Compare::create_revision(key, CompareOp::Equal, 0),
        Compare::Exists(key) => etcd_client::Compare::create_revision(key, CompareOp::Greater, 0),
        Compare::Revision(key, revision) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, revision),
        Compare::Created(key, revision) => etcd_client::Compare::create_revision(key, CompareOp::Equal, revision),
    }
}

fn operation(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease.0))),
        Op::Delete { key } => TxnOp::delete(key, None),
        Op::DeletePrefix { prefix } => TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_least_key_beyond_it() {
        assert_eq!(end_of("/a/"), b"/a0");
        assert_eq!(end_of(""), [0]);
    }

    #[tokio::test]
    async fn settings_that_can_never_work_are_named_at_once() {
        let check = |config: EtcdConfig, setting: &str| {
            let error = Etcd::connect(config).unwrap_err();
            assert!(matches!(&error, RegistryError::Config { setting: at, .. } if at == setting), "{error}");
        };
        check(EtcdConfig::new(Vec::<String>::new()), "endpoints");
        check(EtcdConfig::new(["http://a b:2379"]), "endpoints");
        check(EtcdConfig::new(["https://localhost:2379"]), "tls");
        let tls = crate::TlsConfig { ca: "/nowhere/ca.pem".into(), cert: None, key: None, domain: None };
        check(EtcdConfig { tls: Some(tls.clone()), ..EtcdConfig::new(["http://localhost:2379"]) }, "tls");
        check(EtcdConfig { tls: Some(tls), ..EtcdConfig::new(["https://localhost:2379"]) }, "tls.ca");
    }

    #[tokio::test]
    async fn an_absent_etcd_is_an_error_of_the_call_that_names_endpoints_and_cause() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let etcd = Etcd::connect(EtcdConfig::new([endpoint.clone()])).unwrap();
        let error = etcd.get("/k").await.unwrap_err();
        assert!(error.may_retry());
        let RegistryError::Unavailable { endpoints, cause } = error else { panic!("{error}") };
        assert_eq!(endpoints, [endpoint]);
        assert!(cause.contains("refused"), "{cause}");
    }
}
