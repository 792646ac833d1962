//! What came of a load, for people and for programs.

use crate::measure::{FIGURES, Measured, Measurement, Subject};
use crate::record::{AskRecord, Interval, Recorder};
use crate::schedule::Pace;
use crate::script::Script;
use crate::stats::Spread;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// Above this the client sent late, at the 99th percentile, and is part of what was measured.
const SEND_LAG_US_MAX: u64 = 1_000;
/// Share of a sending thread's time above which it has no room to be on time.
const CPU_SHARE_MAX: f64 = 0.9;
/// Kinds of requests in the text; JSON has them all.
const ASKS_SHOWN_MAX: usize = 20;

/// One run's outcome. Requests of the warm-up are in none of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Time that was measured.
    pub duration: Duration,
    /// Requests that were due.
    pub offered: u64,
    /// Requests answered well.
    pub answered: u64,
    /// Of these, within their deadline, where they have one.
    pub in_time: u64,
    /// Errors by code and text.
    pub errors: BTreeMap<String, u64>,
    /// Microseconds from due to answered, of the good answers. Errors are in none: a refusal is fast.
    pub latency_us: Histogram<u64>,
    /// Microseconds from due to sent.
    pub send_lag_us: Histogram<u64>,
    /// Microseconds from sent to told, of the errors.
    pub error_us: Histogram<u64>,
    /// Where the requests came from.
    pub place: Place,
    /// The measured time in parts.
    pub intervals: Vec<Interval>,
    /// Length of a part; the last may be shorter.
    pub interval: Duration,
    /// By kind of request: its name and what came of it.
    pub asks: Vec<(String, AskRecord)>,
}

/// Where the requests of a run came from.
#[derive(Debug, Clone)]
pub enum Place {
    /// Sent from here, to a server.
    Client(ClientUse),
    /// Computed in virtual time: nothing was sent.
    Simulation(Devices),
}

/// What sending took.
#[derive(Debug, Clone, Copy)]
pub struct ClientUse {
    /// CPU of the sending threads in the measured time.
    pub cpu: Duration,
    /// Sending threads.
    pub threads: usize,
    /// Requests that waited for one of the connections (REST).
    pub waited: u64,
}

/// What simulated devices did for the requests that were due in the measured time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Devices {
    /// Engine threads of all workers.
    pub instances: u64,
    /// Microseconds of running; a request has its rows' share of its batch.
    pub busy_us: f64,
    /// Of these, for answers that came late.
    pub late_us: f64,
    /// Requests that ran.
    pub ran: u64,
    /// Requests that began to run after their deadline: none should.
    pub started_late: u64,
    /// Batches; one counts for each of its requests with their share of the rows.
    pub batches: f64,
    /// Rows that ran.
    pub rows: u64,
}

impl Devices {
    /// Share of the running time that went into answers that came late.
    pub fn late_share(&self) -> f64 {
        if self.busy_us > 0.0 { self.late_us / self.busy_us } else { 0.0 }
    }

    /// Rows of a batch in the mean.
    pub fn rows_mean(&self) -> f64 {
        if self.batches > 0.0 { self.rows as f64 / self.batches } else { 0.0 }
    }
}

impl ClientUse {
    /// Share of the sending threads' time that they used.
    fn share(&self, seconds: f64) -> f64 {
        self.cpu.as_secs_f64() / (seconds * self.threads as f64)
    }
}

impl Report {
    pub(crate) fn new(script: &Script, recorder: Recorder, place: Place) -> Self {
        let sum = |part: fn(&AskRecord) -> u64| recorder.asks.iter().map(part).fold(0, u64::saturating_add);
        Self {
            duration: script.duration,
            offered: sum(|a| a.offered),
            answered: sum(|a| a.answered),
            in_time: sum(|a| a.in_time),
            latency_us: recorder.total(),
            place,
            interval: recorder.interval(),
            asks: script.mix.asks.iter().map(|ask| ask.name()).zip(recorder.asks).collect(),
            errors: recorder.errors,
            send_lag_us: recorder.send_lag_us,
            error_us: recorder.error_us,
            intervals: recorder.intervals,
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.duration.as_secs_f64()
    }

    /// Good answers that came in the measured time, whenever they were due, per second: under overload less than were answered
    /// in the end.
    pub fn answered_per_second(&self) -> f64 {
        self.intervals.iter().map(|i| i.answered).fold(0, u64::saturating_add) as f64 / self.seconds()
    }

    /// Why these figures are the client's as much as the server's; empty when they are not.
    pub fn client_limits(&self) -> Vec<String> {
        let mut limits = Vec::new();
        let Place::Client(client) = &self.place else { return limits };
        let (lag, share) = (self.send_lag_us.value_at_quantile(0.99), client.share(self.seconds()));
        if lag > SEND_LAG_US_MAX {
            limits.push(format!("requests left late: send lag p99 {:.2} ms is over {:.2} ms", ms(lag), ms(SEND_LAG_US_MAX)));
        }
        if share > CPU_SHARE_MAX {
            limits.push(format!("its {} sending thread(s) used {:.0} % of their time", client.threads, share * 100.0));
        }
        if client.waited > 0 {
            limits.push(format!("{} requests waited for a connection: raise --connections", client.waited));
        }
        limits
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let of_ask = |(name, ask): &(String, AskRecord)| {
            json!({
                "ask": name, "offered": ask.offered, "answered": ask.answered, "in_time": ask.in_time,
                "latency_us": quantiles(&ask.latency_us),
            })
        };
        let part = |i: &Interval| json!({ "offered": i.offered, "answered": i.answered, "latency_us": quantiles(&i.latency_us) });
        let (part_of, place) = self.place_json();
        json!({
            "simulated": matches!(self.place, Place::Simulation(_)), "seconds": self.seconds(), "offered": self.offered, "answered": self.answered, "in_time": self.in_time,
            "answered_per_second": self.answered_per_second(), "goodput_per_second": self.in_time as f64 / self.seconds(),
            "errors": self.errors, "latency_us": quantiles(&self.latency_us), "send_lag_us": quantiles(&self.send_lag_us),
            "error_us": quantiles(&self.error_us),
            part_of: place,
            "asks": self.asks.iter().map(of_ask).collect::<Vec<_>>(),
            "interval_seconds": self.interval.as_secs_f64(), "intervals": self.intervals.iter().map(part).collect::<Vec<_>>(),
        })
    }

    fn place_json(&self) -> (&'static str, Value) {
        match &self.place {
            Place::Client(client) => {
                let figures = json!({
                    "cpu_seconds": client.cpu.as_secs_f64(), "threads": client.threads, "cpu_share": client.share(self.seconds()),
                    "waited_for_connection": client.waited, "was_bottleneck": self.client_limits(),
                });
                ("client", figures)
            }
            Place::Simulation(devices) => {
                let figures = json!({
                    "instances": devices.instances, "busy_seconds": devices.busy_us / 1e6, "late_share": devices.late_share(),
                    "ran": devices.ran, "started_late": devices.started_late, "rows_mean": devices.rows_mean(),
                });
                ("devices", figures)
            }
        }
    }

    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Client(client) => {
                let lag = |quantile| ms(self.send_lag_us.value_at_quantile(quantile));
                write!(
                    f,
                    "client    send lag p50 {:.3} · p99 {:.3} · max {:.3} ms · CPU {:.2} s, {:.0} % of {} thread(s)",
                    lag(0.5),
                    lag(0.99),
                    ms(self.send_lag_us.max()),
                    client.cpu.as_secs_f64(),
                    client.share(self.seconds()) * 100.0,
                    client.threads
                )
            }
            Place::Simulation(devices) => {
                let busy = devices.busy_us / 1e4 / (self.seconds() * devices.instances.max(1) as f64);
                write!(
                    f,
                    "simulated {} instance(s) busy {busy:.1} %, {:.2} % of that for late answers · {:.1} rows a batch · nothing was sent",
                    devices.instances,
                    devices.late_share() * 100.0,
                    devices.rows_mean()
                )
            }
        }
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    let q = |quantile| histogram.value_at_quantile(quantile);
    json!({
        "count": histogram.len(), "mean": histogram.mean(), "p50": q(0.5), "p90": q(0.9), "p99": q(0.99), "p999": q(0.999),
        "p9999": q(0.9999), "max": histogram.max(),
    })
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.values().copied().fold(0, u64::saturating_add);
        let rate = |count: u64| count as f64 / self.seconds();
        writeln!(
            f,
            "offered   {} ({:.1}/s) · answered {}, at {:.1}/s · errors {errors}",
            self.offered,
            rate(self.offered),
            self.answered,
            self.answered_per_second()
        )?;
        let share = self.in_time as f64 / self.offered.max(1) as f64 * 100.0;
        writeln!(f, "goodput   {:.1}/s answered within the deadline, {share:.2} % of what was offered", rate(self.in_time))?;
        let q = |histogram: &Histogram<u64>, quantile| ms(histogram.value_at_quantile(quantile));
        let of = |quantile| q(&self.latency_us, quantile);
        writeln!(
            f,
            "latency   p50 {:.3} · p90 {:.3} · p99 {:.3} · p99.9 {:.3} · max {:.3} ms",
            of(0.5),
            of(0.9),
            of(0.99),
            of(0.999),
            ms(self.latency_us.max())
        )?;
        if self.asks.len() > 1 {
            for (name, ask) in self.asks.iter().take(ASKS_SHOWN_MAX) {
                let h = &ask.latency_us;
                let (p50, p99) = (q(h, 0.5), q(h, 0.99));
                writeln!(f, "          {name}: offered {} · in time {} · p50 {p50:.3} · p99 {p99:.3} ms", ask.offered, ask.in_time)?;
            }
        }
        if errors > 0 {
            writeln!(f, "errors    told after p50 {:.3} · p99 {:.3} ms", q(&self.error_us, 0.5), q(&self.error_us, 0.99))?;
        }
        for (error, count) in &self.errors {
            writeln!(f, "error     {count} × {error}")?;
        }
        self.write_place(f)?;
        for limit in self.client_limits() {
            write!(f, "\nTHE CLIENT WAS A BOTTLENECK: {limit}")?;
        }
        Ok(())
    }
}

impl Measurement {
    /// For programs.
    pub fn json(&self) -> Value {
        let of_target = |measured: &Measured| {
            let (url, protocol, connections) = match &measured.subject {
                Subject::Server { target, connections } => (target.url.as_str(), target.protocol.as_str(), *connections),
                Subject::Simulated { .. } => ("", "none", 0),
            };
            json!({
                "name": measured.subject.to_string(), "url": url, "protocol": protocol, "connections": connections,
                "simulated": matches!(measured.subject, Subject::Simulated { .. }),
                "seed": measured.script.seed, "pace": pace(&measured.script), "warm_up_seconds": measured.script.warm_up.as_secs_f64(),
                "over_repeats": figures(|figure| measured.spread(figure)),
                "repeats": measured.reports.iter().map(Report::json).collect::<Vec<_>>(),
            })
        };
        json!({
            "interval": "95 % confidence interval of the mean over repeats, Student's t; of ratios, of their logarithms",
            "targets": self.targets.iter().map(of_target).collect::<Vec<_>>(),
            "second_over_first": figures(|figure| self.ratio(figure)),
        })
    }
}

fn figures(spread: impl Fn(crate::measure::Figure) -> Option<Spread>) -> Value {
    FIGURES.iter().filter_map(|figure| Some((figure.0.to_owned(), json!(spread(*figure)?)))).collect::<serde_json::Map<_, _>>().into()
}

/// When requests were due, in words.
pub(crate) fn pace(script: &Script) -> String {
    match &script.pace {
        Pace::Closed { concurrency } => format!("closed loop, {concurrency} callers"),
        Pace::Replay(dues) => format!("replay of {} requests", dues.len()),
        Pace::Open(arrivals) => format!("open loop, {arrivals}"),
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for measured in &self.targets {
            let (script, repeats) = (&measured.script, measured.reports.len());
            writeln!(text, "{} · {} · {repeats} × {:.1} s", measured.subject, pace(script), script.duration.as_secs_f64())?;
            match measured.reports.as_slice() {
                [only] => writeln!(text, "{only}")?,
                reports => {
                    for (i, report) in reports.iter().enumerate() {
                        writeln!(text, "repeat {}\n{report}", i.saturating_add(1))?;
                    }
                    table(&mut text, "over repeats", |figure| measured.spread(figure))?;
                }
            }
        }
        if self.targets.len() > 1 {
            table(&mut text, "second over first, by pairs", |figure| self.ratio(figure))?;
        }
        f.write_str(text.trim_end())
    }
}

fn table(text: &mut String, title: &str, spread: impl Fn(crate::measure::Figure) -> Option<Spread>) -> fmt::Result {
    writeln!(text, "{title:<28} {:>10} {:>10}  {:<21}  least … most", "median", "mean", "95 % interval (t)")?;
    for figure in FIGURES {
        let Some(spread) = spread(figure) else { continue };
        let interval = match (spread.low, spread.high) {
            (Some(low), Some(high)) => format!("{} … {}", short(low), short(high)),
            _ => "-".to_owned(),
        };
        let (median, mean) = (short(spread.median), short(spread.mean));
        let (min, max) = (short(spread.min), short(spread.max));
        writeln!(text, "  {:<26} {median:>10} {mean:>10}  {interval:<21}  {min} … {max}", figure.0)?;
    }
    Ok(())
}

/// Three decimals of a ratio, none of a thousand.
fn short(value: f64) -> String {
    let decimals = if value.abs() < 10.0 { 3 } else { usize::from(value.abs() < 1_000.0) };
    format!("{value:.decimals$}")
}
