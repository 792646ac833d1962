use super::*;
use crate::{ExecutionProvider, ModelName, SCHEMA, Unknown, VariantName, Version, WorkerId};
use proptest::prelude::*;

fn variant(n: u8) -> VariantId {
    let (name, version) = (VariantName::new("fp32@ort").unwrap(), Version::try_from(1).unwrap());
    VariantId { model: ModelName::new(format!("m{n}")).unwrap(), version, name }
}

fn artifact(n: u8) -> Digest {
    Digest::new(format!("{n:064x}")).unwrap()
}

fn placement(model: u8, epoch: u64, content: u8, generation: u64) -> PlacementRecord {
    PlacementRecord {
        schema: SCHEMA,
        worker: WorkerId::new("w").unwrap(),
        variant: variant(model),
        device: "cpu".to_owned(),
        epoch,
        artifact: artifact(content),
        provider: ExecutionProvider::Cpu,
        fallback: None,
        instances: None,
        since_s: None,
        latency_target_us: None,
        generation,
        unknown: Unknown::new(),
    }
}

fn loaded(model: u8, content: u8, generation: u64, state: ReplicaState) -> Loaded {
    Loaded { variant: variant(model), artifact: artifact(content), generation, state }
}

/// A worker that does at once what it is told.
fn perform(worker: &mut Vec<Loaded>, actions: &[Action]) {
    for action in actions {
        match action {
            Action::Load(p) | Action::Reload(p) => {
                worker.retain(|l| l.variant != p.variant);
                let (variant, artifact) = (p.variant.clone(), p.artifact.clone());
                worker.push(Loaded { variant, artifact, generation: p.generation, state: ReplicaState::Ready });
            }
            Action::Unload(variant) => worker.retain(|l| l.variant != *variant),
            Action::IgnoreStale { .. } => {}
        }
    }
}

#[test]
fn a_new_leader_that_changes_nothing_moves_nothing() {
    let have = [loaded(1, 1, 0, ReplicaState::Ready)];
    assert_eq!(reconcile(&[placement(1, 5, 1, 0)], &have, 5), []);
    assert_eq!(reconcile(&[placement(1, 6, 1, 0)], &have, 6), []);
    assert_eq!(reconcile(&[placement(1, 5, 1, 0)], &have, 6), [], "not rewritten yet: stays loaded");
}

#[test]
fn a_failed_replica_waits_for_a_new_generation() {
    let failed = [loaded(1, 1, 0, ReplicaState::Failed("no".to_owned()))];
    assert_eq!(reconcile(&[placement(1, 5, 1, 0)], &failed, 5), []);
    assert_eq!(reconcile(&[placement(1, 5, 1, 1)], &failed, 5), [Action::Reload(placement(1, 5, 1, 1))]);
}

#[test]
fn unloads_come_first() {
    let have = [loaded(9, 1, 0, ReplicaState::Ready)];
    let actions = reconcile(&[placement(1, 5, 1, 0)], &have, 5);
    assert_eq!(actions, [Action::Unload(variant(9)), Action::Load(placement(1, 5, 1, 0))]);
}

#[test]
fn the_epoch_outlives_a_wiped_registry() {
    assert_eq!(next_epoch(40, [3, 7].into_iter()), 40);
    assert_eq!(next_epoch(2, [3, 7].into_iter()), 8, "revisions started again");
    assert_eq!(next_epoch(1, std::iter::empty()), 1);
    assert_eq!(next_epoch(-1, [u64::MAX].into_iter()), u64::MAX);
}

prop_compose! {
    fn any_placement()(model in 0u8..4, epoch in 0u64..6, content in 0u8..3, generation in 0u64..3) -> PlacementRecord {
        placement(model, epoch, content, generation)
    }
}

/// What happens at a worker's watch, in any order: leaders of any epoch write and delete, fenced or not.
#[derive(Debug, Clone)]
enum Event {
    Written(Box<PlacementRecord>),
    Deleted(u8),
    Looked,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![any_placement().prop_map(|p| Event::Written(Box::new(p))), (0u8..4).prop_map(Event::Deleted), Just(Event::Looked)]
}

fn write(placements: &mut Vec<PlacementRecord>, new: PlacementRecord) {
    placements.retain(|p| p.variant != new.variant);
    placements.push(new);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn i3_stale_epoch_is_never_acted_on(events in prop::collection::vec(any_event(), 0..40)) {
        let (mut placements, mut worker) = (Vec::new(), Vec::new());
        let (mut newest, mut seen) = (0, 0);
        for event in events {
            match event {
                Event::Written(p) => write(&mut placements, *p),
                Event::Deleted(model) => placements.retain(|p| p.variant != variant(model)),
                Event::Looked => {
                    newest = newest_epoch(newest, &placements);
                    seen = placements.iter().map(|p| p.epoch).fold(seen, u64::max); // the rule, spelled again
                    let before = worker.clone();
                    let actions = reconcile(&placements, &worker, newest);
                    for action in &actions {
                        match action {
                            Action::Load(p) | Action::Reload(p) => prop_assert!(p.epoch >= seen),
                            Action::Unload(v) => prop_assert!(placements.iter().all(|p| p.variant != *v), "{v} has a placement"),
                            Action::IgnoreStale { variant: v, epoch, newest } => {
                                prop_assert!(*epoch < seen && *newest == seen);
                                let one = |list: &[Loaded]| list.iter().find(|l| l.variant == *v).cloned();
                                perform(&mut worker, &actions);
                                prop_assert_eq!(one(&worker), one(&before));
                            }
                        }
                    }
                    perform(&mut worker, &actions);
                }
            }
        }
    }

    #[test]
    fn doing_it_leaves_nothing_to_do(placements in prop::collection::vec(any_placement(), 0..6), have in prop::collection::vec((0u8..6, 0u8..3, 0u64..3), 0..6)) {
        let mut wanted = Vec::new();
        placements.into_iter().for_each(|p| write(&mut wanted, p));
        let mut worker: Vec<Loaded> = Vec::new();
        for (model, content, generation) in have {
            worker.retain(|l| l.variant != variant(model));
            worker.push(loaded(model, content, generation, ReplicaState::Ready));
        }
        let newest = newest_epoch(0, &wanted);
        let actions = reconcile(&wanted, &worker, newest);
        perform(&mut worker, &actions);
        let again = reconcile(&wanted, &worker, newest);
        prop_assert!(again.iter().all(|a| matches!(a, Action::IgnoreStale { .. })), "{again:?}");

        // The new leader rewrites what it keeps: then all is as wanted, and nothing else is there.
        wanted.iter_mut().for_each(|p| p.epoch = 9);
        let actions = reconcile(&wanted, &worker, 9);
        perform(&mut worker, &actions);
        prop_assert_eq!(reconcile(&wanted, &worker, 9), []);
        prop_assert_eq!(worker.len(), wanted.len());
    }
}
