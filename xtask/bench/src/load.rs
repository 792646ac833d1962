//! The load generator against a bare server, at a rate at which its own lateness would show: requests must leave when they are due.

use crate::Args;
use crate::message::MODEL;
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use loadtest::{Arrivals, Ask, Load, Pace, Script, Target};
use std::time::Duration;

/// Requests a second.
const RATE: f64 = 20_000.0;
/// At the 99th percentile, in microseconds.
const LAG_US_MAX: f64 = 1_000.0;
/// One measurement: p99 needs thousands of requests.
const LENGTH_MIN: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);

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
    Ok(())
}
