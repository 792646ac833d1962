//! The smallest model through a gateway and a worker in two processes, beside `sluice up` and beside the bare hyper server: what the hop
//! costs, and what remains of the tail at a rate that all of them bear.

use crate::Args;
use crate::cluster::Cluster;
use crate::message::{Canned, MODEL, Protocol};
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use crate::serving::{Cell, bare};
use loadtest::{Arrivals, Ask, Load, Pace, Target};
use std::path::Path;
use std::time::Duration;

/// Callers at which the hop's rate is measured.
const CALLERS: usize = 32;
/// Shortest measurement of a tail: p99 needs thousands of requests.
const OPEN_MIN: Duration = Duration::from_secs(1);

/// Runs it with `models`, which has the smallest model alone, beside `up`.
pub(crate) async fn run(args: &Args, models: &Path, up: &Server, collector: &Server, report: &mut Report) -> anyhow::Result<()> {
    let (slice, dir) = (Duration::from_millis(args.slice_ms), tempfile::tempdir()?);
    let cluster = Cluster::start(args, models, &dir.path().join("none"), MODEL, &["--isolation", "none"], collector).await?;
    let apart = Cluster::start(args, models, &dir.path().join("process"), MODEL, &["--isolation", "process"], collector).await?;
    let canned = Canned::new(Protocol::Grpc);
    let bare = bare(up, &canned).await?;
    let (hop, isolated) = ([&cluster.gateway, &cluster.worker], [&apart.gateway, &apart.worker]);
    let (mut apart, mut cost) = (Cell::default(), Samples::default());
    let (mut floor, mut ours, mut share) = (Cell::default(), Cell::default(), Samples::default());
    let (mut one_up, mut one_hop, mut added) = (Cell::default(), Cell::default(), Samples::default());
    for _ in 0..args.rounds {
        let a = floor.measure(&[&bare], &canned, CALLERS, slice).await?.rate;
        let b = ours.measure(&hop, &canned, CALLERS, slice).await?.rate;
        share.push(b / a.max(1.0));
        let c = apart.measure(&isolated, &canned, CALLERS, slice).await?.rate;
        cost.push(100.0 * (1.0 - c / b.max(1.0)));
        one_up.measure(&[up], &canned, 1, slice).await?;
        one_hop.measure(&hop, &canned, 1, slice).await?;
        added.push(one_hop.p50_us.last() - one_up.p50_us.last());
    }
    ours.report("gRPC at 32, gateway + worker", report);
    report.row("gRPC at 32, gateway + worker: share of the bare rate", &share, "");
    apart.report("gRPC at 32, gateway + worker, isolation process", report);
    report.row("gRPC at 32, isolation process: costs of the rate", &cost, "%");
    report.row("gRPC at 1, gateway + worker: added to p50", &added, "us");
    report.target("gRPC at 32, isolation process: costs of the rate", cost.median(), Bound::AtMost(25.0), "%");
    report.target("gRPC at 32, gateway + worker: share of the bare rate", share.median(), Bound::AtLeast(0.35), "");
    report.target("gRPC at 32, gateway + worker: CPU of both a request", ours.cpu_us.median(), Bound::AtMost(45.0), "us");
    report.target("gRPC at 1, gateway + worker: added to p50", added.median(), Bound::AtMost(150.0), "us");
    tail(args, report, ours.rate.median() / 2.0, [("bare hyper", &bare), ("sluice up", up), ("gateway + worker", &cluster.gateway)]).await
}

/// p50 and p99 from the moment each request was due, at `rate` for all.
async fn tail(args: &Args, report: &mut Report, rate: f64, servers: [(&str, &Server); 3]) -> anyhow::Result<()> {
    let length = OPEN_MIN.max(Duration::from_millis(args.slice_ms));
    let (mut p50, mut p99, mut added) = (<[Samples; 3]>::default(), <[Samples; 3]>::default(), Samples::default());
    for _ in 0..args.rounds {
        for (((_, server), p50), p99) in servers.iter().zip(&mut p50).zip(&mut p99) {
            let pace = Pace::Open(Arrivals::Constant { rate });
            let target = Target::grpc(&format!("http://{}", server.grpc));
            let sent = loadtest::run(&Load { connections: 8, ..Load::new(target, Ask::of(MODEL), pace, length) }).await?;
            anyhow::ensure!(sent.errors.is_empty(), "{sent}");
            p50.push(sent.latency_us.value_at_quantile(0.5) as f64);
            p99.push(sent.latency_us.value_at_quantile(0.99) as f64);
        }
        let [_, up, hop] = &p99;
        added.push(hop.last() - up.last());
    }
    for (((name, _), p50), p99) in servers.iter().zip(&p50).zip(&p99) {
        report.row(format!("gRPC, {rate:.0}/s, {name}: p50"), p50, "us");
        report.row(format!("gRPC, {rate:.0}/s, {name}: p99"), p99, "us");
    }
    report.target(format!("gRPC, {rate:.0}/s, gateway + worker: added to p99"), added.median(), Bound::AtMost(500.0), "us");
    Ok(())
}
