//! [`policy::statistics::Statistics`] as the protocol's ModelStatistics, and back.

use crate::inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};
use policy::statistics::{BatchTotals, Statistics, Total};

fn duration(total: Total) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: total.count, ns: total.ns })
}

fn total(duration: Option<StatisticDuration>) -> Total {
    duration.map_or_else(Total::default, |d| Total { count: d.count, ns: d.ns })
}

/// The message. Every member of `inference_stats` is there, since perf_analyzer reads them all; nothing is cached, so the cache's
/// counters are zero.
pub fn to_message(name: &str, version: &str, statistics: &Statistics) -> ModelStatistics {
    let batch = |(rows, totals): (&u32, &BatchTotals)| InferBatchStatistics {
        batch_size: u64::from(*rows),
        compute_input: duration(totals.compute_input),
        compute_infer: duration(totals.compute_infer),
        compute_output: duration(totals.compute_output),
    };
    ModelStatistics {
        name: name.to_owned(),
        version: version.to_owned(),
        last_inference: statistics.last_inference_ms,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(statistics.success),
            fail: duration(statistics.fail),
            queue: duration(statistics.queue),
            compute_input: duration(statistics.compute_input),
            compute_infer: duration(statistics.compute_infer),
            compute_output: duration(statistics.compute_output),
            cache_hit: duration(Total::default()),
            cache_miss: duration(Total::default()),
        }),
        batch_stats: statistics.batches.iter().map(batch).collect(),
        memory_usage: Vec::new(),
        response_stats: Default::default(),
    }
}

/// What a message says; members that are missing are zero.
pub fn from_message(message: &ModelStatistics) -> Statistics {
    let infer = message.inference_stats.unwrap_or_default();
    let batch = |b: &InferBatchStatistics| {
        let totals = BatchTotals {
            compute_input: total(b.compute_input),
            compute_infer: total(b.compute_infer),
            compute_output: total(b.compute_output),
        };
        Some((u32::try_from(b.batch_size).ok()?, totals))
    };
    Statistics {
        last_inference_ms: message.last_inference,
        inference_count: message.inference_count,
        execution_count: message.execution_count,
        success: total(infer.success),
        fail: total(infer.fail),
        queue: total(infer.queue),
        compute_input: total(infer.compute_input),
        compute_infer: total(infer.compute_infer),
        compute_output: total(infer.compute_output),
        batches: message.batch_stats.iter().filter_map(batch).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_the_wire() {
        let t = |n| Total { count: n, ns: n * 10 };
        let totals = BatchTotals { compute_input: t(1), compute_infer: t(2), compute_output: t(3) };
        let statistics = Statistics {
            last_inference_ms: 5,
            inference_count: 6,
            execution_count: 7,
            success: t(8),
            fail: t(9),
            queue: t(10),
            compute_input: t(11),
            compute_infer: t(12),
            compute_output: t(13),
            batches: [(4, totals)].into(),
        };
        assert_eq!(from_message(&to_message("m", "1", &statistics)), statistics);
    }
}
