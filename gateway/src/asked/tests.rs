use super::*;
use crate::testing::{Content, digest, model, replica, version, worker};
use policy::card::Metric;
use policy::{Code, ModelRecord, ReplicaRecord, ReplicaState, Slo, TenantDefaults, VariantId, VariantName, VariantRecord, VersionState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A version with its reference and an int8 variant of accuracy .98, both ready; the model's record is this.
fn served(asked: &ModelRecord) -> Arc<ModelVersion> {
    let int8 = VariantRecord {
        name: VariantName::new("int8@ort").unwrap(),
        artifact: digest(),
        files: vec![],
        model_file: "model.onnx".into(),
        hint: None,
        bytes_resident: 1,
        accuracy: 0.98,
        metric: Metric::Agreement,
        data: digest(),
        needs: vec![],
        sample: BTreeMap::new(),
    };
    let mut record = version(1, VersionState::Valid);
    record.variants = vec![int8];
    let other = |name: &str| ReplicaRecord { variant: VariantId::parse(name).unwrap(), ..replica("w", 1, 1, ReplicaState::Ready) };
    let content = Content::default().worker(&worker("w", 1)).version(&record).replica(&replica("w", 1, 1, ReplicaState::Ready));
    let content = content.replica(&other("m:1:int8@ort")).replica(&other("m:1:odd@ort"));
    let table = content.put(Content::keys().model("m"), asked).table();
    table.resolve("m", "").unwrap().clone()
}

fn request(parameters: &[(&str, Param)]) -> Envelope {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Envelope { model: "m".into(), parameters, ..Envelope::default() }
}

fn allowed(version: &ModelVersion, envelope: &Envelope, headers: &Headers, tenant: &str) -> Result<Vec<String>, Failure> {
    let asked = Asked::of(version, envelope, headers, tenant)?;
    let mut names: Vec<_> = version.replicas.iter().filter(|r| asked.allows(r)).map(|r| r.variant.name.to_string()).collect();
    names.sort();
    Ok(names)
}

#[test]
fn a_floor_lets_only_those_answer_that_are_known_to_meet_it() {
    let version = served(&model(true));
    let by = |floor: Param| allowed(&version, &request(&[("sluice_min_accuracy", floor)]), &Headers::default(), "t");
    let all = allowed(&version, &request(&[]), &Headers::default(), "t").unwrap();
    assert_eq!(all, ["fp32@ort", "int8@ort", "odd@ort"]);
    assert_eq!(by(Param::Double(0.98)).unwrap(), ["fp32@ort", "int8@ort"], "of the third nothing is known");
    assert_eq!(by(Param::String("0".into())).unwrap(), ["fp32@ort", "int8@ort"]);
    assert_eq!(by(Param::Int64(1)).unwrap(), ["fp32@ort"]);
}

#[test]
fn the_models_floor_holds_where_a_request_says_none_and_counts_only_what_it_asks_for() {
    let with = |slo: Slo| served(&ModelRecord { slo, ..model(true) });
    let floor = Slo { min_accuracy: Some(0.9), ..Slo::default() };
    let plain = |version: &ModelVersion| allowed(version, &request(&[]), &Headers::default(), "t").unwrap();
    assert_eq!(plain(&with(floor.clone())), ["fp32@ort", "int8@ort"]);
    assert_eq!(plain(&with(Slo { accuracy_metric: Some(Metric::Labels), ..floor.clone() })), ["fp32@ort"]);
    let other = policy::Digest::new("1".repeat(64)).unwrap();
    assert_eq!(plain(&with(Slo { accuracy_data: Some(other), ..floor })), ["fp32@ort"]);
}

#[test]
fn parameters_go_before_headers_before_the_tenant_before_the_model() {
    let tenants = BTreeMap::from([("blue".to_owned(), TenantDefaults { latency_ms: Some(30), min_accuracy: Some(0.99) })]);
    let slo = Slo { latency_ms: Some(40), min_accuracy: Some(0.5), ..Slo::default() };
    let version = served(&ModelRecord { slo, tenants, ..model(true) });
    let mut map = HeaderMap::new();
    map.insert("sluice-latency-ms", HeaderValue::from_static("20"));
    map.insert("sluice-min-accuracy", HeaderValue::from_static("0.97"));
    let headers = Headers::of(&map);
    let ask = |parameters: &[(&str, Param)], headers: &Headers, tenant| {
        let asked = Asked::of(&version, &request(parameters), headers, tenant).unwrap();
        (asked.latency_us.unwrap(), asked.min_accuracy.unwrap())
    };
    let parameters = [("sluice_latency_ms", Param::Double(10.5)), ("sluice_min_accuracy", Param::Int64(1))];
    assert_eq!(ask(&parameters, &headers, "blue"), (10_500.0, 1.0));
    assert_eq!(ask(&[], &headers, "blue"), (20_000.0, 0.97));
    assert_eq!(ask(&[], &Headers::default(), "blue"), (30_000.0, 0.99));
    assert_eq!(ask(&[], &Headers::default(), "red"), (40_000.0, 0.5));
}

#[test]
fn a_pin_goes_before_what_is_offered_and_a_floor_before_a_pin() {
    let only = ModelRecord { variants: vec![VariantName::new("fp32@ort").unwrap()], ..model(true) };
    let version = served(&only);
    let pin = ("sluice_variant", Param::String("int8@ort".into()));
    assert_eq!(allowed(&version, &request(&[]), &Headers::default(), "t").unwrap(), ["fp32@ort"]);
    assert_eq!(allowed(&version, &request(std::slice::from_ref(&pin)), &Headers::default(), "t").unwrap(), ["int8@ort"]);
    let mut map = HeaderMap::new();
    map.insert("sluice-variant", HeaderValue::from_static("int8@ort"));
    assert_eq!(allowed(&version, &request(&[]), &Headers::of(&map), "t").unwrap(), ["int8@ort"]);
    let failure = allowed(&version, &request(&[pin, ("sluice_min_accuracy", Param::Double(0.99))]), &Headers::default(), "t").unwrap_err();
    let says = "no variant of model `m` that is ready is known to be as accurate as 0.99: the best is 0.9800";
    assert_eq!((failure.wire().0, failure.to_string().as_str()), (Code::Unavailable, says));
}

#[test]
fn what_cannot_be_asked_is_said() {
    let version = served(&model(true));
    let wrong = |name: &str, value: Param| {
        let failure = allowed(&version, &request(&[(name, value)]), &Headers::default(), "t").unwrap_err();
        assert_eq!(failure.wire().0, Code::InvalidArgument);
        failure.to_string()
    };
    assert_eq!(wrong("sluice_min_accuracy", Param::Double(1.5)), "parameter `sluice_min_accuracy`: 1.5: expected a number, 0 to 1");
    for junk in [Param::Double(f64::NAN), Param::Bool(true), Param::String("most".into()), Param::Int64(-1)] {
        wrong("sluice_min_accuracy", junk);
    }
    for junk in [Param::Int64(0), Param::Double(f64::INFINITY), Param::Uint64(u64::MAX)] {
        wrong("sluice_latency_ms", junk);
    }
    let pin = |value| allowed(&version, &request(&[("sluice_variant", value)]), &Headers::default(), "t").unwrap_err().wire().0;
    assert_eq!((pin(Param::Int64(1)), pin(Param::String("x@ort".into()))), (Code::InvalidArgument, Code::NotFound));
}
