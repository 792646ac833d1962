//! What this process logs.

use super::{Telemetry, excerpt, wrong};
use policy::Failure;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::level_filters::LevelFilter;

/// Whose details `log_verbose_level` shows; those of the libraries below us would drown them.
const OURS: [&str; 7] = ["controller", "gateway", "policy", "proto", "registry", "sluice", "worker"];

const ERROR: &str = "log_error";
const FILE: &str = "log_file";
const FORMAT: &str = "log_format";
const INFO: &str = "log_info";
const VERBOSE: &str = "log_verbose_level";
const WARNING: &str = "log_warning";

/// A log setting's value, of one of the three types the protocol has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogValue {
    Bool(bool),
    U32(u32),
    String(String),
}

/// The log's settings: Triton's names for a level.
///
/// Triton's switches are independent, a level includes the graver ones: switches that leave a gap are refused. What the
/// flags said holds until something else is set, and again when the level is the flags' again.
pub(crate) struct LogSettings {
    telemetry: Arc<dyn Telemetry>,
    /// The filter that the flags gave, and its level.
    flags: (String, Level),
    now: Mutex<(Level, Format)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    error: bool,
    warning: bool,
    info: bool,
    /// 1 shows our own debug lines, 2 and more our own trace lines too.
    verbose: u32,
}

/// Two names for the one format there is: its times are ISO 8601.
#[derive(Clone, Copy)]
enum Format {
    Default,
    Iso8601,
}

impl LogSettings {
    pub(crate) fn new(telemetry: Arc<dyn Telemetry>) -> Self {
        let filter = telemetry.filter();
        let level = Level::of(&filter);
        Self { telemetry, flags: (filter, level), now: Mutex::new((level, Format::Default)) }
    }

    /// Makes `changes` and gives every setting.
    pub(crate) fn update(&self, changes: &BTreeMap<String, LogValue>) -> Result<BTreeMap<String, LogValue>, Failure> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut level, mut format) = *now;
        for (name, value) in changes {
            match name.as_str() {
                ERROR => level.error = switch(name, value)?,
                WARNING => level.warning = switch(name, value)?,
                INFO => level.info = switch(name, value)?,
                VERBOSE => match value {
                    LogValue::U32(verbose) => level.verbose = *verbose,
                    other => return Err(mistyped(name, "a whole number from 0", other)),
                },
                FORMAT => format = Format::read(value)?,
                FILE => no_file(value)?,
                _ => {
                    let known = [ERROR, FILE, FORMAT, INFO, VERBOSE, WARNING].join(", ");
                    return Err(wrong(name, format!("it is not a log setting; those are {known}")));
                }
            }
        }
        level.check()?;
        if level != now.0 {
            let (flags, initial) = &self.flags;
            let filter = if level == *initial { flags.clone() } else { level.filter() };
            self.telemetry.set_filter(&filter).map_err(|why| Failure::Refused { what: format!("the log filter {filter:?}: {why}") })?;
        }
        *now = (level, format);
        Ok(shown(level, format))
    }
}

fn shown(level: Level, format: Format) -> BTreeMap<String, LogValue> {
    let settings = [
        (ERROR, LogValue::Bool(level.error)),
        (FILE, LogValue::String(String::new())),
        (FORMAT, LogValue::String(format.name().to_owned())),
        (INFO, LogValue::Bool(level.info)),
        (VERBOSE, LogValue::U32(level.verbose)),
        (WARNING, LogValue::Bool(level.warning)),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Level {
    /// What a filter shows of targets it does not name; without a word on them that is nothing.
    pub(super) fn of(filter: &str) -> Self {
        let directives = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty());
        let level = directives.filter_map(|directive| directive.parse().ok()).next_back().unwrap_or(LevelFilter::OFF);
        Self {
            error: level >= LevelFilter::ERROR,
            warning: level >= LevelFilter::WARN,
            info: level >= LevelFilter::INFO,
            verbose: u32::from(level >= LevelFilter::DEBUG) + u32::from(level >= LevelFilter::TRACE),
        }
    }

    /// The filter that shows this level, and no more.
    pub(super) fn filter(self) -> String {
        let level = match self {
            Self { info: true, .. } => LevelFilter::INFO,
            Self { warning: true, .. } => LevelFilter::WARN,
            Self { error: true, .. } => LevelFilter::ERROR,
            _ => LevelFilter::OFF,
        };
        let ours = match self.verbose {
            0 => return level.to_string(),
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        OURS.iter().fold(level.to_string(), |filter, target| format!("{filter},{target}={ours}"))
    }

    fn check(self) -> Result<(), Failure> {
        let ladder = [(VERBOSE, self.verbose > 0), (INFO, self.info), (WARNING, self.warning), (ERROR, self.error)];
        for pair in ladder.windows(2) {
            if let [(upper, true), (lower, false)] = pair {
                return Err(wrong(lower, format!("it cannot be off while `{upper}` is on: a level here includes the graver ones")));
            }
        }
        Ok(())
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Iso8601 => "ISO8601",
        }
    }

    fn read(value: &LogValue) -> Result<Self, Failure> {
        let LogValue::String(text) = value else { return Err(mistyped(FORMAT, "a string", value)) };
        let found = [Self::Default, Self::Iso8601].into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| wrong(FORMAT, format!("expected default or ISO8601, got {:?}", excerpt(text))))
    }
}

fn switch(name: &str, value: &LogValue) -> Result<bool, Failure> {
    match value {
        LogValue::Bool(on) => Ok(*on),
        other => Err(mistyped(name, "true or false", other)),
    }
}

fn no_file(value: &LogValue) -> Result<(), Failure> {
    match value {
        LogValue::String(file) if file.is_empty() => Ok(()),
        LogValue::String(file) => {
            Err(wrong(FILE, format!("it can only be empty, got {:?}: the log goes to standard error; redirect that", excerpt(file))))
        }
        other => Err(mistyped(FILE, "a string", other)),
    }
}

fn mistyped(name: &str, expected: &str, got: &LogValue) -> Failure {
    let got = match got {
        LogValue::Bool(value) => value.to_string(),
        LogValue::U32(value) => value.to_string(),
        LogValue::String(value) => format!("{:?}", excerpt(value)),
    };
    wrong(name, format!("expected {expected}, got {got}"))
}
