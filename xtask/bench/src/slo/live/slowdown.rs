//! One worker made twice as slow, for real: its runner is stopped half of the time. When does it notice, and where do requests go?

use super::coverage::{self, Replicas};
use super::fleet::Live;
use super::one;
use super::policies::{Policy, floor, trace};
use super::send::{Cell, send};
use crate::report::{Bound, Report};
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Load, as a share of what references can do.
const LOAD: f64 = 0.6;
/// Time before it, and with it.
const BEFORE: Duration = Duration::from_secs(8);
const SLOW: Duration = Duration::from_secs(12);
/// Time that it takes until everything shows, behind its beginning.
const SETTLED: Duration = Duration::from_secs(1);
/// The runner runs and stands still for so long in turn.
const TURN: Duration = Duration::from_millis(1);
/// How often the worker is asked.
const LOOK: Duration = Duration::from_millis(5);
/// It has noticed when it says that it is so many times slower than usual.
const NOTICED: f64 = 1.5;
/// Batches in which it must.
const BATCHES_MAX: u64 = 10;
/// At half its speed a worker should get two thirds of what it got among equals; this is that and some noise.
const SHARE_MAX: f64 = 0.75;

/// Processes that are stopped half of the time, until this is dropped.
struct Injected {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Injected {
    fn into(processes: Vec<Pid>) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let until = ends.clone();
        let thread = std::thread::spawn(move || {
            let signal = |signal| {
                for process in &processes {
                    let _ = kill_process(*process, signal); // one that has ended is not slow
                }
            };
            while !until.load(Ordering::Relaxed) {
                signal(Signal::STOP);
                std::thread::sleep(TURN);
                signal(Signal::CONT);
                std::thread::sleep(TURN);
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it ends with SIGCONT
        }
    }
}

/// What a worker told, one time after the other.
type Looks = Vec<Replicas>;

/// Runs it on the first worker.
pub(super) async fn run(live: &Live, report: &mut Report) -> anyhow::Result<()> {
    let (name, worker) = live.workers.first().context("no worker")?;
    let runners: Vec<Pid> = worker.children()?.into_iter().filter_map(Pid::from_raw).collect();
    anyhow::ensure!(!runners.is_empty(), "worker {name} has no runner");
    let script = trace(live, &Policy::Sluice, LOAD * live.capacity, Duration::from_secs(1), BEFORE + SLOW, 7);
    let started = Instant::now();
    let injected_at = started + Duration::from_secs(1) + BEFORE;
    let (sent, watched) = tokio::join!(send(live, script), watch(live, injected_at, injected_at + SLOW, runners));
    let (looks, shares) = watched?;
    let cell = Cell::of(&sent?, |ask| floor(live, ask));
    report.note(format!(
        "injected: the runner of worker {name} stands still half of the time (SIGSTOP and SIGCONT every {} ms), at load {LOAD}, sluice chooses",
        TURN.as_millis()
    ));
    let mut worst = 0;
    for (labels, batches, told) in noticed(&looks) {
        report.note(format!("{labels}: times slower than usual, by batches since: {told}"));
        report.row(format!("slowed worker, {labels}: batches until noticed"), &one(batches as f64), "batches");
        worst = worst.max(batches);
    }
    report.target("injected 2x slowdown: noticed, the last replica that ran", worst as f64, Bound::AtMost(BATCHES_MAX as f64), "batches");
    let [before, during] = shares;
    report.row(format!("batches of worker {name} before it is slowed"), &one(100.0 * before), "% of all");
    report.row(format!("batches of worker {name} while it is slow"), &one(100.0 * during), "% of all");
    report.target("injected 2x slowdown: share of the worker over that before", during / before, Bound::AtMost(SHARE_MAX), "");
    let at = |from: Duration, to: Duration| {
        let step = cell.interval.as_secs_f64();
        let (from, to) = ((from.as_secs_f64() / step) as usize, (to.as_secs_f64() / step) as usize);
        let part = cell.intervals.iter().skip(from).take(to.saturating_sub(from));
        let (offered, in_time) = part.fold((0, 0), |sum, interval| (sum.0 + interval.offered, sum.1 + interval.in_time));
        100.0 * in_time as f64 / offered.max(1) as f64
    };
    report.row("in time before it is slowed", &one(at(Duration::ZERO, BEFORE)), "% in time");
    report.row("in time in the first second", &one(at(BEFORE, BEFORE + SETTLED)), "% in time");
    let routed = at(BEFORE + SETTLED, BEFORE + SLOW);
    report.target("injected 2x slowdown: in time after a second", routed, Bound::AtLeast(99.0), "% in time");
    Ok(())
}

/// Slows the first worker from one moment to another and looks at it often. Its share of all batches before, and while it is slow, is told
/// too.
async fn watch(live: &Live, from: Instant, to: Instant, runners: Vec<Pid>) -> anyhow::Result<(Looks, [f64; 2])> {
    let (_, worker) = live.workers.first().context("no worker")?;
    let begin = batches(live).await?;
    tokio::time::sleep_until(from.into()).await;
    let before = batches(live).await?;
    let mut looks = vec![coverage::of(worker).await?];
    let injected = Injected::into(runners);
    let mut settled = None;
    while Instant::now() < to {
        tokio::time::sleep(LOOK).await;
        looks.push(coverage::of(worker).await?);
        if settled.is_none() && Instant::now() > from + SETTLED {
            settled = Some(batches(live).await?);
        }
    }
    let end = batches(live).await?;
    drop(injected);
    let settled = settled.unwrap_or(before);
    let share = |a: (u64, u64), b: (u64, u64)| (b.0 - a.0) as f64 / (b.1 - a.1).max(1) as f64;
    Ok((looks, [share(begin, before), share(settled, end)]))
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

/// Of each replica that ran, batches from the injection until it says that it is slow; all that it ran where it does not. One that ran
/// less than there is time for and did not notice says nothing. With what each told on the way.
fn noticed(looks: &Looks) -> Vec<(String, u64, String)> {
    let Some((first, rest)) = looks.split_first() else { return Vec::new() };
    let of = |(labels, begin): (&String, &coverage::Counted)| {
        let ran = rest.iter().filter_map(|replicas| replicas.get(labels));
        let found = ran.clone().find(|counted| counted.slow > NOTICED && counted.executions > begin.executions);
        let last = ran.clone().next_back()?;
        let batches = found.unwrap_or(last).executions.saturating_sub(begin.executions);
        let mut told: Vec<(u64, f64)> = ran.map(|counted| (counted.executions.saturating_sub(begin.executions), counted.slow)).collect();
        told.dedup_by_key(|(batches, _)| *batches);
        let told: Vec<String> = told.iter().take_while(|(n, _)| *n <= batches).map(|(n, slow)| format!("{n}: {slow:.2}")).collect();
        (found.is_some() || batches > BATCHES_MAX).then(|| (labels.replace('"', ""), batches, told.join(", ")))
    };
    first.iter().filter_map(of).collect()
}
