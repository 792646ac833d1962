//! Bytes of requests held by a process, bounded: counted as they arrive, not as they are claimed, so that a sender who claims
//! much and sends nothing holds nothing.

use policy::Failure;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Told to a caller who finds the budget used up.
const RETRY_MS: u32 = 100;

/// A limit shared by all connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    held: Arc<AtomicU64>,
    limit: u64,
}

/// Bytes taken from a [`Budget`]; given back on drop, so a cancelled request is counted too.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// At most `limit` bytes at once.
    pub fn new(limit: u64) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// A permit for nothing yet.
    pub fn permit(&self) -> Permit {
        Permit { budget: self.clone(), bytes: 0 }
    }
}

impl Permit {
    /// Takes `more` bytes.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when that is over the budget; nothing is taken then.
    pub fn grow(&mut self, more: u64) -> Result<(), Failure> {
        let Budget { held, limit } = &self.budget;
        let before = held.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > *limit {
            held.fetch_sub(more, Ordering::Relaxed);
            return Err(Failure::Overloaded { in_flight: before, limit: *limit, retry_ms: RETRY_MS });
        }
        self.bytes = self.bytes.saturating_add(more);
        Ok(())
    }

    /// Gives `bytes` of these back.
    pub fn shrink(&mut self, bytes: u64) {
        drop(self.split(bytes));
    }

    /// Takes `bytes` of these out as a permit of their own.
    pub fn split(&mut self, bytes: u64) -> Permit {
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        Permit { budget: self.budget.clone(), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_back_whatever_happens_to_them() {
        let budget = Budget::new(100);
        let mut first = budget.permit();
        first.grow(60).unwrap();
        assert!(matches!(budget.permit().grow(41), Err(Failure::Overloaded { in_flight: 60, limit: 100, .. })));
        let part = first.split(50);
        drop(first);
        assert_eq!(budget.held(), 50);
        drop(part);
        assert_eq!(budget.held(), 0);
    }
}
