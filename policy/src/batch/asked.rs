//! What a request says about its own place in a queue: the parameters `priority` and `timeout`.

use crate::{Envelope, Failure, Param};

/// The reserved parameters of a request that its queue reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Level, 1 the highest; 0: the model's default.
    pub priority: u32,
    /// Longest wait in microseconds.
    pub timeout_us: Option<u64>,
}

impl Asked {
    /// Reads them from `envelope`. `priority` is an integer of either kind, `timeout` a signed one, as Triton has them.
    ///
    /// # Errors
    /// [`Failure::Parameter`] when one is of another type or negative.
    pub fn of(envelope: &Envelope) -> Result<Self, Failure> {
        let bad = |name: &str, what: String| Failure::Parameter { name: name.to_owned(), what };
        let priority = match envelope.parameter("priority") {
            None => 0,
            Some(Param::Uint64(n)) => *n,
            Some(Param::Int64(n)) => u64::try_from(*n).map_err(|_| bad("priority", format!("expected 0 or more, got {n}")))?,
            Some(other) => return Err(bad("priority", format!("expected an integer, got {}", kind(other)))),
        };
        let timeout_us = match envelope.parameter("timeout") {
            None => None,
            Some(Param::Int64(n)) => {
                Some(u64::try_from(*n).map_err(|_| bad("timeout", format!("expected 0 or more microseconds, got {n}")))?)
            }
            Some(other) => return Err(bad("timeout", format!("expected a signed integer of microseconds, got {}", kind(other)))),
        };
        // No model has that many levels, so it is its default either way.
        Ok(Self { priority: u32::try_from(priority).unwrap_or(u32::MAX), timeout_us })
    }
}

fn kind(param: &Param) -> &'static str {
    match param {
        Param::Bool(_) => "a boolean",
        Param::Int64(_) => "a signed integer",
        Param::Uint64(_) => "an unsigned integer",
        Param::Double(_) => "a fraction",
        Param::String(_) => "a string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(parameters: &[(&str, Param)]) -> Result<Asked, String> {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Asked::of(&Envelope { parameters, ..Envelope::default() }).map_err(|failure| failure.to_string())
    }

    #[test]
    fn integers_are_taken_and_all_else_is_named() {
        assert_eq!(asked(&[("other", Param::Bool(true))]), Ok(Asked::default()));
        assert_eq!(asked(&[("priority", Param::Uint64(2))]), Ok(Asked { priority: 2, timeout_us: None }));
        assert_eq!(asked(&[("priority", Param::Int64(3)), ("timeout", Param::Int64(9))]), Ok(Asked { priority: 3, timeout_us: Some(9) }));
        assert_eq!(asked(&[("priority", Param::Uint64(u64::MAX))]), Ok(Asked { priority: u32::MAX, timeout_us: None }));
        let refused = |name, param, text: &str| assert_eq!(asked(&[(name, param)]), Err(text.to_owned()));
        refused("priority", Param::Int64(-1), "parameter `priority`: expected 0 or more, got -1");
        refused("priority", Param::String("1".into()), "parameter `priority`: expected an integer, got a string");
        refused("timeout", Param::Int64(-5), "parameter `timeout`: expected 0 or more microseconds, got -5");
        refused("timeout", Param::Uint64(5), "parameter `timeout`: expected a signed integer of microseconds, got an unsigned integer");
    }
}
