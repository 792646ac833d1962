//! Waits for moments more finely than the runtime's timers, which count milliseconds, and without spinning.

use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use std::io;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A kernel timer of this runtime, for one waiter at a time.
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// A timer on the current runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "its successor is unsafe code for descriptors that may change; an OwnedFd does not")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Resolves at `moment` or just after it.
    pub(crate) async fn until(&self, moment: Instant) -> io::Result<()> {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once(left))?;
            // Setting it anew forgets an expiry that nobody read, so that forgetting the readiness is enough here.
            self.timer.readable().await?.clear_ready();
        }
    }
}

fn once(length: Duration) -> Itimerspec {
    let seconds = i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    let value = Timespec { tv_sec: seconds, tv_nsec: length.subsec_nanos().into() };
    Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_is_never_reached_early() {
        let (pacer, start) = (Pacer::new().unwrap(), Instant::now());
        for us in [0, 1, 30, 200, 1_300, 2_000, 2_000, 5_100] {
            let moment = start + Duration::from_micros(us);
            pacer.until(moment).await.unwrap();
            assert!(Instant::now() >= moment);
        }
    }
}
