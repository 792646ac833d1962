//! One replica in virtual time: requests come, instances run, what was answered in time is counted.

use super::super::*;
use crate::profile::tests::Random;
use crate::profile::{Latency, Profile};
use std::collections::BTreeMap;

/// One run of it.
#[derive(Clone, Copy)]
pub(super) struct Trial {
    pub(super) truth: Latency,
    pub(super) rows_max: u32,
    pub(super) slo_us: u64,
    /// Requests of one row per second that come.
    pub(super) rate: f64,
    /// Squared coefficient of variation of the time between two.
    pub(super) cv2: f64,
    /// Sigma of the log-normal noise on a batch's time.
    pub(super) noise: f64,
    pub(super) instances: usize,
    /// Shapes of requests, all as likely, that share the replica and no batch.
    pub(super) shapes: u32,
    pub(super) policy: BatchPolicy,
    pub(super) requests: u32,
    pub(super) seed: u64,
}

/// What became of it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) offered: f64,
    pub(super) in_time: f64,
    pub(super) refused: f64,
    pub(super) started_late: u32,
    pub(super) busy_us: f64,
    /// Device time on answers that finished late, by rows.
    pub(super) wasted_us: f64,
    pub(super) seconds: f64,
}

impl Outcome {
    pub(super) fn goodput(&self) -> f64 {
        self.in_time / self.seconds
    }
}

/// Two-phase hyperexponential time of mean 1 with that squared coefficient of variation; exponential for 1.
fn gap(random: &mut Random, cv2: f64) -> f64 {
    let p = 0.5 * (1.0 + ((cv2 - 1.0) / (cv2 + 1.0)).sqrt());
    let share = if random.uniform() < p { p } else { 1.0 - p };
    -random.uniform().ln() / (2.0 * share)
}

impl Trial {
    pub(super) fn run(&self) -> Outcome {
        let limits = Limits { rows_max: self.rows_max, queue_len_max: 1024, queue_bytes_max: u64::MAX };
        let mut batcher = Batcher::with_policy(limits, Batching::default(), self.policy);
        let (mut profile, mut random, mut batch) = (Profile::new(self.truth), Random(self.seed), Batch::default());
        let mut outcome = Outcome::default();
        let mut inside: BTreeMap<Ticket, u64> = BTreeMap::new();
        // When each instance is free again, and the start, rows and deadlines of what it runs.
        let mut running: Vec<Option<(u64, u64, Vec<u64>)>> = vec![None; self.instances];
        let (mut now, mut arrival, mut wake, mut left) = (0u64, 0.0f64, None::<u64>, self.requests);
        loop {
            let next_free = running.iter().flatten().map(|(end, ..)| *end).min();
            let next_arrival = (left > 0).then_some(arrival as u64);
            let Some(next) = [next_free, next_arrival, wake].into_iter().flatten().min() else { break };
            now = now.max(next);
            wake = None;
            for slot in &mut running {
                let Some((_, start, deadlines)) = slot.take_if(|(end, ..)| *end <= now) else { continue };
                let us = (now - start) as f64;
                profile.observe(deadlines.len() as u32, us);
                outcome.busy_us += us;
                for deadline in &deadlines {
                    outcome.in_time += f64::from(*deadline >= now);
                    outcome.wasted_us += if *deadline < now { us / deadlines.len() as f64 } else { 0.0 };
                }
            }
            if left > 0 && arrival as u64 <= now {
                left -= 1;
                outcome.offered += 1.0;
                let deadline = now + self.slo_us;
                // One shape draws nothing, so that its arrivals are those of its seed.
                let group = if self.shapes > 1 { (random.uniform() * f64::from(self.shapes)) as u64 } else { 0 };
                let pending =
                    Pending { rows: 1, bytes: 1, deadline: Some(Moment::from_us(deadline)), group, priority: 0, timeout_us: None };
                match batcher.arrive(Moment::from_us(now), pending) {
                    Ok(ticket) => assert!(inside.insert(ticket, deadline).is_none()),
                    Err(_) => outcome.refused += 1.0,
                }
                arrival += gap(&mut random, self.cv2) * 1e6 / self.rate;
            }
            for slot in running.iter_mut().filter(|slot| slot.is_none()) {
                batcher.take(Moment::from_us(now), &profile.forecast(), &mut batch);
                for (ticket, _) in batch.late.iter().chain(&batch.hopeless) {
                    assert!(inside.remove(ticket).is_some(), "answered twice");
                    outcome.refused += 1.0;
                }
                wake = wake.or(batch.wake.map(Moment::as_us).filter(|at| *at > now));
                if batch.run.is_empty() {
                    assert!(batcher.is_empty() || batch.wake.is_some(), "an idle instance beside work");
                    break;
                }
                let deadlines: Vec<u64> = batch.run.iter().map(|ticket| inside.remove(ticket).expect("answered twice")).collect();
                outcome.started_late += deadlines.iter().filter(|deadline| **deadline <= now).count() as u32;
                let us = self.truth.batch_us(deadlines.len() as u32) * random.noise(self.noise);
                *slot = Some((now + us as u64, now, deadlines));
            }
        }
        assert!(inside.is_empty() && batcher.is_empty(), "lost");
        outcome.seconds = now as f64 / 1e6;
        outcome
    }
}
