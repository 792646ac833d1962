//! Which requests leave together where the model's configuration has no rules for it.
//!
//! An instance that is free runs something if anything can still be in time. The earliest deadline goes first, with as much
//! company as lets it be in time. In overload that alone would serve ever smaller batches to ever later requests. So a head that
//! keeps the others from running with it is given up when they could not be in time after it either, and of several shapes the one
//! with the largest batch goes first; there a head that allows less than half of a batch is given up, too.
//!
//! Measured in virtual time (`tests/overload.rs`): with one shape, to give up only heads that allow less than half of a batch loses a
//! fifth of the goodput at the capacity of a GPU (4 ms + 0.25 ms a row, 20 ms to answer), and to stop at the largest useful batch a fifth
//! at twice of it. To look at the next batch first saves the heads that a short burst would cost. With eight shapes on one GPU
//! (50 ms to answer) to give up small heads, too, answers 3 to 7 of 100 requests more in time from .6 of its capacity on.

use super::lanes::{LEVELS, Lane};
use super::{Batch, Batcher, NEVER, Ticket, Waiting, later};
use crate::Moment;
use crate::profile::{Forecast, Forecasts};

/// Share of a request's time that the work before it may take. With eight shapes on a GPU at .6 of its capacity 1 answers 66 of 100 in
/// time, .8 answers 80; .7 answers one more there, and at .3 of the capacity one less.
const OVERLOAD_SHARE: f64 = 0.8;

/// What batches are formed from.
pub(super) struct When<'f, F> {
    pub(super) moment: Moment,
    pub(super) forecasts: &'f F,
    /// Most rows of any batch.
    pub(super) limit: u32,
}

impl<F: Forecasts> When<'_, F> {
    /// For a batch of the size of `waiting`.
    fn of(&self, waiting: &Waiting) -> Now {
        self.at(self.forecasts.of(waiting.row_bytes()))
    }

    fn at(&self, forecast: Forecast) -> Now {
        Now { moment: self.moment, forecast, rows_max: forecast.rows_max(self.limit) }
    }
}

/// What one batch is formed from.
#[derive(Clone, Copy)]
struct Now {
    moment: Moment,
    forecast: Forecast,
    /// Most rows worth putting into one batch.
    rows_max: u32,
}

impl Now {
    /// When a batch of `rows` started now is done in 99 of 100 cases.
    fn done(&self, rows: u32) -> Moment {
        later(self.moment, self.forecast.tail_us(rows).ceil() as u64)
    }

    /// When a batch of `rows` started now is done as a rule.
    fn expected(&self, rows: u32) -> Moment {
        later(self.moment, self.forecast.batch_us(rows).ceil() as u64)
    }

    /// Most rows of a batch started now that is done by `deadline` in 99 of 100 cases.
    fn fits(&self, deadline: Moment) -> u32 {
        self.forecast.rows_within(self.rows_max, deadline.us_since(self.moment) as f64)
    }
}

impl Batcher {
    /// Puts into `batch` what runs now, and what cannot be in time any more. Something runs unless nothing can.
    pub(super) fn form_by_deadline(&mut self, when: &When<'_, impl Forecasts>, batch: &mut Batch) {
        for level in LEVELS {
            while self.first_of(level).is_some_and(|first| self.give_up(when, first, batch)) {}
        }
        while let Some(level) = self.lanes.next_level() {
            let Some(lane) = self.lane_in_turn(when, level) else { return };
            let chosen = loop {
                let Some(first) = self.first_of_lane(lane) else { break None };
                if !self.give_up(when, first, batch) && !self.crowd_out(when, first, batch) {
                    break Some(first);
                }
            };
            let Some(first) = chosen else { continue };
            self.fill(when, first, &mut batch.run);
            self.lanes.begin(level);
            for place in &batch.run {
                if let Some(waiting) = self.queue.get(place) {
                    self.lanes.charge(Lane::of(*place, waiting), waiting.rows);
                }
            }
            return;
        }
    }

    fn first_of(&self, level: u32) -> Option<Ticket> {
        self.queue.range(Ticket::range(level, Moment::default())).next().map(|(place, _)| *place)
    }

    fn first_of_lane(&self, lane: Lane) -> Option<Ticket> {
        let from = if lane.endless { NEVER } else { Moment::default() };
        let mut places = self.queue.range(Ticket::range(lane.level, from));
        places.find(|(_, waiting)| waiting.group == lane.group).map(|(place, _)| *place)
    }

    /// Takes out who is late, or would be if it ran alone now: in 1 of 100 cases when others want its place, else as a rule, since an
    /// idle instance is worth nothing. False when it can be in time.
    fn give_up(&mut self, when: &When<'_, impl Forecasts>, place: Ticket, batch: &mut Batch) -> bool {
        let Some(waiting) = self.queue.get(&place) else { return false };
        let now = when.of(waiting);
        let done = if self.queue.len() > 1 { now.done(waiting.rows) } else { now.expected(waiting.rows) };
        let deadline = waiting.deadline;
        if deadline <= now.moment {
            batch.late.push((place, now.moment.us_since(deadline)));
        } else if done > deadline {
            batch.hopeless.push((place, done.us_since(deadline)));
        } else {
            return false;
        }
        self.remove(place).is_some()
    }

    /// Takes out who keeps a larger batch from running now that could not be in time afterwards. False when it may ride.
    fn crowd_out(&mut self, when: &When<'_, impl Forecasts>, place: Ticket, batch: &mut Batch) -> bool {
        let Some(waiting) = self.queue.get(&place) else { return false };
        let now = &when.of(waiting);
        let fits = now.fits(waiting.deadline).max(waiting.rows);
        let wanted = self.lanes.rows(Lane::of(place, waiting)).min(now.rows_max);
        if fits >= wanted {
            return false;
        }
        // Where other shapes run in between, what is left behind may be late even if it could be in time in the next batch.
        let must_run_now =
            fits.saturating_mul(2) < wanted && self.lanes.of(place.level()).nth(1).is_some() && self.overloaded(when, waiting);
        if !self.next_needs_its_place(now, waiting, place.level(), fits, must_run_now) {
            return false;
        }
        batch.hopeless.push((place, now.done(wanted).us_since(waiting.deadline)));
        self.remove(place).is_some()
    }

    /// Of those who find no place in a batch of `rows` that starts with `head`, does the first allow a larger one now, while after
    /// it not all that are left, or a full batch of them, would be in time? Or is this not to be hoped for in any case?
    fn next_needs_its_place(&self, now: &Now, head: &Waiting, level: u32, rows: u32, must_run_now: bool) -> bool {
        let mut before = 0u32;
        let mut same = self.queue.range(Ticket::range(level, Moment::default())).filter(|(_, waiting)| waiting.group == head.group);
        let next = same.find(|(_, waiting)| {
            before = before.saturating_add(waiting.rows);
            before > rows && now.done(waiting.rows) <= waiting.deadline
        });
        let Some((place, next)) = next else { return false };
        let left = self.lanes.rows(Lane::of(*place, next)).saturating_sub(rows).min(now.rows_max);
        let afterwards = Now { moment: now.done(rows), ..*now };
        now.fits(next.deadline) > rows && (must_run_now || afterwards.fits(next.deadline) < left)
    }

    /// What waits takes most of what `head` was given: who comes now with as much time would hardly be served in it.
    fn overloaded(&self, when: &When<'_, impl Forecasts>, head: &Waiting) -> bool {
        let now = when.at(when.forecasts.whole());
        head.deadline != NEVER && self.work_us(now.forecast, now.rows_max) > OVERLOAD_SHARE * head.deadline.us_since(head.arrived) as f64
    }

    /// The lane that the next batch of `level` is for: of the earliest deadline, but in overload that of the largest batch; and a
    /// starved one before either.
    fn lane_in_turn(&self, when: &When<'_, impl Forecasts>, level: u32) -> Option<Lane> {
        let earliest = self.first_of(level)?;
        let head = self.queue.get(&earliest)?;
        let now = when.of(head);
        let own = Lane::of(earliest, head);
        if self.lanes.of(level).nth(1).is_none() {
            return Some(own);
        }
        let overload = self.overloaded(when, head);
        let largest = || {
            let lanes = self.lanes.of(level).filter(|_| overload);
            lanes.max_by_key(|(lane, load)| (load.rows.min(u64::from(now.rows_max)), **lane == own)).map(|(lane, _)| *lane)
        };
        Some(self.lanes.starved(level, overload).or_else(largest).unwrap_or(own))
    }

    /// Puts `first` into `run`, and who of its shape can ride along so that all are in time: its own level first.
    fn fill(&self, when: &When<'_, impl Forecasts>, first: Ticket, run: &mut Vec<Ticket>) {
        let Some(head) = self.queue.get(&first) else { return };
        let now = when.of(head);
        let (mut rows, mut deadline) = (head.rows, head.deadline);
        run.push(first);
        let others = LEVELS.filter(|level| *level != first.level());
        for level in std::iter::once(first.level()).chain(others) {
            for (place, waiting) in self.queue.range(Ticket::range(level, Moment::default())) {
                if rows >= now.rows_max {
                    return;
                }
                if waiting.group != head.group || *place == first {
                    continue;
                }
                let (with, earliest) = (rows.saturating_add(waiting.rows), deadline.min(waiting.deadline));
                if with > now.rows_max || now.done(with) > earliest {
                    break; // no overtaking: a later, smaller request must not starve an earlier, larger one
                }
                (rows, deadline) = (with, earliest);
                run.push(*place);
            }
        }
    }
}
