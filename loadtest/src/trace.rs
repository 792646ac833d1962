//! Recorded schedules as text: one request a line, `seconds due, model, tenant, rows, deadline_ms, priority`. All but the first
//! may be missing or empty; a first line of column names, empty lines and lines that begin with `#` are passed over.

use crate::error::LoadError;
use crate::mix::{Ask, Mix};
use crate::schedule::Due;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The columns, in their order.
const COLUMNS: [&str; 6] = ["seconds", "model", "tenant", "rows", "deadline_ms", "priority"];
/// Most requests of one trace: some hundred megabytes.
const LINES_MAX: usize = 10_000_000;
/// Most kinds of requests: each keeps its encoded request and its histogram.
const ASKS_MAX: usize = 1_000;
/// Latest moment: a year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// Reads a trace. What a line does not say is as in `default`.
///
/// # Errors
/// [`LoadError::Trace`] with line and column: a value that is none, a line that is due before the one above it, too many columns,
/// or more kinds of requests or lines than can be kept. Also a trace without any request.
pub fn parse(text: &str, default: &Ask) -> Result<(Mix, Arc<[Due]>), LoadError> {
    let (mut asks, mut known, mut dues) = (Vec::new(), HashMap::new(), Vec::<Due>::new());
    for (index, line) in text.lines().enumerate() {
        let line = Line { number: index.saturating_add(1), text: line };
        if line.is_empty() || (dues.is_empty() && line.is_title()) {
            continue;
        }
        let (at, ask) = line.read(default)?;
        if dues.last().is_some_and(|before| at < before.at) {
            return Err(line.wrong(0, "this request is due before the one above it"));
        }
        if dues.len() >= LINES_MAX {
            return Err(line.wrong(0, &format!("more than {LINES_MAX} requests")));
        }
        // The key is the ask as text: its numbers have no total order.
        let ask = *known.entry(format!("{ask:?}")).or_insert_with(|| {
            asks.push(ask);
            asks.len().saturating_sub(1)
        });
        if asks.len() > ASKS_MAX {
            return Err(line.wrong(0, &format!("more than {ASKS_MAX} kinds of requests")));
        }
        dues.push(Due { at, ask });
    }
    if dues.is_empty() {
        return Err(LoadError::Trace { line: 1, column: 1, reason: "there is no request in this trace".to_owned() });
    }
    Ok((Mix { asks }, dues.into()))
}

/// Writes what [`parse`] reads.
pub fn write(dues: impl Iterator<Item = Due>, mix: &Mix) -> String {
    let mut text = COLUMNS.join(",");
    text.push('\n');
    for due in dues {
        let Some(ask) = mix.asks.get(due.ask) else { continue };
        let number = |n: Option<String>| n.unwrap_or_default();
        let (deadline, priority) = (number(ask.deadline_ms.map(|ms| ms.to_string())), number(ask.priority.map(|p| p.to_string())));
        // A String takes every write.
        let _ = writeln!(text, "{:.6},{},{},{},{deadline},{priority}", due.at.as_secs_f64(), ask.model, ask.tenant, ask.rows);
    }
    text
}

struct Line<'t> {
    number: usize,
    text: &'t str,
}

impl Line<'_> {
    fn is_empty(&self) -> bool {
        let text = self.text.trim();
        text.is_empty() || text.starts_with('#')
    }

    fn is_title(&self) -> bool {
        self.text.trim_start_matches('\u{feff}').split(',').next().is_some_and(|first| first.trim().eq_ignore_ascii_case(COLUMNS[0]))
    }

    fn read(&self, default: &Ask) -> Result<(Duration, Ask), LoadError> {
        let fields: Vec<&str> = self.text.split(',').map(str::trim).collect();
        if fields.len() > COLUMNS.len() {
            return Err(self.wrong(COLUMNS.len(), &format!("more than the {} columns {}", COLUMNS.len(), COLUMNS.join(", "))));
        }
        let text = |column: usize| fields.get(column).copied().filter(|field| !field.is_empty());
        let seconds: f64 = self.number(0, text(0), "seconds such as 1.25")?.ok_or_else(|| self.wrong(0, "no moment; expected seconds"))?;
        if !(0.0..=SECONDS_MAX).contains(&seconds) {
            return Err(self.wrong(0, &format!("{seconds} seconds; expected 0 to {SECONDS_MAX}")));
        }
        let deadline_ms: Option<f64> = self.number(4, text(4), "milliseconds such as 50")?;
        if deadline_ms.is_some_and(|ms| !(ms > 0.0 && ms <= 3_600_000.0)) {
            return Err(self.wrong(4, "a deadline must be above 0 and at most an hour"));
        }
        let ask = Ask {
            model: text(1).unwrap_or(&default.model).to_owned(),
            tenant: text(2).unwrap_or(&default.tenant).to_owned(),
            rows: self.number(3, text(3), "a whole number of rows above 0")?.unwrap_or(default.rows),
            deadline_ms: deadline_ms.or(default.deadline_ms),
            priority: self.number(5, text(5), "a whole number")?.or(default.priority),
            variant: default.variant.clone(),
            share: 1.0,
        };
        if ask.model.is_empty() {
            return Err(self.wrong(1, "no model, neither here nor beside the trace"));
        }
        Ok((Duration::from_secs_f64(seconds), ask))
    }

    fn number<T: FromStr>(&self, column: usize, field: Option<&str>, expected: &str) -> Result<Option<T>, LoadError> {
        let read = |field: &str| field.parse().map_err(|_| self.wrong(column, &format!("{:?}; expected {expected}", shown(field))));
        field.map(read).transpose()
    }

    /// An error at the first character of a field, the `field`th from 0.
    fn wrong(&self, field: usize, reason: &str) -> LoadError {
        let before: usize = self.text.split(',').take(field).map(|f| f.chars().count().saturating_add(1)).sum();
        let blank = self.text.split(',').nth(field).map_or(0, |f| f.chars().take_while(|c| c.is_whitespace()).count());
        let column = before.saturating_add(blank).saturating_add(1).min(self.text.chars().count().saturating_add(1));
        LoadError::Trace { line: self.number, column, reason: reason.to_owned() }
    }
}

/// The beginning of what may be a line of a megabyte.
fn shown(field: &str) -> String {
    field.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Arrivals, Pace, schedule};

    fn check(text: &str, line: usize, column: usize, says: &str) {
        let error = parse(text, &Ask::of("m")).unwrap_err();
        let LoadError::Trace { line: l, column: c, reason } = &error else { panic!("{error}") };
        assert_eq!((*l, *c), (line, column), "{text:?}: {error}");
        assert!(reason.contains(says), "{text:?}: {error}");
    }

    #[test]
    fn a_malformed_line_is_named_with_its_column() {
        check("0.1\nx\n", 2, 1, "\"x\"; expected seconds");
        check("seconds,model\n0.1,a,t,0", 2, 9, "rows above 0");
        check("0.1, a, t, 1, soon", 1, 15, "\"soon\"; expected milliseconds");
        check("0.1,é,t,1,5,-1", 1, 13, "whole number");
        check("0.1,a,t,1,-5", 1, 11, "above 0");
        check("0.2\n\n# later\n0.1", 4, 1, "before the one above");
        check("0.1,a,t,1,5,1,more", 1, 15, "more than the 6 columns");
        check("-1", 1, 1, "expected 0 to");
        check("NaN", 1, 1, "expected 0 to");
        check("1e300", 1, 1, "expected 0 to");
        check(",a", 1, 1, "no moment");
        check("# nothing\n", 1, 1, "no request");
        let error = parse("0.5", &Ask::of("")).unwrap_err().to_string();
        assert_eq!(error, "line 1, column 4: no model, neither here nor beside the trace");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mix =
            Mix { asks: vec![Ask::of("a"), Ask { tenant: "t".to_owned(), deadline_ms: Some(2.5), priority: Some(3), ..Ask::of("b") }] };
        let pace = Pace::Open(Arrivals::Poisson { rate: 500.0 });
        let dues: Vec<Due> = schedule(&pace, &mix, 1, Duration::from_secs(1)).collect();
        let (read_mix, read) = parse(&write(dues.iter().copied(), &mix), &Ask::of("")).unwrap();
        let model = |mix: &Mix, due: &Due| mix.asks[due.ask].clone();
        assert_eq!(dues.len(), read.len());
        for (before, after) in dues.iter().zip(read.iter()) {
            assert!(before.at.abs_diff(after.at) <= Duration::from_micros(1));
            assert_eq!(model(&mix, before), model(&read_mix, after));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_fail_other_than_by_an_error(text in "[0-9a-z,.\\-\n #é]{0,80}") {
            let _ = parse(&text, &Ask::of("m"));
        }
    }
}
