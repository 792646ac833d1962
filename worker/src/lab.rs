//! Models that nobody serves yet: loaded, run and timed in child processes, for the making and checking of variants and for profiles.

use crate::engine::ort::Runtime;
use crate::engine::{CancelFlag, Engine, EngineError, EngineName, Found, LoadSpec, TensorOut, TensorView};
use crate::runner::{Isolation, Loaded, Loader};
use crate::validate::{Limits, Request, Verdict, validate};
use policy::DataType;
use policy::profile::{BatchTime, Timing};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Runs of each model before its times count.
const WARM_UPS: usize = 3;
/// Fewest and most rounds of a batch size.
const ROUNDS: std::ops::RangeInclusive<usize> = 5..=20;
/// Runs of a model in a round, after one that brings its weights back into the caches: a replica that serves has them there.
const TURN: usize = 4;
/// How long the rounds of a batch size take for each model, unless a caller has less time.
pub const BUDGET: Duration = Duration::from_millis(1500);
/// How long an engine has to stop when it was told to, before its process is killed.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Where models are tried.
pub struct Lab {
    loader: Loader,
    binary: PathBuf,
    library: PathBuf,
    openvino: Result<Found, EngineError>,
    limits: Limits,
}

/// An input of any number of rows.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its name in the model.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, rows first.
    pub shape: Vec<i64>,
    /// Elements.
    pub data: bytes::Bytes,
}

impl Input {
    fn view(&self) -> TensorView<'_> {
        TensorView::new(&self.name, self.datatype, &self.shape, &self.data)
    }

    /// The same row `rows` times.
    fn repeated(&self, rows: u32) -> Self {
        let mut shape = self.shape.clone();
        shape.iter_mut().take(1).for_each(|d| *d = d.saturating_mul(i64::from(rows)));
        Self { shape, data: self.data.repeat(rows as usize).into(), ..self.clone() }
    }
}

impl Lab {
    /// Children are `binary`, and load the library of `runtime`, or OpenVINO's where there is one.
    pub fn new(runtime: Arc<Runtime>, openvino: Result<Found, EngineError>, binary: PathBuf, limits: Limits) -> Self {
        let library = runtime.path().to_owned();
        Self { loader: Loader::new(runtime, openvino.clone(), Isolation::Process, binary.clone()), binary, library, openvino, limits }
    }

    /// Name and version of an engine's library; `None` where it is not installed.
    pub fn engine_version(&self, engine: EngineName) -> Option<String> {
        self.loader.version_of(engine).map(|version| format!("{} {version}", engine.library()))
    }

    /// A first look at what nobody knows, under limits.
    pub async fn check(&self, spec: &LoadSpec) -> Verdict {
        let library = match (spec.engine, &self.openvino) {
            (EngineName::Ort, _) => self.library.clone(),
            (EngineName::Openvino, Ok(found)) => found.path.clone(),
            (EngineName::Openvino, Err(missing)) => return Verdict::NotRun { reason: missing.to_string() },
        };
        let request = Request {
            model: spec.path.clone(),
            engine: spec.engine,
            hint: spec.hint,
            libraries: vec![library],
            provider: spec.provider,
            device_id: spec.device_id,
            fallback: spec.fallback,
            intra_threads: spec.intra_threads,
        };
        validate(&self.binary, &request, self.limits).await
    }

    /// Loads what was checked, in a child. Blocks.
    ///
    /// # Errors
    /// The engine's.
    pub fn load(&self, spec: &LoadSpec) -> Result<Trial, EngineError> {
        let started = Instant::now();
        let loaded = self.loader.load("lab", spec)?;
        Ok(Trial { loaded, load_ms: started.elapsed().as_millis() as u64, time_max: self.limits.time })
    }

    /// Times `specs` in turn with each other, so that what disturbs one disturbs all: each has its turn in a round, and another is first in
    /// every round. The `row` is given as often as a batch is long. Blocks. One answer for each, in order; `None` when it
    /// was broken off.
    pub fn time(&self, specs: &[LoadSpec], row: &[Input], rows: &[u32], terms: &Terms<'_>) -> Option<Vec<Result<Timing, EngineError>>> {
        let load = |spec| {
            let trial = self.load(spec)?;
            let timing = Timing { batches: Vec::new(), load_ms: trial.load_ms };
            Ok((trial, timing))
        };
        let mut trials: Vec<Result<(Trial, Timing), EngineError>> = specs.iter().map(load).collect();
        for rows in rows {
            let inputs: Vec<Input> = row.iter().map(|input| input.repeated(*rows)).collect();
            round_robin(&mut trials, &inputs, *rows, terms)?;
        }
        Some(trials.into_iter().map(|trial| trial.map(|(_, timing)| timing)).collect())
    }
}

/// On what terms models are timed.
pub struct Terms<'a> {
    /// How long each size of batch takes for each model; five rounds are made at least.
    pub budget: Duration,
    /// Asked before every turn: shall it be broken off?
    pub stop: &'a dyn Fn() -> bool,
}

/// Times one batch size; `None` when it was broken off. A model that fails is out.
fn round_robin(trials: &mut [Result<(Trial, Timing), EngineError>], inputs: &[Input], rows: u32, terms: &Terms<'_>) -> Option<()> {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); trials.len()];
    for slot in trials.iter_mut() {
        let warmed = slot.as_mut().ok().map(|(trial, _)| (0..WARM_UPS).try_for_each(|_| trial.run(inputs).map(drop)));
        if let Some(Err(error)) = warmed {
            *slot = Err(error);
        }
    }
    let started = Instant::now();
    let budget = terms.budget.saturating_mul(u32::try_from(trials.len()).unwrap_or(u32::MAX));
    for round in 0..*ROUNDS.end() {
        if round >= *ROUNDS.start() && started.elapsed() > budget {
            break;
        }
        for turn in 0..trials.len() {
            let at = (round + turn) % trials.len();
            let (Some(slot), Some(times)) = (trials.get_mut(at), times.get_mut(at)) else { continue };
            let Ok((trial, _)) = slot else { continue };
            if (terms.stop)() {
                return None;
            }
            if let Err(error) = trial.turn(inputs, times) {
                *slot = Err(error);
            }
        }
    }
    for (slot, times) in trials.iter_mut().zip(times) {
        if let (Ok((_, timing)), Some(time)) = (slot, BatchTime::of(rows, times)) {
            timing.batches.push(time);
        }
    }
    Some(())
}

/// A model loaded in a child.
pub struct Trial {
    loaded: Loaded,
    /// Milliseconds it took to load.
    pub load_ms: u64,
    time_max: Duration,
}

impl Trial {
    /// The engine, to ask what it is.
    pub fn engine(&self) -> &dyn Engine {
        self.loaded.engine.as_ref()
    }

    /// One turn: how long each of its runs took, in microseconds, is added to `times_us`.
    fn turn(&mut self, inputs: &[Input], times_us: &mut Vec<f64>) -> Result<(), EngineError> {
        self.run(inputs)?;
        for _ in 0..TURN {
            let began = Instant::now();
            self.run(inputs)?;
            times_us.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(())
    }

    /// Computes once. A run that takes longer than the limit is stopped, and if that does not help its process is killed.
    ///
    /// # Errors
    /// The engine's; [`EngineError::Cancelled`] for a run over the limit.
    pub fn run(&mut self, inputs: &[Input]) -> Result<Vec<TensorOut>, EngineError> {
        let views: Vec<TensorView<'_>> = inputs.iter().map(Input::view).collect();
        let (flag, runner, time_max) = (CancelFlag::new(), self.loaded.runner.clone(), self.time_max);
        let engine = self.loaded.engine.as_mut();
        std::thread::scope(|scope| {
            let (done, wait) = sync_channel::<()>(0); // closed when the run is over
            let flag = &flag;
            scope.spawn(move || {
                if wait.recv_timeout(time_max) == Err(RecvTimeoutError::Timeout) {
                    flag.cancel();
                    if wait.recv_timeout(STOP_MAX) == Err(RecvTimeoutError::Timeout) {
                        runner.iter().for_each(|runner| runner.kill());
                    }
                }
            });
            let answer = engine.run(&views, flag);
            drop(done);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;
    use std::cell::Cell;

    fn trial(engine: FakeEngine, time_max: Duration) -> Result<(Trial, Timing), EngineError> {
        let loaded = Loaded { engine: Box::new(engine), runner: None };
        Ok((Trial { loaded, load_ms: 0, time_max }, Timing::default()))
    }

    /// One row for `name`.
    fn row(name: &str, width: i64) -> Vec<Input> {
        let data = vec![0; 4 * usize::try_from(width).unwrap()].into();
        vec![Input { name: name.to_owned(), datatype: DataType::Fp32, shape: vec![1, width], data }]
    }

    #[test]
    fn models_take_turns_and_one_that_fails_is_out_without_the_others() {
        let identity = || trial(FakeEngine::identity(DataType::Fp32), BUDGET);
        // It takes other inputs.
        let mut trials = vec![identity(), trial(FakeEngine::add_sub(), BUDGET), identity()];
        let inputs: Vec<Input> = row("INPUT0", 4).iter().map(|input| input.repeated(3)).collect();
        assert_eq!((inputs[0].shape.as_slice(), inputs[0].data.len()), (&[3, 4][..], 48));
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            false
        };
        round_robin(&mut trials, &inputs, 3, &Terms { budget: Duration::ZERO, stop: &stop }).unwrap();
        assert_eq!(asked.get(), 2 * ROUNDS.start(), "each has its turn in every round");
        assert!(matches!(&trials[1], Err(EngineError::BadInput { .. })));
        for timed in [&trials[0], &trials[2]] {
            let batches = &timed.as_ref().ok().unwrap().1.batches;
            assert_eq!((batches.len(), batches[0].rows, batches[0].runs as usize), (1, 3, ROUNDS.start() * TURN));
        }
    }

    #[test]
    fn timing_is_broken_off_before_the_next_turn() {
        let mut trials = vec![trial(FakeEngine::identity(DataType::Fp32), BUDGET)];
        let turns = Cell::new(0);
        let stop = || {
            turns.set(turns.get() + 1);
            turns.get() > 2
        };
        assert_eq!(round_robin(&mut trials, &row("INPUT0", 4), 1, &Terms { budget: BUDGET, stop: &stop }), None);
        assert_eq!(turns.get(), 3);
    }

    #[test]
    fn a_run_without_end_is_stopped() {
        let (mut trial, _) = trial(FakeEngine::endless(), Duration::from_millis(20)).ok().unwrap();
        assert!(matches!(trial.run(&row("x", 4)), Err(EngineError::Cancelled)));
    }
}
