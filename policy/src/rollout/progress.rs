//! How far a rollout is, and what comes next.
//!
//! A step ends in one of two ways: the next one (after the last: promotion), or rolling back, which can come at any moment. Within a step
//! *looks* follow each other (see [`Disagreement`]); gateways count the pairs of the look that the controller last named, and begin at
//! zero when it names another. So neither a gateway that restarts nor a new controller counts a pair twice; a gateway that is lost takes
//! its pairs of that look along.

use super::Rollout;
use super::burn::{Burning, Latency};
use super::disagreement::{Disagreement, Pairs, Verdict};
use crate::{Moment, Slo};
use serde::{Deserialize, Serialize};

/// What a gateway counted, or several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// The look that `pairs` belong to: [`Progress::look`] as the gateway last saw it.
    pub look: u32,
    /// Compared in this look.
    pub pairs: Pairs,
    /// Copies of this look that were not compared: the gateway was busy, or there was no answer to compare.
    #[serde(default)]
    pub skipped: u64,
    /// Answers in the last seconds, whatever the look.
    pub latency: Latency,
}

impl Counts {
    /// Adds up what gateways counted. Pairs of another look than `look` are left out: whoever reports them has yet to begin this one.
    pub fn sum<'a>(look: u32, reports: impl IntoIterator<Item = &'a Counts>) -> Self {
        let mut sum = Self { look, ..Self::default() };
        for report in reports {
            if report.look == look {
                sum.pairs.add(report.pairs);
                sum.skipped = sum.skipped.saturating_add(report.skipped);
            }
            sum.latency.add(&report.latency);
        }
        sum
    }
}

/// What a step rests on: kept for whoever asks later.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which step, from 0.
    pub step: u32,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The look that ran, from 1.
    pub look: u32,
    /// Looks of this step that held.
    pub looks_held: u32,
    /// Compared in this step, over all its looks.
    pub pairs: Pairs,
    /// Share of them that disagrees, 0 to 1.
    pub rate: f64,
    /// Log likelihood ratio of a fault in the look that ran.
    pub llr: f64,
    /// What was said of the step so far.
    pub verdict: Verdict,
    /// Answers in the last seconds.
    pub latency: Latency,
    /// Late answers of the candidate in the last `step_s` seconds, in multiples of what the objective allows.
    pub burn: f64,
    /// The same of the baseline.
    pub burn_baseline: f64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing; the text says what is waited for.
    Hold(String),
    /// The next step has begun.
    Advance,
    /// The candidate takes over.
    Promote,
    /// The baseline answers everything again; the text says why, with figures.
    RollBack(String),
}

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The candidate took over.
    Promoted,
    /// The baseline stays; the text says why.
    RolledBack(String),
}

/// What a candidate is measured by: a rollout with all that it leaves to others filled in.
#[derive(Debug, Clone)]
pub struct Guard {
    test: Disagreement,
    /// Share of answers that may be late, 0 to 1.
    allowance: f64,
    error_rate: f64,
    compares: bool,
    pairs_min: u64,
    step_us: u64,
    steps: u32,
}

impl Guard {
    /// For `rollout`, whose candidate's card says `accuracy` (0 to 1), of a model that promises `slo`.
    pub fn new(rollout: &Rollout, accuracy: Option<f64>, slo: &Slo) -> Self {
        Self {
            test: Disagreement::new(rollout.null(accuracy), rollout.margin, rollout.error_rate),
            allowance: slo.allowance(),
            error_rate: rollout.error_rate,
            compares: rollout.shadow > 0.0,
            pairs_min: rollout.pairs_min,
            step_us: u64::from(rollout.step_s).saturating_mul(1_000_000),
            steps: u32::try_from(rollout.weights.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Where a rollout stands. One registry value; whoever leads goes on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Step, from 0.
    pub step: u32,
    /// Look, from 1. It only grows: false alarms are rationed over all looks of a rollout.
    pub look: u32,
    /// How long a controller has watched this step, in microseconds. Time without one does not count: nobody would have stopped it.
    pub held_us: u64,
    /// Looks of this step that held.
    pub looks_held: u32,
    /// Pairs of those.
    pub pairs_held: Pairs,
    /// One for each step so far.
    pub evidence: Vec<Evidence>,
    /// None while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// When it was last looked at, on this process's clock.
    #[serde(skip)]
    seen: Option<Moment>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { step: 0, look: 1, held_us: 0, looks_held: 0, pairs_held: Pairs::default(), evidence: Vec::new(), end: None, seen: None }
    }
}

impl Progress {
    /// Share of requests that the candidate answers now, 0 to 1.
    pub fn weight(&self, rollout: &Rollout) -> f64 {
        match self.end {
            Some(End::Promoted) => 1.0,
            Some(End::RolledBack(_)) => 0.0,
            None => rollout.weights.get(self.step as usize).copied().unwrap_or(0.0),
        }
    }

    /// Share of requests that are mirrored now, 0 to 1.
    pub fn shadow(&self, rollout: &Rollout) -> f64 {
        if self.end.is_some() { 0.0 } else { rollout.shadow }
    }

    /// Looks at what all gateways counted together, and moves on where it can. `at_ms` is only written down, in milliseconds since the
    /// Unix epoch. Once it has ended it says so every time, so an action that failed can be tried again.
    pub fn decide(&mut self, guard: &Guard, now: Moment, at_ms: u64, counts: &Counts) -> Action {
        match &self.end {
            Some(End::Promoted) => return Action::Promote,
            Some(End::RolledBack(reason)) => return Action::RollBack(reason.clone()),
            None => {}
        }
        self.held_us = self.held_us.saturating_add(now.us_since(self.seen.unwrap_or(now)));
        self.seen = Some(now);
        let pairs = if counts.look == self.look { counts.pairs } else { Pairs::default() };
        let verdict = guard.test.verdict(pairs, self.look);
        let burning = counts.latency.judge(guard.allowance, guard.error_rate);
        self.keep(guard, at_ms, pairs, verdict, &counts.latency);
        if verdict == Verdict::Faulty {
            return self.roll_back(disagreement_text(guard, pairs, self.look));
        }
        if burning == Burning::Fast {
            return self.roll_back(burn_text(guard, &counts.latency));
        }
        let running = if verdict == Verdict::Holds { self.next_look(pairs) } else { pairs };
        match self.waits_for(guard, running, &counts.latency, burning) {
            Some(wait) => Action::Hold(wait),
            None => self.advance(guard),
        }
    }

    /// What this step still lacks; `pairs` are those of the look that runs.
    fn waits_for(&self, guard: &Guard, pairs: Pairs, latency: &Latency, burning: Burning) -> Option<String> {
        let left_us = guard.step_us.saturating_sub(self.held_us);
        if left_us > 0 {
            return Some(format!(
                "step {} of {} holds for {} s more",
                self.step.saturating_add(1),
                guard.steps,
                left_us.div_ceil(1_000_000)
            ));
        }
        let compared = self.pairs_held.compared.saturating_add(pairs.compared);
        let answers = latency.candidate.long.total;
        let llr = guard.test.llr(pairs);
        if guard.compares && compared < guard.pairs_min {
            Some(format!("{compared} of {} pairs are compared", guard.pairs_min))
        } else if !guard.compares && answers < guard.pairs_min {
            Some(format!("{answers} of {} answers of the candidate came", guard.pairs_min))
        } else if guard.compares && self.looks_held == 0 {
            let (low, high) = guard.test.bounds(self.look);
            Some(format!("{compared} pairs do not decide it: log likelihood ratio {llr:.1} between {low:.1} and {high:.1}"))
        } else if guard.compares && llr > 0.0 {
            // What is left behind on the way to the next step must not speak against it.
            Some(format!("the last {} pairs lean to a fault: log likelihood ratio {llr:.1}", pairs.compared))
        } else if burning != Burning::No {
            Some(burn_text(guard, latency))
        } else {
            None
        }
    }

    /// The running look held. The next one has no pairs yet.
    fn next_look(&mut self, pairs: Pairs) -> Pairs {
        self.looks_held = self.looks_held.saturating_add(1);
        self.pairs_held.add(pairs);
        self.look = self.look.saturating_add(1);
        Pairs::default()
    }

    fn advance(&mut self, guard: &Guard) -> Action {
        if self.step.saturating_add(1) >= guard.steps {
            self.end = Some(End::Promoted);
            return Action::Promote;
        }
        self.step = self.step.saturating_add(1);
        self.look = self.look.saturating_add(1);
        self.held_us = 0;
        self.looks_held = 0;
        self.pairs_held = Pairs::default();
        Action::Advance
    }

    fn roll_back(&mut self, reason: String) -> Action {
        self.end = Some(End::RolledBack(reason.clone()));
        Action::RollBack(reason)
    }

    /// Writes down what this step rests on so far, in the place of what it rested on before.
    fn keep(&mut self, guard: &Guard, at_ms: u64, look: Pairs, verdict: Verdict, latency: &Latency) {
        let mut pairs = self.pairs_held;
        pairs.add(look);
        let evidence = Evidence {
            step: self.step,
            at_ms,
            look: self.look,
            looks_held: self.looks_held.saturating_add(u32::from(verdict == Verdict::Holds)),
            pairs,
            rate: pairs.rate(),
            llr: guard.test.llr(look),
            verdict: if verdict == Verdict::Undecided && self.looks_held > 0 { Verdict::Holds } else { verdict },
            latency: *latency,
            burn: latency.candidate.long.late_share() / guard.allowance,
            burn_baseline: latency.baseline.long.late_share() / guard.allowance,
        };
        match self.evidence.last_mut() {
            Some(last) if last.step == self.step => *last = evidence,
            _ => self.evidence.push(evidence),
        }
    }
}

fn disagreement_text(guard: &Guard, pairs: Pairs, look: u32) -> String {
    let (_, high) = guard.test.bounds(look);
    format!(
        "{} of {} compared pairs disagree ({:.2} %), where {:.2} % are expected and {:.2} % are a fault: log likelihood ratio {:.1}, and {high:.1} is the bound",
        pairs.disagreed,
        pairs.compared,
        pairs.rate() * 100.0,
        guard.test.null() * 100.0,
        guard.test.fault() * 100.0,
        guard.test.llr(pairs),
    )
}

fn burn_text(guard: &Guard, latency: &Latency) -> String {
    let (candidate, baseline) = (latency.candidate, latency.baseline);
    format!(
        "{} of the candidate's {} last answers are late ({:.2} %, lately {:.2} %), {:.1} times what the objective allows; of the baseline's {:.2} %",
        candidate.long.late,
        candidate.long.total,
        candidate.long.late_share() * 100.0,
        candidate.short.late_share() * 100.0,
        candidate.long.late_share() / guard.allowance,
        baseline.long.late_share() * 100.0,
    )
}
