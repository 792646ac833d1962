//! What a version did since it was loaded: counters in Triton's terms, kept by each replica and summed over all.

use std::collections::BTreeMap;

/// How often something happened, and how long it took in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    /// Times.
    pub count: u64,
    /// Nanoseconds, all times together.
    pub ns: u64,
}

impl Total {
    /// Counts `count` more, each of which took `ns`.
    pub fn add(&mut self, count: u64, ns: u64) {
        self.count = self.count.saturating_add(count);
        self.ns = self.ns.saturating_add(ns.saturating_mul(count));
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.ns = self.ns.saturating_add(other.ns);
    }
}

/// Engine calls of one batch size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchTotals {
    /// Putting inputs side by side; its count is the number of engine calls of this size.
    pub compute_input: Total,
    /// The engine call.
    pub compute_infer: Total,
    /// Taking outputs apart.
    pub compute_output: Total,
}

/// Counters of a version. They only grow; each request is charged the full time of the batch it rode in, as Triton does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// When the last request started, in milliseconds since the Unix epoch; 0 before the first.
    pub last_inference_ms: u64,
    /// Rows answered.
    pub inference_count: u64,
    /// Engine calls; requests that rode together count once.
    pub execution_count: u64,
    /// Requests answered, from arrival to answer.
    pub success: Total,
    /// Requests that were taken and failed.
    pub fail: Total,
    /// Waiting, of requests answered.
    pub queue: Total,
    /// Putting inputs side by side.
    pub compute_input: Total,
    /// In the engine.
    pub compute_infer: Total,
    /// Taking outputs apart.
    pub compute_output: Total,
    /// By rows of the engine call.
    pub batches: BTreeMap<u32, BatchTotals>,
}

impl Statistics {
    /// Adds what another replica, or an earlier one of the same variant, counted.
    pub fn merge(&mut self, other: &Self) {
        self.last_inference_ms = self.last_inference_ms.max(other.last_inference_ms);
        self.inference_count = self.inference_count.saturating_add(other.inference_count);
        self.execution_count = self.execution_count.saturating_add(other.execution_count);
        self.success.merge(other.success);
        self.fail.merge(other.fail);
        self.queue.merge(other.queue);
        self.compute_input.merge(other.compute_input);
        self.compute_infer.merge(other.compute_infer);
        self.compute_output.merge(other.compute_output);
        for (rows, totals) in &other.batches {
            let mine = self.batches.entry(*rows).or_default();
            mine.compute_input.merge(totals.compute_input);
            mine.compute_infer.merge(totals.compute_infer);
            mine.compute_output.merge(totals.compute_output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_counts_times_and_batch_sizes_apart() {
        let one = |rows: u32, ns: u64| {
            let mut s = Statistics { last_inference_ms: ns, inference_count: u64::from(rows), execution_count: 1, ..Statistics::default() };
            s.success.add(2, ns);
            s.batches.entry(rows).or_default().compute_infer.add(1, ns);
            s
        };
        let mut sum = one(1, 10);
        sum.merge(&one(4, 5));
        sum.merge(&one(4, 7));
        assert_eq!((sum.last_inference_ms, sum.inference_count, sum.execution_count), (10, 9, 3));
        assert_eq!(sum.success, Total { count: 6, ns: 44 });
        assert_eq!(sum.batches.get(&4).map(|b| b.compute_infer), Some(Total { count: 2, ns: 12 }));
        assert_eq!(sum.batches.get(&1).map(|b| b.compute_infer), Some(Total { count: 1, ns: 10 }));
    }
}
