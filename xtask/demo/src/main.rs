//! `cargo xtask demo`: serves three real models, sends real pictures, sentences and a made-up sound, and shows where the
//! time went.
#![allow(clippy::print_stdout, reason = "printing is what a demo is for")]

mod client;
mod ramp;
mod sentences;
mod server;
mod sound;

use anyhow::Context as _;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::process::Command;

/// What `cargo xtask demo` passes.
#[derive(Debug, Parser)]
struct Args {
    /// The `sluice` binary
    #[arg(long)]
    sluice: PathBuf,
    /// Model directory
    #[arg(long)]
    models: PathBuf,
    /// Folder with photographs
    #[arg(long)]
    photos: PathBuf,
    /// Tokenizer of the sentence model
    #[arg(long)]
    tokenizer: PathBuf,
    /// Sentences, as tokens, to compare variants on
    #[arg(long)]
    samples: PathBuf,
    /// Stop after one round instead of staying up
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Whatever ends it, it ends by returning, so that the server it started is stopped with it.
    let ended = tokio::select! {
        ended = run(Args::parse()) => ended,
        stopped = stopped() => stopped,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Resolves, as a failure, at a SIGTERM.
async fn stopped() -> anyhow::Result<()> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
    anyhow::bail!("stopped by a signal")
}

async fn run(args: Args) -> anyhow::Result<()> {
    println!("== sluice up --models {}", args.models.display());
    let server = server::Server::start(&args.sluice, &args.models).await?;
    println!("{}", server.ready);

    println!("\n== Pictures: EfficientNet-Lite0, ImageNet classes");
    let coffee = pictures(&args, &server).await?;
    anyhow::ensure!(coffee.contains("espresso"), "the picture of an espresso was not called one:\n{coffee}");

    println!("\n== Sentences: MiniLM-L6, how alike they are");
    let mut client = client::connect(&server.grpc).await?;
    sentences::show(&mut client, &args.tokenizer).await?;

    println!("\n== Sound: Silero VAD, is someone speaking? (both sounds are made here, no recording)");
    sound::show(&mut client).await?;

    println!("\n== Load: int8 takes over from fp32 as it rises, and gives back as it falls");
    ramp::show(&args.sluice, &args.models, &args.samples).await?;

    println!("\n{}", how_to(&server.http, &server.grpc));
    if !args.once {
        println!("Serving until Ctrl-C …");
        tokio::signal::ctrl_c().await?;
    }
    server.stop().await
}

/// Sends every photograph with `sluice infer`, as a user would; gives what was said of the coffee.
async fn pictures(args: &Args, server: &server::Server) -> anyhow::Result<String> {
    let mut photos: Vec<PathBuf> = std::fs::read_dir(&args.photos)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    photos.sort();
    let mut coffee = String::new();
    for photo in photos {
        let name = photo.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("$ sluice infer efficientnet_lite0 --image {name} --top 3");
        let said = infer(args, server, &photo).await?;
        println!("{said}");
        if name.starts_with("coffee") {
            coffee = said.lines().next().unwrap_or_default().to_owned();
        }
    }
    Ok(coffee)
}

async fn infer(args: &Args, server: &server::Server, photo: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(&args.sluice);
    command.args(["infer", "efficientnet_lite0", "--top", "3", "--grpc", &server.grpc, "--server", &server.admin, "--image"]).arg(photo);
    let output = command.output().await.with_context(|| format!("{}", args.sluice.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(said)
}

fn how_to(http: &str, grpc: &str) -> String {
    let address = grpc.trim_start_matches("http://");
    format!(
        "== Your turn\n\
         Python (pip install tritonclient[grpc] numpy):\n\
         \x20   import numpy, tritonclient.grpc as triton\n\
         \x20   client = triton.InferenceServerClient(\"{address}\")\n\
         \x20   x = triton.InferInput(\"x\", [1, 3, 224, 224], \"FP32\")\n\
         \x20   x.set_data_from_numpy(numpy.zeros((1, 3, 224, 224), numpy.float32))\n\
         \x20   print(client.infer(\"efficientnet_lite0\", [x]).as_numpy(\"logits\").argmax())\n\
         curl:\n\
         \x20   curl -s {http}/v2/models/minilm_l6\n\
         \x20   curl -s {http}/v2/models/minilm_l6/infer -d '{{\"inputs\": [\
         {{\"name\": \"input_ids\", \"datatype\": \"INT64\", \"shape\": [1, 3], \"data\": [101, 7592, 102]}}, \
         {{\"name\": \"attention_mask\", \"datatype\": \"INT64\", \"shape\": [1, 3], \"data\": [1, 1, 1]}}]}}'\n\
         grpcurl (reflection is on):\n\
         \x20   grpcurl -plaintext {address} list\n\
         \x20   grpcurl -plaintext -d '{{\"name\": \"minilm_l6\"}}' {address} inference.GRPCInferenceService/ModelMetadata"
    )
}
