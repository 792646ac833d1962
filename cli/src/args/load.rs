//! Flags of `load` and `sim`.

use clap::{Args, ValueEnum};
use policy::batch::BatchPolicy;
use policy::route::baseline::RoutePolicy;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wire {
    /// gRPC over HTTP/2
    Grpc,
    /// REST with binary tensors over HTTP/1.1
    Rest,
}

/// Which arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Process {
    /// Evenly spaced
    Constant,
    /// Independent of each other
    Poisson,
    /// Gaps of a gamma distribution with variation --cv
    Gamma,
    /// Poisson at --rate and at --burst-rate in turn
    Bursts,
    /// A sine wave about --rate, over which a crowd may come
    Diurnal,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The server; port 8001 of this host, or 8000 with REST, when not given
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// How to ask it
    #[arg(long, default_value = "grpc")]
    pub(crate) protocol: Wire,
    /// A second server to take turns with: its figures over the first's are reported too
    #[arg(long, value_name = "URL")]
    pub(crate) compare: Option<String>,
    /// How to ask the second; as the first when not given
    #[arg(long, requires = "compare")]
    pub(crate) compare_protocol: Option<Wire>,

    /// Closed loop: so many callers, each waiting for its answer; without it requests are due at moments fixed in advance
    #[arg(short, long, conflicts_with_all = ["rate", "arrivals", "trace"])]
    pub(crate) concurrency: Option<usize>,
    #[command(flatten)]
    pub(crate) script: Script,
    /// Write what is due as such a file, and send nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["concurrency", "compare"])]
    pub(crate) write_trace: Option<PathBuf>,

    /// Size of open dimensions other than the rows
    #[arg(long, default_value_t = 16)]
    pub(crate) size: i64,

    /// Connections: 4, or 64 with REST, when not given
    #[arg(long)]
    pub(crate) connections: Option<usize>,
    /// Sending threads
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Most requests without an answer; one more is not sent and counts as an error
    #[arg(long, default_value_t = 20_000)]
    pub(crate) in_flight_max: usize,

    /// Write an HdrHistogram log (V2)
    #[arg(long, value_name = "FILE")]
    pub(crate) hdr: Option<PathBuf>,
}

/// What is asked and when, whether it is sent or simulated.
#[derive(Debug, Args)]
pub(crate) struct Script {
    /// The model; not needed where --mix or --trace name models
    #[arg(default_value = "")]
    pub(crate) model: String,
    /// Requests per second
    #[arg(short, long, default_value_t = 100.0)]
    pub(crate) rate: f64,
    /// When requests are due
    #[arg(long, default_value = "poisson")]
    pub(crate) arrivals: Process,
    /// gamma: standard deviation of the gaps over their mean
    #[arg(long, default_value_t = 4.0)]
    pub(crate) cv: f64,
    /// bursts: requests per second of a burst; four times --rate when not given
    #[arg(long)]
    pub(crate) burst_rate: Option<f64>,
    /// bursts: mean seconds between bursts
    #[arg(long, default_value_t = 2.0)]
    pub(crate) dwell: f64,
    /// bursts: mean seconds of a burst
    #[arg(long, default_value_t = 0.5)]
    pub(crate) burst_dwell: f64,
    /// diurnal: seconds of one day
    #[arg(long, default_value_t = 60.0)]
    pub(crate) period: f64,
    /// diurnal: share of the rate that swings
    #[arg(long, default_value_t = 0.5)]
    pub(crate) depth: f64,
    /// diurnal: seconds from the start at which a crowd comes
    #[arg(long, value_name = "SECONDS")]
    pub(crate) crowd_at: Option<f64>,
    /// diurnal: seconds it stays
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) crowd_for: f64,
    /// diurnal: what it multiplies the rate by
    #[arg(long, default_value_t = 8.0)]
    pub(crate) crowd_factor: f64,
    /// Replay a CSV file: seconds due [, model, tenant, rows, deadline_ms, priority]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "arrivals", "mix"])]
    pub(crate) trace: Option<PathBuf>,

    /// Several kinds of requests: a TOML file of `[[ask]]` entries with model, tenant, rows, deadline_ms, priority, share
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "tenant", "rows", "deadline_ms", "priority", "ask"])]
    pub(crate) mix: Option<PathBuf>,
    /// One more kind of requests beside the model, such as `model = "b", rows = 4, share = 0.5`
    #[arg(long, value_name = "TOML")]
    pub(crate) ask: Vec<String>,
    /// Rows of one request
    #[arg(long, default_value = "1")]
    pub(crate) rows: NonZeroU32,
    /// Sent as header sluice-tenant
    #[arg(long, default_value = "")]
    pub(crate) tenant: String,
    /// Milliseconds in which an answer is worth something; sent as grpc-timeout
    #[arg(long)]
    pub(crate) deadline_ms: Option<f64>,
    /// Request parameter priority
    #[arg(long)]
    pub(crate) priority: Option<u32>,

    /// Seconds that are measured; a trace's own length when not given, else 10
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) duration: Option<f64>,
    /// Seconds before that are sent but not measured; none of a trace when not given, else 2
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) warm_up: Option<f64>,
    /// How often to measure, each with a schedule of its own
    #[arg(short = 'n', long, default_value_t = 1)]
    pub(crate) repeats: usize,
    /// The same seed gives the same schedule
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw latency percentiles, throughput and latency over time
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(override_usage = "sluice sim [OPTIONS] <FLEET.toml> [MODEL]\n       sluice sim [OPTIONS] --server <URL> [MODEL]")]
pub(crate) struct Sim {
    /// TOML file that describes gateways, models and workers
    #[arg(value_name = "FLEET.toml")]
    pub(crate) fleet: Option<PathBuf>,
    // Without a default and an environment variable, unlike the other commands' flag: given at all it stands for the file.
    /// Admin port of `up`, a gateway or a controller: the fleet is what is ready there, with the latencies measured at load
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Who chooses replicas, instead of whom the file names: finish (ours), round-robin, least-request, ...
    #[arg(long, value_name = "POLICY")]
    pub(crate) route: Option<RoutePolicy>,
    /// Who forms batches, instead of whom the file names: sluice (ours), triton, linger, ...
    #[arg(long, value_name = "POLICY")]
    pub(crate) batch: Option<BatchPolicy>,
    #[command(flatten)]
    pub(crate) script: Script,
}
