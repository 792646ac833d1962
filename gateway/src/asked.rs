//! What a request asks for besides an answer: by its parameters, else by its headers, else as its tenant and its model say.

use crate::table::{ModelVersion, Replica};
use http::{HeaderMap, HeaderValue};
use policy::{Envelope, Failure, Param};
use std::str::FromStr;

/// Headers that stand for parameters, as they came: they are read when the model is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers {
    latency_ms: Option<HeaderValue>,
    min_accuracy: Option<HeaderValue>,
    variant: Option<HeaderValue>,
}

/// Which answer is good enough.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Asked {
    /// Microseconds in which it should come.
    pub(crate) latency_us: Option<f64>,
    /// Accuracy of the variant, relative to the reference.
    pub(crate) min_accuracy: Option<f64>,
    /// The only variant that may give it.
    pub(crate) pin: Option<String>,
}

const LATENCY_MS: (&str, &str) = ("sluice_latency_ms", "sluice-latency-ms");
const MIN_ACCURACY: (&str, &str) = ("sluice_min_accuracy", "sluice-min-accuracy");
const VARIANT: (&str, &str) = ("sluice_variant", "sluice-variant");

impl Headers {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let get = |name: &str| headers.get(name).cloned();
        Self { latency_ms: get(LATENCY_MS.1), min_accuracy: get(MIN_ACCURACY.1), variant: get(VARIANT.1) }
    }

    /// Does the request name the variant that may answer?
    pub(crate) fn pin(&self, envelope: &Envelope) -> bool {
        self.variant.is_some() || envelope.parameter(VARIANT.0).is_some()
    }
}

impl Asked {
    /// What `envelope` and `headers` of a tenant ask of a version.
    ///
    /// # Errors
    /// [`Failure::Parameter`] for what cannot be, [`Failure::UnknownVariant`] for a pin that no ready replica runs, [`Failure::Floor`]
    /// where no ready replica is accurate enough.
    pub(crate) fn of(version: &ModelVersion, envelope: &Envelope, headers: &Headers, tenant: &str) -> Result<Self, Failure> {
        let defaults = version.tenants.get(tenant);
        let ms = number(LATENCY_MS.0, envelope, headers.latency_ms.as_ref(), |ms| ms > 0.0 && ms <= 3.6e6, "milliseconds above 0")?;
        let ms = ms.or_else(|| defaults.and_then(|d| d.latency_ms).map(f64::from));
        let floor = number(MIN_ACCURACY.0, envelope, headers.min_accuracy.as_ref(), |a| (0.0..=1.0).contains(&a), "0 to 1")?;
        let floor = floor.or_else(|| defaults.and_then(|d| d.min_accuracy)).or(version.min_accuracy);
        let asked = Self {
            latency_us: ms.map(|ms| ms * 1e3).or(version.latency_target_us),
            min_accuracy: floor,
            pin: pinned(version, envelope, headers)?,
        };
        if !version.replicas.iter().any(|replica| asked.allows(replica)) {
            return Err(asked.unmet(version, envelope));
        }
        Ok(asked)
    }

    /// May this replica answer?
    pub(crate) fn allows(&self, replica: &Replica) -> bool {
        let meant = self.pin.as_ref().map_or(replica.is_offered, |pin| replica.variant.name.as_str() == pin);
        // What is not known to be accurate meets no floor.
        meant && self.min_accuracy.is_none_or(|floor| replica.proven_accuracy.is_some_and(|accuracy| accuracy >= floor))
    }

    pub(crate) fn unmet(&self, version: &ModelVersion, envelope: &Envelope) -> Failure {
        let meant = |r: &&Replica| self.pin.as_ref().map_or(r.is_offered, |pin| r.variant.name.as_str() == pin);
        let best = version.replicas.iter().filter(meant).filter_map(|r| r.proven_accuracy).reduce(f64::max);
        Failure::Floor {
            model: envelope.model.clone(),
            floor: self.min_accuracy.unwrap_or_default().to_string(),
            best: best.map_or_else(|| "unknown".to_owned(), |best| format!("{best:.4}")),
        }
    }
}

/// A parameter that is a number, or the header that stands for it.
fn number(
    name: &str,
    envelope: &Envelope,
    header: Option<&HeaderValue>,
    can_be: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<Option<f64>, Failure> {
    let wrong = |got: &str| {
        let got: String = got.chars().take(64).collect();
        Failure::Parameter { name: name.to_owned(), what: format!("{got}: expected a number, {expected}") }
    };
    let (value, got) = match (envelope.parameter(name), header) {
        (Some(Param::Int64(n)), _) => (Some(*n as f64), n.to_string()),
        (Some(Param::Uint64(n)), _) => (Some(*n as f64), n.to_string()),
        (Some(Param::Double(n)), _) => (Some(*n), n.to_string()),
        (Some(Param::String(text)), _) => (f64::from_str(text).ok(), text.clone()),
        (Some(Param::Bool(b)), _) => (None, b.to_string()),
        (None, Some(header)) => {
            let text = header.to_str().unwrap_or("not text");
            (f64::from_str(text.trim()).ok(), text.to_owned())
        }
        (None, None) => return Ok(None),
    };
    value.filter(|n| can_be(*n)).map(Some).ok_or_else(|| wrong(&got))
}

/// The variant the request pins, if any; an error when no ready replica runs it.
fn pinned(version: &ModelVersion, envelope: &Envelope, headers: &Headers) -> Result<Option<String>, Failure> {
    let name = match (envelope.parameter(VARIANT.0), &headers.variant) {
        (Some(Param::String(variant)), _) => variant.as_str(),
        (Some(_), _) => {
            let what = "expected a string such as fp32@ort".to_owned();
            return Err(Failure::Parameter { name: VARIANT.0.to_owned(), what });
        }
        (None, Some(header)) => header.to_str().unwrap_or_default(),
        (None, None) => return Ok(None),
    };
    if version.replicas.iter().any(|r| r.variant.name.as_str() == name) {
        return Ok(Some(name.to_owned()));
    }
    Err(Failure::UnknownVariant { model: envelope.model.clone(), variant: name.chars().take(128).collect() })
}

#[cfg(test)]
mod tests;
