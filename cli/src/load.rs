//! `load`: from flags to loads, and from a measurement to files.

use crate::args::{self, Process, Wire};
use crate::telemetry::{complain, say};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use loadtest::schedule::{Crowd, Phase};
use loadtest::{Arrivals, Ask, Load, LoadError, Measurement, Mix, Pace, Protocol, Script, Target};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Largest trace or mix file.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Measured seconds when neither a flag nor a trace says how many, and those before them.
const SECONDS: (f64, f64) = (10.0, 2.0);

pub(crate) async fn run(args: args::Load) -> anyhow::Result<ExitCode> {
    let loads = match loads(&args) {
        Ok(loads) => loads,
        Err(error) => {
            complain(&format!("{error:#}"));
            return Ok(ExitCode::from(2));
        }
    };
    if let (Some(path), Some(load)) = (&args.write_trace, loads.first()) {
        write(path, loadtest::trace::write(load.script.schedule(), &load.script.mix).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let begun = SystemTime::now();
    let bar = spinner()?;
    let urls: Vec<String> = loads.iter().map(|load| load.target.url.clone()).collect();
    let begins = |repeat: usize, turn: usize| {
        let url = urls.get(turn).map_or("", |url| url);
        bar.set_message(format!("{url}, {} of {}", repeat.saturating_add(1), args.script.repeats));
    };
    let measurement = loadtest::measure(loads, args.script.repeats, begins).await;
    bar.finish_and_clear();
    let measurement = measurement?;
    tell(&args.script, &measurement)?;
    if let Some(path) = &args.hdr {
        write(path, &loadtest::hdr_log(&measurement, begun)?)?;
    }
    Ok(exit_code(&measurement))
}

/// Prints a measurement, and writes it where `args` say.
pub(crate) fn tell(args: &args::Script, measurement: &Measurement) -> anyhow::Result<()> {
    say(&measurement.to_string());
    if let Some(path) = &args.json {
        write(path, &serde_json::to_vec_pretty(&measurement.json())?)?;
    }
    if let Some(path) = &args.svg {
        write(path, loadtest::svg(measurement).as_bytes())?;
    }
    Ok(())
}

/// Good when every target answered something.
pub(crate) fn exit_code(measurement: &Measurement) -> ExitCode {
    let answered = measurement.targets.iter().all(|target| target.reports.iter().any(|report| report.answered > 0));
    if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One load, or two to be compared.
fn loads(args: &args::Load) -> anyhow::Result<Vec<Load>> {
    let mut problems = Vec::new();
    let mut script = script(&args.script, &args.script.model, &mut problems)?;
    if let Some(concurrency) = args.concurrency {
        script.pace = Pace::Closed { concurrency };
    }
    let targets = std::iter::once((args.url.as_deref(), args.protocol))
        .chain(args.compare.as_deref().map(|url| (Some(url), args.compare_protocol.unwrap_or(args.protocol))));
    let load = |(url, wire)| {
        let load = Load::new(target(url, wire), Ask::of(&args.script.model), script.pace.clone(), script.duration);
        Load {
            connections: args.connections.unwrap_or(load.connections.max(args.threads)),
            script: script.clone(),
            threads: args.threads,
            in_flight_max: args.in_flight_max,
            size: args.size,
            ..load
        }
    };
    let loads: Vec<Load> = targets.map(load).collect();
    loads.iter().for_each(|load| load.check(&mut problems));
    problems.dedup();
    if problems.is_empty() { Ok(loads) } else { Err(LoadError::Settings(problems).into()) }
}

/// What is asked of `model`, or of those that a mix or a trace names, and when.
pub(crate) fn script(args: &args::Script, model: &str, problems: &mut Vec<String>) -> anyhow::Result<Script> {
    let first = Ask {
        model: model.to_owned(),
        tenant: args.tenant.clone(),
        rows: args.rows,
        deadline_ms: args.deadline_ms,
        priority: args.priority,
        variant: String::new(),
        share: 1.0,
    };
    let (mix, pace) = match &args.trace {
        Some(path) => {
            let (mix, dues) = loadtest::trace::parse(&read(path)?, &first).with_context(|| path.display().to_string())?;
            (mix, Pace::Replay(dues))
        }
        None => (mix(args, first)?, Pace::Open(arrivals(args))),
    };
    if !(1..=10_000).contains(&args.repeats) {
        problems.push(format!("repeats {} must be from 1 to 10000", args.repeats));
    }
    let mut length = |name: &str, seconds: f64| {
        Duration::try_from_secs_f64(seconds).unwrap_or_else(|_| {
            problems.push(format!("{name} {seconds} must be a length of time in seconds"));
            Duration::from_secs(1)
        })
    };
    let trace_ends = if let Pace::Replay(dues) = &pace { dues.last().map(|due| due.at) } else { None };
    let warm_up = length("warm-up", args.warm_up.unwrap_or(if trace_ends.is_some() { 0.0 } else { SECONDS.1 }));
    let duration = match (args.duration, trace_ends) {
        // A whole number of milliseconds that holds the last request too.
        (None, Some(ends)) => Duration::from_millis(u64::try_from(ends.as_millis())?.saturating_add(1)).saturating_sub(warm_up),
        (asked, _) => length("duration", asked.unwrap_or(SECONDS.0)),
    };
    Ok(Script { mix, pace, warm_up, duration, seed: args.seed })
}

fn target(url: Option<&str>, wire: Wire) -> Target {
    let (protocol, usual) = match wire {
        Wire::Grpc => (Protocol::Grpc, "http://127.0.0.1:8001"),
        Wire::Rest => (Protocol::Rest, "http://127.0.0.1:8000"),
    };
    Target { url: url.unwrap_or(usual).to_owned(), protocol }
}

fn mix(args: &args::Script, first: Ask) -> anyhow::Result<Mix> {
    if let Some(path) = &args.mix {
        return Mix::parse(&read(path)?).with_context(|| path.display().to_string());
    }
    let mut mix = Mix::from(first);
    for text in &args.ask {
        let parsed = Mix::parse(&format!("ask = [{{ {text} }}]")).with_context(|| format!("--ask {text:?}"))?;
        mix.asks.extend(parsed.asks);
    }
    Ok(mix)
}

fn arrivals(args: &args::Script) -> Arrivals {
    let rate = args.rate;
    match args.arrivals {
        Process::Constant => Arrivals::Constant { rate },
        Process::Poisson => Arrivals::Poisson { rate },
        Process::Gamma => Arrivals::Gamma { rate, cv: args.cv },
        Process::Bursts => Arrivals::Bursts {
            calm: Phase { rate, dwell_s: args.dwell },
            burst: Phase { rate: args.burst_rate.unwrap_or(rate * 4.0), dwell_s: args.burst_dwell },
        },
        Process::Diurnal => {
            let crowd = args.crowd_at.map(|at_s| Crowd { at_s, length_s: args.crowd_for, factor: args.crowd_factor });
            Arrivals::Wave { rate, depth: args.depth, period_s: args.period, crowd }
        }
    }
}

pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{}: {size} bytes; expected at most {FILE_BYTES_MAX}", path.display());
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// A line that moves while the measurement does; nothing where there is no terminal.
fn spinner() -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    Ok(bar)
}
