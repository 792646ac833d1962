//! What one sender saw, to be added to what the others saw.

use crate::client::Told;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds of errors told apart by their text; a server may put a number into each.
const ERRORS_MAX: usize = 50;
const OTHER_ERRORS: &str = "other errors";
/// Significant digits of histograms over all requests, and of those per kind of request.
const DIGITS: (u8, u8) = (3, 2);
/// Longest latency told apart, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Microseconds; grows with what it holds.
pub(crate) type Latencies = Histogram<u64>;

#[expect(clippy::expect_used, reason = "both numbers of digits are ones that hdrhistogram accepts; a test runs this line")]
pub(crate) fn latencies(digits: u8) -> Latencies {
    Histogram::new(digits).expect("constant digits")
}

pub(crate) fn us(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

fn add_us(histogram: &mut Latencies, us: u64) {
    // An auto-resizing histogram refuses nothing up to its highest value, and this is below.
    let _ = histogram.record(us.clamp(1, LATENCY_US_MAX));
}

/// A part of the measured time.
#[derive(Debug, Clone)]
pub struct Interval {
    /// Requests that were due in it.
    pub offered: u64,
    /// Good answers that came in it.
    pub answered: u64,
    /// Requests that were due in it and answered well and within their deadline, where they have one.
    pub in_time: u64,
    /// Accuracies of those in sum, where answers are read.
    pub accuracy: f64,
    /// Microseconds, of requests that were due in it and answered well.
    pub latency_us: Histogram<u64>,
}

/// What came of one kind of request.
#[derive(Debug, Clone)]
pub struct AskRecord {
    /// Requests that were due.
    pub offered: u64,
    /// Answered well.
    pub answered: u64,
    /// Answered well and within the deadline, where there is one.
    pub in_time: u64,
    /// Microseconds, of the good answers.
    pub latency_us: Histogram<u64>,
    /// By the variant that answered, where answers are read and tell it.
    pub variants: BTreeMap<String, VariantRecord>,
}

/// Answers of one variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VariantRecord {
    /// Answered well.
    pub answered: u64,
    /// Of these, within the deadline, where there is one.
    pub in_time: u64,
    /// Relative to the reference, the least that was told; 0 where that was not.
    pub accuracy: f64,
}

/// Which time is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
    pub(crate) interval: Duration,
}

impl Window {
    /// About a hundred intervals, none shorter than 100 ms.
    pub(crate) fn new(warm_up: Duration, length: Duration) -> Self {
        Self { warm_up, length, interval: (length / 100).max(Duration::from_millis(100)) }
    }

    /// The interval of a moment; what comes after the end belongs to none.
    fn interval(&self, at: Duration) -> Option<usize> {
        let inside = at.checked_sub(self.warm_up).filter(|inside| *inside < self.length)?;
        usize::try_from(inside.as_micros().checked_div(self.interval.as_micros())?).ok()
    }
}

/// One request's end. All moments are from the start of the run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) ask: usize,
    pub(crate) due: Duration,
    pub(crate) sent: Duration,
    pub(crate) done: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) outcome: Result<(), String>,
    /// Of a good answer that was read.
    pub(crate) told: Option<Told>,
}

#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    window: Window,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) asks: Vec<AskRecord>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) send_lag_us: Latencies,
    pub(crate) error_us: Latencies,
}

impl AskRecord {
    fn add(&mut self, variant: &str, record: VariantRecord) {
        match self.variants.get_mut(variant) {
            Some(known) => known.add(record),
            None => drop(self.variants.insert(variant.to_owned(), record)),
        }
    }
}

impl VariantRecord {
    fn add(&mut self, other: Self) {
        self.answered = self.answered.saturating_add(other.answered);
        self.in_time = self.in_time.saturating_add(other.in_time);
        self.accuracy = self.accuracy.min(other.accuracy);
    }
}

impl Recorder {
    pub(crate) fn new(window: Window, asks: usize) -> Self {
        let interval = Interval { offered: 0, answered: 0, in_time: 0, accuracy: 0.0, latency_us: latencies(DIGITS.0) };
        let count = window.length.as_micros().div_ceil(window.interval.as_micros().max(1));
        let ask = AskRecord { offered: 0, answered: 0, in_time: 0, latency_us: latencies(DIGITS.1), variants: BTreeMap::new() };
        Self {
            window,
            intervals: vec![interval; usize::try_from(count).unwrap_or(0)],
            asks: vec![ask; asks],
            errors: BTreeMap::new(),
            send_lag_us: latencies(DIGITS.0),
            error_us: latencies(DIGITS.1),
        }
    }

    /// Counts a request that was due inside the window by what came of it, and an answer that came inside it.
    pub(crate) fn add(&mut self, done: &Done) {
        if let (Ok(()), Some(interval)) = (&done.outcome, self.window.interval(done.done).and_then(|i| self.intervals.get_mut(i))) {
            interval.answered = interval.answered.saturating_add(1); // whenever it was due
        }
        let due = self.window.interval(done.due).and_then(|i| self.intervals.get_mut(i));
        let (Some(interval), Some(ask)) = (due, self.asks.get_mut(done.ask)) else { return };
        interval.offered = interval.offered.saturating_add(1);
        ask.offered = ask.offered.saturating_add(1);
        add_us(&mut self.send_lag_us, us(done.sent.saturating_sub(done.due)));
        if let Err(error) = &done.outcome {
            add_us(&mut self.error_us, us(done.done.saturating_sub(done.sent)));
            return self.add_error(error, 1);
        }
        let latency = done.done.saturating_sub(done.due);
        ask.answered = ask.answered.saturating_add(1);
        let in_time = u64::from(done.deadline.is_none_or(|deadline| latency < deadline));
        ask.in_time = ask.in_time.saturating_add(in_time);
        interval.in_time = interval.in_time.saturating_add(in_time);
        if let Some(told) = &done.told {
            interval.accuracy += in_time as f64 * told.accuracy;
            ask.add(&told.variant, VariantRecord { answered: 1, in_time, accuracy: told.accuracy });
        }
        add_us(&mut ask.latency_us, us(latency));
        add_us(&mut interval.latency_us, us(latency));
    }

    fn add_error(&mut self, error: &str, count: u64) {
        let known = self.errors.contains_key(error) || self.errors.len() < ERRORS_MAX;
        let total = self.errors.entry(if known { error } else { OTHER_ERRORS }.to_owned()).or_default();
        *total = total.saturating_add(count);
    }

    /// Adds what another sender of the same load saw.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.intervals.iter_mut().zip(&other.intervals) {
            ours.offered = ours.offered.saturating_add(theirs.offered);
            ours.answered = ours.answered.saturating_add(theirs.answered);
            ours.in_time = ours.in_time.saturating_add(theirs.in_time);
            ours.accuracy += theirs.accuracy;
            let _ = ours.latency_us.add(&theirs.latency_us); // auto-resizing: takes any
        }
        for (ours, theirs) in self.asks.iter_mut().zip(&other.asks) {
            ours.offered = ours.offered.saturating_add(theirs.offered);
            ours.answered = ours.answered.saturating_add(theirs.answered);
            ours.in_time = ours.in_time.saturating_add(theirs.in_time);
            let _ = ours.latency_us.add(&theirs.latency_us);
            theirs.variants.iter().for_each(|(variant, record)| ours.add(variant, *record));
        }
        other.errors.iter().for_each(|(error, count)| self.add_error(error, *count));
        let _ = self.send_lag_us.add(&other.send_lag_us);
        let _ = self.error_us.add(&other.error_us);
    }

    /// Length of an interval.
    pub(crate) fn interval(&self) -> Duration {
        self.window.interval
    }

    /// All good answers.
    pub(crate) fn total(&self) -> Latencies {
        let mut total = latencies(DIGITS.0);
        for interval in &self.intervals {
            let _ = total.add(&interval.latency_us);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn done(due: u64, sent: u64, done: u64, outcome: Result<(), String>) -> Done {
        Done { ask: 0, due: ms(due), sent: ms(sent), done: ms(done), deadline: Some(ms(45)), outcome, told: None }
    }

    #[test]
    fn latency_counts_from_the_moment_a_request_was_due() {
        let mut recorder = Recorder::new(Window::new(ms(100), ms(1_000)), 1);
        recorder.add(&done(50, 50, 60, Ok(()))); // in the warm-up
        recorder.add(&done(100, 140, 150, Ok(())));
        recorder.add(&done(200, 201, 240, Ok(())));
        recorder.add(&done(1_050, 1_050, 1_150, Err("Unavailable: x".into())));
        recorder.add(&done(1_100, 1_100, 1_100, Ok(()))); // after the end
        let (ask, total) = (&recorder.asks[0], recorder.total());
        assert_eq!((ask.offered, ask.answered, ask.in_time, total.len()), (3, 2, 1, 2));
        assert!((49_900..=50_100).contains(&total.max()), "{}", total.max());
        assert!((39_900..=40_100).contains(&recorder.send_lag_us.max()));
        assert_eq!(recorder.intervals.iter().map(|i| i.offered).collect::<Vec<_>>(), [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        let answered: Vec<u64> = recorder.intervals.iter().map(|i| i.answered).collect();
        assert_eq!(answered, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "by the moment of the answer");
        let mut twice = recorder.clone();
        twice.merge(&recorder);
        assert_eq!((twice.asks[0].offered, twice.total().len(), twice.errors["Unavailable: x"]), (6, 4, 2));
    }

    #[test]
    fn answers_are_counted_by_who_gave_them() {
        let mut recorder = Recorder::new(Window::new(ms(0), ms(1_000)), 1);
        let told = |variant: &str, accuracy| Some(Told { variant: variant.to_owned(), accuracy });
        recorder.add(&Done { told: told("fp32@ort", 1.0), ..done(10, 10, 20, Ok(())) });
        recorder.add(&Done { told: told("int8@ort", 0.9), ..done(10, 10, 20, Ok(())) });
        recorder.add(&Done { told: told("int8@ort", 0.9), ..done(10, 10, 200, Ok(())) }); // late
        let mut twice = recorder.clone();
        twice.merge(&recorder);
        let variants = &twice.asks[0].variants;
        assert_eq!(variants["fp32@ort"], VariantRecord { answered: 2, in_time: 2, accuracy: 1.0 });
        assert_eq!(variants["int8@ort"], VariantRecord { answered: 4, in_time: 2, accuracy: 0.9 });
        assert_eq!((twice.intervals[0].in_time, twice.intervals[0].accuracy), (4, 3.8));
    }

    #[test]
    fn errors_that_all_differ_do_not_fill_the_memory() {
        let mut recorder = Recorder::new(Window::new(ms(0), ms(1_000)), 1);
        (0..1_000).for_each(|i| recorder.add(&done(1, 1, 1, Err(i.to_string()))));
        assert_eq!((recorder.errors.len(), recorder.errors[OTHER_ERRORS]), (ERRORS_MAX + 1, 950));
    }
}
