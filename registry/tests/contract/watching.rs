//! What watches and mirrors promise.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::{Change, Entry, Mirror, Op, Txn, Watch};
use tokio::time::timeout;

use super::{PATIENCE, Store, converged, next, put, reset};

/// Applies a change to what a reader knows, checking that it continues it.
pub(crate) fn follow(known: &mut BTreeMap<String, Entry>, revision: &mut i64, change: Change) {
    match change {
        Change::Reset(listing) => {
            assert!(listing.revision >= *revision);
            *revision = listing.revision;
            *known = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        }
        Change::Put(entry) => {
            assert!(entry.revision == *revision || entry.revision == *revision + 1, "{} after {revision}", entry.revision);
            *revision = entry.revision;
            known.insert(entry.key.clone(), entry);
        }
        Change::Delete { key, revision: at } => {
            assert!(at == *revision || at == *revision + 1, "{at} after {revision}");
            *revision = at;
            assert!(known.remove(&key).is_some(), "{key} deleted twice");
        }
    }
}

pub(crate) async fn a_watch_begins_with_a_reset_and_then_tells_everything_once_in_order(store: &Store) {
    let registry = &store.registry;
    put(registry.as_ref(), "/t/before", "x").await;
    let writer = |name: usize| {
        let registry = registry.clone();
        async move {
            for at in 0..60 {
                // Each transaction takes exactly one revision, so that a gap shows.
                let own = format!("/t/{name}/{}", at % 7);
                let txn = if at % 3 == 2 { Txn::new().put("/t/shared", own.clone()).delete(own) } else { Txn::new().put(own, "x") };
                assert!(registry.txn(txn).await.unwrap().applied);
            }
        }
    };
    let mut watches: Vec<Watch> = Vec::new();
    let writers: Vec<_> = (0..4).map(|name| tokio::spawn(writer(name))).collect();
    for _ in 0..3 {
        watches.push(registry.watch("/t/"));
        put(registry.as_ref(), "/t/between", "x").await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let truth = registry.list("/t/").await.unwrap();
    for mut watch in watches {
        let first = reset(&mut watch).await;
        let (mut known, mut revision) = (BTreeMap::new(), 0);
        follow(&mut known, &mut revision, Change::Reset(first));
        while revision < truth.revision || !known.values().eq(&truth.entries) {
            let change = next(&mut watch).await;
            assert!(!matches!(change, Change::Reset(_)), "no gap, no reset");
            follow(&mut known, &mut revision, change);
            assert!(revision <= truth.revision);
        }
    }
}

pub(crate) async fn a_watch_tells_only_its_prefix(store: &Store) {
    let registry = store.registry.as_ref();
    let mut watch = registry.watch("/t/a/");
    assert_eq!(reset(&mut watch).await.entries, []);
    let _ = registry.txn(Txn::new().put("/t/a", "x").put("/t/ab", "x").put("/t/b/1", "x")).await.unwrap();
    let revision = registry.txn(Txn::new().put("/t/a0", "x").put("/t/a/1", "x")).await.unwrap().revision;
    let entry = Entry { key: "/t/a/1".to_owned(), value: b"x".to_vec(), revision, created: revision };
    assert_eq!(next(&mut watch).await, Change::Put(entry));
    assert_eq!(watch.try_next(), None);
}

pub(crate) async fn a_reader_slower_than_the_writers_misses_nothing(store: &Store) {
    let registry = store.registry.as_ref();
    let mut watch = registry.watch("/t/");
    let (mut known, mut revision) = (BTreeMap::new(), 0);
    follow(&mut known, &mut revision, Change::Reset(reset(&mut watch).await));
    for at in 0..500 {
        put(registry, &format!("/t/{}", at % 50), "x").await;
    }
    let truth = registry.list("/t/").await.unwrap();
    while !known.values().eq(&truth.entries) {
        follow(&mut known, &mut revision, next(&mut watch).await);
    }
}

pub(crate) async fn a_mirror_becomes_what_the_store_is(store: &Store) {
    let registry = store.registry.as_ref();
    let mut mirror = Mirror::spawn(store.registry.clone(), "/t/");
    let state = timeout(PATIENCE, mirror.synced()).await.unwrap();
    assert!(state.synced && state.entries.is_empty());
    let lease = registry.lease(Duration::from_secs(3600)).await.unwrap();
    for at in 0..100 {
        put(registry, &format!("/t/{}", at % 10), &at.to_string()).await;
    }
    let txn = Txn { when: Vec::new(), then: vec![Op::Put { key: "/t/x".into(), value: vec![1], lease: Some(lease.id()) }] };
    registry.txn(txn).await.unwrap();
    converged(&mut mirror, registry, "/t/").await;
    lease.revoke().await.unwrap();
    registry.txn(Txn::new().delete_prefix("/t/1")).await.unwrap();
    let mut clone = mirror.clone();
    drop(mirror);
    converged(&mut clone, registry, "/t/").await;
    assert_eq!(clone.snapshot().entries.len(), 9);
}
