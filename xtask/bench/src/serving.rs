//! The smallest model through `sluice up`, beside a bare hyper server that carries the same bytes: what is left is the transport.

use crate::Args;
use crate::client::{Slice, closed_loop};
use crate::hop;
use crate::message::{Canned, MODEL, Protocol};
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use std::time::Duration;

/// Callers at once, and for gRPC and REST each: the least share of the bare server's rate, the most processor time in microseconds.
const TARGETS: [(usize, [(f64, f64); 2]); 3] =
    [(1, [(0.70, 100.0), (0.60, 75.0)]), (8, [(0.75, 30.0), (0.65, 16.0)]), (32, [(0.75, 16.0), (0.70, 14.0)])];

/// Figures of one server at one concurrency over the rounds.
#[derive(Default)]
pub(crate) struct Cell {
    pub(crate) rate: Samples,
    pub(crate) cpu_us: Samples,
    pub(crate) p50_us: Samples,
    pub(crate) p99_us: Samples,
}

impl Cell {
    /// One slice against `server`, and what the server took for it.
    pub(crate) async fn measure(
        &mut self,
        servers: &[&Server],
        canned: &Canned,
        concurrency: usize,
        length: Duration,
    ) -> anyhow::Result<Slice> {
        let cpu = || servers.iter().map(|server| server.cpu()).sum::<anyhow::Result<Duration>>();
        let Some(first) = servers.first() else { anyhow::bail!("no server") };
        let authority = match canned.protocol {
            Protocol::Grpc => &first.grpc,
            Protocol::Rest => &first.http,
        };
        let before = cpu()?;
        let slice = closed_loop(canned, authority, concurrency, length).await?;
        let used = cpu()?.saturating_sub(before);
        self.rate.push(slice.rate);
        self.cpu_us.push(used.as_secs_f64() * 1e6 / slice.answers.max(1) as f64);
        self.p50_us.push(slice.latency_ns.value_at_quantile(0.5) as f64 / 1e3);
        self.p99_us.push(slice.latency_ns.value_at_quantile(0.99) as f64 / 1e3);
        Ok(slice)
    }

    pub(crate) fn report(&self, name: &str, report: &mut Report) {
        report.row(format!("{name}: rate"), &self.rate, "1/s");
        report.row(format!("{name}: server CPU"), &self.cpu_us, "us");
        report.row(format!("{name}: p50"), &self.p50_us, "us");
        report.row(format!("{name}: p99"), &self.p99_us, "us");
    }
}

/// A bare server that answers as many bytes as `of` does.
pub(crate) async fn bare(of: &Server, canned: &Canned) -> anyhow::Result<Server> {
    let answer = Cell::default().measure(&[of], canned, 1, Duration::from_millis(300)).await?.answer_bytes;
    Server::own(["echo", "--answer", &answer.to_string()]).await
}

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (slice, data, only) = (Duration::from_millis(args.slice_ms), tempfile::tempdir()?, tempfile::tempdir()?);
    // The smallest model alone: memory and start are its.
    std::os::unix::fs::symlink(args.models.join(MODEL).canonicalize()?, only.path().join(MODEL))?;
    Server::up(&args.sluice, only.path(), data.path()).await?.stop().await?; // validates the artifacts, once
    let collector = Server::collector().await?;
    let up = Server::up_traced(&args.sluice, only.path(), data.path(), &collector).await?;
    for (of, protocol) in [Protocol::Grpc, Protocol::Rest].into_iter().enumerate() {
        let canned = Canned::new(protocol);
        let bare = bare(&up, &canned).await?;
        for (concurrency, targets) in TARGETS {
            let (mut ours, mut floor, mut share) = (Cell::default(), Cell::default(), Samples::default());
            for _ in 0..args.rounds {
                let (a, b) = (
                    floor.measure(&[&bare], &canned, concurrency, slice).await?.rate,
                    ours.measure(&[&up], &canned, concurrency, slice).await?.rate,
                );
                share.push(b / a.max(1.0));
            }
            let name = format!("{protocol} at {concurrency}");
            floor.report(&format!("{name}, bare hyper"), report);
            ours.report(&format!("{name}, sluice up"), report);
            report.row(format!("{name}: share of the bare rate"), &share, "");
            if let Some((least, most)) = targets.get(of) {
                report.target(format!("{name}: share of the bare rate"), share.median(), Bound::AtLeast(*least), "");
                report.target(format!("{name}: server CPU a request"), ours.cpu_us.median(), Bound::AtMost(*most), "us");
            }
            if concurrency == 1 {
                report.target(format!("{name}: p50"), ours.p50_us.median(), Bound::AtMost(180.0), "us");
            }
        }
    }
    report.target("resident", up.resident()? as f64 / f64::from(1 << 20), Bound::AtMost(60.0), "MiB");
    report.target("ready after", up.start.as_secs_f64(), Bound::AtMost(0.5), "s");
    hop::run(args, only.path(), &up, &collector, report).await
}
