//! One thread that sends its share of a load, on a runtime of its own.

use crate::client::{Client, Prepared};
use crate::live::Load;
use crate::mix::Mix;
use crate::pacer::Pacer;
use crate::record::{Done, Recorder};
use crate::schedule::{Due, Pace};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Barrier, Semaphore};

/// Longest wait for an answer: a server that hangs does not hold a run up for ever.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Requests sent in a row when late, before answers are looked at again.
const BURST_MAX: usize = 32;

/// A thread's share of a load.
pub(crate) struct Sender {
    pub(crate) load: Arc<Load>,
    pub(crate) prepared: Arc<Vec<Prepared>>,
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    /// Which thread this is, of `load.threads`.
    pub(crate) index: usize,
    /// All threads meet here before the start.
    pub(crate) ready: Arc<Barrier>,
    pub(crate) start: Arc<std::sync::OnceLock<Instant>>,
}

/// What a thread brings back.
pub(crate) struct Sent {
    pub(crate) recorder: Recorder,
    /// CPU of this thread in the measured time.
    pub(crate) cpu: Duration,
    /// Requests that waited for a connection.
    pub(crate) waited: u64,
}

/// What the tasks of one thread share.
struct Shared {
    client: Client,
    recorder: Mutex<Recorder>,
    start: Instant,
}

impl Sender {
    /// Sends, and waits for the last answer. Blocks.
    pub(crate) fn run(self) -> io::Result<Sent> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Not a task, though a wake through the kernel for each request is its price: in one queue with the answers it would wait for
        // all that wait to be read, and requests would leave late just when the server is.
        runtime.block_on(self.send())
    }

    async fn send(self) -> io::Result<Sent> {
        self.client.warm().await;
        self.ready.wait().await;
        let start = *self.start.get_or_init(Instant::now);
        let shared = Arc::new(Shared { client: self.client, recorder: Mutex::new(self.recorder), start });
        let threads = self.load.threads;
        let in_flight = match self.load.script.pace {
            Pace::Closed { concurrency } => share(concurrency, threads, self.index),
            _ => share(self.load.in_flight_max, threads, self.index).max(1),
        };
        let permits = Arc::new(Semaphore::new(in_flight));
        let (whole, load) = (u32::try_from(in_flight).unwrap_or(u32::MAX), &self.load);
        let cpu = match load.script.pace {
            Pace::Closed { .. } => closed(&shared, load, &self.prepared, self.index, &permits).await?,
            _ => open(&shared, load, &self.prepared, self.index, &permits).await?,
        };
        let _ = permits.acquire_many(whole).await; // all back: every request has ended
        let recorder = shared.recorder.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Sent { recorder, cpu, waited: shared.client.waited() })
    }
}

/// Sends what is due of this thread's share, whatever the server does. The CPU time of the measured part.
async fn open(shared: &Arc<Shared>, load: &Load, prepared: &[Prepared], index: usize, permits: &Arc<Semaphore>) -> io::Result<Duration> {
    let pacer = Pacer::new()?;
    let (mut cpu, mut in_row) = (None, 0usize);
    for (_, due) in load.script.schedule().enumerate().filter(|(i, _)| i.checked_rem(load.threads) == Some(index)) {
        let moment = shared.start.checked_add(due.at).unwrap_or(shared.start);
        if moment > Instant::now() {
            pacer.until(moment).await?;
            in_row = 0;
        } else if in_row >= BURST_MAX {
            tokio::task::yield_now().await;
            in_row = 0;
        }
        in_row = in_row.saturating_add(1);
        if cpu.is_none() && due.at >= load.script.warm_up {
            cpu = Some(thread_cpu());
        }
        let Some((request, deadline)) = pick(prepared, &load.script.mix, due) else { continue };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    one(&shared, due, deadline, request).await;
                    drop(permit);
                });
            }
            Err(_) => {
                let now = shared.start.elapsed();
                let outcome = Err(format!("not sent: {} requests wait for their answers already", load.in_flight_max));
                shared.add(&Done { ask: due.ask, due: due.at, sent: now, done: now, deadline, outcome, told: None });
            }
        }
    }
    pacer.until(shared.start.checked_add(load.script.length()).unwrap_or(shared.start)).await?;
    Ok(cpu.map(|before| thread_cpu().saturating_sub(before)).unwrap_or_default())
}

/// Keeps this thread's share of callers asking to the end. The CPU time of the measured part.
async fn closed(
    shared: &Arc<Shared>,
    load: &Arc<Load>,
    prepared: &Arc<Vec<Prepared>>,
    index: usize,
    permits: &Arc<Semaphore>,
) -> io::Result<Duration> {
    for caller in 0..permits.available_permits() {
        let Ok(permit) = permits.clone().try_acquire_owned() else { break };
        let (shared, load, prepared) = (shared.clone(), load.clone(), prepared.clone());
        let seed = load.script.seed.wrapping_add((index as u64) << 32).wrapping_add(caller as u64);
        let mut random = fastrand::Rng::with_seed(seed);
        tokio::spawn(async move {
            loop {
                let due = Due { at: shared.start.elapsed(), ask: load.script.mix.pick(&mut random) };
                let Some((request, deadline)) = pick(&prepared, &load.script.mix, due).filter(|_| due.at < load.script.length()) else {
                    break;
                };
                if !one(&shared, due, deadline, request).await {
                    // One that is refused at once does not ask again as fast as it can: what is measured is the server, not its refusals.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            drop(permit);
        });
    }
    let pacer = Pacer::new()?;
    pacer.until(shared.start.checked_add(load.script.warm_up).unwrap_or(shared.start)).await?;
    let before = thread_cpu();
    pacer.until(shared.start.checked_add(load.script.length()).unwrap_or(shared.start)).await?;
    Ok(thread_cpu().saturating_sub(before))
}

fn pick(prepared: &[Prepared], mix: &Mix, due: Due) -> Option<(Prepared, Option<Duration>)> {
    Some((prepared.get(due.ask)?.clone(), mix.asks.get(due.ask)?.deadline()))
}

/// Sends one request, and records its end; was it answered well?
async fn one(shared: &Shared, due: Due, deadline: Option<Duration>, request: Prepared) -> bool {
    let sent = shared.start.elapsed();
    // An answer after its deadline is still read: how late it is tells more than that it is.
    let longest = deadline.unwrap_or_default().max(ANSWER_MAX);
    // Boxed: the runtime moves a task several times, and each of these is kilobytes.
    let exchange = Box::pin(shared.client.ask(request));
    let (outcome, told) = match tokio::time::timeout(longest, exchange).await {
        Ok(Ok(told)) => (Ok(()), told),
        Ok(Err(error)) => (Err(error), None),
        Err(_) => (Err(format!("no answer within {} s", longest.as_secs())), None),
    };
    let good = outcome.is_ok();
    shared.add(&Done { ask: due.ask, due: due.at, sent, done: shared.start.elapsed(), deadline, outcome, told });
    good
}

impl Shared {
    fn add(&self, done: &Done) {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).add(done);
    }
}

/// The `index`th of `parts` nearly equal parts of `whole`.
pub(crate) fn share(whole: usize, parts: usize, index: usize) -> usize {
    let even = whole.checked_div(parts).unwrap_or(0);
    even.saturating_add(usize::from(index < whole.checked_rem(parts).unwrap_or(0)))
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_add_up() {
        for (whole, parts) in [(0, 1), (7, 3), (2, 4), (100, 8)] {
            assert_eq!((0..parts).map(|i| share(whole, parts, i)).sum::<usize>(), whole);
        }
    }
}
