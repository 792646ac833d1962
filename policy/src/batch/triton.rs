//! Which requests leave together where the model's configuration has rules for it: Triton's preferred sizes and longest delay.

use super::{Batcher, NEVER, Ticket, later};
use crate::Moment;
use crate::profile::Forecast;

impl Batcher {
    /// Puts into `run` what leaves now. Nothing does when the head is better off waiting for company: then the moment until
    /// which it is.
    pub(super) fn form_by_rules(&self, now: Moment, forecast: Forecast, run: &mut Vec<Ticket>) -> Option<Moment> {
        let group = self.queue.first_key_value()?.1.group;
        let (mut rows, mut oldest, mut preferred) = (0u32, now, None);
        for (place, waiting) in &self.queue {
            if waiting.group != group {
                if self.batching.preserve_ordering {
                    break;
                }
                continue;
            }
            let with = rows.saturating_add(waiting.rows);
            if with > self.preferred_max && !run.is_empty() {
                preferred.get_or_insert(run.len());
                if with > self.limits.rows_max {
                    break; // no overtaking: a later, smaller request must not starve an earlier, larger one
                }
            }
            rows = with;
            run.push(*place);
            oldest = oldest.min(waiting.arrived);
            if self.batching.preferred_rows.contains(&rows) {
                preferred = Some(run.len());
            }
            if rows >= self.limits.rows_max {
                break;
            }
        }
        let delay_us = self.batching.max_delay_us;
        if delay_us > 0 && now.us_since(oldest) >= delay_us {
            return None;
        }
        if let Some(len) = preferred {
            run.truncate(len);
            return None;
        }
        if delay_us == 0 || rows >= self.preferred_max || run.len() < self.queue.len() {
            return None;
        }
        let until = self.patience(later(oldest, delay_us), forecast).filter(|until| *until > now)?;
        run.clear();
        Some(until)
    }

    /// Until when all that waits may wait for company: `until`, but only to the last moment at which a full batch still ends
    /// before every deadline. `None` where somebody would time out by then: it would be refused beside an idle instance.
    fn patience(&self, until: Moment, forecast: Forecast) -> Option<Moment> {
        let run_us = forecast.batch_us(self.limits.rows_max).ceil() as u64;
        let deadline = self.queue.values().map(|w| w.deadline).min().unwrap_or(NEVER);
        let until = until.min(Moment::from_us(deadline.as_us().saturating_sub(run_us)));
        self.queue.values().all(|w| w.times_out() > until).then_some(until)
    }
}
