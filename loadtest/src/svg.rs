//! A picture of a measurement: latency by percentile, throughput and latency over time.

use crate::measure::{Measured, Measurement};
use crate::record::{Latencies, latencies};
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const PANEL_HEIGHT: f64 = 260.0;
/// Space around a panel: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (80.0, 20.0, 50.0, 45.0);
/// Told apart by people who do not see red and green apart (Okabe and Ito).
const COLORS: [&str; 2] = ["#0072B2", "#D55E00"];
/// The same for many lines.
const COLORS_MANY: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"];
/// The percentiles written on the axis.
const PERCENTILES: [(&str, f64); 6] = [("0", 0.0), ("50", 0.5), ("90", 0.9), ("99", 0.99), ("99.9", 0.999), ("99.99", 0.9999)];
/// Nines of the last percentile.
const NINES_MAX: f64 = 4.0;

/// Points, and how they are drawn.
struct Line {
    points: Vec<(f64, f64)>,
    color: &'static str,
    dashed: bool,
    label: String,
}

/// One axis: from, to, and what is written on it where.
struct Axis {
    from: f64,
    to: f64,
    marks: Vec<(f64, String)>,
}

/// The measurement as an SVG document. Repeats are put together: percentiles over all their answers, time as their mean.
pub fn svg(measurement: &Measurement) -> String {
    let targets: Vec<_> = measurement.targets.iter().zip(COLORS).collect();
    document(&[percentiles(&targets), throughput(&targets), over_time(&targets)])
}

fn document(panels: &[String]) -> String {
    let height = PANEL_HEIGHT * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        // A String takes every write.
        let _ = write!(out, "<g transform=\"translate(0 {})\">\n{panel}</g>\n", PANEL_HEIGHT * i as f64);
    }
    out.push_str("</svg>\n");
    out
}

/// A picture of its own: lines of named points over a common horizontal axis, from zero up.
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// Unit of the horizontal axis.
    pub unit: &'static str,
    /// Lowest value of the vertical axis.
    pub from: f64,
    /// Highest value of the vertical axis.
    pub to: f64,
    /// Of each line its name and its points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Charts as an SVG document, one below the other.
pub fn charts(charts: &[Chart]) -> String {
    let draw = |chart: &Chart| {
        let mut colors = COLORS_MANY.into_iter().cycle();
        let lines: Vec<Line> = chart
            .lines
            .iter()
            .map(|(label, points)| Line {
                points: points.clone(),
                color: colors.next().unwrap_or("black"),
                dashed: false,
                label: label.clone(),
            })
            .collect();
        let longest = lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(0.1, f64::max);
        let mark = |i: i32, from: f64, to: f64| from + f64::from(i) / 5.0 * (to - from);
        let across = (0..=5).map(|i| (mark(i, 0.0, longest), format!("{:.1}{}", mark(i, 0.0, longest), chart.unit))).collect();
        let up = (0..=5).map(|i| (mark(i, chart.from, chart.to), format!("{:.1}", mark(i, chart.from, chart.to)))).collect();
        let (x, y) = (Axis { from: 0.0, to: longest, marks: across }, Axis { from: chart.from, to: chart.to, marks: up });
        panel(&escaped(&chart.title), &x, &y, &lines)
    };
    document(&charts.iter().map(draw).collect::<Vec<_>>())
}

fn label(measured: &Measured) -> String {
    measured.subject.to_string()
}

/// Latency in milliseconds, as its logarithm, by the number of nines.
fn percentiles(targets: &[(&Measured, &'static str)]) -> String {
    let line = |(measured, color): &(&Measured, &'static str)| {
        let mut all: Latencies = latencies(3);
        for report in &measured.reports {
            let _ = all.add(&report.latency_us); // auto-resizing: takes any
        }
        let steps = (0..=200).map(|i| f64::from(i) / 200.0 * NINES_MAX).take_while(|nines| 10f64.powf(-nines) * all.len() as f64 >= 1.0);
        let points = steps.map(|nines| (nines, log_ms(all.value_at_quantile(1.0 - 10f64.powf(-nines))))).collect();
        Line { points, color, dashed: false, label: label(measured) }
    };
    let lines: Vec<Line> = targets.iter().map(line).collect();
    let marks = PERCENTILES.iter().map(|(text, quantile)| (-(1.0 - quantile).log10(), format!("p{text}"))).collect();
    panel("latency by percentile (ms)", &Axis { from: 0.0, to: NINES_MAX, marks }, &log_axis(&lines), &lines)
}

/// Offered and answered requests a second.
fn throughput(targets: &[(&Measured, &'static str)]) -> String {
    let mut lines = Vec::new();
    for (measured, color) in targets {
        let mean = |count: fn(&crate::record::Interval) -> u64| {
            mean_over_repeats(measured, |interval, seconds| (seconds > 0.0).then(|| count(interval) as f64 / seconds))
        };
        lines.push(Line { points: mean(|i| i.offered), color, dashed: true, label: format!("offered to {}", label(measured)) });
        lines.push(Line { points: mean(|i| i.answered), color, dashed: false, label: format!("answered by {}", label(measured)) });
    }
    let highest = lines.iter().flat_map(|l| &l.points).map(|p| p.1).fold(1.0, f64::max);
    panel("requests per second", &time_axis(targets), &linear_axis(highest), &lines)
}

/// The 50th and 99th percentile of each interval.
fn over_time(targets: &[(&Measured, &'static str)]) -> String {
    let mut lines = Vec::new();
    for (measured, color) in targets {
        for (name, quantile, dashed) in [("p50", 0.5, true), ("p99", 0.99, false)] {
            let points = mean_over_repeats(measured, |interval, _| {
                (!interval.latency_us.is_empty()).then(|| log_ms(interval.latency_us.value_at_quantile(quantile)))
            });
            lines.push(Line { points, color, dashed, label: format!("{name} of {}", label(measured)) });
        }
    }
    panel("latency over the time of sending (ms)", &time_axis(targets), &log_axis(&lines), &lines)
}

/// `value` of each interval and its length in seconds, by the middle of the interval.
fn mean_over_repeats(measured: &Measured, value: impl Fn(&crate::record::Interval, f64) -> Option<f64>) -> Vec<(f64, f64)> {
    let Some(first) = measured.reports.first() else { return Vec::new() };
    let length = first.interval.as_secs_f64();
    let of_interval = |i: usize| {
        let from = i as f64 * length;
        let seconds = length.min(first.seconds() - from);
        let values = measured.reports.iter().filter_map(|r| value(r.intervals.get(i)?, seconds));
        let (count, sum) = values.fold((0.0, 0.0), |(count, sum), v| (count + 1.0, sum + v));
        (count > 0.0).then(|| (from + seconds / 2.0, sum / count))
    };
    (0..first.intervals.len()).filter_map(of_interval).collect()
}

fn log_ms(us: u64) -> f64 {
    (us.max(1) as f64 / 1e3).log10()
}

fn log_axis(lines: &[Line]) -> Axis {
    let values = || lines.iter().flat_map(|l| &l.points).map(|p| p.1);
    let from = values().fold(f64::INFINITY, f64::min).min(0.0).floor();
    let to = values().fold(f64::NEG_INFINITY, f64::max).max(from + 1.0).ceil();
    let from = if from.is_finite() { from } else { -1.0 };
    let powers = (0..=9).map(|i| from + f64::from(i)).take_while(|power| *power <= to);
    Axis { from, to, marks: powers.map(|power| (power, format!("{}", 10f64.powf(power)))).collect() }
}

fn linear_axis(highest: f64) -> Axis {
    let power = 10f64.powf(highest.log10().floor());
    let step = [0.2, 0.5, 1.0, 2.0].into_iter().map(|s| s * power).find(|step| highest / step <= 6.0).unwrap_or(power * 2.0);
    let count = (highest / step).ceil();
    let marks = (0..=10).map(|i| f64::from(i) * step).take_while(|v| *v <= count * step);
    Axis { from: 0.0, to: count * step, marks: marks.map(|v| (v, format!("{v:.0}"))).collect() }
}

fn time_axis(targets: &[(&Measured, &'static str)]) -> Axis {
    let seconds = targets.iter().flat_map(|(m, _)| &m.reports).map(|r| r.seconds()).fold(0.1, f64::max);
    let marks = (0..=5).map(|i| f64::from(i) / 5.0 * seconds);
    Axis { from: 0.0, to: seconds, marks: marks.map(|s| (s, format!("{s:.1} s"))).collect() }
}

fn panel(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let (left, right, top, bottom) = (MARGIN.0, WIDTH - MARGIN.1, MARGIN.2, PANEL_HEIGHT - MARGIN.3);
    let at_x = |value: f64| left + (value - x.from) / (x.to - x.from) * (right - left);
    let at_y = |value: f64| bottom - (value - y.from) / (y.to - y.from) * (bottom - top);
    let mut out = format!("<text x=\"{left}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}</text>\n");
    for (value, text) in &x.marks {
        let at = at_x(*value);
        let _ = writeln!(out, "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", bottom + 18.0);
    }
    for (value, text) in &y.marks {
        let at = at_y(*value);
        let _ = writeln!(out, "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", left - 8.0, at + 4.0);
    }
    for (i, line) in lines.iter().enumerate() {
        let dash = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let points: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let color = line.color;
        let _ = writeln!(out, "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"{dash} points=\"{}\"/>", points.join(" "));
        let at = left + (right - left) * i as f64 / lines.len().max(1) as f64;
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"40\" font-size=\"11\" fill=\"{color}\">{}</text>", escaped(&line.label));
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_what_is_drawn() {
        for highest in [1.0, 7.0, 49.0, 51.0, 999.0, 20_000.0] {
            let axis = linear_axis(highest);
            assert!(axis.to >= highest && axis.to <= highest * 2.0 && (2..=8).contains(&axis.marks.len()), "{highest}: {}", axis.to);
        }
        let line = |y: f64| Line { points: vec![(0.0, y)], color: "", dashed: false, label: String::new() };
        let axis = log_axis(&[line(-0.7), line(2.2)]);
        assert_eq!((axis.from, axis.to, axis.marks.len()), (-1.0, 3.0, 5));
        assert!(log_axis(&[]).from.is_finite(), "nothing was answered");
    }
}
