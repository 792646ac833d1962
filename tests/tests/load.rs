//! `sluice load` against a running server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a wrong assumption should stop the test where it is"
)]

use tests::{Kit, Sluice};

#[test]
fn load_measures_over_both_protocols_and_says_what_cannot_be_sent() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub"]);
    let up = Sluice::up(&kit, repository.path(), &[]);
    let (grpc, http) = (up.url("grpc"), up.url("http"));
    let file = |name: &str| repository.path().join(name).to_str().unwrap().to_owned();
    let (json, svg, hdr) = (file("out.json"), file("out.svg"), file("out.hlog"));
    let files = ["--json", &json, "--svg", &svg, "--hdr", &hdr];
    let compare =
        ["load", "add_sub", "--url", &grpc, "--compare", &http, "--compare-protocol", "rest", "--ask", "model = \"add_sub\", rows = 2"];
    let (code, said, error) = kit.run(&[&compare[..], &["-r", "100", "-w", "0.2", "-d", "1", "-n", "2"], &files].concat());
    assert_eq!(code, 0, "{said}{error}");
    assert!(said.contains("second over first") && said.contains("add_sub × 2 rows"), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for target in figures["targets"].as_array().unwrap() {
        assert_eq!(target["repeats"].as_array().unwrap().len(), 2);
        for report in target["repeats"].as_array().unwrap() {
            assert!(report["answered"] == report["offered"] && report["answered"].as_u64() > Some(50), "{report}");
        }
    }
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    assert!(std::fs::read_to_string(&hdr).unwrap().contains("Tag=second,"));

    let trace = file("trace.csv");
    assert_eq!(kit.run(&["load", "add_sub", "-r", "200", "-w", "0", "-d", "0.5", "--write-trace", &trace]).0, 0);
    let (code, said, error) = kit.run(&["load", "--url", &grpc, "--trace", &trace]);
    assert!(code == 0 && said.contains("replay of ") && said.contains("errors 0"), "{said}{error}");
    std::fs::write(&trace, "0.1,add_sub\n0.2,add_sub,,many\n").unwrap();

    let check = |args: &[&str], code: i32, says: &[&str]| {
        let (got, said, error) = kit.run(&[&["load"], args].concat());
        assert!(got == code && says.iter().all(|says| error.contains(says)), "{args:?}: {got}: {said}{error}");
    };
    check(&["--url", &grpc, "--trace", &trace], 2, &["trace.csv: line 2, column 14: \"many\""]);
    check(&["add_sub", "--url", "http://127.0.0.1:1"], 1, &["nothing answers at http://127.0.0.1:1: Connection refused"]);
    check(&["nobody", "--url", &grpc], 1, &["model nobody at ", "nobody"]);
    check(&["nobody", "--url", &http, "--protocol", "rest"], 1, &["model nobody at ", "nobody"]);
    check(&["add_sub", "--url", "https://h", "-r", "0", "-d", "0", "-n", "0"], 2, &["https is not", "rate 0", "duration 0", "repeats 0"]);
    check(&[], 2, &["no model"]);
}

#[test]
fn a_running_cluster_is_a_fleet_to_simulate() {
    let Some(kit) = Kit::find() else { return };
    let repository = kit.repository(&["test/add_sub", "test/slow"]);
    let up = Sluice::up(&kit, repository.path(), &["--instances", "2"]);
    let admin = up.url("admin");
    let json = repository.path().join("out.json");
    let flags = ["-r", "1", "-w", "0", "-d", "200", "--json", json.to_str().unwrap()];
    let (code, said, error) = kit.run(&[&["sim", "--server", &admin, "slow"], &flags[..]].concat());
    assert_eq!(code, 0, "{said}{error}");
    for says in [&format!("SIMULATED fleet of the cluster at {admin}"), "errors 0", "not in the records, taken for granted: one gateway"] {
        assert!(said.contains(says), "{says:?} in {said}");
    }
    // One batch takes what the replica's record says, and nobody else is asked.
    let (_, records, _) = kit.run(&["get", "replicas", "-o", "json", "--server", &admin]);
    let records: serde_json::Value = serde_json::from_str(&records).unwrap();
    let replica = records.as_array().unwrap().iter().find(|r| r["variant"].as_str().unwrap().starts_with("slow:")).unwrap();
    let one_us = replica["alpha_us"].as_f64().unwrap() + replica["beta_us"].as_f64().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let p50_us = report["targets"][0]["repeats"][0]["latency_us"]["p50"].as_f64().unwrap();
    assert!((p50_us / one_us - 1.0).abs() < 0.5, "{p50_us} us, by the record {one_us} us");

    let check = |args: &[&str], code: i32, says: &str| {
        let (got, said, error) = kit.run(&[&["sim"], args].concat());
        assert!(got == code && error.contains(says), "{args:?}: {got}: {said}{error}");
    };
    check(&["--server", &admin, "nobody"], 2, "model nobody: not one of the fleet's models add_sub, slow");
    check(&["--server", "http://127.0.0.1:1"], 1, "nothing answers at http://127.0.0.1:1 (--server)");
    check(&["--server", &admin, json.to_str().unwrap()], 2, "out.json and --server: expected one of the two");
    check(&[], 2, "no fleet: expected FLEET.toml, or --server URL");
}
