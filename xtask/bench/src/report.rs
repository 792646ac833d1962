//! Medians with their spread, and targets that are met or missed.

use std::io::Write as _;
use std::path::Path;

/// Repeated measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The newest.
    pub(crate) fn last(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many are so.
    pub(crate) fn count(&self, is: impl Fn(f64) -> bool) -> usize {
        self.0.iter().filter(|value| is(**value)).count()
    }

    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum() / self.0.len() as f64
    }

    pub(crate) fn min(&self) -> f64 {
        self.at(0.0)
    }

    pub(crate) fn max(&self) -> f64 {
        self.at(1.0)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Lower and upper quartile.
    pub(crate) fn quartiles(&self) -> (f64, f64) {
        (self.at(0.25), self.at(0.75))
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Which side of a bound is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Everything a bench has to say.
pub(crate) struct Report {
    /// What ran here before: beside others' work, rates and shares of rates say little.
    load: String,
    notes: Vec<String>,
    rows: Vec<(String, Samples, &'static str)>,
    targets: Vec<(String, f64, Bound, &'static str)>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default().to_owned();
        Self { load, notes: Vec::new(), rows: Vec::new(), targets: Vec::new() }
    }

    /// What must be known to read the table.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A line of the table; told at once, for whoever watches.
    pub(crate) fn row(&mut self, name: impl Into<String>, samples: &Samples, unit: &'static str) {
        let name = name.into();
        let _ = writeln!(std::io::stderr(), "{name:<52} {:>12.2} {unit}", samples.median());
        self.rows.push((name, samples.clone(), unit));
    }

    /// A figure that should be on one side of a bound.
    pub(crate) fn target(&mut self, name: impl Into<String>, value: f64, bound: Bound, unit: &'static str) {
        self.targets.push((name.into(), value, bound, unit));
    }

    /// Prints all, writes it to `json` when given; true when every target is met.
    pub(crate) fn finish(self, json: Option<&Path>) -> anyhow::Result<bool> {
        let host = format!("{}, load average {} before", host(), self.load);
        println!("\n{host}");
        self.notes.iter().for_each(|note| println!("{note}"));
        println!("{:<52} {:>12} {:>25}", "median of the rounds", "", "quartiles");
        for (name, samples, unit) in &self.rows {
            let (low, high) = samples.quartiles();
            println!("{name:<52} {:>12.2} {:>12.2} {high:>12.2} {unit}", samples.median(), low);
        }
        let (mut all, mut targets) = (true, Vec::new());
        println!();
        for (name, value, bound, unit) in &self.targets {
            let (met, text) = match bound {
                Bound::AtLeast(bound) => (value >= bound, format!("≥ {bound}")),
                Bound::AtMost(bound) => (value <= bound, format!("≤ {bound}")),
            };
            all &= met;
            println!("{} {name}: {value:.3} (target {text}) {unit}", if met { "met   " } else { "MISSED" });
            targets.push(serde_json::json!({ "name": name, "value": value, "target": text, "unit": unit, "met": met }));
        }
        if let Some(path) = json {
            let row = |(name, samples, unit): &(String, Samples, &str)| {
                let (low, high) = samples.quartiles();
                serde_json::json!({ "name": name, "median": samples.median(), "quartiles": [low, high], "samples": samples.0, "unit": unit })
            };
            let rows: Vec<_> = self.rows.iter().map(row).collect();
            std::fs::write(path, serde_json::json!({ "host": host, "notes": self.notes, "rows": rows, "targets": targets }).to_string())?;
        }
        Ok(all)
    }
}

/// Machine, versions and commit, on one line.
fn host() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("an unknown processor", |l| l.trim_start_matches(['\t', ' ', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let uname = rustix::system::uname();
    let (system, release) = (uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
    let git = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = git.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    format!("{cores} cores of {model}, {system} {release}, Sluice {} at {commit}", env!("CARGO_PKG_VERSION"))
}
