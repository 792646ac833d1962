//! What no plan can be worth more than.

use super::flow::Columns;
use super::{Problem, SHORT_PRICE, SHORT_SHARE, STARVED_PRICE};
use std::collections::BTreeMap;

/// An upper bound on the value of any plan for `problem`: the program without whole numbers and without the bounds on loads, in which
/// replicas are as small as what flows through them, and all devices of a kind are one. The gap to it is at most this much from the best.
///
/// `None` where the program cannot be solved.
pub fn bound(problem: &Problem) -> Option<f64> {
    let kinds = problem.devices.iter().map(|d| d.kind).max().map_or(0, |k| k + 1);
    let (mut count, mut bytes) = (vec![0.0; kinds], vec![0.0; kinds]);
    for device in &problem.devices {
        count.iter_mut().skip(device.kind).take(1).for_each(|c| *c += 1.0);
        bytes.iter_mut().skip(device.kind).take(1).for_each(|b| *b += device.bytes as f64);
    }
    // Of the pairs of one variant with devices of one kind, the best in every respect stands for all.
    let mut merged: BTreeMap<(usize, usize, usize), (f64, f64, f64)> = BTreeMap::new();
    for pair in &problem.pairs {
        let Some(device) = problem.devices.get(pair.device) else { continue };
        let best = merged.entry((pair.model, pair.variant, device.kind)).or_insert((pair.accuracy, pair.share(), pair.bytes as f64));
        *best = (best.0.max(pair.accuracy), best.1.min(pair.share()), best.2.min(pair.bytes as f64));
    }
    let open: BTreeMap<usize, usize> =
        problem.models.iter().enumerate().filter(|(_, m)| m.rate > 0.0).enumerate().map(|(row, (k, _))| (k, row)).collect();
    let (time_row, memory_row) = (open.len(), open.len() + kinds);
    let short_row = memory_row + kinds;
    let own_row = short_row + open.len();
    let scale = problem.worth();
    if open.is_empty() || scale <= 0.0 {
        return Some(0.0);
    }
    let mut columns = Columns::default();
    for ((k, _, kind), (accuracy, share, size)) in merged {
        let (Some(model), Some(row)) = (problem.models.get(k), open.get(&k)) else { continue };
        // A replica answers at most the whole rate or what its device can: so much of its bytes each row needs.
        let most = model.rate.min(1.0 / share);
        let memory = bytes.get(kind).copied().unwrap_or_default().max(1.0);
        let devices = count.get(kind).copied().unwrap_or(1.0);
        let entries =
            [(*row, 1.0), (time_row + kind, share * model.rate / devices), (memory_row + kind, size * model.rate / most / memory)];
        columns.push(-model.weight * accuracy * model.rate / scale, entries, own_row + columns.len());
    }
    for (k, row) in &open {
        let worth = problem.models.get(*k).map_or(0.0, |m| m.weight * m.rate / scale);
        columns.push(SHORT_PRICE * worth, [(*row, 1.0), (short_row + *row, 1.0)], own_row + columns.len());
        columns.push(STARVED_PRICE * worth, [(*row, 1.0)], own_row + columns.len());
    }
    let mut bounds = vec![1.0; short_row];
    bounds.resize(own_row, SHORT_SHARE);
    columns.solve(bounds, open.len()).map(|solved| -solved.dual * scale)
}
