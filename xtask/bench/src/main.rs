//! `cargo xtask bench`: compares alternatives in one interleaved run, so that what the machine does meanwhile hits all of them.
//!
//! Every bench prints a table of medians with their spread, then one line per target, and fails when a target is missed.
#![allow(clippy::print_stdout, reason = "printing is what a bench is for")]

mod allocations;
mod batcher;
mod bursts;
mod client;
mod cluster;
mod echo;
mod etcd;
mod fake_latency;
mod gateway;
mod hop;
mod ideal;
mod inprocess;
mod load;
mod message;
mod overload;
mod plan;
mod records;
mod report;
mod router;
mod server;
mod serving;
mod simulated;
mod slo;
mod swing;
mod truth;
mod variants;

use allocations::Counting;
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Measures Sluice against itself and against what it is built on.
#[derive(Debug, Parser)]
struct Args {
    /// The `sluice` binary
    #[arg(long)]
    sluice: PathBuf,
    /// Model directory with `mlp` and `mobilenetv2`
    #[arg(long)]
    models: PathBuf,
    /// Model directory with `efficientnet_lite0` and `minilm_l6`; `demo` beside the other one when not given
    #[arg(long, value_name = "DIR")]
    demo_models: Option<PathBuf>,
    /// ONNX Runtime library, for measurements of the engine alone
    #[arg(long, env = "SLUICE_ONNXRUNTIME", default_value = "libonnxruntime.so")]
    onnxruntime: PathBuf,
    /// The `etcd` binary
    #[arg(long, env = "SLUICE_ETCD", default_value = "etcd")]
    etcd: PathBuf,
    /// Interleaved rounds
    #[arg(long, default_value_t = 9, global = true)]
    rounds: usize,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 500, global = true)]
    slice_ms: u64,
    /// Write the figures here, too
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Clone, Subcommand)]
enum Bench {
    /// The smallest model beside a bare hyper server that echoes, then `ideal`
    Serving,
    /// The part of `serving` with the smallest model
    Smallest,
    /// The gateway alone, before a worker without an engine, beside a proxy that reads nothing
    Gateway,
    /// The load generator at a high rate: whether requests leave when they are due
    Load,
    /// The part of `serving` with real networks at concurrency 8, beside the engine alone in its best setting
    Ideal,
    /// How far rates are apart from process to process
    Swing,
    /// One trace live and in virtual time, at fake-latency engines and at a real model
    SimTruth,
    /// Every routing policy over an unequal fleet, simulated
    Router {
        /// Longer and more runs
        #[arg(long)]
        full: bool,
    },
    /// Every way to form batches: the smallest model in bursts, live, and one device, simulated
    Batcher {
        /// Longer and more runs
        #[arg(long)]
        full: bool,
    },
    /// Placement and choice by latency objectives against other policies, in virtual time; not part of `all`
    Slo {
        /// In virtual time
        #[arg(long, required_unless_present = "live")]
        sim: bool,
        /// On a cluster of this machine, with real models and their real variants
        #[arg(long)]
        live: bool,
        /// Seconds of each level of the live ramp, for each policy
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
        level_s: u64,
        /// Write a picture here, too
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// A real model at its capacity and at twice that
    Overload,
    /// What variants of real models are worth on this processor, with what labels and answers they lose; not part of `all`
    Variants,
    /// Plans of where variants go, held against a solver's bound, and under noise and in a flash crowd; not part of `all`
    Plan,
    /// All of these but `variants`, `plan` and `slo`
    All {
        /// Longer and more runs of what is simulated
        #[arg(long)]
        full: bool,
    },
    /// Serve canned answers; benches start this one themselves
    #[command(hide = true)]
    Echo {
        /// Length of each answer in bytes
        #[arg(long)]
        answer: usize,
    },
    /// Serve as a worker without an engine
    #[command(hide = true)]
    Canned,
    /// Carry HTTP/2 requests on, unread
    #[command(hide = true)]
    Proxy {
        /// `host:port` of the server behind it
        #[arg(long)]
        upstream: String,
    },
    /// Serve as a gateway whose allocations are counted
    #[command(hide = true)]
    Counted {
        /// Address of etcd
        #[arg(long)]
        url: String,
        /// Name of the cluster
        #[arg(long)]
        cluster: String,
    },
    /// Serve a described fleet by engines that only take time; benches start this one themselves
    #[command(hide = true)]
    FakeLatency {
        /// The fleet's description
        #[arg(long)]
        fleet: PathBuf,
        /// Decides the noise of the engines
        #[arg(long)]
        seed: u64,
    },
    /// Run a model without a server; benches start this one themselves
    #[command(hide = true)]
    InProcess {
        #[command(flatten)]
        subject: inprocess::Subject,
        #[command(flatten)]
        setting: inprocess::Setting,
    },
}

impl Args {
    /// Where the demo's models are.
    fn demo_models(&self) -> PathBuf {
        self.demo_models.clone().unwrap_or_else(|| self.models.with_file_name("demo"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; false when a target was missed.
async fn run(args: &Args) -> anyhow::Result<bool> {
    let mut report = Report::new();
    match &args.bench {
        Bench::Serving => {
            serving::run(args, &mut report).await?;
            ideal::run(args, &mut report).await?;
        }
        Bench::Smallest => serving::run(args, &mut report).await?,
        Bench::Gateway => gateway::run(args, &mut report).await?,
        Bench::Load => load::run(args, &mut report).await?,
        Bench::Ideal => ideal::run(args, &mut report).await?,
        Bench::Swing => swing::run(args, &mut report).await?,
        Bench::SimTruth => truth::run(args, &mut report).await?,
        Bench::Router { full } => router::run(*full, &mut report)?,
        Bench::Batcher { full } => {
            bursts::run(args, &mut report).await?;
            batcher::run(*full, &mut report)?;
        }
        Bench::Slo { sim, live, level_s, svg } => {
            let mut pictures = Vec::new();
            if *live {
                pictures.extend(slo::measured(args, Duration::from_secs(*level_s), &mut report).await?);
            }
            if *sim {
                pictures.extend(slo::simulated(&mut report)?);
            }
            if let Some(path) = svg {
                std::fs::write(path, loadtest::charts(&pictures)).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Bench::Overload => overload::run(args, &mut report).await?,
        Bench::Variants => variants::run(args, &mut report)?,
        Bench::Plan => plan::run(args, &mut report)?,
        Bench::All { full } => {
            let started = Instant::now();
            serving::run(args, &mut report).await?;
            ideal::run(args, &mut report).await?;
            swing::run(args, &mut report).await?;
            gateway::run(args, &mut report).await?;
            load::run(args, &mut report).await?;
            overload::run(args, &mut report).await?;
            truth::run(args, &mut report).await?;
            router::run(*full, &mut report)?;
            bursts::run(args, &mut report).await?;
            batcher::run(*full, &mut report)?;
            if !full {
                report.target("bench all took", started.elapsed().as_secs_f64() / 60.0, report::Bound::AtMost(40.0), "minutes");
            }
        }
        Bench::Echo { answer } => return echo::serve(*answer).await.map(|()| true),
        Bench::Canned => return gateway::upstream::serve().await.map(|()| true),
        Bench::Proxy { upstream } => return gateway::upstream::proxy(upstream).await.map(|()| true),
        Bench::Counted { url, cluster } => return gateway::counted::serve(url, cluster).await.map(|()| true),
        Bench::FakeLatency { fleet, seed } => return fake_latency::serve(fleet, *seed).await.map(|()| true),
        Bench::InProcess { subject, setting } => return inprocess::serve(&args.onnxruntime, subject, *setting).map(|()| true),
    }
    report.finish(args.json.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_and_the_file_may_stand_before_or_behind_the_bench() {
        for words in ["--json f --rounds 3 all", "all --json f --rounds 3", "--rounds 3 router --full --json f"] {
            let args = Args::try_parse_from(["bench", "--sluice", "s", "--models", "m"].into_iter().chain(words.split(' '))).unwrap();
            assert_eq!((args.rounds, args.json.as_deref()), (3, Some(std::path::Path::new("f"))), "{words}");
        }
    }
}
