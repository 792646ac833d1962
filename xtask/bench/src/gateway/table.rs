//! Whether a request costs more when the routing table is large: two gateways asked the same, which differ in what else they know.

use super::fleet::{self, Fleet};
use super::{CALLERS, NUMBERS, Stage};
use crate::message::Canned;
use crate::report::{Bound, Report, Samples};
use crate::serving::Cell;
use std::time::Duration;

/// What both are asked is all that the small one knows, in the large one on as many workers.
const SMALL: Fleet = Fleet { cluster: "small", models: 10, workers: 10 };
const LARGE: Fleet = Fleet { cluster: "large", models: 10_000, workers: 100 };

/// Runs it.
pub(super) async fn run(stage: &Stage<'_>, slice: Duration, report: &mut Report) -> anyhow::Result<()> {
    let (small, large) = (stage.gateway(SMALL).await?, stage.gateway(LARGE).await?);
    let few = Canned::rows((0..SMALL.models).map(fleet::model), NUMBERS);
    let all = Canned::rows((0..LARGE.models).map(fleet::model), NUMBERS);
    let (mut of_small, mut of_large, mut of_all) = (Cell::default(), Cell::default(), Cell::default());
    let (mut ratio, mut ratio_all) = (Samples::default(), Samples::default());
    for _ in 0..stage.args.rounds {
        of_small.measure(&[&small], &few, CALLERS, slice).await?;
        of_large.measure(&[&large], &few, CALLERS, slice).await?;
        of_all.measure(&[&large], &all, CALLERS, slice).await?;
        ratio.push(of_large.cpu_us.last() / of_small.cpu_us.last());
        ratio_all.push(of_all.cpu_us.last() / of_small.cpu_us.last());
    }
    let named = |fleet: Fleet| format!("{} models on {} workers", fleet.models, fleet.workers);
    of_small.report(&named(SMALL), report);
    of_large.report(&format!("{}, 10 asked", named(LARGE)), report);
    of_all.report(&format!("{}, all asked", named(LARGE)), report);
    report.row("cost with the large table, 10 asked", &ratio, "of the small one's");
    report.row("cost with the large table, all asked", &ratio_all, "of the small one's");
    report.note(
        "gateway: with all models asked in turn the requests go out over 100 connections, not 10, so that fewer share a write; that is \
         the price of many workers, not of a large table",
    );
    report.target("gateway: cost of a request with the large table over the small one", ratio.median(), Bound::AtMost(1.1), "");
    Ok(())
}
