use super::*;
use std::time::Instant;

#[test]
fn look() {
    for (devices, models) in [(10, 25), (30, 50), (60, 75), (100, 250)] {
        for load in [0.6, 1.0, 1.5] {
            let t = Instant::now();
            let problem = seeded::problem(1, devices, models, load);
            let made = t.elapsed();
            let t = Instant::now();
            let found = solve(&problem, &mut || true);
            let took = t.elapsed();
            let t = Instant::now();
            let bound = bound(&problem).unwrap_or(f64::NAN);
            let loads = problem.pairs.iter().zip(&found.placed).filter(|(p, x)| **x && !p.placed).count();
            let replicas = found.placed.iter().filter(|x| **x).count();
            let unserved: f64 = found.unserved.iter().sum();
            println!(
                "{devices}x{models} {load}: pairs {} made {made:?} took {took:?} programs {} obj {:.4} bound {:.4} ({:?}) loads {loads}/{} replicas {replicas} unserved {:.3}",
                problem.pairs.len(),
                found.programs,
                found.objective / problem.worth(),
                bound / problem.worth(),
                t.elapsed(),
                problem.loads_max,
                unserved / problem.rate()
            );
            std::fs::create_dir_all("/tmp/inst").unwrap();
            std::fs::write(format!("/tmp/inst/{devices}x{models}x{load}.json"), serde_json::to_vec(&(&problem, &found)).unwrap()).unwrap();
        }
    }
}
