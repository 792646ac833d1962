//! An open-loop load generator that does not flatter: requests are due at moments fixed in advance, and latency is counted
//! from the moment a request was due, not from when the client got round to sending it.
//!
//! Not here yet: bursts, replay, comparing two targets, plots.

mod request;

pub use request::request_of;

use hdrhistogram::Histogram;
use proto::inference::ModelInferRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

/// Why no load could be sent.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address cannot be reached.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The address.
        url: String,
        /// What was said.
        reason: String,
    },
    /// The server does not describe the model.
    #[error("model {model}: {reason}")]
    Model {
        /// The model.
        model: String,
        /// What was said.
        reason: String,
    },
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(&'static str),
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly spaced.
    Constant,
    /// Independent of each other, as from many callers.
    Poisson,
}

/// What to send, where, and when.
#[derive(Debug, Clone)]
pub struct Load {
    /// Such as `http://127.0.0.1:8001`.
    pub url: String,
    /// Sent again and again.
    pub request: ModelInferRequest,
    /// Requests per second.
    pub rate: f64,
    /// How long.
    pub duration: Duration,
    /// When requests are due.
    pub arrivals: Arrivals,
    /// Connections that share the requests.
    pub connections: usize,
    /// Deadline of each request, if any.
    pub timeout: Option<Duration>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Requests that were due.
    pub offered: u64,
    /// Requests answered well.
    pub answered: u64,
    /// Errors by code and text.
    pub errors: BTreeMap<String, u64>,
    /// Microseconds from due to answered, of the good answers.
    pub latency_us: Histogram<u64>,
    /// Longest that a request left later than it was due: above a few milliseconds the client itself was the bottleneck.
    pub send_lag_us_max: u64,
}

/// One request's end.
struct Done {
    due: Instant,
    sent: Instant,
    done: Instant,
    error: Option<String>,
}

/// Sends the load and waits for the last answer.
///
/// # Errors
/// When nothing can be sent at all. Errors of requests are in the report.
pub async fn run(load: &Load) -> Result<Report, LoadError> {
    if !(load.rate > 0.0 && load.rate.is_finite()) {
        return Err(LoadError::Setting("the rate must be above 0 requests per second"));
    }
    let mut clients = Vec::new();
    for _ in 0..load.connections.max(1) {
        clients.push(connect(&load.url).await?);
    }
    // Answers are taken as they come; 1,024 never wait unless the machine stands still.
    let (tx, mut rx) = mpsc::channel::<Done>(1_024);
    let collect = tokio::spawn(async move {
        let mut report = empty();
        while let Some(done) = rx.recv().await {
            report.add(&done);
        }
        report
    });
    let start = Instant::now();
    let (mut due, mut next) = (Duration::ZERO, clients.iter().cycle());
    while due < load.duration {
        let moment = start.checked_add(due).unwrap_or(start);
        tokio::time::sleep_until(moment.into()).await;
        if let Some(client) = next.next() {
            tokio::spawn(one(client.clone(), load.request.clone(), load.timeout, moment, tx.clone()));
        }
        due = due.saturating_add(gap(load));
    }
    drop(tx);
    collect.await.map_err(|_| LoadError::Setting("the collector failed"))
}

fn gap(load: &Load) -> Duration {
    let mean = 1.0 / load.rate;
    Duration::from_secs_f64(match load.arrivals {
        Arrivals::Constant => mean,
        Arrivals::Poisson => -mean * (1.0 - fastrand::f64()).ln(),
    })
}

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an answer when the load states no longer one: a server that hangs does not hold a run up for ever.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A client of `url`.
///
/// # Errors
/// When it cannot be reached.
pub async fn connect(url: &str) -> Result<GrpcInferenceServiceClient<Channel>, LoadError> {
    let failed = |reason: String| LoadError::Connect { url: url.to_owned(), reason };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| failed(e.to_string()))?.connect_timeout(CONNECT_MAX);
    let channel = endpoint.connect().await.map_err(|e| failed(e.to_string()))?;
    Ok(GrpcInferenceServiceClient::new(channel))
}

async fn one(
    mut client: GrpcInferenceServiceClient<Channel>,
    request: ModelInferRequest,
    timeout: Option<Duration>,
    due: Instant,
    tx: mpsc::Sender<Done>,
) {
    let mut request = tonic::Request::new(request);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let sent = Instant::now();
    let longest = timeout.unwrap_or_default().max(ANSWER_MAX);
    let error = match tokio::time::timeout(longest, client.model_infer(request)).await {
        Ok(answer) => answer.err().map(|s| format!("{:?}: {}", s.code(), s.message())),
        Err(_) => Some(format!("no answer within {} s", longest.as_secs())),
    };
    let _ = tx.send(Done { due, sent, done: Instant::now(), error }).await;
}

/// Longest latency told apart, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

#[expect(clippy::expect_used, reason = "the bounds are constants that hdrhistogram accepts; a test runs this line")]
fn empty() -> Report {
    let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds");
    Report { offered: 0, answered: 0, errors: BTreeMap::new(), latency_us, send_lag_us_max: 0 }
}

impl Report {
    fn add(&mut self, done: &Done) {
        let us = |length: Duration| u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        self.offered = self.offered.saturating_add(1);
        self.send_lag_us_max = self.send_lag_us_max.max(us(done.sent.saturating_duration_since(done.due)));
        match &done.error {
            Some(error) => {
                let count = self.errors.entry(error.clone()).or_default();
                *count = count.saturating_add(1);
            }
            None => {
                self.answered = self.answered.saturating_add(1);
                self.latency_us.saturating_record(us(done.done.saturating_duration_since(done.due)).max(1));
            }
        }
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let q = |quantile| self.latency_us.value_at_quantile(quantile);
        serde_json::json!({
            "offered": self.offered, "answered": self.answered, "errors": self.errors, "send_lag_us_max": self.send_lag_us_max,
            "latency_us": { "p50": q(0.5), "p90": q(0.9), "p99": q(0.99), "p999": q(0.999), "max": self.latency_us.max() },
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        writeln!(f, "offered {} · answered {} · errors {}", self.offered, self.answered, self.errors.values().sum::<u64>())?;
        for (error, count) in &self.errors {
            writeln!(f, "  {count} × {error}")?;
        }
        writeln!(f, "latency from the moment due: p50 {:.2} ms · p90 {:.2} ms · p99 {:.2} ms", ms(0.5), ms(0.9), ms(0.99))?;
        write!(f, "requests left at most {:.2} ms late", self.send_lag_us_max as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_the_moment_a_request_was_due() {
        let due = Instant::now();
        let at = |ms| due + Duration::from_millis(ms);
        let mut report = empty();
        report.add(&Done { due, sent: at(40), done: at(50), error: None });
        report.add(&Done { due, sent: at(1), done: at(2), error: Some("Unavailable: x".into()) });
        assert_eq!((report.offered, report.answered, report.errors.len()), (2, 1, 1));
        assert!((49_900..=50_100).contains(&report.latency_us.max()), "{}", report.latency_us.max());
        assert_eq!(report.send_lag_us_max, 40_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_an_error_and_not_the_end_of_time() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", silent.local_addr().unwrap())).unwrap().connect_lazy();
        let (tx, mut rx) = mpsc::channel(1);
        one(GrpcInferenceServiceClient::new(channel), ModelInferRequest::default(), None, Instant::now(), tx).await;
        assert_eq!(rx.recv().await.unwrap().error.as_deref(), Some("no answer within 60 s"));
    }
}
