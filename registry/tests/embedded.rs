//! The contract of a registry, kept by the embedded one: in memory, and with a journal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "all of this file is a test")]

#[macro_use]
mod contract;

use std::sync::Arc;
use std::time::Duration;

use contract::Store;
use registry::{RegistryConfig, open};

mod in_memory {
    use super::*;

    async fn store() -> Option<Store> {
        let registry = open(RegistryConfig::Embedded { data_dir: None }).unwrap();
        Some(Store { registry, ttl: Duration::from_secs(15), _host: Box::new(()) })
    }

    contract!([tokio::test(start_paused = true)] store);
}

mod with_a_journal {
    use super::*;

    async fn store() -> Option<Store> {
        let dir = tempfile::tempdir().unwrap();
        let registry = open(RegistryConfig::Embedded { data_dir: Some(dir.path().to_path_buf()) }).unwrap();
        Some(Store { registry, ttl: Duration::from_secs(15), _host: Box::new(dir) })
    }

    contract!([tokio::test(start_paused = true)] store);
}

#[tokio::test]
async fn a_mirror_keeps_its_registry_open() {
    let registry = open(RegistryConfig::Embedded { data_dir: None }).unwrap();
    let alive = Arc::downgrade(&registry);
    let mut mirror = registry::Mirror::spawn(registry, "/");
    mirror.synced().await;
    assert!(alive.upgrade().is_some());
}
