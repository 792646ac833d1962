//! The gateway alone: real requests from a real client, a real routing table out of etcd, and behind it a worker without an engine. A proxy
//! that reads nothing of what it carries takes turns with it and shows what of the cost is HTTP/2's.

pub(crate) mod counted;
mod fleet;
mod system_calls;
mod table;
pub(crate) mod upstream;

use crate::Args;
use crate::allocations;
use crate::client::{closed_loop, each_once};
use crate::etcd::Etcd;
use crate::message::{Canned, Protocol};
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use crate::serving::Cell;
use anyhow::Context as _;
use fleet::Fleet;
use registry::Registry;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use system_calls::{Method, SystemCalls};

/// Callers at once.
const CALLERS: usize = 32;
/// Callers at once whose bodies are large.
const BULK_CALLERS: usize = 8;
/// Numbers in the row of a small request, and in one of 600 KB: a picture.
const NUMBERS: usize = 32;
const BULK_NUMBERS: usize = 3 * 224 * 224;
/// The routing table of the gateway that stands beside the proxy: one worker, since the proxy has one connection.
const FLEET: Fleet = Fleet { cluster: "one", models: 10, workers: 1 };
/// Longest wait for a gateway to answer for all of its models.
const READY_MAX: Duration = Duration::from_secs(60);

/// What the parts of this bench share.
struct Stage<'a> {
    args: &'a Args,
    dir: &'a Path,
    etcd: Etcd,
    registry: std::sync::Arc<dyn Registry>,
    /// The worker without an engine.
    worker: Server,
}

impl Stage<'_> {
    /// `sluice gateway` for `fleet`, once it answers for all of its models.
    async fn gateway(&self, fleet: Fleet) -> anyhow::Result<Server> {
        fleet.write(&*self.registry, &self.worker.grpc).await?;
        let data = self.dir.join(fleet.cluster);
        // One network thread: what is told is told of a core.
        let plain = ["gateway", "--etcd", &self.etcd.url, "--cluster", fleet.cluster, "--network-threads", "1", "--log", "warn"];
        let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"];
        let arguments = plain.into_iter().chain(ports).map(OsStr::new).chain([data.as_os_str()]);
        let gateway = Server::part(&self.args.sluice, arguments).await?;
        answers(&gateway, fleet).await?;
        Ok(gateway)
    }
}

/// A part of this program as a server.
async fn own(arguments: &[&str]) -> anyhow::Result<Server> {
    let all = ["--sluice", "-", "--models", "-"].iter().chain(arguments);
    Server::start(&std::env::current_exe()?, all).await
}

/// Waits until `gateway` has answered for each model of `fleet`.
async fn answers(gateway: &Server, fleet: Fleet) -> anyhow::Result<()> {
    let all = Canned::rows((0..fleet.models).map(fleet::model), NUMBERS);
    let asked = async {
        while each_once(&all, &gateway.grpc).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await; // its connections may not stand yet
        }
    };
    tokio::time::timeout(READY_MAX, asked).await.with_context(|| format!("the gateway of {} does not answer", fleet.cluster))
}

/// What one of the two costs.
#[derive(Default)]
struct Costs {
    small: Cell,
    bulk: Cell,
    per_core: Samples,
    bytes_per_core: Samples,
    system_calls: Samples,
    allocations: Samples,
    allocated: Samples,
    bulk_bodies: Samples,
}

impl Costs {
    /// A round against `server`; `counted` is what tells its allocations.
    async fn round(&mut self, server: &Server, counted: &Server, method: Option<Method>, slice: Duration) -> anyhow::Result<()> {
        let (small, bulk) = (Canned::rows((0..FLEET.models).map(fleet::model), NUMBERS), Canned::rows([fleet::model(0)], BULK_NUMBERS));
        self.small.measure(&[server], &small, CALLERS, slice).await?;
        self.per_core.push(1e6 / self.small.cpu_us.last());
        self.bulk.measure(&[server], &bulk, BULK_CALLERS, slice).await?;
        let body = BULK_NUMBERS.saturating_mul(size_of::<f32>()) as f64;
        self.bytes_per_core.push(body / self.bulk.cpu_us.last() / 1e3);
        let half = slice / 2;
        if let Some(method) = method {
            let counter = SystemCalls::of(server.id()?, method).await?;
            let answers = closed_loop(&small, &server.grpc, CALLERS, half).await?.answers;
            self.system_calls.push(counter.finish().await? as f64 / answers.max(1) as f64);
        }
        let (count, bytes) = allocated(counted, &small, CALLERS, half).await?;
        self.allocations.push(count);
        self.allocated.push(bytes);
        self.bulk_bodies.push(allocated(counted, &bulk, BULK_CALLERS, half).await?.1 / body);
        Ok(())
    }

    fn report(&self, name: &str, report: &mut Report) {
        self.small.report(&format!("{name}, small"), report);
        report.row(format!("{name}, small: requests a second and core"), &self.per_core, "1/s");
        report.row(format!("{name}, small: system calls a request"), &self.system_calls, "");
        report.row(format!("{name}, small: allocations a request"), &self.allocations, "");
        report.row(format!("{name}, small: allocated a request"), &self.allocated, "B");
        report.row(format!("{name}, 600 KB: rate"), &self.bulk.rate, "1/s");
        report.row(format!("{name}, 600 KB: server CPU"), &self.bulk.cpu_us, "us");
        report.row(format!("{name}, 600 KB: body bytes a second and core"), &self.bytes_per_core, "GB/s");
        report.row(format!("{name}, 600 KB: allocated a request"), &self.bulk_bodies, "bodies");
    }
}

/// Allocations and allocated bytes of `server` for each request.
async fn allocated(server: &Server, canned: &Canned, callers: usize, length: Duration) -> anyhow::Result<(f64, f64)> {
    closed_loop(canned, &server.grpc, callers, length / 4).await?; // connections' own are made
    allocations::switch(&server.http).await?;
    let answers = closed_loop(canned, &server.grpc, callers, length).await?.answers.max(1) as f64;
    let told = allocations::switch(&server.http).await?;
    Ok((told.count as f64 / answers, told.bytes as f64 / answers))
}

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (slice, dir) = (Duration::from_millis(args.slice_ms), tempfile::tempdir()?);
    let etcd = Etcd::start(&args.etcd, dir.path()).await?;
    let registry = fleet::registry(&etcd.url).await?;
    let stage = Stage { args, dir: dir.path(), etcd, registry, worker: own(&["canned"]).await? };
    alone(&stage, slice, report).await?;
    table::run(&stage, slice, report).await
}

/// The gateway beside the proxy.
async fn alone(stage: &Stage<'_>, slice: Duration, report: &mut Report) -> anyhow::Result<()> {
    let method = Method::find().await;
    let gateway = stage.gateway(FLEET).await?;
    let counted = own(&["counted", "--url", &stage.etcd.url, "--cluster", FLEET.cluster]).await?;
    answers(&counted, FLEET).await?;
    let proxy = own(&["proxy", "--upstream", &stage.worker.grpc]).await?;
    let (mut ours, mut floor) = (Costs::default(), Costs::default());
    for _ in 0..stage.args.rounds {
        floor.round(&proxy, &proxy, method, slice).await?;
        ours.round(&gateway, &counted, method, slice).await?;
    }
    report.note(match method {
        Some(method) => format!("gateway: system calls are those of its process, counted by {}", method.name()),
        None => "gateway: system calls not run: needs perf or strace".to_owned(),
    });
    report.note(
        "gateway: allocations are counted by a global allocator around the same crate in a process of the bench's; per core is per second of \
         the process's CPU time; the bare proxy is hyper's server and client, and reads nothing",
    );
    floor.report("bare proxy", report);
    ours.report("gateway", report);
    let shares = [
        ("CPU a small request", &floor.small.cpu_us, &ours.small.cpu_us),
        ("system calls", &floor.system_calls, &ours.system_calls),
        ("allocations", &floor.allocations, &ours.allocations),
        ("CPU a request of 600 KB", &floor.bulk.cpu_us, &ours.bulk.cpu_us),
    ];
    for (name, floor, ours) in shares {
        report.row(format!("hyper's share: {name}"), &Samples::from_iter([floor.median() / ours.median()]), "");
    }
    let at = format!("{} at {CALLERS}", Protocol::Grpc);
    report.target(format!("{at}, gateway: requests a second and core"), ours.per_core.median(), Bound::AtLeast(30_000.0), "1/s");
    if method.is_some() {
        report.target(format!("{at}, gateway: system calls a request"), ours.system_calls.median(), Bound::AtMost(4.0), "");
    }
    report.target(format!("{at}, gateway: allocations a request"), ours.allocations.median(), Bound::AtMost(60.0), "");
    report.target("600 KB, gateway: body bytes a second and core", ours.bytes_per_core.median(), Bound::AtLeast(0.8), "GB/s");
    // What the socket gives is allocated, and partly moved, by h2 for both. A copy of the body would be a whole one more.
    let beyond = ours.bulk_bodies.median() - floor.bulk_bodies.median();
    report.target("600 KB, gateway: allocated beyond the bare proxy's", beyond, Bound::AtMost(0.1), "bodies");
    Ok(())
}
