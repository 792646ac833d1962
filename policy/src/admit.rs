//! Who may come in: budgets of the gateway and of each tenant, in requests and bytes in flight and in requests a second. What is taken
//! is given back by returning the [`Admitted`].
//!
//! Whoever finds its own budget used up is refused (RESOURCE_EXHAUSTED). Whoever finds the gateway's bytes used up waits, or is refused
//! (UNAVAILABLE) where too many do; those who wait come in by turns of their tenants (`turns`), and nobody overtakes them.
//!
//! Not here: whether anybody can answer in time (`route`), what a message may hold (`check`).

mod rate;
mod turns;

pub use rate::Rate;

use crate::{Failure, Moment};
use rate::Bucket;
use std::collections::BTreeMap;
use std::sync::Arc;
use turns::Turns;

/// Told to a caller who must wait for answers to others: nobody knows how long, a few batches is likely.
const RETRY_MS: u32 = 100;
/// Tenants are looked through for idle ones no more often than this, in microseconds.
const SWEEP_US: u64 = 1_000_000;
/// Whom the tenants are counted to that there is no room to know. No tenant has this name, it is not valid.
const OTHERS: &str = "";

/// What one tenant may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Requests at once, those that wait included.
    pub requests_max: u32,
    /// Bytes of requests at once, in bytes; a quarter of the gateway's, so that one tenant leaves room for three.
    pub bytes_max: u64,
    /// Requests over time; `None` is no bound.
    pub rate: Option<Rate>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { requests_max: 16_384, bytes_max: 256 << 20, rate: None }
    }
}

/// The budgets of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of requests at once, of all tenants.
    pub bytes_max: u64,
    /// Requests that wait for bytes at once. Each holds a connection and little else.
    pub waiting_max: usize,
    /// Tenants known at once, so that made-up names do not fill the memory. Any more share one budget, but for those in `tenants`.
    pub tenants_max: usize,
    /// The budget of a tenant that is not in `tenants`.
    pub budget: Budget,
    /// Budgets by tenant.
    pub tenants: BTreeMap<String, Budget>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 1 << 30, waiting_max: 1_024, tenants_max: 1_024, budget: Budget::default(), tenants: BTreeMap::new() }
    }
}

/// The state of admission at one gateway.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    tenants: BTreeMap<Arc<str>, Tenant>,
    /// Bytes of all who are in.
    bytes: u64,
    turns: Turns,
    tickets: u64,
    swept: Moment,
}

/// What a tenant holds; those who wait included.
#[derive(Debug, Default)]
struct Tenant {
    requests: u32,
    bytes: u64,
    bucket: Bucket,
}

/// What a request holds while it is in. It must go back through [`Admission::leave`]; there is one for each request, so it cannot
/// be copied.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what it holds is given back only through Admission::leave"]
pub struct Admitted {
    tenant: Arc<str>,
    bytes: u64,
}

/// Names a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// How a request came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// At once.
    Admitted(Admitted),
    /// Not yet: [`Admission::call_next`] will name it, unless [`Admission::cancel`] does first.
    Waiting(Ticket),
}

impl Admission {
    /// Nobody is in.
    pub fn new(limits: Limits) -> Self {
        let turns = Turns::default();
        Self { limits, tenants: BTreeMap::new(), bytes: 0, turns, tickets: 0, swept: Moment::default() }
    }

    /// Takes in a request of `tenant` that holds `bytes`. Where only the gateway's bytes are short, or others wait for them already, it
    /// waits, and holds its share of the tenant's budget meanwhile. A refused one takes nothing, of the rate neither.
    ///
    /// # Errors
    /// [`Failure::Quota`] when the tenant has used up its own, [`Failure::MessageTooLarge`] when it could never hold so much, and
    /// [`Failure::Overloaded`] when the gateway could not, or too many wait.
    pub fn enter(&mut self, now: Moment, tenant: &str, bytes: u64) -> Result<Entry, Failure> {
        let waits = !self.turns.is_empty() || bytes > self.bytes_left();
        if waits && (self.turns.len() >= self.limits.waiting_max || bytes > self.limits.bytes_max) {
            return Err(self.overloaded());
        }
        let tenant = self.take_share(now, tenant, bytes)?;
        if !waits {
            self.bytes = self.bytes.saturating_add(bytes);
            return Ok(Entry::Admitted(Admitted { tenant, bytes }));
        }
        self.tickets = self.tickets.saturating_add(1);
        self.turns.push(tenant, self.tickets, bytes);
        Ok(Entry::Waiting(Ticket(self.tickets)))
    }

    /// The next that need not wait any more, if there is one: to be asked until there is none whenever bytes became free or one that
    /// waited was cancelled.
    pub fn call_next(&mut self) -> Option<(Ticket, Admitted)> {
        let (tenant, number, bytes) = self.turns.next(self.bytes_left())?;
        self.bytes = self.bytes.saturating_add(bytes);
        Some((Ticket(number), Admitted { tenant, bytes }))
    }

    /// Nobody waits for `ticket` any more. False when it does not wait: [`Self::call_next`] has named it, and what it holds must leave.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some((tenant, bytes)) = self.turns.cancel(ticket.0) else { return false };
        self.give_share(&tenant, bytes);
        true
    }

    /// A request has its answer, or nobody wants it any more.
    pub fn leave(&mut self, admitted: Admitted) {
        debug_assert!(self.bytes >= admitted.bytes, "more leaves than came in");
        self.bytes = self.bytes.saturating_sub(admitted.bytes);
        self.give_share(&admitted.tenant, admitted.bytes);
    }

    /// Bytes that all who are in hold.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.turns.len()
    }

    /// Tenants known, with requests and bytes that each holds.
    pub fn tenants(&self) -> impl Iterator<Item = (&str, u32, u64)> {
        self.tenants.iter().map(|(name, tenant)| (&**name, tenant.requests, tenant.bytes))
    }

    fn bytes_left(&self) -> u64 {
        self.limits.bytes_max.saturating_sub(self.bytes)
    }

    fn overloaded(&self) -> Failure {
        Failure::Overloaded { in_flight: self.bytes, limit: self.limits.bytes_max, retry_ms: RETRY_MS }
    }

    fn budget(&self, tenant: &str) -> Budget {
        self.limits.tenants.get(tenant).copied().unwrap_or(self.limits.budget)
    }

    /// Takes one request and `bytes` out of the tenant's budget; the name it is known by.
    fn take_share(&mut self, now: Moment, asked: &str, bytes: u64) -> Result<Arc<str>, Failure> {
        let name = self.known_as(now, asked);
        let budget = self.budget(&name);
        if bytes > budget.bytes_max {
            return Err(Failure::MessageTooLarge { got: bytes, limit: budget.bytes_max });
        }
        let tenant = self.tenants.entry(name.clone()).or_default();
        if tenant.requests >= budget.requests_max {
            return Err(quota(asked, format!("{} requests in flight", budget.requests_max), RETRY_MS));
        }
        if tenant.bytes.saturating_add(bytes) > budget.bytes_max {
            return Err(quota(asked, format!("{} bytes in flight", budget.bytes_max), RETRY_MS));
        }
        if let Some(rate) = &budget.rate
            && let Err(retry_ms) = tenant.bucket.take(now, rate)
        {
            return Err(quota(asked, format!("{} requests a second", rate.per_second), retry_ms));
        }
        tenant.requests = tenant.requests.saturating_add(1);
        tenant.bytes = tenant.bytes.saturating_add(bytes);
        Ok(name)
    }

    fn give_share(&mut self, name: &str, bytes: u64) {
        let Some(tenant) = self.tenants.get_mut(name) else { return };
        debug_assert!(tenant.requests > 0 && tenant.bytes >= bytes, "`{name}` gives back more than it took");
        tenant.requests = tenant.requests.saturating_sub(1);
        tenant.bytes = tenant.bytes.saturating_sub(bytes);
    }

    /// Its own name while there is room to know it.
    fn known_as(&mut self, now: Moment, tenant: &str) -> Arc<str> {
        if let Some((name, _)) = self.tenants.get_key_value(tenant) {
            return name.clone();
        }
        if self.tenants.len() >= self.limits.tenants_max && now.us_since(self.swept) >= SWEEP_US {
            self.swept = now;
            self.tenants.retain(|_, tenant| tenant.requests > 0 || !tenant.bucket.is_full(now)); // else there is nothing to remember
        }
        let is_room = self.tenants.len() < self.limits.tenants_max || self.limits.tenants.contains_key(tenant);
        let name = if is_room { tenant } else { OTHERS };
        self.tenants.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| name.clone())
    }
}

fn quota(tenant: &str, what: String, retry_ms: u32) -> Failure {
    Failure::Quota { tenant: tenant.chars().take(128).collect(), what, retry_ms }
}

#[cfg(test)]
mod tests;
