//! Outcomes for people: a table, a plot in the terminal, an SVG.

use crate::make::{Made, Outcome, Outcomes};
use std::fmt::Write as _;

/// A row for the reference and each variant.
pub fn table(outcomes: &Outcomes) -> String {
    let mut rows = vec![["variant", "MB", "ms at 1", "faster", "accuracy", "cosine", "verdict"].map(str::to_owned)];
    let ms = |timing: Option<&policy::profile::Timing>| {
        timing.and_then(|t| t.batches.first()).map_or("-".to_owned(), |b| format!("{:.3}", b.p50_us / 1e3))
    };
    let mb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
    let reference = [
        "reference".into(),
        mb(outcomes.reference_bytes),
        ms(outcomes.reference.as_ref()),
        "1.00x".into(),
        "1".into(),
        "1".into(),
        String::new(),
    ];
    rows.push(reference);
    for made in &outcomes.made {
        let fidelity = made.fidelity.as_ref();
        rows.push([
            made.name.clone(),
            made.bytes.map_or("-".to_owned(), mb),
            ms(made.timing.as_ref()),
            made.speedup.map_or("-".to_owned(), |s| format!("{s:.2}x")),
            fidelity.map_or("-".to_owned(), |f| format!("{:.4} {}", f.accuracy, f.metric)),
            fidelity.map_or("-".to_owned(), |f| format!("{:.4}", f.cosine_mean)),
            verdict(made),
        ]);
    }
    let widths: Vec<usize> =
        (0..6).map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let mut text = format!("on {}\n", outcomes.class);
    for row in rows {
        let cells = row.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = widths.get(at).copied().unwrap_or(0)));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end()); // a String takes every write
    }
    text
}

/// In a few words.
pub fn verdict(made: &Made) -> String {
    match &made.outcome {
        Outcome::Kept => "kept".to_owned(),
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::NotApplicable(why) => format!("not applicable: {why}"),
        Outcome::NotProfiled(why) => format!("kept, not profiled: {why}"),
    }
}

/// Milliseconds at one row and accuracy of what was timed, the reference first.
fn points(outcomes: &Outcomes) -> Vec<(String, f64, f64, bool)> {
    let time = |timing: &policy::profile::Timing| timing.batches.first().map(|b| b.p50_us / 1e3);
    let reference = outcomes.reference.as_ref().and_then(time).map(|ms| ("reference".to_owned(), ms, 1.0, true));
    let made = outcomes.made.iter().filter_map(|made| {
        let (timing, fidelity) = (made.timing.as_ref()?, made.fidelity.as_ref()?);
        Some((made.name.clone(), time(timing)?, fidelity.accuracy, made.outcome == Outcome::Kept))
    });
    reference.into_iter().chain(made).collect()
}

/// Latency to the right, accuracy upwards, a letter for each variant.
pub fn plot(outcomes: &Outcomes) -> String {
    const SIZE: (usize, usize) = (64, 12);
    let points = points(outcomes);
    let Some(bounds) = Bounds::of(&points) else { return String::new() };
    let mut grid = vec![vec![' '; SIZE.0]; SIZE.1];
    let mut legend = String::new();
    for ((name, ms, accuracy, kept), letter) in points.iter().zip('A'..='Z') {
        let (x, y) = bounds.place(*ms, *accuracy);
        let (column, line) = ((x * (SIZE.0 - 1) as f64) as usize, ((1.0 - y) * (SIZE.1 - 1) as f64) as usize);
        grid.get_mut(line).and_then(|l| l.get_mut(column)).into_iter().for_each(|cell| *cell = letter);
        let _ = writeln!(legend, "  {letter} {name}{}", if *kept { "" } else { " (refused)" });
    }
    let mut text = format!("accuracy {:.4}\n", bounds.high);
    for line in grid {
        let _ = writeln!(text, "  |{}", line.into_iter().collect::<String>().trim_end());
    }
    let _ = writeln!(text, "  +{}\n  {:.4}; 0 to {:.3} ms at one row", "-".repeat(SIZE.0), bounds.low, bounds.slowest);
    text + &legend
}

struct Bounds {
    slowest: f64,
    low: f64,
    high: f64,
}

impl Bounds {
    fn of(points: &[(String, f64, f64, bool)]) -> Option<Self> {
        let fold = |start: f64, f: fn(f64, f64) -> f64, by: fn(&(String, f64, f64, bool)) -> f64| points.iter().map(by).fold(start, f);
        let slowest = fold(0.0, f64::max, |p| p.1);
        let (low, high) = (fold(1.0, f64::min, |p| p.2), fold(0.0, f64::max, |p| p.2));
        (slowest > 0.0).then(|| Self { slowest, low: low.min(high - 1e-4), high })
    }

    /// Both from 0 to 1.
    fn place(&self, ms: f64, accuracy: f64) -> (f64, f64) {
        ((ms / self.slowest).clamp(0.0, 1.0), ((accuracy - self.low) / (self.high - self.low)).clamp(0.0, 1.0))
    }
}

/// The same as a picture: kept variants are filled.
pub fn svg(outcomes: &Outcomes) -> String {
    const PLOT: (f64, f64) = (560.0, 320.0);
    let points = points(outcomes);
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 420\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"720\" height=\"420\" fill=\"white\"/>\n<g transform=\"translate(80 30)\">\n\
         <path d=\"M0 0 V320 H560\" fill=\"none\" stroke=\"black\"/>\n",
    );
    if let Some(bounds) = Bounds::of(&points) {
        for (name, ms, accuracy, kept) in &points {
            let (x, y) = bounds.place(*ms, *accuracy);
            let (x, y) = (x * PLOT.0, (1.0 - y) * PLOT.1);
            let fill = if *kept { "#0072B2" } else { "none" };
            let _ = write!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{fill}\" stroke=\"#0072B2\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\">{name}</text>\n",
                x + 8.0,
                y + 4.0
            );
        }
        let _ = write!(
            text,
            "<text x=\"0\" y=\"345\">0</text><text x=\"520\" y=\"345\">{:.3} ms</text>\n\
             <text x=\"200\" y=\"365\">median latency at one row</text>\n\
             <text x=\"-60\" y=\"10\">{:.4}</text><text x=\"-60\" y=\"320\">{:.4}</text><text x=\"-60\" y=\"-12\">accuracy</text>\n",
            bounds.slowest, bounds.high, bounds.low
        );
    }
    text + "</g>\n</svg>\n"
}

/// For programs.
pub fn json(outcomes: &Outcomes) -> serde_json::Value {
    let timing =
        |timing: Option<&policy::profile::Timing>| timing.map(|t| serde_json::json!({ "batches": t.batches, "load_ms": t.load_ms }));
    let made = outcomes.made.iter().map(|made| {
        let (state, reason) = match &made.outcome {
            Outcome::Kept => ("kept", None),
            Outcome::Refused(why) => ("refused", Some(why)),
            Outcome::NotApplicable(why) => ("not-applicable", Some(why)),
            Outcome::NotProfiled(why) => ("not-profiled", Some(why)),
        };
        serde_json::json!({
            "name": made.name, "outcome": state, "reason": reason, "bytes": made.bytes, "speedup": made.speedup,
            "fidelity": made.fidelity, "timing": timing(made.timing.as_ref()), "passes": made.lines,
        })
    });
    serde_json::json!({
        "class": outcomes.class,
        "reference": { "bytes": outcomes.reference_bytes, "timing": timing(outcomes.reference.as_ref()) },
        "variants": made.collect::<Vec<_>>(),
    })
}
