//! What operators are shown beside what records say themselves.

use super::Records;
use policy::plan::{drifts, standings};
use policy::{PlacementRecord, ProfileRecord};
use proto::sluice::Record;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// Placements, each with where its replica stands.
pub(super) fn placements(entries: impl Iterator<Item = Record>, records: &Records) -> Vec<Record> {
    let standings = standings(&records.observed);
    let by_place: BTreeMap<_, _> = standings.iter().map(|(placement, state)| ((&placement.worker, &placement.variant), state)).collect();
    let stands = |placement: &PlacementRecord| {
        let state = by_place.get(&(&placement.worker, &placement.variant))?;
        serde_json::to_value(state).ok()
    };
    entries.map(|record| with(record, stands)).collect()
}

/// Profiles; those that no longer hold with how many times as long as they say batches take.
pub(super) fn profiles(entries: impl Iterator<Item = Record>, records: &Records) -> Vec<Record> {
    let drifts = drifts(&records.observed);
    let off_by = |profile: &ProfileRecord| {
        let (_, times) = drifts.iter().find(|(known, _)| *known == profile)?;
        Some(serde_json::json!({ "off_by": (times * 100.0).round() / 100.0 }))
    };
    entries.map(|record| with(record, off_by)).collect()
}

/// A record with the fields that `more` has to say of it. One that cannot be read stays as it is.
fn with<T: DeserializeOwned>(record: Record, more: impl Fn(&T) -> Option<Value>) -> Record {
    let fields = serde_json::from_str::<Value>(&record.json).ok().and_then(|mut value| {
        let Value::Object(more) = more(&T::deserialize(&value).ok()?)? else { return None };
        value.as_object_mut()?.extend(more);
        Some(value)
    });
    Record { json: fields.map_or(record.json, |value| value.to_string()), ..record }
}

/// One record per variant: its accuracy, how fast it is on each device class, and where it stands.
pub(super) fn variants(records: &Records) -> Vec<Record> {
    let observed = &records.observed;
    let variant = |version: &policy::VersionRecord, runs: policy::Runs<'_>| {
        let name = policy::VariantId { model: version.model.clone(), version: version.version, name: runs.name.clone() };
        let replicas: BTreeMap<_, _> =
            observed.replicas.iter().filter(|r| r.variant == name).map(|r| (r.worker.as_str(), &r.state)).collect();
        let speed: BTreeMap<_, _> =
            observed.profiles.iter().filter(|p| p.is_of(&runs)).filter_map(|p| Some((p.class.as_str(), p.speed.as_ref()?))).collect();
        let beside = version.variants.iter().find(|v| v.name == *runs.name);
        let json = serde_json::json!({
            "schema": policy::SCHEMA, "variant": name.to_string(), "reference": beside.is_none(), "validation": version.state,
            "artifact": runs.artifact, "bytes_resident": runs.bytes_resident, "replicas": replicas, "hint": runs.hint,
            "accuracy": beside.map_or(1.0, |v| v.accuracy), "metric": beside.map(|v| v.metric), "speed": speed,
        });
        Record { key: format!("variants/{name}"), json: json.to_string(), revision: 0 }
    };
    let of_version = |version| policy::VersionRecord::runs(version).map(move |runs| (version, runs));
    observed.versions.iter().flat_map(of_version).map(|(version, runs)| variant(version, runs)).collect()
}
