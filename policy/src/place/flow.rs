//! The linear part: which pair answers how much, once it is decided what is placed.

use super::{Problem, SHORT_PRICE, SHORT_SHARE, STARVED_PRICE};
use clarabel::algebra::CscMatrix;
use clarabel::solver::{DefaultSettings, DefaultSolver, IPSolver, NonnegativeConeT, SolverStatus, ZeroConeT};

/// Rates below this many rows a second are nothing.
const RATE_MIN: f64 = 1e-9;

/// How the rows flow through what is placed.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    /// Of each pair.
    pub(super) rates: Vec<f64>,
    /// Of each model.
    pub(super) unserved: Vec<f64>,
    /// Value of what flows less that of what does not.
    pub(super) value: f64,
    pub(super) row_prices: Vec<f64>,
    pub(super) time_prices: Vec<f64>,
}

/// A program in columns, to be handed to the solver: `min q·x, rows of A: first equalities, then at most b`.
#[derive(Default)]
pub(super) struct Columns {
    starts: Vec<usize>,
    rows: Vec<usize>,
    values: Vec<f64>,
    costs: Vec<f64>,
}

impl Columns {
    /// A column that costs `cost`, with entries in the order of their rows. It is at least zero: its own row says so.
    pub(super) fn push(&mut self, cost: f64, entries: impl IntoIterator<Item = (usize, f64)>, own_row: usize) {
        self.starts.push(self.rows.len());
        for (row, value) in entries.into_iter().chain([(own_row, -1.0)]) {
            self.rows.push(row);
            self.values.push(value);
        }
        self.costs.push(cost);
    }

    pub(super) fn len(&self) -> usize {
        self.costs.len()
    }

    /// Solves it: `bounds` are the right sides of all rows but the columns' own, of which the first `equal` are equalities.
    pub(super) fn solve(mut self, mut bounds: Vec<f64>, equal: usize) -> Option<Solved> {
        self.starts.push(self.rows.len());
        let (rows, columns) = (bounds.len() + self.costs.len(), self.costs.len());
        bounds.resize(rows, 0.0);
        let matrix = CscMatrix::new(rows, columns, self.starts, self.rows, self.values);
        let cones = [ZeroConeT(equal), NonnegativeConeT(rows - equal)];
        let settings = DefaultSettings { verbose: false, max_iter: 100, presolve_enable: false, ..DefaultSettings::default() };
        let quadratic = CscMatrix::zeros((columns, columns));
        let mut solver = DefaultSolver::new(&quadratic, &self.costs, &matrix, &bounds, &cones, settings).ok()?;
        solver.solve();
        let solution = solver.solution;
        let usable = matches!(solution.status, SolverStatus::Solved | SolverStatus::AlmostSolved);
        usable.then_some(Solved { x: solution.x, z: solution.z, dual: solution.obj_val_dual })
    }
}

pub(super) struct Solved {
    pub(super) x: Vec<f64>,
    pub(super) z: Vec<f64>,
    /// Value of the dual program: a bound whatever the tolerance.
    pub(super) dual: f64,
}

/// The best flow through `placed`. Columns are shares of their model's rate, so that numbers are near one.
pub(super) fn flow(problem: &Problem, placed: &[bool]) -> Flow {
    let (models, devices) = (problem.models.len(), problem.devices.len());
    let open: Vec<usize> = (0..models).filter(|k| problem.models.get(*k).is_some_and(|m| m.rate > RATE_MIN)).collect();
    let mut row_of = vec![usize::MAX; models];
    open.iter().enumerate().for_each(|(row, k)| row_of.iter_mut().skip(*k).take(1).for_each(|r| *r = row));
    let row_of = |k: usize| row_of.get(k).copied().filter(|row| *row != usize::MAX);
    let used: Vec<usize> = problem
        .pairs
        .iter()
        .zip(placed)
        .enumerate()
        .filter(|(_, (pair, placed))| **placed && row_of(pair.model).is_some())
        .map(|(j, _)| j)
        .collect();
    // Rows: models (equal to 1), devices (at most 1), bounds of the cheaper shortfall, then one per column.
    let (device_row, short_row) = (open.len(), open.len() + devices);
    let own_row = short_row + open.len();
    let scale = problem.worth().max(RATE_MIN);
    let mut columns = Columns::default();
    for pair in used.iter().filter_map(|j| problem.pairs.get(*j)) {
        let (Some(model), Some(row)) = (problem.models.get(pair.model), row_of(pair.model)) else { continue };
        let own = own_row + columns.len();
        let entries = [(row, 1.0), (device_row + pair.device, pair.share() * model.rate)];
        columns.push(-model.weight * pair.accuracy * model.rate / scale, entries, own);
    }
    for (row, k) in open.iter().enumerate() {
        let Some(model) = problem.models.get(*k) else { continue };
        let worth = model.weight * model.rate / scale;
        let own = own_row + columns.len();
        columns.push(SHORT_PRICE * worth, [(row, 1.0), (short_row + row, 1.0)], own);
        let own = own_row + columns.len();
        columns.push(STARVED_PRICE * worth, [(row, 1.0)], own);
    }
    let mut bounds = vec![1.0; open.len() + devices];
    bounds.resize(own_row, SHORT_SHARE);
    let solved = if open.is_empty() { None } else { columns.solve(bounds, open.len()) };
    let mut result = Flow {
        rates: vec![0.0; problem.pairs.len()],
        unserved: problem.models.iter().map(|m| m.rate).collect(),
        value: 0.0,
        row_prices: vec![0.0; models],
        time_prices: vec![0.0; devices],
    };
    if let Some(solved) = solved {
        for (j, share) in used.iter().zip(&solved.x) {
            let Some(model) = problem.pairs.get(*j).and_then(|p| problem.models.get(p.model)) else { continue };
            result.rates.iter_mut().skip(*j).take(1).for_each(|rate| *rate = (share.max(0.0) * model.rate).min(model.rate));
        }
        for (row, k) in open.iter().enumerate() {
            let rate = problem.models.get(*k).map_or(1.0, |m| m.rate);
            let price = solved.z.get(row).copied().unwrap_or_default() * scale / rate;
            result.row_prices.iter_mut().skip(*k).take(1).for_each(|p| *p = price);
        }
        for (price, z) in result.time_prices.iter_mut().zip(solved.z.iter().skip(device_row)) {
            *price = (z * scale).max(0.0);
        }
    }
    settle(problem, &mut result);
    result
}

/// Makes a flow of an interior point one that is allowed to the last digit, and counts its value from that.
fn settle(problem: &Problem, flow: &mut Flow) {
    let mut used = vec![0.0; problem.devices.len()];
    for (pair, rate) in problem.pairs.iter().zip(&flow.rates) {
        used.iter_mut().skip(pair.device).take(1).for_each(|u| *u += rate * pair.share());
    }
    let mut served = vec![0.0; problem.models.len()];
    for (pair, rate) in problem.pairs.iter().zip(&mut flow.rates) {
        *rate /= used.get(pair.device).copied().unwrap_or(1.0).max(1.0);
        served.iter_mut().skip(pair.model).take(1).for_each(|s| *s += *rate);
    }
    flow.value = 0.0;
    for (pair, rate) in problem.pairs.iter().zip(&mut flow.rates) {
        let Some(model) = problem.models.get(pair.model) else { continue };
        *rate *= (model.rate / served.get(pair.model).copied().unwrap_or(1.0).max(RATE_MIN)).min(1.0);
        flow.value += model.weight * pair.accuracy * *rate;
    }
    for ((model, unserved), served) in problem.models.iter().zip(&mut flow.unserved).zip(served) {
        *unserved = (model.rate - served).max(0.0);
        let short = unserved.min(SHORT_SHARE * model.rate);
        flow.value -= model.weight * (SHORT_PRICE * short + STARVED_PRICE * (*unserved - short));
    }
}
