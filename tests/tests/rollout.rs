//! A version takes over from another, or does not, under load.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

use serde_json::Value;
use std::time::{Duration, Instant};
use tests::{Kit, Sluice, until};

/// Longest wait for the end of a rollout whose two steps take 2 seconds each.
const END_MAX: Duration = Duration::from_secs(90);

fn get(kit: &Kit, kind: &str, admin: &str) -> Vec<Value> {
    let (code, said, error) = kit.run(&["get", kind, "-o", "json", "--server", admin]);
    assert_eq!(code, 0, "{error}");
    serde_json::from_str(&said).unwrap()
}

/// Rolls version 2 of `add_sub` out, which is `how` beside version 1, and gives the record of how that ended, and its row of a table.
fn roll_out(kit: &Kit, how: &str, remaining: &str) -> (Value, String) {
    let repository = tempfile::tempdir().unwrap();
    kit.add(repository.path(), "add_sub", "test/add_sub/1/model.onnx");
    let [first, second] = ["1", "2"].map(|version| repository.path().join("add_sub").join(version));
    std::fs::create_dir(&second).unwrap();
    let file = |folder: &std::path::Path| folder.join("model.onnx").to_str().unwrap().to_owned();
    kit.python("versions.py", &[&file(&first), &file(&second), how]);
    let up = Sluice::up(kit, repository.path(), &[]);
    let (grpc, admin) = (up.url("grpc"), up.url("admin"));
    let wanted = repository.path().join("wanted.toml");
    let text = "[[model]]\nname = \"add_sub\"\naliases = { stable = 1 }\n[model.rollout]\ncandidate = { version = 2 }\nnull_rate = 0.005\n\
                weights = [0.2, 1.0]\nshadow = 1.0\npairs_min = 50\nstep_s = 2\n";
    std::fs::write(&wanted, text).unwrap();
    let (code, said, error) = kit.run(&["apply", "-f", wanted.to_str().unwrap(), "--server", &admin]);
    assert!(code == 0 && said.contains("add_sub: ready"), "{said}{error}");
    let (began, mut record) = (Instant::now(), Value::Null);
    while record.pointer("/progress/end").is_none() {
        assert!(began.elapsed() < END_MAX, "{record:#}");
        let (code, said, error) = kit.run(&["load", "add_sub", "--url", &grpc, "-r", "200", "-w", "0", "-d", "2", "-n", "1"]);
        assert!(code == 0 && said.contains("errors 0"), "{said}{error}");
        record = get(kit, "rollouts", &admin).pop().unwrap_or_default();
    }
    until("the other version is unloaded", Duration::from_secs(30), || {
        let ready = get(kit, "replicas", &admin);
        ready.iter().all(|r| r["variant"].as_str().unwrap() == remaining)
    });
    let (code, _, error) = kit.run(&["load", "add_sub", "--url", &grpc, "-r", "50", "-w", "0", "-d", "1", "-n", "1"]);
    assert_eq!(code, 0, "what is left answers: {error}");
    let (_, table, _) = kit.run(&["get", "rollouts", "--server", &admin]);
    (record, table)
}

#[test]
fn a_version_that_disagrees_is_rolled_back_with_the_evidence() {
    let Some(kit) = Kit::find() else { return };
    let (record, table) = roll_out(&kit, "shifted", "add_sub:1:fp32@ort");
    let why = record["progress"]["end"]["rolled_back"].as_str().unwrap_or_else(|| panic!("{record:#}"));
    assert!(why.contains("compared pairs disagree (100.00 %), where 0.50 % are expected and 2.50 % are a fault"), "{why}");
    let evidence = record["progress"]["evidence"].as_array().unwrap().last().unwrap();
    assert!(evidence["verdict"] == "faulty" && evidence["pairs"]["compared"].as_u64() <= Some(1_000), "{evidence:#}");
    assert!(record["weight"] == 0.0 && table.contains("rolled_back"), "{table}");
}

#[test]
fn a_version_that_agrees_is_promoted_step_by_step() {
    let Some(kit) = Kit::find() else { return };
    let (record, table) = roll_out(&kit, "same", "add_sub:2:fp32@ort");
    assert_eq!(record["progress"]["end"], "promoted", "{record:#}");
    let evidence = record["progress"]["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), 2);
    for step in evidence {
        assert!(step["verdict"] == "holds" && step["rate"] == 0.0 && step["pairs"]["compared"].as_u64() >= Some(50), "{step:#}");
    }
    assert!(record["weight"] == 1.0 && table.contains("promoted"), "{table}");
}
