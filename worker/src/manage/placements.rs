//! What the registry says about this worker's placements, and how far it may be believed.

use policy::reconcile::{Action, newest_epoch};
use policy::{LeaderRecord, PlacementRecord, SCHEMA, VariantId};
use registry::{Key, Keys, Mirror, Registry, decode};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Follows the placements of one worker, and who leads.
pub(crate) struct Placements {
    keys: Keys,
    placements: Mirror,
    leader: Mirror,
}

/// The placements at one moment.
pub(crate) struct Seen {
    pub(crate) placements: Vec<PlacementRecord>,
    /// The newest epoch in them or remembered.
    pub(crate) newest: u64,
    /// Placements that are there but cannot be read.
    unreadable: BTreeSet<VariantId>,
    /// A leader of the newest epoch is there, so what is missing was taken away on purpose. Without one a wiped or restored
    /// registry would look the same as "nothing is wanted".
    is_led: bool,
}

impl Placements {
    pub(crate) fn follow(registry: &Arc<dyn Registry>, keys: &Keys, worker: &str) -> Self {
        let placements = Mirror::spawn(registry.clone(), &keys.placements_of(worker));
        Self { keys: keys.clone(), placements, leader: Mirror::spawn(registry.clone(), &keys.leader()) }
    }

    /// Resolves once both are known.
    pub(crate) async fn synced(&mut self) {
        drop(self.placements.synced().await);
        drop(self.leader.synced().await);
    }

    /// Resolves when either differs from the last look.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            () = self.placements.changed() => {}
            () = self.leader.changed() => {}
        }
    }

    /// What is there now.
    pub(crate) fn see(&self, remembered: u64) -> Seen {
        let (mut placements, mut unreadable) = (Vec::new(), BTreeSet::new());
        for entry in self.placements.snapshot().entries.values() {
            match decode::<PlacementRecord>(entry, SCHEMA) {
                Ok(placement) => placements.push(placement),
                Err(error) => {
                    tracing::warn!(%error, "placement cannot be read, what it names stays as it is");
                    if let Some(Key::Placement { variant, .. }) = self.keys.parse(&entry.key) {
                        unreadable.extend(VariantId::parse(variant));
                    }
                }
            }
        }
        let newest = newest_epoch(remembered, &placements);
        let leaders = self.leader.snapshot();
        let is_led = leaders.entries.values().any(|e| decode::<LeaderRecord>(e, SCHEMA).is_ok_and(|leader| leader.epoch >= newest));
        Seen { placements, newest, unreadable, is_led }
    }
}

impl Seen {
    /// May this be done on the strength of what was seen?
    pub(crate) fn allows(&self, action: &Action) -> bool {
        match action {
            Action::Unload(variant) => self.is_led && !self.unreadable.contains(variant),
            Action::Load(_) | Action::Reload(_) | Action::IgnoreStale { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::{Embedded, Txn};

    #[tokio::test]
    async fn i2_an_emptied_registry_without_a_leader_unloads_nothing() {
        let registry: Arc<dyn Registry> = Arc::new(Embedded::open(None).unwrap());
        let keys = Keys::new("c");
        let mut followed = Placements::follow(&registry, &keys, "w");
        followed.synced().await;
        let variant = VariantId::parse("m:1:fp32@ort").unwrap();
        let unload = Action::Unload(variant.clone());
        assert!(!followed.see(7).allows(&unload), "nobody leads");
        let lead = |epoch| Txn::new().put(keys.leader(), format!(r#"{{"schema":1,"id":"x","epoch":{epoch}}}"#));
        registry.txn(lead(6)).await.unwrap();
        followed.changed().await;
        assert!(!followed.see(7).allows(&unload), "an older leader cannot have taken it away");
        registry.txn(lead(7)).await.unwrap();
        followed.changed().await;
        assert!(followed.see(7).allows(&unload));
        registry.txn(Txn::new().put(keys.placement("w", &variant.to_string()), "junk")).await.unwrap();
        followed.changed().await;
        assert!(!followed.see(7).allows(&unload), "what cannot be read is not what is gone");
    }
}
