//! How much may leave the site: a token bucket over requests, so that a busy site does not drown its neighbour.

/// Requests that earn one that may leave: a fifth.
const REQUESTS_PER_TOKEN: u32 = 5;
/// Tokens kept at most: a burst, about what one request of a small site's replicas each would need.
const TOKENS_MAX: u32 = 10;

/// The budget of requests that leave the site. One per gateway and model.
#[derive(Debug, Clone)]
pub struct Spill {
    /// Requests that have earned and not spent.
    earned: u32,
}

impl Default for Spill {
    fn default() -> Self {
        Self { earned: Self::EARNED_MAX }
    }
}

impl Spill {
    const EARNED_MAX: u32 = REQUESTS_PER_TOKEN * TOKENS_MAX;

    /// Is there a token for the next request?
    pub fn may_cross(&self) -> bool {
        self.earned >= REQUESTS_PER_TOKEN
    }

    /// A request was sent; did it leave the site ([`super::Choice::spilled`])?
    pub fn record(&mut self, spilled: bool) {
        self.earned = self.earned.saturating_add(1).min(Self::EARNED_MAX);
        if spilled {
            self.earned = self.earned.saturating_sub(REQUESTS_PER_TOKEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_window_holds_more_than_a_fifth_and_the_burst(wants in prop::collection::vec(prop::bool::weighted(0.7), 1..400)) {
            let mut spill = Spill::default();
            let crossed: Vec<_> = wants
                .into_iter()
                .map(|wants| {
                    let crosses = wants && spill.may_cross();
                    spill.record(crosses);
                    crosses
                })
                .collect();
            for from in 0..crossed.len() {
                let mut count = 0;
                for (length, crosses) in (1..).zip(&crossed[from..]) {
                    count += u32::from(*crosses);
                    prop_assert!(count * REQUESTS_PER_TOKEN <= length + TOKENS_MAX * REQUESTS_PER_TOKEN);
                }
            }
        }
    }

    #[test]
    fn a_site_that_needs_help_all_the_time_gets_a_fifth() {
        let mut spill = Spill::default();
        let crossed = (0..10_000)
            .filter(|_| {
                let crosses = spill.may_cross();
                spill.record(crosses);
                crosses
            })
            .count();
        assert!((2_000..=2_010).contains(&crossed), "{crossed}");
    }
}
