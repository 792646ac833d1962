//! Bursts at the smallest model, live: its own way to form batches beside fixed settings, as one process serves them to stock clients.

use crate::Args;
use crate::message::MODEL;
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use loadtest::{Arrivals, Ask, Load, Pace, Script, Target};
use std::time::Duration;

/// Settings that are fixed for a model: longest delay in microseconds, preferred rows.
const STATIC: [(u32, &str); 4] = [(500, ""), (2_000, ""), (2_000, "8"), (10_000, "8, 32")];
/// Offered, as a share of what callers in a closed loop get.
const LOADS: [f64; 2] = [0.6, 0.8];
/// Coefficient of variation of the gaps.
const VARIATION: f64 = 4.0;
/// Milliseconds in which an answer is worth something: about twice what a full queue of 32 callers takes on two shared cores.
const DEADLINE_MS: f64 = 20.0;
const ROWS_MAX: u32 = 32;
/// Callers that keep the model busy while its capacity is measured.
const CALLERS: usize = 32;
const LENGTH: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(200);

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (data, models) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let version = args.models.join(MODEL).join("1").canonicalize()?;
    let model = |name: &str, rules: &str| {
        let folder = models.path().join(name);
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("config.pbtxt"), format!("max_batch_size: {ROWS_MAX}\n{rules}"))?;
        std::os::unix::fs::symlink(&version, folder.join("1"))
    };
    model("ours", "")?;
    let mut ways = vec![("ours".to_owned(), "ours".to_owned())];
    for (number, (delay, preferred)) in STATIC.into_iter().enumerate() {
        let name = format!("fixed_{number}");
        model(&name, &format!("dynamic_batching {{ max_queue_delay_microseconds: {delay}, preferred_batch_size: [{preferred}] }}\n"))?;
        ways.push((name, format!("at most {} ms, preferred [{preferred}]", f64::from(delay) / 1e3)));
    }
    let up = Server::up(&args.sluice, models.path(), data.path()).await?;
    let send = async |name: &str, pace: Pace, deadline_ms: Option<f64>, seed: usize| {
        let load = Load::new(Target::grpc(&format!("http://{}", up.grpc)), Ask { deadline_ms, ..Ask::of(name) }, pace, LENGTH);
        let script = Script { warm_up: WARM_UP, seed: seed as u64, ..load.script };
        loadtest::run(&Load { connections: 8, script, ..load }).await
    };
    for share in LOADS {
        let mut in_time: Vec<Samples> = ways.iter().map(|_| Samples::default()).collect();
        for round in 0..args.rounds {
            // The machine drifts: each round goes by what it can do now.
            let capacity = send("ours", Pace::Closed { concurrency: CALLERS }, None, round).await?.answered_per_second();
            // And each goes first in turn: it drifts within a round, too.
            for at in 0..ways.len() {
                let at = at.wrapping_add(round) % ways.len();
                let (Some((name, _)), Some(samples)) = (ways.get(at), in_time.get_mut(at)) else { continue };
                let pace = Pace::Open(Arrivals::Gamma { rate: share * capacity, cv: VARIATION });
                let sent = send(name, pace, Some(DEADLINE_MS), round).await?;
                samples.push(100.0 * sent.in_time as f64 / sent.offered.max(1) as f64);
            }
        }
        let cell = format!("{MODEL} live, CV {VARIATION} at {share}");
        for ((_, name), samples) in ways.iter().zip(&in_time) {
            report.row(format!("{cell}: {name}"), samples, "% in time");
        }
        let fixed = ways.iter().zip(&in_time).skip(1).max_by(|a, b| a.1.median().total_cmp(&b.1.median()));
        if let (Some(ours), Some(((_, name), best))) = (in_time.first(), fixed) {
            let name = format!("{cell}: ours over the best fixed, {name}");
            report.target(name, ours.median() - best.median(), Bound::AtLeast(0.0), "points");
        }
    }
    Ok(())
}
