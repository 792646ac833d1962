//! What every registry promises, run on each by `contract!`.

mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use registry::{
    Change, Compare, Entry, LeaseId, Listing, Mirror, Registry, RegistryError, TXN_BYTES_MAX, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX, Watch,
};
use tokio::time::timeout;

pub(crate) use watching::*;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry under test, and the shortest lease it grants.
pub(crate) struct Store {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) ttl: Duration,
    /// What has to live as long.
    pub(crate) _host: Box<dyn Send>,
}

/// Makes a test with attribute `$attribute` of each promise; `$open` gives the store, or `None` where it cannot be had (and says why).
macro_rules! contract {
    (@each $attribute:tt $open:path; $($name:ident)*) => { $(
        #$attribute
        async fn $name() {
            if let Some(store) = $open().await {
                contract::$name(&store).await;
            }
        }
    )* };
    ($attribute:tt $open:path) => {
        contract!(@each $attribute $open;
            get_and_list_tell_what_was_put_and_at_which_revision
            a_listing_has_all_of_its_prefix_and_nothing_beside
            each_compare_holds_when_it_should_and_only_then
            a_txn_is_applied_whole_or_not_at_all
            a_txn_beyond_a_limit_is_refused_with_both_numbers
            what_changes_nothing_takes_no_revision
            i4_a_leased_key_stays_while_held_and_goes_with_its_holder
            revoking_removes_the_leases_own_keys_at_once
            a_key_under_an_unknown_lease_is_refused
            a_watch_begins_with_a_reset_and_then_tells_everything_once_in_order
            a_watch_tells_only_its_prefix
            a_reader_slower_than_the_writers_misses_nothing
            a_mirror_becomes_what_the_store_is
        );
    };
}

async fn put(registry: &dyn Registry, key: &str, value: &str) -> i64 {
    let outcome = registry.txn(Txn::new().put(key, value)).await.unwrap();
    assert!(outcome.applied);
    outcome.revision
}

async fn value(registry: &dyn Registry, key: &str) -> Option<String> {
    registry.get(key).await.unwrap().map(|entry| String::from_utf8(entry.value).unwrap())
}

/// The next change, which must come.
pub(crate) async fn next(watch: &mut Watch) -> Change {
    timeout(PATIENCE, watch.next()).await.expect("no change came")
}

/// The next change, which must be a Reset.
pub(crate) async fn reset(watch: &mut Watch) -> Listing {
    match next(watch).await {
        Change::Reset(listing) => listing,
        other => panic!("expected a reset, got {other:?}"),
    }
}

/// Waits until `mirror` holds exactly what the store does.
pub(crate) async fn converged(mirror: &mut Mirror, registry: &dyn Registry, prefix: &str) {
    let check = async {
        loop {
            let listing = registry.list(prefix).await.unwrap();
            let truth: BTreeMap<String, Entry> = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            let state = mirror.snapshot();
            if state.synced && state.entries == truth {
                return;
            }
            mirror.changed().await;
        }
    };
    timeout(PATIENCE, check).await.expect("the mirror did not become what the store is");
}

pub(crate) async fn get_and_list_tell_what_was_put_and_at_which_revision(store: &Store) {
    let registry = store.registry.as_ref();
    assert_eq!(registry.get("/t/a").await.unwrap(), None);
    let empty = registry.list("/t/").await.unwrap();
    assert_eq!((empty.entries.len(), empty.revision), (0, 1), "an empty store is at revision 1");
    let first = put(registry, "/t/a", "one").await;
    let second = put(registry, "/t/a", "two").await;
    assert!(first > empty.revision && second > first);
    let entry = Entry { key: "/t/a".to_owned(), value: b"two".to_vec(), revision: second, created: first };
    assert_eq!(registry.get("/t/a").await.unwrap(), Some(entry.clone()));
    assert_eq!(registry.list("/t/").await.unwrap(), Listing { entries: vec![entry], revision: second });
    registry.txn(Txn::new().delete("/t/a")).await.unwrap();
    let again = put(registry, "/t/a", "three").await;
    assert_eq!(registry.get("/t/a").await.unwrap().map(|entry| entry.created), Some(again), "another incarnation");
    let bytes: Vec<u8> = (0..=255).collect();
    registry.txn(Txn::new().put("/t/b", bytes.clone())).await.unwrap();
    assert_eq!(registry.get("/t/b").await.unwrap().unwrap().value, bytes);
}

pub(crate) async fn a_listing_has_all_of_its_prefix_and_nothing_beside(store: &Store) {
    let registry = store.registry.as_ref();
    let mut keys: Vec<String> = (0..600).map(|at| format!("/t/{at:03}")).collect();
    let beside = ["/t", "/t.", "/t0", "/u/1", "/s/~"].map(str::to_owned);
    for chunk in keys.iter().chain(&beside).collect::<Vec<_>>().chunks(TXN_OPS_MAX) {
        let txn = chunk.iter().fold(Txn::new(), |txn, key| txn.put(key.as_str(), "v"));
        assert!(registry.txn(txn).await.unwrap().applied);
    }
    let listed = |listing: Listing| listing.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert_eq!(listed(registry.list("/t/").await.unwrap()), keys, "all, in order");
    keys.extend(beside);
    keys.sort();
    assert_eq!(listed(registry.list("").await.unwrap()), keys);
    registry.txn(Txn::new().delete_prefix("/t/")).await.unwrap();
    assert_eq!(listed(registry.list("").await.unwrap()), ["/s/~", "/t", "/t.", "/t0", "/u/1"]);
}

pub(crate) async fn each_compare_holds_when_it_should_and_only_then(store: &Store) {
    let registry = store.registry.as_ref();
    let created = put(registry, "/t/a", "one").await;
    let revision = put(registry, "/t/a", "two").await;
    let (here, absent) = (|| "/t/a".to_owned(), || "/t/none".to_owned());
    for (compare, holds) in [
        (Compare::Absent(here()), false),
        (Compare::Absent(absent()), true),
        (Compare::Exists(here()), true),
        (Compare::Exists(absent()), false),
        (Compare::Revision(here(), revision), true),
        (Compare::Revision(here(), created), false),
        (Compare::Revision(absent(), 0), true),
        (Compare::Revision(absent(), revision), false),
        (Compare::Created(here(), created), true),
        (Compare::Created(here(), revision), false),
        (Compare::Created(absent(), 0), true),
    ] {
        let before = registry.list("").await.unwrap().revision;
        let outcome = registry.txn(Txn::new().when(compare.clone()).put("/t/mark", "x")).await.unwrap();
        assert_eq!(outcome.applied, holds, "{compare:?}");
        assert_eq!(outcome.revision, before + i64::from(holds), "{compare:?}");
        assert_eq!(value(registry, "/t/mark").await.is_some(), holds, "{compare:?}");
        registry.txn(Txn::new().delete("/t/mark")).await.unwrap();
    }
}

pub(crate) async fn a_txn_is_applied_whole_or_not_at_all(store: &Store) {
    let registry = store.registry.as_ref();
    put(registry, "/t/old", "x").await;
    put(registry, "/t/dir/1", "x").await;
    put(registry, "/t/dir/2", "x").await;
    let both = || Txn::new().put("/t/a", "1").put("/t/b", "2").delete("/t/old").delete_prefix("/t/dir/");
    let before = registry.list("").await.unwrap();
    let outcome = registry.txn(both().when(Compare::Exists("/t/old".into())).when(Compare::Exists("/no".into()))).await;
    assert!(!outcome.unwrap().applied);
    for twice in [both().put("/t/a", "3"), both().delete("/t/b"), both().delete_prefix("/t/"), both().put("/t/dir/3", "")] {
        let error = registry.txn(twice).await.unwrap_err();
        assert!(matches!(error, RegistryError::DuplicateKey { .. }), "{error}");
    }
    assert_eq!(registry.list("").await.unwrap(), before);
    let outcome = registry.txn(both()).await.unwrap();
    let after = registry.list("").await.unwrap();
    assert_eq!(after.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["/t/a", "/t/b"]);
    assert!(after.entries.iter().all(|entry| entry.revision == outcome.revision), "one revision for all");
    let again = registry.txn(Txn::new().delete("/t/a").delete_prefix("/t/").delete("/t/a")).await.unwrap();
    assert!(again.applied, "what is deleted twice is deleted");
    assert_eq!(registry.list("").await.unwrap(), Listing { entries: Vec::new(), revision: again.revision });
}

pub(crate) async fn a_txn_beyond_a_limit_is_refused_with_both_numbers(store: &Store) {
    let registry = store.registry.as_ref();
    let puts = |count: usize, bytes: usize| (0..count).fold(Txn::new(), |txn, at| txn.put(format!("/t/{at:03}"), vec![b'x'; bytes]));
    let compares = |count| Txn { when: vec![Compare::Absent("/t/none".into()); count], then: Vec::new() };
    for (txn, words) in [
        (puts(TXN_OPS_MAX + 1, 0), ["101 operations", "100"]),
        (compares(TXN_OPS_MAX + 1), ["101 comparisons", "100"]),
        (puts(1, VALUE_BYTES_MAX + 1), ["65537", "65536"]),
        (puts(17, VALUE_BYTES_MAX), ["1114214", "1048576"]),
        (Txn::new().put("", "v"), ["empty", "key"]),
        (Txn::new().when(Compare::Absent(String::new())), ["empty", "key"]),
    ] {
        let error = registry.txn(txn).await.unwrap_err();
        assert!(!error.may_retry() && words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
    assert_eq!(registry.list("").await.unwrap(), Listing { entries: Vec::new(), revision: 1 });
    assert!(registry.txn(puts(TXN_OPS_MAX, 1)).await.unwrap().applied);
    assert!(registry.txn(compares(TXN_OPS_MAX)).await.unwrap().applied);
    let largest = (TXN_BYTES_MAX / VALUE_BYTES_MAX) - 1;
    assert!(registry.txn(puts(largest, VALUE_BYTES_MAX)).await.unwrap().applied);
}

pub(crate) async fn what_changes_nothing_takes_no_revision(store: &Store) {
    let registry = store.registry.as_ref();
    let revision = put(registry, "/t/a", "x").await;
    for nothing in [Txn::new(), Txn::new().delete("/none"), Txn::new().delete_prefix("/none")] {
        let outcome = registry.txn(nothing).await.unwrap();
        assert_eq!((outcome.applied, outcome.revision), (true, revision));
    }
}

pub(crate) async fn i4_a_leased_key_stays_while_held_and_goes_with_its_holder(store: &Store) {
    let registry = store.registry.as_ref();
    let lease = registry.lease(store.ttl).await.unwrap();
    let put = registry.txn(Txn::new().put_leased("/t/a", "x", lease.id()).put("/t/stays", "x")).await.unwrap();
    let mut watch = registry.watch("/t/");
    assert_eq!(reset(&mut watch).await.entries.len(), 2);
    let quiet = timeout(store.ttl * 3, async {
        tokio::select! {
            change = watch.next() => panic!("{change:?}"),
            () = lease.lost() => panic!("lost"),
        }
    });
    quiet.await.expect_err("held: nothing happens for three times its ttl");
    assert!(!lease.is_lost());
    drop(lease);
    let Change::Delete { key, revision } = next(&mut watch).await else { panic!("expected a deletion") };
    assert_eq!(key, "/t/a");
    assert!(revision > put.revision);
    let left = registry.list("/t/").await.unwrap().entries;
    assert_eq!(left.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["/t/stays"]);
}

pub(crate) async fn revoking_removes_the_leases_own_keys_at_once(store: &Store) {
    let registry = store.registry.as_ref();
    let long = Duration::from_secs(3600);
    let (mine, other) = (registry.lease(long).await.unwrap(), registry.lease(long).await.unwrap());
    assert_ne!(mine.id(), other.id());
    let txn = Txn::new().put_leased("/t/1", "x", mine.id()).put_leased("/t/2", "x", mine.id());
    let txn = txn.put_leased("/t/moved", "x", mine.id()).put_leased("/t/freed", "x", mine.id());
    registry.txn(txn.put_leased("/t/anew", "x", mine.id())).await.unwrap();
    registry.txn(Txn::new().put_leased("/t/moved", "x", other.id()).put("/t/freed", "x").delete("/t/anew")).await.unwrap();
    put(registry, "/t/anew", "x").await; // a key that was deleted has nothing to do with the lease it was under
    timeout(PATIENCE, mine.revoke()).await.unwrap().unwrap();
    let keys = |listing: Listing| listing.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert_eq!(keys(registry.list("/t/").await.unwrap()), ["/t/anew", "/t/freed", "/t/moved"]);
    timeout(PATIENCE, other.revoke()).await.unwrap().unwrap();
    assert_eq!(keys(registry.list("/t/").await.unwrap()), ["/t/anew", "/t/freed"]);
}

pub(crate) async fn a_key_under_an_unknown_lease_is_refused(store: &Store) {
    let registry = store.registry.as_ref();
    let id = LeaseId(4711);
    let error = registry.txn(Txn::new().put("/t/a", "x").put_leased("/t/b", "x", id)).await.unwrap_err();
    assert_eq!(error, RegistryError::LeaseGone { id });
    assert!(registry.list("").await.unwrap().entries.is_empty());
}
