//! System calls of a running process, counted from outside.

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// Longest wait for a counter to begin or end.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The kernel's tracepoint, which costs little.
    Perf,
    /// ptrace: right numbers from a process that is slowed down a lot.
    Strace,
}

impl Method {
    /// The best that works on this machine.
    pub(crate) async fn find() -> Option<Self> {
        for method in [Self::Perf, Self::Strace] {
            if method.works().await.unwrap_or(false) {
                return Some(method);
            }
        }
        None
    }

    /// The command it is.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf stat -e raw_syscalls:sys_enter",
            Self::Strace => "strace -c -f",
        }
    }

    /// Tries it on a process that ends at once: a program that is there may not be allowed to count.
    async fn works(self) -> anyhow::Result<bool> {
        let mut command = match self {
            Self::Perf => perf(),
            Self::Strace => strace(),
        };
        let output = command.arg("true").stdin(Stdio::null()).output().await?;
        let text = String::from_utf8_lossy(&output.stderr);
        Ok(output.status.success() && text.lines().any(|line| self.read(line).is_some()))
    }

    /// The count in a line of the report, if it has one.
    fn read(self, line: &str) -> Option<u64> {
        match self {
            // [seconds,]count,unit,event,...
            Self::Perf => {
                let mut fields =
                    line.split(',').collect::<Vec<_>>().into_iter().rev().skip_while(|f| *f != "raw_syscalls:sys_enter").skip(2);
                fields.next()?.trim().parse().ok()
            }
            // % time, seconds, usecs/call, calls, [errors,] "total"
            Self::Strace => line.strip_suffix(" total").or_else(|| line.strip_suffix("total"))?.split_whitespace().nth(3)?.parse().ok(),
        }
    }
}

fn perf() -> Command {
    let mut command = Command::new("perf");
    command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter"]);
    command
}

fn strace() -> Command {
    let mut command = Command::new("strace");
    command.args(["-c", "-f"]);
    command
}

/// A counter at work.
pub(crate) struct SystemCalls {
    method: Method,
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl SystemCalls {
    /// Begins to count those of process `pid`, all threads; returns once it does.
    pub(crate) async fn of(pid: u32, method: Method) -> anyhow::Result<Self> {
        let mut command = match method {
            // A line every so often: the first tells that it has begun.
            Method::Perf => {
                let mut command = perf();
                command.args(["-I", "20"]);
                command
            }
            Method::Strace => strace(),
        };
        let command = command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let first = tokio::time::timeout(WAIT_MAX, lines.next_line()).await.context("it does not begin to count")??;
        first.with_context(|| format!("{} ended", method.name()))?;
        Ok(Self { method, child, lines })
    }

    /// Ends it; how many there were.
    pub(crate) async fn finish(mut self) -> anyhow::Result<u64> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.context("the counter has ended")?, Signal::INT)?;
        let read = async {
            let mut sum = None;
            while let Some(line) = self.lines.next_line().await? {
                if let Some(count) = self.method.read(&line) {
                    sum = Some(sum.unwrap_or(0u64).saturating_add(count));
                }
            }
            anyhow::Ok(sum)
        };
        match tokio::time::timeout(WAIT_MAX, read).await.context("the counter does not end")?? {
            Some(sum) => Ok(sum),
            None => bail!("{} counted nothing", self.method.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_reports_are_read() {
        assert_eq!(Method::Perf.read("29,,raw_syscalls:sys_enter,573508,100.00,,"), Some(29));
        assert_eq!(Method::Perf.read("     0.020067,1234,,raw_syscalls:sys_enter,80,100.00,,"), Some(1234));
        assert_eq!(Method::Perf.read("<not counted>,,raw_syscalls:sys_enter,0,100.00,,"), None);
        assert_eq!(Method::Strace.read("100.00    0.000210           6        35         2 total"), Some(35));
        assert_eq!(Method::Strace.read(" 10.00    0.000021           6         3           read"), None);
    }
}
