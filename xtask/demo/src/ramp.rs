//! A load that rises and falls: a quantized variant takes over from the reference while there is not time for that, and gives back.

use crate::client::{Client, Tensor, connect, int64, number, parameter, request};
use crate::server::Server;
use anyhow::Context as _;
use proto::inference::ModelInferRequest;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::Command;

const MODEL: &str = "minilm_l6";
const REFERENCE: &str = "fp32@ort";
const VARIANT: &str = "int8-dynamic@ort";
/// What is sent at, as shares of what the reference alone can answer.
const LEVELS: [f64; 9] = [0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 1.2, 0.6, 0.3];
const LEVEL: Duration = Duration::from_secs(4);
/// Answers that count: the first of a level still show the one before.
const SETTLED: Duration = Duration::from_secs(1);
/// Time that an answer may take, in runs of the reference, and at least.
const TARGET_RUNS: f64 = 6.0;
const TARGET_MS_MIN: f64 = 40.0;
/// Words in each sentence, as tokens.
const TOKENS: i64 = 32;
/// Longest wait until the variant was timed and is warm.
const WARM_MAX: Duration = Duration::from_secs(180);

/// What came of the requests of a level.
#[derive(Default)]
struct Level {
    offered: u64,
    in_time: u64,
    accuracy: f64,
    variants: BTreeMap<String, u64>,
    latency_ms: Vec<f64>,
}

/// Makes the variant, serves both, and shows who answers at which load.
pub(crate) async fn show(sluice: &Path, models: &Path, samples: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let version = dir.path().join(MODEL).join("1");
    std::fs::create_dir_all(&version)?;
    std::fs::copy(models.join(MODEL).join("1/model.onnx"), version.join("model.onnx"))?;
    println!("$ sluice variants make {MODEL} --calib {} --recipes int8-dynamic", samples.display());
    let mut make = Command::new(sluice);
    make.args(["variants", "make"]).arg(version.join("model.onnx")).arg("--calib").arg(samples);
    let made = make.args(["--recipes", "int8-dynamic", "--floor", "0.98", "--budget-ms", "200"]).output().await?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr).trim_end());
    println!("{}", String::from_utf8_lossy(&made.stdout).trim_end());

    let server = Server::start(sluice, dir.path()).await?;
    let client = connect(&server.grpc).await?;
    warm(&client).await?;
    let (rate, run_ms) = capacity(&client).await?;
    let target_ms = (TARGET_RUNS * run_ms).max(TARGET_MS_MIN);
    println!("\nThe reference answers {rate:.0} sentences a second by itself. Each request asks for an answer within {target_ms:.0} ms.\n");
    println!(
        "{:>6} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "load", "rows/s", "in time", "fp32", "int8", "accuracy", "p50 ms", "p99 ms"
    );
    let mut shares = Vec::new();
    for load in LEVELS {
        let level = level(&client, load * rate, target_ms).await?;
        let share = |name: &str| *level.variants.get(name).unwrap_or(&0) as f64 / (level.latency_ms.len().max(1) as f64);
        let (offered, per_cent) = (level.offered.max(1) as f64, 100.0);
        println!(
            "{load:>5.1}x {:>8.0} {:>7.1} % {:>7.0} % {:>7.0} % {:>9.4} {:>8.1} {:>8.1}",
            load * rate,
            per_cent * level.in_time as f64 / offered,
            per_cent * share(REFERENCE),
            per_cent * share(VARIANT),
            level.accuracy / (level.in_time.max(1) as f64),
            quantile(&level.latency_ms, 0.5),
            quantile(&level.latency_ms, 0.99),
        );
        shares.push(share(VARIANT));
    }
    println!("\n$ sluice plan");
    let told = Command::new(sluice).args(["plan", "--server", &server.admin]).output().await?;
    println!("{}", String::from_utf8_lossy(&told.stdout).trim_end());
    server.stop().await?;
    let most = shares.iter().copied().fold(0.0, f64::max);
    let (first, last) = (shares.first().copied().unwrap_or(1.0), shares.last().copied().unwrap_or(1.0));
    if most < 0.3 || first > 0.2 || last > 0.2 {
        println!("\nNot as it should be: int8 was to take over under load and to give back, its shares were {shares:.2?}");
    }
    Ok(())
}

/// One sentence, made up: what it says does not matter here.
fn sentence() -> Vec<Tensor> {
    let ids: Vec<i64> = (0..TOKENS).map(|i| 1_996 + 37 * i).collect();
    vec![int64("input_ids", vec![1, TOKENS], &ids), int64("attention_mask", vec![1, TOKENS], &[1; TOKENS as usize])]
}

fn asked(pin: Option<&str>, target_ms: Option<f64>) -> ModelInferRequest {
    let mut asked = request(MODEL, sentence());
    asked.parameters.extend(pin.map(|name| ("sluice_variant".to_owned(), crate::client::text(name))));
    asked.parameters.extend(target_ms.map(|ms| ("sluice_latency_ms".to_owned(), crate::client::double(ms))));
    asked
}

/// Waits until the variant was timed beside the reference and is warm.
async fn warm(client: &Client) -> anyhow::Result<()> {
    let wait = async {
        while client.clone().model_infer(asked(Some(VARIANT), None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(WARM_MAX, wait).await.with_context(|| format!("{VARIANT} was not served within {WARM_MAX:?}"))
}

/// Rows a second of the reference, and milliseconds of a row alone.
async fn capacity(client: &Client) -> anyhow::Result<(f64, f64)> {
    let started = Instant::now();
    let callers = (0..4).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut count = 0u32;
            while started.elapsed() < Duration::from_secs(3) {
                client.model_infer(asked(Some(REFERENCE), None)).await?;
                count += 1;
            }
            Ok::<_, tonic::Status>(count)
        })
    });
    let mut count = 0;
    for caller in callers.collect::<Vec<_>>() {
        count += caller.await??;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    let mut alone = Vec::new();
    for _ in 0..20 {
        let sent = Instant::now();
        client.clone().model_infer(asked(Some(REFERENCE), None)).await?;
        alone.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    alone.sort_by(f64::total_cmp);
    Ok((rate, quantile(&alone, 0.5)))
}

/// Sends `rate` requests a second, whatever becomes of them: latency counts from when each was due.
async fn level(client: &Client, rate: f64, target_ms: f64) -> anyhow::Result<Level> {
    let (level, started) = (Arc::new(Mutex::new(Level::default())), Instant::now());
    let count = (rate * LEVEL.as_secs_f64()) as u32;
    let mut tasks = Vec::new();
    for number in 0..count {
        let due = started + Duration::from_secs_f64(f64::from(number) / rate);
        tokio::time::sleep_until(due.into()).await;
        let (mut client, level) = (client.clone(), level.clone());
        tasks.push(tokio::spawn(async move {
            let mut message = tonic::Request::new(asked(None, Some(target_ms)));
            message.set_timeout(Duration::from_secs_f64(target_ms / 1e3));
            let answer = client.model_infer(message).await;
            if due.duration_since(started) >= SETTLED {
                level.lock().unwrap_or_else(PoisonError::into_inner).add(
                    answer.ok().map(tonic::Response::into_inner),
                    due.elapsed(),
                    target_ms,
                );
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let mut level = std::mem::take(&mut *level.lock().unwrap_or_else(PoisonError::into_inner));
    level.latency_ms.sort_by(f64::total_cmp);
    Ok(level)
}

impl Level {
    fn add(&mut self, answer: Option<proto::inference::ModelInferResponse>, took: Duration, target_ms: f64) {
        self.offered += 1;
        let Some(answer) = answer else { return };
        let ms = took.as_secs_f64() * 1e3;
        *self.variants.entry(parameter(&answer, "variant")).or_default() += 1;
        self.latency_ms.push(ms);
        if ms <= target_ms {
            self.in_time += 1;
            self.accuracy += number(&answer, "accuracy");
        }
    }
}

/// Of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
