//! Variants beside the reference.

use super::*;
use crate::card::Metric;
use crate::profile::SpeedVerdict;
use crate::{PrecisionHint, ProfileRecord, VariantRecord};

/// `m:1` with a variant of `bytes` beside its reference of 10, artifact 7.
pub(super) fn with_variant(name: &str, bytes: u64, hint: Option<PrecisionHint>) -> VersionRecord {
    let artifact = Digest::new(format!("{:064x}", 7)).unwrap();
    let variant = VariantRecord {
        name: VariantName::new(name).unwrap(),
        artifact: artifact.clone(),
        files: Vec::new(),
        model_file: "model.onnx".to_owned(),
        hint,
        bytes_resident: bytes,
        accuracy: 0.99,
        metric: Metric::Cosine,
        data: artifact,
        needs: Vec::new(),
        sample: BTreeMap::new(),
    };
    VersionRecord { variants: vec![variant], ..version("m", 1, 1, 10) }
}

fn profile(class: &str, engine: &str, speed: SpeedVerdict) -> ProfileRecord {
    let json = serde_json::json!({
        "artifact": format!("{:064x}", 7), "class": class, "engine": engine, "threads": 1, "alpha_us": 1.0, "beta_us": 0.0,
        "bytes_resident": 0, "load_ms": 1, "speed": speed,
    });
    serde_json::from_value(json).unwrap()
}

pub(super) fn kept() -> SpeedVerdict {
    SpeedVerdict::Kept { speedup: 2.0 }
}

pub(super) fn refused() -> SpeedVerdict {
    SpeedVerdict::Refused { speedup: 0.5, reason: "slower".to_owned() }
}

/// Workers on which the variant called `name` is ready.
pub(super) fn ready(sim: &Sim, name: &str) -> Vec<String> {
    let replicas = sim.observed.replicas.iter().filter(|r| r.variant.name.as_str() == name && r.state == crate::ReplicaState::Ready);
    replicas.map(|r| r.worker.to_string()).collect()
}

fn sim(workers: Vec<WorkerRecord>, version: VersionRecord, profiles: Vec<ProfileRecord>) -> Sim {
    let mut sim = Sim::new(workers, vec![version], vec![model("m")]);
    sim.observed.profiles = profiles;
    sim.settle();
    sim
}

#[test]
fn a_variant_goes_where_a_profile_of_that_class_and_engine_says_that_it_pays() {
    let workers = || {
        let mut other = worker("b", "hb", 99);
        other.devices[0].class = "d".to_owned();
        vec![worker("a", "ha", 99), other]
    };
    let check = |profiles: Vec<ProfileRecord>, expected: &[&str]| {
        let sim = sim(workers(), with_variant("int8@ort", 5, None), profiles);
        assert_eq!(ready(&sim, "fp32@ort"), ["a", "b"], "the reference needs no profile");
        assert_eq!(ready(&sim, "int8@ort"), expected);
        assert_eq!(reasons(&sim), [""; 0]);
    };
    check(vec![], &[]);
    check(vec![profile("c", "onnxruntime 1", kept())], &["a"]);
    check(vec![profile("c", "onnxruntime 1", kept()), profile("d", "onnxruntime 1", kept())], &["a", "b"]);
    check(vec![profile("c", "onnxruntime 1", refused()), profile("d", "onnxruntime 1", kept())], &["b"]);
    check(vec![profile("c", "openvino 1", kept())], &[]);
    let hinted = sim(workers(), with_variant("bf16@ort", 5, Some(PrecisionHint::Bf16)), vec![profile("c", "onnxruntime 1", kept())]);
    assert_eq!(ready(&hinted, "bf16@ort"), [""; 0], "measured in another precision");
}

#[test]
fn references_get_memory_before_other_variants() {
    let mut sim = Sim::new(
        vec![worker("a", "h", 25)],
        vec![with_variant("int8@ort", 10, None), version("n", 1, 2, 10)],
        vec![model("m"), model("n")],
    );
    sim.observed.profiles = vec![profile("c", "onnxruntime 1", kept())];
    sim.settle();
    assert_eq!((sim.ready("m", None), sim.ready("n", None)), (vec!["a".to_owned()], vec!["a".to_owned()]));
    assert_eq!(ready(&sim, "int8@ort"), [""; 0]);
    assert_eq!(reasons(&sim), ["needs 10 B, no device it may use has more than 5 B free"]);
    assert_eq!(progress_of(&sim, "m"), Progress::Ready("needs 10 B, no device it may use has more than 5 B free".to_owned()));
}

#[test]
fn a_variant_that_pays_no_more_goes_and_the_reference_stays() {
    let mut sim = sim(vec![worker("a", "h", 99)], with_variant("int8@ort", 5, None), vec![profile("c", "onnxruntime 1", kept())]);
    assert_eq!(ready(&sim, "int8@ort"), ["a"]);
    sim.observed.profiles = vec![profile("c", "onnxruntime 2", refused())];
    sim.settle();
    assert_eq!((ready(&sim, "int8@ort"), ready(&sim, "fp32@ort")), (vec![], vec!["a".to_owned()]));
}

#[test]
fn i1_a_variant_of_the_next_version_does_not_relieve_the_last_reference() {
    let mut sim = sim(vec![worker("a", "h", 99)], with_variant("int8@ort", 5, None), vec![profile("c", "onnxruntime 1", kept())]);
    let mut next = with_variant("int8@ort", 5, None);
    (next.version, next.artifact) = (Version::try_from(2).unwrap(), Digest::new(format!("{:064x}", 2)).unwrap());
    sim.bad.insert((next.artifact.clone(), WorkerId::new("a").unwrap()));
    sim.really.insert(next.artifact.clone(), 10);
    sim.observed.versions.push(next);
    sim.settle();
    let old = sim.observed.replicas.iter().any(|r| r.variant.to_string() == "m:1:fp32@ort" && r.state == crate::ReplicaState::Ready);
    assert!(old, "version 2 has only its variant: {:?}", ready(&sim, "int8@ort"));
}
