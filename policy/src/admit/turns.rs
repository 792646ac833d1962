//! Whose turn it is among tenants that wait for bytes: deficit round robin (Shreedhar and Varghese, 1995). Each turn earns a tenant the
//! same bytes, so one with large requests gets in less often, and none more in sum.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes that a turn earns. Larger is less looking, smaller is finer: a request of the largest size a tenant may hold by default, 256 MiB,
/// waits for 64 turns of the others.
const QUANTUM: u64 = 4 << 20;

/// Requests that wait, each with its number and bytes, first come first served within a tenant.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queues: BTreeMap<Arc<str>, Queue>,
    /// Tenants that wait; the first has the turn.
    order: VecDeque<Arc<str>>,
    /// Has the first got its quantum?
    earned: bool,
    len: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, u64)>,
    /// Bytes earned and not used.
    deficit: u64,
}

impl Turns {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, tenant: Arc<str>, number: u64, bytes: u64) {
        let queue = self.queues.entry(tenant.clone()).or_default();
        if queue.waiting.is_empty() {
            self.order.push_back(tenant);
        }
        queue.waiting.push_back((number, bytes));
        self.len = self.len.saturating_add(1);
    }

    /// The next, with its tenant, number and bytes, if `free` bytes are enough for it. If not it keeps its turn: a large request would
    /// else wait for ever beside small ones.
    pub(super) fn next(&mut self, free: u64) -> Option<(Arc<str>, u64, u64)> {
        // Ends: each lap adds a quantum to every head's tenant, and a head is finite.
        loop {
            let tenant = self.order.front()?.clone();
            let queue = self.queues.get_mut(&tenant)?;
            let (number, bytes) = *queue.waiting.front()?;
            if !self.earned {
                queue.deficit = queue.deficit.saturating_add(QUANTUM);
                self.earned = true;
            }
            if bytes > queue.deficit {
                self.order.rotate_left(1);
                self.earned = false;
                continue;
            }
            if bytes > free {
                return None;
            }
            queue.deficit = queue.deficit.saturating_sub(bytes);
            queue.waiting.pop_front();
            self.len = self.len.saturating_sub(1);
            self.forget_if_empty(&tenant);
            return Some((tenant, number, bytes));
        }
    }

    /// Takes out the one with `number`; its tenant and bytes.
    pub(super) fn cancel(&mut self, number: u64) -> Option<(Arc<str>, u64)> {
        let found = self.queues.iter_mut().find_map(|(tenant, queue)| {
            let at = queue.waiting.iter().position(|(n, _)| *n == number)?;
            queue.waiting.remove(at).map(|(_, bytes)| (tenant.clone(), bytes))
        });
        let (tenant, bytes) = found?;
        self.len = self.len.saturating_sub(1);
        self.forget_if_empty(&tenant);
        Some((tenant, bytes))
    }

    /// Who does not wait saves nothing up.
    fn forget_if_empty(&mut self, tenant: &Arc<str>) {
        if self.queues.get(tenant).is_some_and(|queue| queue.waiting.is_empty()) {
            self.queues.remove(tenant);
            self.earned &= self.order.front() != Some(tenant);
            self.order.retain(|other| other != tenant);
        }
    }
}
