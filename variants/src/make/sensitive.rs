//! Which nodes cost most fidelity: each is quantized alone, and what that does to the answers is measured.

use super::{FEW, Work, fidelity};
use crate::VariantError;
use crate::make::Progress;
use crate::pass::{Pass, Ranges};
use crate::recipe::Recipe;
use crate::runtime::Run;
use std::collections::BTreeSet;

impl Work<'_> {
    /// Sets of nodes to be left in float: the worst, the two worst, the four worst, up to half of them.
    pub(super) fn sensitive(
        &self,
        recipe: &Recipe,
        ranges: &Ranges,
        progress: Progress<'_>,
    ) -> Result<Vec<BTreeSet<String>>, VariantError> {
        let graph = self.base.graph();
        let Some(Pass::Qdq(pass)) = recipe.pass(graph, ranges, &BTreeSet::new(), self.order.reduce_range) else { return Ok(Vec::new()) };
        let targets = pass.targets(graph);
        let few = self.evaluation.first(FEW);
        let mut session = self.runtime.load(&Run::ort(&self.order.model))?;
        let expected = fidelity::answers(session.as_mut(), &few)?;
        drop(session);
        let mut ranked: Vec<(f64, &String)> = Vec::with_capacity(targets.len());
        for (at, target) in targets.iter().enumerate() {
            progress(&format!("{}: what each node costs, {} of {}", recipe.name, at + 1, targets.len()));
            let mut alone = pass.clone();
            alone.keep = targets.iter().filter(|other| *other != target).cloned().collect();
            // What does not even run alone is the first to be left.
            let sqnr_db = self.tried(&Pass::Qdq(alone), "sensitivity", &expected, &few).unwrap_or(f64::NEG_INFINITY);
            ranked.push((sqnr_db, target));
        }
        self.staging.remove("sensitivity");
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sizes = std::iter::successors(Some(1usize), |n| n.checked_mul(2)).take_while(|n| *n <= targets.len() / 2);
        Ok(sizes.map(|size| ranked.iter().take(size).map(|(_, name)| (*name).clone()).collect()).collect())
    }
}
