//! Plans of where variants go, judged by a solver of mixed-integer programs that was written from the rules alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use policy::place::seeded::problem;
use policy::place::solve;
use serde_json::Value;
use std::io::Write as _;
use tests::Kit;

/// Seeds and loads: from half idle to one and a half times what the fleet can answer.
const INSTANCES: [(u64, f64); 5] = [(1, 0.6), (4, 0.9), (6, 1.1), (7, 1.2), (8, 1.3)];

#[test]
fn plans_are_within_a_hundredth_of_the_best_and_break_no_rule() {
    let Some(kit) = Kit::find() else { return };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut plans = Vec::new();
    for (seed, load) in INSTANCES {
        let problem = problem(seed, 10, 25, load);
        // A count of programs, not a time: the same plan on every machine.
        let mut left = 400;
        let found = solve(&problem, &mut || {
            left -= 1;
            left > 0
        });
        writeln!(file, "{}", serde_json::json!({ "problem": problem, "solution": found })).unwrap();
        plans.push((problem, found));
    }
    let said = kit.python("oracle.py", &[file.path().to_str().unwrap(), "60"]);
    let judged: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(judged.len(), plans.len());
    for ((seed, load), ((problem, found), judged)) in INSTANCES.into_iter().zip(plans.iter().zip(&judged)) {
        let number = |name: &str| judged[name].as_f64().unwrap_or_else(|| panic!("no {name}: {judged}"));
        let (value, most) = (number("value"), number("bound"));
        assert!((value - found.objective).abs() <= 1e-6 * problem.worth(), "seed {seed}, load {load}: {} is {judged}", found.objective);
        assert!(number("broken") < 1e-6, "seed {seed}, load {load}: {judged}");
        assert!(most >= value - 1e-6 * problem.worth() && most - value <= 0.01 * value.abs(), "seed {seed}, load {load}: {judged}");
    }
}
