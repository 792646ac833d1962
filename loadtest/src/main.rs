//! `sluice-load`: sends an open-loop load to any server that speaks the Open Inference Protocol.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints its result")]

use clap::Parser;
use loadtest::{Arrivals, Load, connect, request_of, run};
use std::process::ExitCode;
use std::time::Duration;

/// Open-loop load; latency counts from the moment a request was due.
#[derive(Debug, Parser)]
struct Args {
    /// The model
    #[arg(long)]
    model: String,
    /// Address of the gRPC port
    #[arg(long, default_value = "http://127.0.0.1:8001")]
    server: String,
    /// Requests per second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Connections
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// Independent arrivals instead of evenly spaced ones
    #[arg(long)]
    poisson: bool,
    /// Deadline of each request in milliseconds
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Size of the model's open dimensions
    #[arg(long, default_value_t = 16)]
    size: i64,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match send(&args).await {
        Ok(report) if args.json => println!("{}", report.json()),
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("sluice-load: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn send(args: &Args) -> Result<loadtest::Report, loadtest::LoadError> {
    let mut client = connect(&args.server).await?;
    let load = Load {
        url: args.server.clone(),
        request: request_of(&mut client, &args.model, args.size).await?,
        rate: args.rate,
        duration: Duration::try_from_secs_f64(args.duration).map_err(|_| loadtest::LoadError::Setting("the duration must be positive"))?,
        arrivals: if args.poisson { Arrivals::Poisson } else { Arrivals::Constant },
        connections: args.connections,
        timeout: args.timeout_ms.map(Duration::from_millis),
    };
    run(&load).await
}
