//! What workers tell of their batches: how many there were, how many took longer than predicted, and how slow they are now.

use super::fleet::Live;
use crate::server::Server;
use std::collections::BTreeMap;

/// Of one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) executions: u64,
    pub(super) over_p99: u64,
    /// Time of the last batches over what is usual.
    pub(super) slow: f64,
}

/// Replicas of a worker, by the labels that name them.
pub(super) type Replicas = BTreeMap<String, Counted>;

/// Reads what the worker's metrics say of its replicas.
pub(super) fn read(text: &str) -> Replicas {
    let mut replicas = Replicas::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("sluice_worker_")) {
        let Some((name, (labels, value))) = line.split_once('{').and_then(|(name, rest)| Some((name, rest.split_once("} ")?))) else {
            continue;
        };
        let (replica, value) = (replicas.entry(labels.to_owned()).or_default(), value.trim().parse().unwrap_or(0.0));
        match name {
            "executions_total" => replica.executions = value as u64,
            "executions_over_p99_total" => replica.over_p99 = value as u64,
            "slow_ratio" => replica.slow = value,
            _ => {}
        }
    }
    replicas
}

pub(super) async fn of(worker: &Server) -> anyhow::Result<Replicas> {
    Ok(read(&worker.metrics().await?))
}

/// Batches of all workers, and those over their predicted 99th percentile.
pub(super) async fn total(live: &Live) -> anyhow::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for (_, worker) in &live.workers {
        for replica in of(worker).await?.values() {
            sum = (sum.0 + replica.executions, sum.1 + replica.over_p99);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_tells_is_read_by_replica() {
        let text = "# HELP sluice_worker_executions Batches.\n\
                    sluice_worker_executions_total{model=\"m\",variant=\"fp32@ort\"} 12\n\
                    sluice_worker_executions_over_p99_total{model=\"m\",variant=\"fp32@ort\"} 1\n\
                    sluice_worker_slow_ratio{model=\"m\",variant=\"fp32@ort\"} 1.5\n# EOF\n";
        let replicas = read(text);
        let expected = Counted { executions: 12, over_p99: 1, slow: 1.5 };
        assert_eq!(replicas.into_iter().collect::<Vec<_>>(), [("model=\"m\",variant=\"fp32@ort\"".to_owned(), expected)]);
    }
}
