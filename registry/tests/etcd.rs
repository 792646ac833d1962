//! The contract of a registry, kept by etcd; and what etcd does to those who rely on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "all of this file is a test"
)]

#[macro_use]
mod contract;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use contract::{Store, converged, follow, next, reset};
use registry::{Change, Credentials, Etcd, EtcdConfig, LeaseId, Mirror, Registry, RegistryError, Txn};
use support::{EtcdProcess, Wire, binary};
use tokio::time::timeout;

/// Longer than any outage here lasts.
const PATIENCE: Duration = Duration::from_secs(30);

async fn store() -> Option<Store> {
    let etcd = EtcdProcess::start(binary()?).await;
    Some(Store { registry: etcd.registry(), ttl: Duration::from_secs(2), _host: Box::new(etcd) })
}

mod a_real_etcd {
    use super::*;

    contract!([tokio::test] store);
}

async fn put(registry: &dyn Registry, key: &str) -> i64 {
    registry.txn(Txn::new().put(key, "x")).await.unwrap().revision
}

async fn put_change(watch: &mut registry::Watch) -> (String, i64) {
    match next(watch).await {
        Change::Put(entry) => (entry.key, entry.revision),
        other => panic!("expected a put, got {other:?}"),
    }
}

#[tokio::test]
async fn i2_a_watch_goes_on_without_a_gap_when_etcd_is_killed_and_comes_back() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    let registry = etcd.registry();
    let mut watch = registry.watch("/t/");
    let mut mirror = Mirror::spawn(registry.clone(), "/t/");
    assert_eq!(reset(&mut watch).await.entries, []);
    let first = put(registry.as_ref(), "/t/1").await;
    assert_eq!(put_change(&mut watch).await, ("/t/1".to_owned(), first));
    converged(&mut mirror, registry.as_ref(), "/t/").await;

    etcd.kill();
    assert!(registry.get("/t/1").await.unwrap_err().may_retry());
    let kept = mirror.snapshot();
    assert!(kept.synced && kept.entries.contains_key("/t/1"), "the last state stays");
    etcd.restart().await;

    // Written by another client, possibly before the watch is back.
    let other = etcd.registry();
    for at in 2..50 {
        put(other.as_ref(), &format!("/t/{at}")).await;
    }
    for at in 2..50 {
        assert_eq!(put_change(&mut watch).await, (format!("/t/{at}"), first + at - 1), "resumed, not reset");
    }
    converged(&mut mirror, other.as_ref(), "/t/").await;
    assert!(registry.get("/t/1").await.unwrap().is_some(), "calls work again, too");
}

#[tokio::test]
async fn a_watch_whose_history_was_compacted_away_is_told_the_whole_truth() {
    let Some(binary) = binary() else { return };
    let etcd = EtcdProcess::start(binary).await;
    let wire = Wire::to(etcd.address()).await;
    let direct = etcd.registry();
    let cut: Arc<dyn Registry> = Arc::new(Etcd::connect(EtcdConfig::new([wire.url.clone()])).unwrap());
    put(direct.as_ref(), "/t/goes").await;
    put(direct.as_ref(), "/t/stays").await;
    let mut watch = cut.watch("/t/");
    let mut mirror = Mirror::spawn(cut.clone(), "/t/");
    assert_eq!(reset(&mut watch).await.entries.len(), 2);
    mirror.synced().await;

    wire.cut();
    for at in 0..500 {
        put(direct.as_ref(), &format!("/t/{}", at % 10)).await;
    }
    direct.txn(Txn::new().delete("/t/goes").delete_prefix("/t/1")).await.unwrap();
    let truth = direct.list("/t/").await.unwrap();
    etcd.client().await.compact(truth.revision, None).await.unwrap();
    wire.mend();

    assert_eq!(reset(&mut watch).await, truth);
    converged(&mut mirror, direct.as_ref(), "/t/").await;
    let after = put(direct.as_ref(), "/t/after").await;
    assert_eq!(put_change(&mut watch).await, ("/t/after".to_owned(), after));
}

#[tokio::test]
async fn a_wiped_etcd_resets_those_who_knew_more() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    let registry = etcd.registry();
    for at in 0..20 {
        put(registry.as_ref(), &format!("/t/{at}")).await;
    }
    let mut watch = registry.watch("/t/");
    let mut mirror = Mirror::spawn(registry.clone(), "/t/");
    assert_eq!(reset(&mut watch).await.entries.len(), 20);
    mirror.synced().await;
    etcd.kill();
    etcd.wipe();
    etcd.restart().await;
    assert_eq!(reset(&mut watch).await.entries, []);
    converged(&mut mirror, etcd.registry().as_ref(), "/t/").await;
    let revision = put(etcd.registry().as_ref(), "/t/new").await;
    assert_eq!(put_change(&mut watch).await, ("/t/new".to_owned(), revision), "not waiting for the old future");
}

#[tokio::test]
async fn a_wiped_etcd_that_has_overtaken_us_is_found_out_soon() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    let wire = Wire::to(etcd.address()).await;
    let cut: Arc<dyn Registry> = Arc::new(Etcd::connect(EtcdConfig::new([wire.url.clone()])).unwrap());
    put(etcd.registry().as_ref(), "/t/old").await;
    let mut mirror = Mirror::spawn(cut, "/t/");
    mirror.synced().await;
    wire.cut();
    etcd.kill();
    etcd.wipe();
    etcd.restart().await;
    // The cluster's id is made of its name and addresses, so it is the same; and our revision has passed.
    for at in 0..50 {
        put(etcd.registry().as_ref(), &format!("/t/{at}")).await;
    }
    wire.mend();
    converged(&mut mirror, etcd.registry().as_ref(), "/t/").await;
    assert!(!mirror.snapshot().entries.contains_key("/t/old"));
}

#[tokio::test]
async fn an_etcd_absent_at_the_start_is_waited_for() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    put(etcd.registry().as_ref(), "/t/1").await;
    etcd.kill();
    let registry = etcd.registry();
    let mut watch = registry.watch("/t/");
    let mirror = Mirror::spawn(registry.clone(), "/t/");
    assert!(registry.txn(Txn::new().put("/t/2", "x")).await.unwrap_err().may_retry());
    assert!(registry.lease(Duration::from_secs(2)).await.is_err());
    assert!(!mirror.snapshot().synced);
    etcd.restart().await;
    assert_eq!(reset(&mut watch).await.entries.len(), 1);
}

#[tokio::test]
async fn a_lease_revoked_by_others_is_known_as_lost() {
    let Some(binary) = binary() else { return };
    let etcd = EtcdProcess::start(binary).await;
    let registry = etcd.registry();
    let lease = registry.lease(Duration::from_secs(2)).await.unwrap();
    registry.txn(Txn::new().put_leased("/t/1", "x", lease.id())).await.unwrap();
    let LeaseId(id) = lease.id();
    etcd.client().await.lease_client().revoke(id).await.unwrap();
    timeout(Duration::from_secs(2), lease.lost()).await.expect("noticed with the next renewal, well within 2 s");
    assert!(lease.is_lost());
    assert_eq!(registry.get("/t/1").await.unwrap(), None);
    lease.revoke().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_within_its_ttl_is_known_as_lost() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    let lease = etcd.registry().lease(Duration::from_secs(2)).await.unwrap();
    etcd.kill();
    timeout(Duration::from_secs(4), lease.lost()).await.expect("lost 2 s after the last renewal");
}

#[tokio::test]
async fn a_lease_survives_an_outage_shorter_than_its_ttl() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    let registry = etcd.registry();
    let lease = registry.lease(Duration::from_secs(10)).await.unwrap();
    registry.txn(Txn::new().put_leased("/t/1", "x", lease.id())).await.unwrap();
    etcd.kill();
    etcd.restart().await;
    let beyond = timeout(Duration::from_secs(12), lease.lost());
    beyond.await.expect_err("renewed again after the outage");
    assert!(registry.get("/t/1").await.unwrap().is_some());
}

#[tokio::test]
async fn one_dead_member_among_several_is_stepped_over() {
    let Some(binary) = binary() else { return };
    let etcd = EtcdProcess::start(binary).await;
    // One address where nobody listens, one where nobody ever answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let endpoints = [format!("http://{dead}"), silent_url, etcd.url()];
    let mut config = EtcdConfig::new(endpoints);
    config.call_timeout = Duration::from_millis(300);
    for _ in 0..4 {
        // Each registry begins at a random member.
        let registry = Etcd::connect(config.clone()).unwrap();
        assert_eq!(registry.get("/none").await.unwrap(), None);
        put(&registry, "/t/1").await;
        let mut watch = registry.watch("/t/");
        let found = timeout(PATIENCE, reset(&mut watch)).await.unwrap();
        assert_eq!(found.entries.len(), 1);
    }
}

#[tokio::test]
async fn i2_a_watch_goes_on_when_the_restart_of_etcd_has_ended_our_login() {
    let Some(binary) = binary() else { return };
    let mut etcd = EtcdProcess::start(binary).await;
    let mut operator = etcd.client().await;
    operator.user_add("root", "secret", None).await.unwrap();
    operator.role_add("root").await.unwrap();
    operator.user_grant_role("root", "root").await.unwrap();
    operator.auth_enable().await.unwrap();
    let with = |password: &str| {
        let credentials = Some(Credentials { user: "root".to_owned(), password: password.to_owned() });
        Etcd::connect(EtcdConfig { credentials, ..EtcdConfig::new([etcd.url()]) }).unwrap()
    };
    for refused in [with("wrong").get("/t/1").await, etcd.registry().get("/t/1").await] {
        let error = refused.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }) && !error.may_retry(), "{error}");
    }
    let registry = with("secret");
    let mut watch = registry.watch("/t/");
    assert_eq!(reset(&mut watch).await.entries, []);
    let first = put(&registry, "/t/1").await;
    assert_eq!(put_change(&mut watch).await, ("/t/1".to_owned(), first));
    let other = with("secret");
    etcd.kill();
    etcd.restart().await;
    let second = put(&other, "/t/2").await;
    assert_eq!(put_change(&mut watch).await, ("/t/2".to_owned(), second));
    assert!(registry.get("/t/2").await.unwrap().is_some());
}

#[tokio::test]
async fn a_listing_in_between_repeats_nothing_and_leaves_nothing_out() {
    let Some(binary) = binary() else { return };
    let etcd = EtcdProcess::start(binary).await;
    let wire = Wire::to(etcd.address()).await;
    let cut = Etcd::connect(EtcdConfig::new([wire.url.clone()])).unwrap();
    let mut watch = cut.watch("/t/");
    let (mut known, mut revision) = (BTreeMap::new(), 0);
    follow(&mut known, &mut revision, Change::Reset(reset(&mut watch).await));
    let direct = etcd.registry();
    put(direct.as_ref(), "/t/0").await;
    follow(&mut known, &mut revision, next(&mut watch).await); // the stream is open: there is something to break
    wire.cut();
    wire.mend();
    let writer = tokio::spawn(async move {
        for at in 0.. {
            put(direct.as_ref(), &format!("/t/{}", at % 10)).await;
        }
    });
    // After a break everything is listed anew, while the stream already goes on.
    let mut resets = 0;
    while resets < 1 {
        let change = next(&mut watch).await;
        resets += usize::from(matches!(change, Change::Reset(_)));
        follow(&mut known, &mut revision, change);
    }
    for _ in 0..100 {
        follow(&mut known, &mut revision, next(&mut watch).await);
    }
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    let truth = etcd.registry().list("/t/").await.unwrap();
    while !known.values().eq(&truth.entries) {
        follow(&mut known, &mut revision, next(&mut watch).await);
    }
}
