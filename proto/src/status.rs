//! The one place that turns a [`Failure`] into gRPC status fields, and back.

use http::{HeaderMap, HeaderName, HeaderValue};
use policy::{Code, Failure};

/// Tells a client when to try again (gRPC's A6).
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// `grpc-status`, `grpc-message` and the retry hint, as trailers or as headers of a trailers-only answer.
/// `id` is the caller's request id; it is put in front of the text as Triton does, because people search for it.
pub fn trailers(failure: &Failure, id: &str) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(3);
    map.insert("grpc-status", HeaderValue::from(u16::from(failure.wire().0.number())));
    if let Ok(value) = HeaderValue::from_str(&percent_encode(&message(failure, id))) {
        map.insert("grpc-message", value);
    }
    if let Some(ms) = failure.retry_ms() {
        map.insert(RETRY_PUSHBACK, HeaderValue::from(ms));
    }
    map
}

/// The text a caller reads.
pub fn message(failure: &Failure, id: &str) -> String {
    if id.is_empty() { failure.to_string() } else { format!("[request id: {}] {failure}", id.chars().take(128).collect::<String>()) }
}

/// `grpc-status: 0`.
pub fn ok_trailers() -> HeaderMap {
    /// Made once: a name that is given as text is copied into every answer.
    static STATUS: HeaderName = HeaderName::from_static("grpc-status");
    let mut map = HeaderMap::with_capacity(2);
    map.insert(&STATUS, HeaderValue::from_static("0"));
    map
}

/// The same for the calls that tonic serves.
pub fn to_tonic(failure: &Failure) -> tonic::Status {
    let mut status = tonic::Status::new(tonic::Code::from(i32::from(failure.wire().0.number())), failure.to_string());
    if let Some(ms) = failure.retry_ms() {
        status.metadata_mut().insert(RETRY_PUSHBACK, ms.into());
    }
    status
}

/// What the peer's trailers say: `Ok` for status 0, an error for any other, for none, and for nonsense.
///
/// # Errors
/// The failure the peer reported.
pub fn from_trailers(map: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| map.get(name).and_then(|v| v.to_str().ok());
    let number = text("grpc-status").and_then(|s| s.parse::<u8>().ok());
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(Failure::Remote {
            code: Code::from_number(number),
            message: text("grpc-message").map(percent_decode).unwrap_or_default(),
            retry_ms: text(RETRY_PUSHBACK).and_then(|s| s.parse().ok()),
        }),
        None => Err(Failure::BadReply { what: "no grpc-status".to_owned() }),
    }
}

/// gRPC's percent encoding: printable ASCII but `%` stays.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn percent_decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = match rest {
            [b'%', a, b, ..] => char::from(*a).to_digit(16).zip(char::from(*b).to_digit(16)),
            _ => None,
        };
        match hex {
            Some((a, b)) => {
                out.push(u8::try_from(a.saturating_mul(16).saturating_add(b)).unwrap_or(b'?'));
                rest = rest.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire() {
        let failure = Failure::QueueFull { queued: 3, retry_ms: 50 };
        let back = from_trailers(&trailers(&failure, "a\n%b")).unwrap_err();
        let want = Failure::Remote { code: Code::Unavailable, message: format!("[request id: a\n%b] {failure}"), retry_ms: Some(50) };
        assert_eq!(back, want);
        assert_eq!(from_trailers(&ok_trailers()), Ok(()));
    }

    #[test]
    fn a_missing_status_is_no_success() {
        assert!(from_trailers(&HeaderMap::new()).is_err());
    }
}
