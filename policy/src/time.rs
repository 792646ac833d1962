//! Time as data: a decision is told the moment, it never looks at a clock.

use std::time::Duration;

/// A point in time of one process, in microseconds since an origin that the process chose. Only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The moment `us` microseconds after the origin.
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the origin.
    pub const fn as_us(self) -> u64 {
        self.0
    }

    /// The moment `length` later, at most the end of time.
    pub fn after(self, length: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(length.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Microseconds from `earlier` to this moment, 0 when `earlier` is not earlier.
    pub fn us_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
