//! Header and metadata names, and the few values that need parsing.

use crate::call::LoadReport;
use http::{HeaderMap, HeaderValue};
use policy::Backlog;
use policy::profile::{Forecast, Latency};
use std::fmt::Write as _;
use std::time::Duration;

/// Variant a gateway chose: `model:version:precision@engine`.
pub const VARIANT: &str = "sluice-variant";
/// Tenant, believed only on listeners configured as trusted.
pub const TENANT: &str = "sluice-tenant";
/// Load of the replica on a worker's answer: its backlog, then what its batches take, see [`write_load`].
pub const LOAD: &str = "sluice-load";
/// gRPC's relative deadline.
pub const TIMEOUT: &str = "grpc-timeout";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Its vendor part.
pub const TRACESTATE: &str = "tracestate";
/// Set by a streaming client that wants a failure to end the stream with its status.
pub const TRITON_GRPC_ERROR: &str = "triton_grpc_error";

/// The header as text, when it is ASCII.
pub fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Writes [`LOAD`]: the whole backlog in microseconds, then nanoseconds per row and per batch, then tail, slow ratio and senders in
/// thousandths, then the steps of the backlog where they differ.
pub fn write_load(load: &LoadReport) -> Option<HeaderValue> {
    let all_us = load.backlog.all_us();
    let mut text = all_us.to_string();
    if let Some(Forecast { latency, kappa, slow }) = load.forecast {
        let values = [latency.alpha_us, latency.beta_us, kappa, slow, load.senders];
        let thousandths = values.into_iter().map(|value| (value * 1e3) as u64);
        let steps = load.backlog.steps().iter().copied().filter(|_| load.backlog != Backlog::whole(all_us));
        thousandths.chain(steps).try_for_each(|number| write!(text, " {number}")).ok()?;
    }
    HeaderValue::try_from(text).ok()
}

/// Reads [`LOAD`]; what is not there or cannot be read is not known.
pub fn load(headers: &HeaderMap) -> LoadReport {
    let mut numbers = text(headers, LOAD).unwrap_or_default().split(' ').map_while(|number| number.parse::<u64>().ok());
    let all_us = numbers.next().unwrap_or_default();
    let mut thousandths = || numbers.next().map(|number| number as f64 / 1e3);
    let forecast = (|| {
        let latency = Latency { alpha_us: thousandths()?, beta_us: thousandths()? };
        Some(Forecast { latency, kappa: thousandths()?, slow: thousandths()? })
    })();
    let senders = thousandths().unwrap_or_default();
    let mut steps = numbers.peekable();
    let backlog = if steps.peek().is_some() { Backlog::from_steps(steps) } else { Backlog::whole(all_us) };
    LoadReport { backlog, forecast, senders }
}

/// Who calls, for a server that tells its callers apart: the last part of `user-agent`.
pub fn sender(headers: &HeaderMap) -> u64 {
    let agent = text(headers, http::header::USER_AGENT.as_str()).unwrap_or_default();
    agent.rsplit('/').next().and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or_default()
}

/// Reads `grpc-timeout`: at most eight digits and a unit of `H M S m u n`. `None` when absent or malformed.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, TIMEOUT)?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes a `grpc-timeout` no longer than `length`, in the finest unit of eight digits.
pub fn format_timeout(length: Duration) -> String {
    const DIGITS: u128 = 99_999_999;
    if length.as_micros() <= DIGITS {
        format!("{}u", length.as_micros())
    } else if length.as_millis() <= DIGITS {
        format!("{}m", length.as_millis())
    } else {
        format!("{}S", u128::from(length.as_secs()).min(DIGITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_reads_back_as_written_and_junk_is_not_known() {
        let forecast = Forecast { latency: Latency { alpha_us: 12.5, beta_us: 0.25 }, kappa: 1.15, slow: 2.0 };
        let backlog = Backlog::whole(7);
        let whole = LoadReport { backlog, forecast: Some(forecast), senders: 2.5 };
        let steps = LoadReport { backlog: Backlog::from_steps([1, 1, 2, 3, 5, 8, 13, 21]), ..whole };
        for load in [whole, steps, LoadReport { backlog, ..LoadReport::default() }] {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(LOAD), write_load(&load).unwrap())]);
            assert_eq!(super::load(&headers), load);
        }
        let junk = HeaderMap::from_iter([(http::HeaderName::from_static(LOAD), HeaderValue::from_static("-1 x 1e9"))]);
        assert_eq!(super::load(&junk), LoadReport::default());
    }
    use proptest::prelude::*;

    fn parse(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, value.parse().ok()?);
        timeout(&headers)
    }

    #[test]
    fn malformed_timeouts_are_no_deadline() {
        for bad in ["", "1", "S", "1x", "-1S", "123456789S", "1.5S", "é"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
    }

    proptest! {
        /// P11: the deadline passed on never grows.
        #[test]
        fn a_passed_on_timeout_is_never_longer(us in any::<u64>()) {
            let length = Duration::from_micros(us);
            let back = parse(&format_timeout(length)).unwrap();
            prop_assert!(back <= length);
        }
    }
}
