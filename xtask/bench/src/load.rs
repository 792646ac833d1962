//! The load generator against a bare server, at a rate at which its own lateness would show: requests must leave when they are due.

use crate::Args;
use crate::message::MODEL;
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use anyhow::Context as _;
use loadtest::{Arrivals, Ask, Load, Pace, Script, Target};
use std::time::Duration;

/// Requests a second.
const RATE: f64 = 20_000.0;
/// At the 99th percentile, in microseconds.
const LAG_US_MAX: f64 = 1_000.0;
/// One measurement: p99 needs thousands of requests.
const LENGTH_MIN: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a server stands still once in a measurement, and the rate meanwhile.
const STALL: Duration = Duration::from_millis(200);
const STALLED_RATE: f64 = 500.0;

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let length = LENGTH_MIN.max(Duration::from_millis(args.slice_ms));
    let arguments = ["--sluice", "-", "--models", "-", "echo", "--answer", "64"];
    let server = Server::start(&std::env::current_exe()?, arguments).await?;
    let mut untold = Samples::default();
    for (name, arrivals) in [("evenly", Arrivals::Constant { rate: RATE }), ("Poisson", Arrivals::Poisson { rate: RATE })] {
        let (mut p50, mut p99, mut highest) = (Samples::default(), Samples::default(), Samples::default());
        let (mut latency, mut cpu_us) = (Samples::default(), Samples::default());
        for round in 0..args.rounds {
            let target = Target::grpc(&format!("http://{}", server.grpc));
            let load = Load::new(target, Ask::of(MODEL), Pace::Open(arrivals), length);
            let script = Script { warm_up: WARM_UP, seed: round as u64, ..load.script };
            let sent = loadtest::run(&Load { script, ..load }).await?;
            anyhow::ensure!(sent.errors.is_empty(), "{sent}");
            let lag = sent.send_lag_us.value_at_quantile(0.99) as f64;
            p50.push(sent.send_lag_us.value_at_quantile(0.5) as f64);
            p99.push(lag);
            highest.push(sent.send_lag_us.max() as f64);
            latency.push(sent.latency_us.value_at_quantile(0.99) as f64);
            if let loadtest::report::Place::Client(client) = sent.place {
                cpu_us.push(client.cpu.as_secs_f64() * 1e6 / sent.offered.max(1) as f64);
            }
            untold.push(f64::from(u8::from(lag > LAG_US_MAX && sent.client_limits().is_empty())));
        }
        let name = format!("sluice load, {RATE}/s {name}");
        report.row(format!("{name}: send lag p50"), &p50, "us");
        report.row(format!("{name}: send lag p99"), &p99, "us");
        report.row(format!("{name}: send lag max"), &highest, "us");
        report.row(format!("{name}: latency p99"), &latency, "us");
        report.row(format!("{name}: client CPU a request"), &cpu_us, "us");
        report.target(format!("{name}: send lag p99"), p99.median(), Bound::AtMost(LAG_US_MAX), "us");
    }
    report.target("sluice load: runs that were late and did not say so", untold.sum(), Bound::AtMost(0.0), "");
    stalled(&server, args.rounds, report).await
}

/// A server that stands still for a while: whoever was due meanwhile must be counted as having waited.
async fn stalled(server: &Server, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let process = i32::try_from(server.id()?).ok().and_then(rustix::process::Pid::from_raw).context("the server's process")?;
    let mut p99 = Samples::default();
    for round in 0..rounds {
        let target = Target::grpc(&format!("http://{}", server.grpc));
        let load = Load::new(target, Ask::of(MODEL), Pace::Open(Arrivals::Constant { rate: STALLED_RATE }), LENGTH_MIN);
        let load = Load { script: Script { warm_up: WARM_UP, seed: round as u64, ..load.script }, ..load };
        let stall = async {
            tokio::time::sleep(WARM_UP + LENGTH_MIN / 2).await;
            rustix::process::kill_process(process, rustix::process::Signal::STOP)?;
            tokio::time::sleep(STALL).await;
            rustix::process::kill_process(process, rustix::process::Signal::CONT).map_err(anyhow::Error::from)
        };
        let (sent, stalled) = tokio::join!(loadtest::run(&load), stall);
        stalled?;
        p99.push(sent?.latency_us.value_at_quantile(0.99) as f64 / 1e3);
    }
    let name = format!("sluice load, {STALLED_RATE}/s evenly, server stalled for {} ms: p99", STALL.as_millis());
    report.row(name.clone(), &p99, "ms");
    // A tenth of the requests was due meanwhile, evenly: one in ten of these waited for nine tenths of it.
    report.target(name, p99.median(), Bound::AtLeast(0.9 * STALL.as_secs_f64() * 1e3), "ms");
    Ok(())
}
