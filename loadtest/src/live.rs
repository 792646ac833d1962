//! One load sent at one target.

use crate::client::{Client, Prepared};
use crate::error::LoadError;
use crate::mix::Ask;
use crate::record::{Recorder, Window};
use crate::report::{ClientUse, Place, Report};
use crate::request::prepare;
use crate::schedule::Pace;
use crate::script::Script;
use crate::sender::{Sender, share};
use crate::target::{Protocol, Target};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Barrier;

/// What to send, where, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// The server.
    pub target: Target,
    /// What is asked, and when.
    pub script: Script,
    /// Connections that share the requests. REST carries one request at a time on each.
    pub connections: usize,
    /// Sending threads.
    pub threads: usize,
    /// Most requests without an answer in an open loop; one more is not sent, and counts as an error.
    pub in_flight_max: usize,
    /// Size of open dimensions other than the rows.
    pub size: i64,
    /// Read of each gRPC answer which variant gave it and how accurate that is.
    pub reads_answers: bool,
}

/// Most callers, and most requests without an answer: a few gigabytes.
const IN_FLIGHT_MAX: usize = 1_000_000;

impl Load {
    /// `ask` at `pace` for `duration`, with one thread and the usual rest.
    pub fn new(target: Target, ask: Ask, pace: Pace, duration: Duration) -> Self {
        let connections = match target.protocol {
            Protocol::Grpc => 4,
            Protocol::Rest => 64,
        };
        Self {
            target,
            script: Script::new(ask, pace, duration),
            connections,
            threads: 1,
            in_flight_max: 20_000,
            size: 16,
            reads_answers: false,
        }
    }

    /// What cannot be, all of it.
    pub fn check(&self, problems: &mut Vec<String>) {
        self.script.check(problems);
        if let Err(error) = self.target.authority() {
            problems.push(error.to_string());
        }
        let mut check = |good: bool, text: String| {
            if !good {
                problems.push(text);
            }
        };
        check((1..=256).contains(&self.threads), format!("threads {} must be from 1 to 256", self.threads));
        let connections = self.threads..=10_000;
        check(
            connections.contains(&self.connections),
            format!("connections {} must be from {} (one a thread) to 10000", self.connections, self.threads),
        );
        check(
            (1..=IN_FLIGHT_MAX).contains(&self.in_flight_max),
            format!("in-flight limit {} must be from 1 to {IN_FLIGHT_MAX}", self.in_flight_max),
        );
        check((1..=1 << 24).contains(&self.size), format!("size {} must be from 1 to {}", self.size, 1 << 24));
        if let Pace::Closed { concurrency } = &self.script.pace {
            check(
                (self.threads..=IN_FLIGHT_MAX).contains(concurrency),
                format!("concurrency {concurrency} must be from {} (one a thread) to {IN_FLIGHT_MAX}", self.threads),
            );
        }
    }
}

/// Sends the load and waits for the last answer.
///
/// # Errors
/// When nothing can be sent at all. Errors of requests are in the report.
pub async fn run(load: &Load) -> Result<Report, LoadError> {
    let mut problems = Vec::new();
    load.check(&mut problems);
    if !problems.is_empty() {
        return Err(LoadError::Settings(problems));
    }
    let prepared = Arc::new(prepare_all(load).await?);
    let authority = load.target.authority()?;
    // Callers of a closed loop that waited for each other's connection would be fewer than was asked for.
    let connections = match (load.target.protocol, &load.script.pace) {
        (Protocol::Rest, Pace::Closed { concurrency }) => load.connections.max(*concurrency),
        _ => load.connections,
    };
    let window = Window::new(load.script.warm_up, load.script.duration);
    let (ready, start) = (Arc::new(Barrier::new(load.threads)), Arc::new(OnceLock::new()));
    let load = Arc::new(load.clone());
    let senders = (0..load.threads).map(|index| Sender {
        load: load.clone(),
        prepared: prepared.clone(),
        client: Client::new(authority.clone(), load.target.protocol, share(connections, load.threads, index), load.reads_answers),
        recorder: Recorder::new(window, load.script.mix.asks.len()),
        index,
        ready: ready.clone(),
        start: start.clone(),
    });
    let threads: Vec<_> = senders.map(|sender| tokio::task::spawn_blocking(|| sender.run())).collect();
    let (mut recorder, mut cpu, mut waited) = (Recorder::new(window, load.script.mix.asks.len()), Duration::ZERO, 0u64);
    for thread in threads {
        let sent = thread.await.map_err(std::io::Error::other)??;
        recorder.merge(&sent.recorder);
        cpu = cpu.saturating_add(sent.cpu);
        waited = waited.saturating_add(sent.waited);
    }
    let client = ClientUse { cpu, threads: load.threads, waited };
    Ok(Report::new(&load.script, recorder, Place::Client(client)))
}

/// A request for each kind of the mix. A model is asked about once, however many kinds there are.
async fn prepare_all(load: &Load) -> Result<Vec<Prepared>, LoadError> {
    let mut inputs = HashMap::new();
    let mut prepared = Vec::new();
    for ask in &load.script.mix.asks {
        if !inputs.contains_key(&ask.model) {
            inputs.insert(ask.model.clone(), load.target.inputs(&ask.model).await?);
        }
        let inputs = inputs.get(&ask.model).cloned().unwrap_or_default();
        prepared.push(prepare(&load.target, inputs, ask, load.size)?);
    }
    Ok(prepared)
}
