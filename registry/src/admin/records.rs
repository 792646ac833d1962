//! The records of a cluster, read from what a mirror holds.

use policy::plan::{Observed, Wanted};
use policy::{LeaderRecord, ModelName, ModelRecord, PlanRecord};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

use crate::{Entry, Key, Keys, RegistryError, State, decode};

/// Everything that desired and observed state say at one revision. What cannot be read is left out and listed.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// What is there.
    pub observed: Observed,
    /// The models operators want or wanted, each with the revision of its record.
    pub models: BTreeMap<ModelName, (ModelRecord, i64)>,
    /// What the leader decided about models.
    pub plans: BTreeMap<ModelName, PlanRecord>,
    /// The leader, and the revision at which its election key was created.
    pub leader: Option<(LeaderRecord, i64)>,
    /// Records that could not be read.
    pub malformed: Vec<RegistryError>,
}

impl Records {
    /// Reads every record of the cluster that `state` holds.
    pub fn read(state: &State, keys: &Keys) -> Self {
        let mut records = Self::default();
        for entry in state.entries.values() {
            if let Err(error) = records.take(entry, keys) {
                records.malformed.push(error);
            }
        }
        // What was decided about another record of the model is of no interest: a change begins anew.
        let decided = records.models.keys().filter_map(|model| records.decided(model));
        records.observed.idle = decided.filter(|plan| !plan.idle.is_empty()).map(|plan| (plan.model.clone(), plan.idle)).collect();
        records
    }

    /// The desired state alone.
    pub fn wanted(&self) -> Wanted {
        Wanted { models: self.models.values().map(|(record, _)| record.clone()).collect() }
    }

    /// What the leader decided about this very model record; none while it has not seen it.
    pub fn decided(&self, model: &ModelName) -> Option<&PlanRecord> {
        let (_, revision) = self.models.get(model)?;
        self.plans.get(model).filter(|plan| plan.revision == *revision)
    }

    fn take(&mut self, entry: &Entry, keys: &Keys) -> Result<(), RegistryError> {
        // A record that does not stand where its own words say is refused: two of them could contradict each other.
        fn read<T: DeserializeOwned>(entry: &Entry, key: impl Fn(&T) -> String) -> Result<T, RegistryError> {
            let record = decode(entry, policy::SCHEMA)?;
            let key = key(&record);
            if key == entry.key {
                return Ok(record);
            }
            Err(RegistryError::Malformed { key: entry.key.clone(), cause: format!("it belongs at `{key}`") })
        }
        let observed = &mut self.observed;
        match keys.parse(&entry.key) {
            Some(Key::Worker { .. }) => observed.workers.push(read(entry, |r: &policy::WorkerRecord| keys.worker(r.id.as_str()))?),
            Some(Key::Replica { .. }) => {
                let key = |r: &policy::ReplicaRecord| keys.replica(r.worker.as_str(), &r.variant.to_string());
                observed.replicas.push(read(entry, key)?);
            }
            Some(Key::Placement { .. }) => {
                let key = |r: &policy::PlacementRecord| keys.placement(r.worker.as_str(), &r.variant.to_string());
                observed.placements.push(read(entry, key)?);
            }
            Some(Key::Version { .. }) => {
                let key = |r: &policy::VersionRecord| keys.version(r.model.as_str(), r.version.into());
                observed.versions.push(read(entry, key)?);
            }
            Some(Key::Holder { .. }) => {
                let key = |r: &policy::HolderRecord| keys.holder(r.artifact.as_str(), r.worker.as_str());
                observed.holders.push(read(entry, key)?);
            }
            Some(Key::Model { .. }) => {
                let record = read(entry, |r: &ModelRecord| keys.model(r.name.as_str()))?;
                self.models.insert(record.name.clone(), (record, entry.revision));
            }
            Some(Key::Plan { .. }) => {
                let record = read(entry, |r: &PlanRecord| keys.plan(r.model.as_str()))?;
                observed.rates.extend(record.rate.map(|rate| (record.model.clone(), rate)));
                self.plans.insert(record.model.clone(), record);
            }
            Some(Key::Demand { .. }) => observed.demands.push(read(entry, |r: &policy::DemandRecord| keys.demand(&r.gateway))?),
            Some(Key::Rollout { .. }) => {
                let record = read(entry, |r: &policy::RolloutRecord| keys.rollout(r.model.as_str()))?;
                observed.rollouts.insert(record.model.clone(), record);
            }
            Some(Key::Counts { .. }) => observed.counts.push(read(entry, |r: &policy::CountsRecord| keys.counts(&r.gateway))?),
            Some(Key::Leader) => self.leader = Some((decode(entry, policy::SCHEMA)?, entry.created)),
            Some(Key::Profile { .. }) => observed.profiles.push(decode(entry, policy::SCHEMA)?),
            Some(Key::Artifact { .. }) | None => {}
        }
        Ok(())
    }
}
