//! What is asked: kinds of requests and the share of each.

use crate::error::LoadError;
use serde::Deserialize;
use std::num::NonZeroU32;
use std::time::Duration;

/// One kind of request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The model.
    #[serde(default)]
    pub model: String,
    /// Sent as header `sluice-tenant` when not empty.
    #[serde(default)]
    pub tenant: String,
    /// Rows of one request.
    #[serde(default = "one_row")]
    pub rows: NonZeroU32,
    /// Milliseconds from the moment a request is due in which its answer is worth something. Sent as `grpc-timeout` too.
    #[serde(default)]
    pub deadline_ms: Option<f64>,
    /// Sent as request parameter `priority`.
    #[serde(default)]
    pub priority: Option<u32>,
    /// The only variant that may answer, sent as header `sluice-variant` when not empty.
    #[serde(default)]
    pub variant: String,
    /// Weight of this kind beside the others.
    #[serde(default = "one")]
    pub share: f64,
}

const fn one_row() -> NonZeroU32 {
    NonZeroU32::MIN
}

const fn one() -> f64 {
    1.0
}

impl Ask {
    /// One row for `model`, without a deadline.
    pub fn of(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            tenant: String::new(),
            rows: one_row(),
            deadline_ms: None,
            priority: None,
            variant: String::new(),
            share: one(),
        }
    }

    /// The deadline as a length of time.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok())
    }

    /// As a person reads it: `model × 4 rows (tenant a)`.
    pub fn name(&self) -> String {
        let rows = if self.rows.get() == 1 { String::new() } else { format!(" × {} rows", self.rows) };
        let tenant = if self.tenant.is_empty() { String::new() } else { format!(" (tenant {})", self.tenant) };
        let deadline = self.deadline_ms.map(|ms| format!(" within {ms} ms")).unwrap_or_default();
        let priority = self.priority.map(|p| format!(" priority {p}")).unwrap_or_default();
        let variant = if self.variant.is_empty() { String::new() } else { format!(" by {}", self.variant) };
        format!("{}{rows}{tenant}{deadline}{priority}{variant}", self.model)
    }

    fn check(&self, problems: &mut Vec<String>) {
        let name = &self.model;
        if name.is_empty() {
            problems.push("no model is named for a kind of request".to_owned());
        }
        if !(self.share > 0.0 && self.share.is_finite()) {
            problems.push(format!("model {name}: share {} must be above 0", self.share));
        }
        if let Some(ms) = self.deadline_ms
            && !(ms > 0.0 && ms <= 3_600_000.0)
        {
            problems.push(format!("model {name}: deadline {ms} ms must be above 0 and at most an hour"));
        }
        if http::HeaderValue::from_str(&self.tenant).is_err() {
            problems.push(format!("model {name}: tenant {:?} cannot be a header", self.tenant));
        }
        if http::HeaderValue::from_str(&self.variant).is_err() {
            problems.push(format!("model {name}: variant {:?} cannot be a header", self.variant));
        }
    }
}

/// Kinds of requests and the share of each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// At least one.
    #[serde(rename = "ask")]
    pub asks: Vec<Ask>,
}

impl Mix {
    /// Reads a TOML file of `[[ask]]` entries.
    ///
    /// # Errors
    /// [`LoadError::Mix`] with line and column for what is not TOML, an unknown name, or a value of the wrong kind.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        toml::from_str(text).map_err(|e| LoadError::Mix(e.to_string().trim_end().to_owned()))
    }

    /// What cannot be, all of it.
    pub fn check(&self, problems: &mut Vec<String>) {
        if self.asks.is_empty() {
            problems.push("the mix is empty".to_owned());
        }
        self.asks.iter().for_each(|ask| ask.check(problems));
    }

    /// One kind, as often as its share says.
    pub(crate) fn pick(&self, random: &mut fastrand::Rng) -> usize {
        if self.asks.len() < 2 {
            return 0; // most loads: no need to draw
        }
        let mut point = random.f64() * self.asks.iter().map(|ask| ask.share).sum::<f64>();
        for (i, ask) in self.asks.iter().enumerate() {
            point -= ask.share;
            if point < 0.0 {
                return i;
            }
        }
        self.asks.len().saturating_sub(1) // rounding
    }
}

impl From<Ask> for Mix {
    fn from(ask: Ask) -> Self {
        Self { asks: vec![ask] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_picked_by_their_share() {
        let mix = Mix::parse("[[ask]]\nmodel = \"a\"\n[[ask]]\nmodel = \"b\"\nshare = 3\nrows = 4\ndeadline_ms = 20").unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let second = (0..100_000).filter(|_| mix.pick(&mut random) == 1).count();
        assert!((74_000..76_000).contains(&second), "{second}");
        assert_eq!(mix.asks[1].deadline(), Some(Duration::from_millis(20)));
        assert_eq!(mix.asks[1].name(), "b × 4 rows within 20 ms");
    }

    #[test]
    fn a_wrong_mix_says_where_and_impossible_values_are_listed_together() {
        let error = Mix::parse("[[ask]]\nmodle = \"a\"").unwrap_err().to_string();
        assert!(error.contains("line 2, column 1") && error.contains("modle"), "{error}");
        assert!(Mix::parse("[[ask]]\nmodel = \"a\"\nrows = 0").is_err());
        let bad = Ask { share: -1.0, deadline_ms: Some(0.0), tenant: "\n".to_owned(), ..Ask::of("") };
        let mut problems = Vec::new();
        Mix::from(bad).check(&mut problems);
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
