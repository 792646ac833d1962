//! A real model through `sluice up` at its capacity and at twice that, with deadlines: what is answered in time must not fall when more is
//! asked for than can be done.

use crate::Args;
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use loadtest::{Arrivals, Ask, Load, Pace, Script, Target};
use std::time::Duration;

/// A convolutional network: some milliseconds a run, nothing to gain from batches.
const MODEL: &str = "mobilenetv2";
/// Time to answer, in median latencies of the closed loop.
const DEADLINE: f64 = 6.0;
/// One measurement.
const LENGTH: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
/// What is offered at last, as a multiple of the capacity, and for how long.
const FLOOD: f64 = 5.0;
const FLOOD_LENGTH: Duration = Duration::from_secs(60);
/// What requests may take in `up`, where gateway and worker hold the same bytes: the gateway's budget, in MiB.
const BUDGET_MIB: f64 = 1_024.0;
/// Callers that keep the model busy while its capacity is measured.
const CALLERS: usize = 4;

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (data, only) = (tempfile::tempdir()?, tempfile::tempdir()?);
    std::os::unix::fs::symlink(args.models.join(MODEL).canonicalize()?, only.path().join(MODEL))?;
    let up = Server::up(&args.sluice, only.path(), data.path()).await?;
    let send = async |pace: Pace, deadline_ms: Option<f64>, length: Duration, seed: usize| {
        let target = Target::grpc(&format!("http://{}", up.grpc));
        let load = Load::new(target, Ask { deadline_ms, ..Ask::of(MODEL) }, pace, length);
        let script = Script { warm_up: WARM_UP, seed: seed as u64, ..load.script };
        loadtest::run(&Load { connections: 8, script, ..load }).await
    };
    let mut cells: [(&str, f64, Samples); 2] = [("at capacity", 1.0, Samples::default()), ("at twice that", 2.0, Samples::default())];
    let (mut kept, mut told, mut late) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..args.rounds {
        // The machine drifts: each round goes by what it can do now.
        let closed = send(Pace::Closed { concurrency: CALLERS }, None, LENGTH, round).await?;
        let capacity = closed.answered_per_second();
        let deadline_ms = DEADLINE * closed.latency_us.value_at_quantile(0.5) as f64 / 1e3;
        for (_, share, goodput) in &mut cells {
            let sent = send(Pace::Open(Arrivals::Poisson { rate: *share * capacity }), Some(deadline_ms), LENGTH, round).await?;
            goodput.push(sent.in_time as f64 / LENGTH.as_secs_f64());
            if *share > 1.0 {
                told.push(sent.error_us.value_at_quantile(0.99) as f64 / 1e3);
                late.push(100.0 * sent.answered.saturating_sub(sent.in_time) as f64 / sent.answered.max(1) as f64);
            }
        }
        let [(_, _, once), (_, _, twice)] = &cells;
        kept.push(twice.last() / once.last().max(f64::MIN_POSITIVE));
    }
    for (name, _, goodput) in &cells {
        report.row(format!("{MODEL} {name}: answered in time"), goodput, "1/s");
    }
    report.row(format!("{MODEL} at twice that: goodput over that at capacity"), &kept, "");
    report.row(format!("{MODEL} at twice that: errors told after, p99"), &told, "ms");
    report.row(format!("{MODEL} at twice that: answers that came late"), &late, "%");
    report.target(format!("{MODEL}: goodput at twice the capacity over that at capacity"), kept.median(), Bound::AtLeast(0.95), "");
    report.target(format!("{MODEL}: errors told after, p99"), told.median(), Bound::AtMost(10.0), "ms");
    report.target(format!("{MODEL}: answers that came late"), late.median(), Bound::AtMost(2.0), "%");
    // And what five times as much as it can do leaves in memory.
    let closed = send(Pace::Closed { concurrency: CALLERS }, None, LENGTH, 0).await?;
    let deadline_ms = DEADLINE * closed.latency_us.value_at_quantile(0.5) as f64 / 1e3;
    let rate = FLOOD * closed.answered_per_second();
    let (before, mut most) = (up.resident()?, Samples::default());
    let flood = send(Pace::Open(Arrivals::Poisson { rate }), Some(deadline_ms), FLOOD_LENGTH, 0);
    let mut flood = std::pin::pin!(flood);
    let flooded = loop {
        tokio::select! {
            sent = &mut flood => break sent?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                most.push(up.resident()?.saturating_sub(before) as f64 / f64::from(1 << 20));
            }
        }
    };
    let name = format!("{MODEL} at {FLOOD} times its capacity for {} s", FLOOD_LENGTH.as_secs());
    report.row(format!("{name}: answered in time"), &[flooded.in_time as f64 / FLOOD_LENGTH.as_secs_f64()].into_iter().collect(), "1/s");
    report.row(format!("{name}: resident over what it was before"), &most, "MiB");
    report.target(format!("{name}: most resident over what it was before"), most.max(), Bound::AtMost(BUDGET_MIB), "MiB");
    Ok(())
}
