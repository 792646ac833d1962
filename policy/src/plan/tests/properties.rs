use super::*;
use proptest::prelude::*;

/// A change an operator, a host or a file makes.
#[derive(Debug, Clone)]
enum Event {
    NewVersion(usize, u64),
    NewArtifact(usize),
    Reload(usize),
    Replicas(usize, Option<u32>),
    Wanted(usize, bool),
    Drain(usize),
    Kill(usize),
    Join(u64),
    Break(usize, usize),
    Pass,
}

fn events(with_deaths: bool) -> impl Strategy<Value = Event> {
    let gentle = prop_oneof![
        (0usize..4, 1u64..60).prop_map(|(m, b)| Event::NewVersion(m, b)),
        (0usize..4).prop_map(Event::NewArtifact),
        (0usize..4).prop_map(Event::Reload),
        (0usize..4, prop_oneof![Just(None), (1u32..4).prop_map(Some)]).prop_map(|(m, r)| Event::Replicas(m, r)),
        (0usize..6).prop_map(Event::Drain),
        (10u64..120).prop_map(Event::Join),
        (0usize..4, 0usize..6).prop_map(|(m, w)| Event::Break(m, w)),
        Just(Event::Pass),
        Just(Event::Pass),
    ];
    let harsh = prop_oneof![(0usize..6).prop_map(Event::Kill), (0usize..4, any::<bool>()).prop_map(|(m, w)| Event::Wanted(m, w))];
    if with_deaths { prop_oneof![4 => gentle, 1 => harsh].boxed() } else { gentle.boxed() }
}

fn clusters() -> impl Strategy<Value = Sim> {
    let workers = prop::collection::vec((0u8..3, 0u8..2, 10u64..120), 1..6);
    let models = prop::collection::vec((1u64..60, prop_oneof![Just(None), (1u32..4).prop_map(Some)]), 1..5);
    (workers, models).prop_map(|(workers, models)| {
        let workers = workers.into_iter().enumerate().map(|(i, (host, zone, bytes))| {
            let mut w = worker(&format!("w{i}"), &format!("h{host}"), bytes);
            w.zone = format!("z{zone}");
            w
        });
        let versions = models.iter().enumerate().map(|(i, (bytes, _))| version(&format!("m{i}"), 1, i as u64 + 1, *bytes));
        let wanted = models.iter().enumerate().map(|(i, (_, replicas))| ModelRecord { replicas: *replicas, ..model(&format!("m{i}")) });
        Sim::new(workers.collect(), versions.clone().collect(), wanted.collect())
    })
}

/// Does one change; contents are numbered by `serial`, so that each artifact is new.
fn apply(sim: &mut Sim, event: &Event, serial: u64) {
    let models = sim.wanted.models.len();
    match event {
        Event::NewVersion(m, bytes) => {
            let name = format!("m{}", m % models);
            let known = sim.observed.versions.iter().filter(|v| v.model.as_str() == name).count() as u64;
            let new = version(&name, known + 1, serial, *bytes);
            sim.add_version(new);
        }
        Event::NewArtifact(m) => {
            let name = format!("m{}", m % models);
            let record = sim.observed.versions.iter_mut().rfind(|v| v.model.as_str() == name).unwrap();
            record.artifact = version(&name, 1, serial, 1).artifact;
            sim.really.insert(record.artifact.clone(), record.bytes_resident);
        }
        Event::Reload(m) => sim.wanted.models[m % models].generation += 1,
        Event::Replicas(m, replicas) => sim.wanted.models[m % models].replicas = *replicas,
        Event::Wanted(m, wanted) => sim.wanted.models[m % models].wanted = *wanted,
        Event::Drain(w) => {
            let draining = sim.observed.workers.get_mut(*w);
            draining.into_iter().for_each(|w| w.draining = !w.draining);
        }
        Event::Kill(w) => {
            let id = sim.observed.workers.get(*w).map(|w| w.id.clone());
            id.into_iter().for_each(|id| sim.kill(&id));
        }
        Event::Join(bytes) => sim.observed.workers.push(worker(&format!("j{serial}"), &format!("j{serial}"), *bytes)),
        Event::Break(m, w) => {
            let artifact = sim.observed.versions[m % sim.observed.versions.len()].artifact.clone();
            let id = sim.observed.workers.get(*w).map(|w| w.id.clone());
            sim.bad.extend(id.map(|id| (artifact, id)));
        }
        Event::Pass => {}
    }
}

/// Runs events with workers of varying luck, looking after every step.
fn run(sim: &mut Sim, events: &[(Event, u64)], mut look: impl FnMut(&Sim)) {
    for (serial, (event, luck)) in events.iter().enumerate() {
        apply(sim, event, 1000 + serial as u64);
        let mut luck = *luck | 1;
        for _ in 0..3 {
            sim.plan();
            look(sim);
            sim.work(|| {
                luck = luck.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                luck >> 62 != 0
            });
            look(sim);
        }
    }
}

fn promised(sim: &Sim) {
    sim.check_memory();
    for w in &sim.observed.workers {
        let here = sim.plan.placements.iter().filter(|p| p.worker == w.id);
        let bytes: u64 = here.filter_map(|p| sim.really.get(&p.artifact)).sum();
        let marks = sim.observed.replicas.iter().filter(|r| r.worker == w.id && matches!(r.state, crate::ReplicaState::Failed(_))).count();
        assert!(marks > 0 || bytes <= w.devices[0].memory_bytes, "{}: {bytes} promised of {}", w.id, w.devices[0].memory_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn i8_promised_bytes_never_exceed_a_device(mut sim in clusters(), events in prop::collection::vec((events(true), any::<u64>()), 0..14)) {
        run(&mut sim, &events, promised);
    }

    #[test]
    fn i1_last_routable_replica_is_kept_until_successor_is_ready(mut sim in clusters(), events in prop::collection::vec((events(false), any::<u64>()), 0..14)) {
        let mut was_ready = vec![false; sim.wanted.models.len()];
        run(&mut sim, &events, |sim| {
            for (i, was) in was_ready.iter_mut().enumerate() {
                let ready = !sim.ready(&format!("m{i}"), None).is_empty();
                assert!(ready || !*was, "m{i} was routable and nobody died");
                *was |= ready;
            }
        });
    }

    #[test]
    fn left_alone_a_cluster_settles(mut sim in clusters(), events in prop::collection::vec((events(true), any::<u64>()), 0..14)) {
        run(&mut sim, &events, |_| {});
        prop_assert!(sim.settle() <= 40);
        // Settled: each model is served as wanted, or there is a reason.
        sim.plan();
        for m in sim.wanted.models.iter().filter(|m| m.wanted) {
            let progress = progress_of(&sim, m.name.as_str());
            let fine = matches!(&progress, Progress::Ready(_) | Progress::Failed(_));
            let stuck = matches!(&progress, Progress::Waiting(why) if why.contains("no worker is alive") || why.contains("draining"));
            prop_assert!(fine || stuck, "{}: {progress:?}", m.name);
        }
    }

    #[test]
    fn the_order_of_what_is_observed_does_not_matter(mut sim in clusters(), events in prop::collection::vec((events(true), any::<u64>()), 0..8), seed in any::<u64>()) {
        run(&mut sim, &events, |_| {});
        sim.plan();
        let (mut observed, mut wanted) = (sim.observed.clone(), sim.wanted.clone());
        shuffle(&mut observed.workers, seed);
        shuffle(&mut observed.versions, seed);
        shuffle(&mut observed.replicas, seed);
        shuffle(&mut observed.placements, seed);
        shuffle(&mut wanted.models, seed);
        prop_assert_eq!(plan(&observed, &wanted, 7, &mut || true), plan(&sim.observed, &sim.wanted, 7, &mut || true));
    }

    #[test]
    fn with_two_hosts_that_have_room_no_model_lives_on_one(mut sim in clusters()) {
        for w in &mut sim.observed.workers {
            w.devices[0].memory_bytes = 1000;
        }
        sim.wanted.models.iter_mut().for_each(|m| m.replicas = None);
        sim.settle();
        let host = |id: &str| sim.observed.workers.iter().find(|w| w.id.as_str() == id).unwrap().host.clone();
        let hosts: std::collections::BTreeSet<_> = sim.observed.workers.iter().map(|w| w.host.clone()).collect();
        let zones: std::collections::BTreeSet<_> = sim.observed.workers.iter().map(|w| w.zone.clone()).collect();
        for m in &sim.wanted.models {
            let on: std::collections::BTreeSet<_> = sim.ready(m.name.as_str(), None).iter().map(|id| host(id)).collect();
            // Two zones come first; in this generator they may share a host's name.
            prop_assert!(on.len() == hosts.len().min(2) || zones.len() == 2, "{on:?} of {hosts:?}");
        }
    }
}

fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut state = seed | 1;
    for i in (1..list.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        list.swap(i, (state >> 33) as usize % (i + 1));
    }
}
