//! One worker made twice as slow, for real: its runner is stopped half of the time. When does it notice, and where do requests go?

use super::coverage::{self, Replicas};
use super::fleet::Live;
use super::one;
use super::policies::{Policy, floor, trace};
use super::send::{Cell, send};
use crate::report::{Bound, Report, Samples};
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Load, as a share of what references can do.
const LOAD: f64 = 0.6;
/// Times it is slowed, time before each, and with it.
const TIMES: u32 = 3;
const BEFORE: Duration = Duration::from_secs(6);
const SLOW: Duration = Duration::from_secs(5);
/// Time that it takes until a change shows, behind it.
const SETTLED: Duration = Duration::from_secs(1);
/// Behind the end of a slow time: what replicas were slower by is believed for seconds.
const FORGOTTEN: Duration = Duration::from_secs(3);
/// Time that is sent before all.
const WARM_UP: Duration = Duration::from_secs(2);
/// The runner stands still and runs for so long in turn.
const TURN: Duration = Duration::from_millis(1);
/// How often the worker is asked.
const LOOK: Duration = Duration::from_millis(5);
/// It has noticed when it says that it is so many times slower than usual; one that says more than the first before tells nothing.
const NOTICED: (f64, f64) = (1.25, 1.5);
/// Batches in which it must.
const BATCHES_MAX: u64 = 10;
/// At half its speed a worker should get two thirds of what it got among equals; this is that and some noise.
const SHARE_MAX: f64 = 0.75;

/// Processes that are stopped half of the time, until this is dropped.
struct Injected {
    ends: Option<SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Injected {
    fn into(processes: Vec<Pid>) -> Self {
        let (ends, end) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let signal = |signal| {
                for process in &processes {
                    let _ = kill_process(*process, signal); // one that has ended is not slow
                }
            };
            let mut goes_on = true;
            while goes_on {
                signal(Signal::STOP);
                goes_on = end.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout);
                signal(Signal::CONT);
                goes_on = goes_on && end.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout);
            }
        });
        Self { ends: Some(ends), thread: Some(thread) }
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its last signal lets them go on
        }
    }
}

/// What came of one time.
struct Seen {
    /// What the worker told, one time after the other, from just before it was slowed.
    looks: Vec<Replicas>,
    /// Its batches and those of all, before and while it was slow.
    before: (u64, u64),
    slow: (u64, u64),
}

/// Runs it on the first worker.
pub(super) async fn run(live: &Live, report: &mut Report) -> anyhow::Result<()> {
    let (name, worker) = live.workers.first().context("no worker")?;
    let runners: Vec<Pid> = worker.children()?.into_iter().filter_map(Pid::from_raw).collect();
    anyhow::ensure!(!runners.is_empty(), "worker {name} has no runner");
    let script = trace(live, &Policy::Sluice, LOAD * live.capacity, WARM_UP, (BEFORE + SLOW) * TIMES, 7);
    let started = Instant::now() + WARM_UP;
    let (sent, watched) = tokio::join!(send(live, script), watch(live, started, &runners));
    let (seen, cell) = (watched?, Cell::of(&sent?, |ask| floor(live, ask)));
    report.note(format!(
        "injected: the runner of worker {name} stands still half of the time (SIGSTOP and SIGCONT every {} ms), {TIMES} times for {} s, at \
         load {LOAD}, sluice chooses",
        TURN.as_millis(),
        SLOW.as_secs()
    ));
    let (mut batches, mut shares) = (Samples::default(), [(0, 0); 2]);
    for seen in &seen {
        for noticed in noticed(&seen.looks) {
            report.note(format!("{}, slower than usual by batches since: {}", noticed.labels, noticed.told));
            batches.push(noticed.batches as f64);
        }
        for (sum, (part, all)) in shares.iter_mut().zip([seen.before, seen.slow]) {
            *sum = (sum.0 + part, sum.1 + all);
        }
    }
    report.row(format!("worker {name}: batches until a replica has noticed"), &batches, "batches");
    let [before, slow] = shares.map(|(part, all)| 100.0 * part as f64 / all.max(1) as f64);
    report.row(format!("worker {name}: its batches before"), &one(before), "% of all");
    report.row(format!("worker {name}: its batches while it is slow"), &one(slow), "% of all");
    report.row("in time before", &one(in_time(&cell, FORGOTTEN, BEFORE)), "% in time");
    report.row("in time in the first second", &one(in_time(&cell, BEFORE, BEFORE + SETTLED)), "% in time");
    report.row("in time after that", &one(in_time(&cell, BEFORE + SETTLED, BEFORE + SLOW)), "% in time");
    // Without any that could notice there is no figure, and that is a miss.
    report.target("injected 2x slowdown: noticed by the last replica", batches.max(), Bound::AtMost(BATCHES_MAX as f64), "batches");
    report.target("injected 2x slowdown: share of the worker over that before", slow / before, Bound::AtMost(SHARE_MAX), "");
    Ok(())
}

/// In time of what was due in this part of every time, in per cent.
fn in_time(cell: &Cell, from: Duration, to: Duration) -> f64 {
    let (mut offered, mut in_time) = (0, 0);
    for (index, interval) in cell.intervals.iter().enumerate() {
        let at = (cell.interval.as_secs_f64() * index as f64) % (BEFORE + SLOW).as_secs_f64();
        if (from.as_secs_f64()..to.as_secs_f64()).contains(&at) {
            (offered, in_time) = (offered + interval.offered, in_time + interval.in_time);
        }
    }
    100.0 * in_time as f64 / f64::max(offered as f64, 1.0)
}

/// Slows the first worker again and again, and looks at it often.
async fn watch(live: &Live, started: Instant, runners: &[Pid]) -> anyhow::Result<Vec<Seen>> {
    let (_, worker) = live.workers.first().context("no worker")?;
    let mut all = Vec::new();
    for time in 0..TIMES {
        let begins = started + (BEFORE + SLOW) * time;
        let (slowed, ends) = (begins + BEFORE, begins + BEFORE + SLOW);
        tokio::time::sleep_until((begins + FORGOTTEN).into()).await;
        let begin = batches(live).await?;
        tokio::time::sleep_until(slowed.into()).await;
        let before = batches(live).await?;
        let mut looks = vec![coverage::of(worker).await?];
        let injected = Injected::into(runners.to_vec());
        while Instant::now() < slowed + SETTLED {
            looks.push(coverage::of(worker).await?);
            tokio::time::sleep(LOOK).await;
        }
        let settled = batches(live).await?;
        while Instant::now() < ends {
            looks.push(coverage::of(worker).await?);
            tokio::time::sleep(LOOK).await;
        }
        let end = batches(live).await?;
        drop(injected);
        let since = |a: (u64, u64), b: (u64, u64)| (b.0.saturating_sub(a.0), b.1.saturating_sub(a.1));
        all.push(Seen { looks, before: since(begin, before), slow: since(settled, end) });
    }
    Ok(all)
}

/// Batches of the first worker, and of all.
async fn batches(live: &Live) -> anyhow::Result<(u64, u64)> {
    let (mut first, mut all) = (None, 0);
    for (_, worker) in &live.workers {
        let sum: u64 = coverage::of(worker).await?.values().map(|replica| replica.executions).sum();
        first.get_or_insert(sum);
        all += sum;
    }
    Ok((first.unwrap_or_default(), all))
}

/// When a replica noticed, and what it told on the way.
struct Noticed {
    labels: String,
    batches: u64,
    told: String,
}

/// Of each replica that was at its usual speed, batches from the first look until it says that it is slow; all that it ran where it never
/// does. One that never does and ran no more than it may take says nothing.
fn noticed(looks: &[Replicas]) -> Vec<Noticed> {
    let Some((first, rest)) = looks.split_first() else { return Vec::new() };
    let of = |(labels, begin): (&String, &coverage::Counted)| {
        let ran = || rest.iter().filter_map(|replicas| replicas.get(labels));
        let since = |counted: &coverage::Counted| counted.executions.saturating_sub(begin.executions);
        let found = ran().find(|counted| counted.slow > NOTICED.1 && since(counted) > 0);
        let batches = since(found.or_else(|| ran().next_back())?);
        let mut told: Vec<(u64, f64)> = ran().map(|counted| (since(counted), counted.slow)).collect();
        told.dedup_by_key(|(batches, _)| *batches);
        let told: Vec<String> = told
            .iter()
            .take_while(|(n, _)| *n <= batches)
            .take(2 * BATCHES_MAX as usize)
            .map(|(n, slow)| format!("{n}: {slow:.2}"))
            .collect();
        let counts = begin.slow <= NOTICED.0 && (found.is_some() || batches > BATCHES_MAX);
        counts.then(|| Noticed { labels: labels.replace('"', ""), batches, told: told.join(", ") })
    };
    first.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coverage::Counted;

    #[test]
    fn a_replica_notices_after_the_batches_that_it_ran_since() {
        let looks = |told: &[(u64, f64)]| -> Vec<Replicas> {
            let look = |(executions, slow): &(u64, f64)| Counted { executions: *executions, over_p99: 0, slow: *slow };
            told.iter().map(|told| std::iter::once(("m".to_owned(), look(told))).collect()).collect()
        };
        let batches = |told: &[(u64, f64)]| noticed(&looks(told)).first().map(|noticed| noticed.batches);
        assert_eq!(batches(&[(100, 1.0), (101, 1.3), (103, 1.6), (110, 2.0)]), Some(3));
        assert_eq!(batches(&[(100, 1.4), (101, 1.6)]), None, "it was slow before");
        assert_eq!(batches(&[(100, 1.0), (105, 1.1)]), None, "it ran too little");
        assert_eq!(batches(&[(100, 1.0), (120, 1.1)]), Some(20), "it never noticed");
    }
}
