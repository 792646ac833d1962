//! Sends a trace, or as much as is answered, and reads who answered.

use super::fleet::Live;
use loadtest::{Ask, AskRecord, Interval, Load, Mix, Pace, Report, Script, Target};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time that is sent and not counted, in front of a closed loop.
const WARM_UP: Duration = Duration::from_millis(500);
/// Words of a sentence, as tokens.
const TOKENS: i64 = 64;

/// What answers tell, added up.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) offered: u64,
    pub(super) answered: u64,
    pub(super) in_time: u64,
    /// Of the answers in time.
    accuracy: f64,
    /// Answers less accurate than their model allows.
    pub(super) below_floor: u64,
    /// Answers, by variant.
    pub(super) variants: BTreeMap<String, u64>,
}

impl Told {
    /// From what came of the kinds of requests; `floor` is that of a kind, by its position.
    pub(super) fn of(asks: &[(String, AskRecord)], floor: impl Fn(usize) -> f64) -> Self {
        let mut sum = Self::default();
        for (position, (_, ask)) in asks.iter().enumerate() {
            sum.offered += ask.offered;
            sum.answered += ask.answered;
            sum.in_time += ask.in_time;
            for (name, record) in &ask.variants {
                sum.accuracy += record.in_time as f64 * record.accuracy;
                *sum.variants.entry(name.clone()).or_default() += record.answered;
                sum.below_floor += if record.accuracy < floor(position) { record.answered } else { 0 };
            }
            // An answer that does not tell how accurate it is meets no floor.
            let told: u64 = ask.variants.values().map(|record| record.answered).sum();
            sum.below_floor += ask.answered.saturating_sub(told);
        }
        sum
    }

    /// In per cent of the offered.
    pub(super) fn in_time_percent(&self) -> f64 {
        100.0 * self.in_time as f64 / self.offered.max(1) as f64
    }

    /// Effective accuracy, in per cent: an answer counts by its accuracy if it is in time, and nothing else counts.
    pub(super) fn accuracy_percent(&self) -> f64 {
        100.0 * self.accuracy / self.offered.max(1) as f64
    }

    /// Of the answers in time.
    pub(super) fn mean_accuracy(&self) -> f64 {
        self.accuracy / self.in_time.max(1) as f64
    }
}

/// Requests of a level and a policy, and what came of them.
#[derive(Default)]
pub(super) struct Cell {
    pub(super) told: Told,
    pub(super) seconds: f64,
    pub(super) intervals: Vec<Interval>,
    pub(super) interval: Duration,
    /// From due to sent, the 99th percentile in milliseconds.
    pub(super) lag_ms: f64,
}

impl Cell {
    /// More of the same.
    pub(super) fn add(&mut self, other: Self) {
        let (sum, told) = (&mut self.told, other.told);
        sum.offered += told.offered;
        sum.answered += told.answered;
        sum.in_time += told.in_time;
        sum.accuracy += told.accuracy;
        sum.below_floor += told.below_floor;
        told.variants.into_iter().for_each(|(name, count)| *sum.variants.entry(name).or_default() += count);
        self.seconds += other.seconds;
        self.intervals.extend(other.intervals);
        self.interval = other.interval;
        self.lag_ms = self.lag_ms.max(other.lag_ms);
    }

    pub(super) fn of(report: &Report, floor: impl Fn(usize) -> f64) -> Self {
        Self {
            told: Told::of(&report.asks, floor),
            seconds: report.duration.as_secs_f64(),
            intervals: report.intervals.clone(),
            interval: report.interval,
            lag_ms: report.send_lag_us.value_at_quantile(0.99) as f64 / 1e3,
        }
    }
}

/// Sends `script`.
pub(super) async fn send(live: &Live, script: Script) -> anyhow::Result<Report> {
    let target = Target::grpc(&format!("http://{}", live.gateway.grpc));
    let load = Load::new(target, Ask::of(""), Pace::Replay([].into()), script.duration);
    Ok(loadtest::run(&Load { script, size: TOKENS, connections: 8, reads_answers: true, ..load }).await?)
}

/// So many callers that each wait for their answers.
pub(super) async fn closed(live: &Live, asks: Vec<Ask>, callers: usize, length: Duration) -> anyhow::Result<Report> {
    let script = Script { mix: Mix { asks }, pace: Pace::Closed { concurrency: callers }, warm_up: WARM_UP, duration: length, seed: 1 };
    send(live, script).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;
    use loadtest::VariantRecord;

    #[test]
    fn answers_below_the_floor_and_those_that_do_not_tell_violate_it() {
        let variants = [("fp32@ort", 1.0, 50), ("int8@ort", 0.9, 20)];
        let record =
            |(name, accuracy, answered): (&str, f64, u64)| (name.to_owned(), VariantRecord { answered, in_time: answered / 2, accuracy });
        let variants = variants.map(record).into_iter().collect();
        let latency_us = Histogram::new(2).unwrap();
        let ask = AskRecord { offered: 100, answered: 75, in_time: 37, latency_us, variants };
        let told = Told::of(&[("m".to_owned(), ask)], |_| 0.95);
        assert_eq!((told.below_floor, told.in_time_percent()), (25, 37.0), "20 of int8 and 5 that do not tell");
        assert!((told.accuracy_percent() - (25.0 + 9.0)).abs() < 1e-9, "{told:?}");
    }
}
