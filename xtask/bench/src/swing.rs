//! Do rates swing from process to process? One session with two threads does, on virtual cores that the host shares out. Every round
//! starts a new process a side; between them a process that stays and runs one-thread sessions tells what the machine does meanwhile.

use crate::Args;
use crate::ideal::{MOBILENET, Network};
use crate::inprocess::{InProcess, Setting};
use crate::report::{Bound, Report, Samples};
use crate::server::Server;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Fewest processes of a side.
const PROCESSES: usize = 5;
/// One measurement.
const LENGTH: Duration = Duration::from_secs(2);
const NETWORK: Network = MOBILENET;

/// Rates of the processes of a side, and the same over what the steady process did just before and just after.
#[derive(Default)]
struct Side {
    rate: Samples,
    relative: Samples,
}

impl Side {
    fn push(&mut self, rate: f64, before: f64, after: f64) {
        self.rate.push(rate);
        self.relative.push(2.0 * rate / (before + after));
    }

    fn report(&self, name: &str, report: &mut Report) {
        report.row(format!("{name}: rate"), &self.rate, "1/s");
        report.row(format!("{name}: over the steady process"), &self.relative, "");
        for (what, samples) in [("rate", &self.rate), ("over the steady process", &self.relative)] {
            let (least, most) = (samples.min(), samples.max());
            report.note(format!("{name}, {what}: {least:.2} to {most:.2}, {:.1} % apart", spread(samples)));
        }
    }
}

/// From the least to the most, in per cent of the median.
fn spread(samples: &Samples) -> f64 {
    100.0 * (samples.max() - samples.min()) / samples.median()
}

/// Runs it.
pub(crate) async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?;
    let setting = |sessions, threads, spinning| Setting { sessions, threads, rows: 1, spinning };
    let (subject, repository, data) = (NETWORK.subject(args)?, NETWORK.repository(args)?, tempfile::tempdir()?);
    Server::up(&args.sluice, repository.path(), data.path()).await?.stop().await?; // validates the artifact, once
    let bare = [
        ("engine alone, one session", setting(1, cores, false)),
        ("engine alone, one session, spinning", setting(1, cores, true)),
        ("engine alone, a session a core", setting(cores.get(), NonZeroUsize::MIN, false)),
    ];
    let mut steady = InProcess::start(&subject, setting(cores.get(), NonZeroUsize::MIN, false)).await?;
    let (mut sides, mut ours, mut machine) = (bare.map(|_| Side::default()), Side::default(), Samples::default());
    for _ in 0..args.rounds.max(PROCESSES) {
        let mut before = steady.rate(LENGTH).await?;
        machine.push(before);
        for ((_, setting), side) in bare.iter().zip(&mut sides) {
            let rate = InProcess::start(&subject, *setting).await?.rate(LENGTH).await?;
            let after = steady.rate(LENGTH).await?;
            side.push(rate, before, after);
            before = after;
            machine.push(before);
        }
        let up = Server::up(&args.sluice, repository.path(), data.path()).await?;
        let (rate, _) = NETWORK.ask(&up, LENGTH).await?;
        up.stop().await?;
        ours.push(rate, before, steady.rate(LENGTH).await?);
    }
    report.row(format!("{}, the steady process: rate", NETWORK.name), &machine, "1/s");
    report.note(format!("the steady process: {:.2} to {:.2} 1/s, {:.1} % apart", machine.min(), machine.max(), spread(&machine)));
    for ((name, _), side) in bare.iter().zip(&sides) {
        side.report(&format!("{}, {name}", NETWORK.name), report);
    }
    ours.report(&format!("{}, sluice up", NETWORK.name), report);
    if let Some(one) = sides.first() {
        let mut target = |what: &str, ours: &Samples, one: &Samples| {
            let name = format!("{}: processes apart{what}, ours beside one session's", NETWORK.name);
            report.target(name, spread(ours), Bound::AtMost(spread(one)), "%");
        };
        target("", &ours.rate, &one.rate);
        // What the machine does meanwhile is in both, and taken out of both.
        target(", over the steady one", &ours.relative, &one.relative);
    }
    Ok(())
}
