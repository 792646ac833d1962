//! Through a gateway and a worker as two processes.

use crate::Args;
use crate::report::Report;

/// Runs it.
pub(crate) async fn run(_: &Args, _: &mut Report) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
