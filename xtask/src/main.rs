//! What a person types in this repository: `cargo xtask fetch | demo | test | bench`.
//!
//! Everything that comes from outside is pinned by sha256 and fetched through package clients (`pip`, `apt-get`) into a cache
//! outside the repository, so that `cargo build` itself stays offline. The checks that clippy cannot make are tests in `tidy.rs`.
//!
//! Not here: anything of the product; this crate depends on none of the others.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to a terminal")]

mod cache;
mod child;
mod demo;
mod fetch;
mod pins;
mod test;
#[cfg(test)]
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use cache::Cache;
use fetch::Item;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Fetch, demo, test and bench Sluice")]
struct Cli {
    /// Where fetched and built files are kept [default: ~/.cache/sluice]
    #[arg(long, env = "SLUICE_CACHE", global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Download what the build, the tests and the demo need, each file checked against its sha256
    Fetch {
        /// Only these (and what they need)
        #[arg(long, value_delimiter = ',', value_enum, value_name = "NAME,...")]
        only: Vec<Item>,
    },
    /// Start a cluster on this machine and send it photographs and sentences
    Demo {
        /// Passed to the demo, such as --once
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test, with the fetched engine, etcd, models and clients
    Test {
        /// Passed to the test runner, such as -p worker
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure alternatives in one interleaved run, and say which targets are met
    Bench {
        /// Passed to the bench: `serving`, `gateway`, `load`, `ideal`, `swing`, `sim-truth`, `overload`, `router`, `batcher`, `variants`, `plan`,
        /// `slo --sim`, `slo --live` or `all`; --rounds N, --json FILE
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let cache = Cache::open(cli.cache)?;
    match cli.task {
        Task::Fetch { only } => {
            fetch::fetch(&cache, if only.is_empty() { Item::ALL } else { &only })?;
            println!("everything is in {}", cache.root().display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo { args } => demo::demo(&cache, &args),
        Task::Test { args } => test::test(&cache, &args),
        Task::Bench { args } => demo::bench(&cache, &args),
    }
}

/// The top folder of this checkout.
fn repository() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask/ has no parent folder")
}
