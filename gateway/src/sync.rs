//! Keeps the routing table equal to the registry, and the snapshot equal to the table.

use crate::shard::Core;
use crate::snapshot;
use crate::table::Table;
use registry::{Entry, Key, Mirror};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A burst of changes shares one snapshot.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(500);

/// Puts the snapshot's table in place, if there is one: what a gateway serves until the registry answers.
pub(crate) fn install_snapshot(core: &Core) {
    let root = core.config.keys.root();
    let Some(entries) = core.config.snapshot.as_deref().and_then(|path| snapshot::read(path, root)) else { return };
    let table = build(core, &entries);
    tracing::info!(models = table.models.len(), workers = table.workers.len(), "serving from the snapshot until the registry answers");
    core.install(table);
}

/// Follows the registry for ever: the table at once, the snapshot a little later.
pub(crate) async fn follow(core: Arc<Core>, mut mirror: Mirror) {
    let mut state = mirror.synced().await;
    let mut write_at = tokio::time::Instant::now();
    let mut written = false;
    loop {
        core.install(build(&core, &state.entries));
        loop {
            tokio::select! {
                () = mirror.changed() => break,
                () = tokio::time::sleep_until(write_at), if !written => {
                    write_snapshot(&core, &state.entries).await;
                    (written, write_at) = (true, tokio::time::Instant::now() + SNAPSHOT_EVERY);
                }
            }
        }
        state = mirror.snapshot();
        written = false;
    }
}

async fn write_snapshot(core: &Core, entries: &BTreeMap<String, Entry>) {
    let Some(path) = core.config.snapshot.clone() else { return };
    let (root, entries) = (core.config.keys.root().to_owned(), routing_records(core, entries));
    let written = tokio::task::spawn_blocking(move || snapshot::write(&path, &root, &entries)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(%error, "snapshot cannot be written, serving on without");
    }
}

fn build(core: &Core, entries: &BTreeMap<String, Entry>) -> Table {
    let here = (core.config.site.as_str(), core.config.zone.as_str());
    Table::build(entries, &core.config.keys, here, &core.metrics, &core.table.load())
}

/// The records a table is built from.
fn routing_records(core: &Core, entries: &BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let routing = |key: &str| {
        matches!(
            core.config.keys.parse(key),
            Some(
                Key::Worker { .. } | Key::Replica { .. } | Key::Model { .. } | Key::Plan { .. } | Key::Rollout { .. } | Key::Version { .. }
            )
        )
    };
    entries.iter().filter(|(key, _)| routing(key)).map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

impl Core {
    /// Can it serve? It has a table, is not going down, and of the models that could be served at least one is.
    /// The registry does not come into it (I2).
    pub(crate) fn is_ready(&self) -> bool {
        let table = self.table.load();
        if !table.is_built || self.is_draining() {
            return false;
        }
        let mut servable = table.models.values().filter(|m| m.is_wanted() && !m.versions.is_empty()).peekable();
        servable.peek().is_none() || servable.any(|m| m.versions.values().any(|v| v.can_be_asked()))
    }
}
