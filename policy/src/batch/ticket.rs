//! A request's place in the queue.

use crate::Moment;
use std::ops::Range;

/// A waiting request's name, and its place in the queue: by level, then who has not timed out, then by deadline, then by
/// arrival. One number, since the queue compares little else: 27 bits of level, 1 of having timed out, 52 of microseconds,
/// 48 of arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u128);

impl Ticket {
    pub(super) const LEVEL_MAX: u32 = (1 << 27) - 1;
    const ORDER_MAX: u64 = (1 << 52) - 1;
    const NUMBER_MAX: u64 = (1 << 48) - 1;
    const BEHIND: u128 = 1 << 100;

    pub(super) fn new(level: u32, order: Moment, number: u64) -> Self {
        let order = order.as_us().min(Self::ORDER_MAX);
        Self(u128::from(level) << 101 | u128::from(order) << 48 | u128::from(number & Self::NUMBER_MAX))
    }

    /// All places of a level, from the first that may have `order`.
    pub(super) fn range(level: u32, order: Moment) -> Range<Self> {
        Self::new(level, order, 0)..Self::new(level.saturating_add(1), Moment::from_us(0), 0)
    }

    pub(super) fn level(self) -> u32 {
        (self.0 >> 101) as u32
    }

    /// Its deadline, if any, does not count in the order: it goes after all who have one.
    pub(super) fn is_endless(self) -> bool {
        (self.0 >> 48) as u64 & Self::ORDER_MAX == Self::ORDER_MAX
    }

    /// The place it has once it has waited too long.
    pub(super) fn behind(self) -> Self {
        Self(self.0 | Self::BEHIND)
    }

    /// The place it was given when it arrived, which is what its caller knows it by.
    pub(super) fn given(self) -> Self {
        Self(self.0 & !Self::BEHIND)
    }

    /// Which arrival it was.
    #[cfg(test)]
    pub(super) fn number(self) -> u64 {
        self.0 as u64 & Self::NUMBER_MAX
    }
}
