//! The engines of a replica: loaded, warmed up, and one of them measured.

use super::{check_signature, warmup};
use crate::cores::CorePlan;
use crate::engine::sample::{self, Guess};
use crate::engine::{Engine, EngineError, LoadSpec};
use crate::error::WorkerError;
use crate::phase::{Phase, Teller};
use crate::runner::{Loaded, Loader, Runner};
use policy::Signature;
use policy::profile::Latency;
use proto::model_config::Warmup;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest calibration of a replica at load.
const CALIBRATION_MAX: Duration = Duration::from_millis(200);
/// Batch sizes measured at load.
const CALIBRATION_ROWS: [u32; 3] = [1, 2, 4];
/// Runs of each.
const CALIBRATION_RUNS: usize = 5;

/// How the engines of a replica are loaded, but for the plan.
pub(super) struct Load<'a> {
    pub(super) loader: &'a Loader,
    pub(super) device: &'a str,
    /// Threads and cores are the plan's.
    pub(super) spec: LoadSpec,
    pub(super) signature: &'a Signature,
    pub(super) warmups: &'a [Warmup],
    pub(super) teller: &'a Teller,
}

/// A warm engine.
pub(super) struct Warm {
    loaded: Loaded,
    /// None if it was not to be measured, or refused every made-up input.
    pub(super) latency: Option<Latency>,
}

/// All engines of a replica.
pub(super) struct Engines {
    pub(super) engines: Vec<Box<dyn Engine>>,
    /// The process they are in if that is not this one.
    pub(super) runner: Option<Arc<Runner>>,
    /// What the first that could be measured takes.
    pub(super) latency: Option<Latency>,
}

impl Load<'_> {
    /// The engines of `plan`; `first` is one of them if it is there already.
    pub(super) fn all(&self, plan: &CorePlan, mut first: Option<Warm>) -> Result<Engines, WorkerError> {
        let mut all = Engines { engines: Vec::with_capacity(plan.instances.get()), runner: None, latency: None };
        for at in 0..plan.instances.get() {
            let warm = match first.take() {
                Some(warm) => warm,
                None => self.one(plan, at, all.latency.is_none())?,
            };
            all.latency = all.latency.or(warm.latency);
            all.engines.push(warm.loaded.engine);
            all.runner = warm.loaded.runner;
        }
        Ok(all)
    }

    /// Instance `at` of `plan`, measured if `measure` says so.
    pub(super) fn one(&self, plan: &CorePlan, at: usize, measure: bool) -> Result<Warm, WorkerError> {
        let (intra_threads, cores) = (plan.intra_threads, plan.of_instance(at, plan.intra_threads));
        self.teller.say(Phase::Loading { engine: at.saturating_add(1), of: plan.instances.get() });
        let mut loaded = self.loader.load(self.device, &LoadSpec { intra_threads, cores, ..self.spec.clone() })?;
        let engine = loaded.engine.as_mut();
        check_signature(self.signature, engine.signature())?;
        self.teller.say(Phase::WarmingUp);
        warmup::run(engine, self.signature, self.warmups)?;
        let guess = warm_up(engine)?;
        let measured = guess.filter(|_| measure).map(|guess| {
            self.teller.say(Phase::Calibrating);
            calibrate(engine, self.signature, guess)
        });
        let latency = measured.transpose()?;
        Ok(Warm { loaded, latency })
    }
}

/// Runs once; gives the made-up inputs that worked, `None` when the model refused every guess.
fn warm_up(engine: &mut dyn Engine) -> Result<Option<Guess>, EngineError> {
    match sample::find(engine) {
        Ok((guess, _)) => Ok(Some(guess)),
        Err(error) if error.keeps_engine() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Measures small batches for a short time. The least of each size counts: noise only adds.
fn calibrate(engine: &mut dyn Engine, signature: &Signature, guess: Guess) -> Result<Latency, EngineError> {
    let started = Instant::now();
    let mut samples: Vec<(u32, f64)> = Vec::new();
    for rows in CALIBRATION_ROWS.into_iter().filter(|rows| *rows <= signature.max_batch_size.max(1)) {
        let guess = if signature.max_batch_size > 0 { Guess { rows: i64::from(rows), ..guess } } else { guess };
        let mut best_us = f64::INFINITY;
        for _ in 0..CALIBRATION_RUNS {
            best_us = best_us.min(sample::run(engine, guess)?.as_secs_f64() * 1e6);
            if started.elapsed() >= CALIBRATION_MAX {
                break;
            }
        }
        samples.push((rows, best_us));
        if started.elapsed() >= CALIBRATION_MAX {
            break;
        }
    }
    Ok(Latency::fit(&samples))
}
