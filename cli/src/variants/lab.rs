//! What runs models for `variants`: the worker's lab.

use crate::role::library;
use ::variants::VariantError;
use ::variants::runtime::{Checked, Port, Run, Runtime, Session, Tensor};
use policy::profile::Timing;
use policy::{DataType, TensorSpec};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;
use worker::engine::{EngineName, LoadSpec};
use worker::lab::{Input, Lab, Terms, Trial};
use worker::validate::{Limits, Verdict};

/// Child processes of this program.
pub(super) struct Children {
    lab: Lab,
    class: String,
    handle: Handle,
    budget: Duration,
}

impl Children {
    /// Called within tokio.
    pub(super) fn new(onnxruntime: Option<&Path>, openvino: Option<&Path>, limits: Limits, budget: Duration) -> anyhow::Result<Self> {
        let runtime = library::open(onnxruntime)?;
        let found = library::find_openvino(openvino);
        if let (Some(_), Err(missing)) = (openvino, &found) {
            return Err(missing.clone().into());
        }
        let binary = std::env::current_exe()?;
        let host = worker::devices::discover();
        let class = worker::devices::devices(&host).into_iter().next().map_or("cpu".to_owned(), |d| d.class);
        let lab = Lab::new(runtime, found, binary, limits);
        let engines: Vec<String> = EngineName::ALL.into_iter().filter_map(|engine| lab.engine_version(engine)).collect();
        let class = format!("{class}, one thread, {}", engines.join(", "));
        Ok(Self { lab, class, handle: Handle::current(), budget })
    }

    fn spec(&self, run: &Run) -> Result<LoadSpec, VariantError> {
        let unknown = || VariantError::Engine(format!("this machine has no engine `{}`", run.engine));
        let engine = EngineName::parse(&run.engine).ok_or_else(unknown)?;
        Ok(LoadSpec { engine, hint: run.hint, as_written: run.as_written, ..LoadSpec::cpu(&run.model, NonZeroUsize::MIN) })
    }
}

/// Does this processor multiply unsigned by signed bytes without losing carries?
pub(super) fn has_vnni() -> bool {
    worker::devices::discover().isa.iter().any(|isa| isa.contains("vnni"))
}

/// The engine's words; those for a lack of code are told from those for a fault of the model ("Could not find an implementation", "does not
/// implement").
fn said(error: impl std::fmt::Display) -> VariantError {
    let text = error.to_string();
    if text.contains("implement") { VariantError::NotImplemented(text) } else { VariantError::Engine(text) }
}

fn port(spec: &TensorSpec) -> Port {
    Port { name: spec.name.clone(), datatype: spec.datatype, shape: spec.shape.clone() }
}

fn input(tensor: &Tensor) -> Input {
    Input { name: tensor.name.clone(), datatype: tensor.datatype, shape: tensor.shape.clone(), data: tensor.data.clone() }
}

impl Runtime for Children {
    fn class(&self) -> &str {
        &self.class
    }

    fn missing(&self, engine: &str) -> Option<String> {
        match EngineName::parse(engine) {
            Some(known) if self.lab.engine_version(known).is_some() => None,
            Some(known) => Some(format!("{} is not installed: cargo xtask fetch, or --{}", known.product(), known.library())),
            None if engine == "tensorrt" => Some("there is no TensorRT on this machine; its speed is measured where there is".to_owned()),
            None => Some(format!("this machine has no engine `{engine}`")),
        }
    }

    fn check(&self, run: &Run) -> Result<Checked, VariantError> {
        let facts = match self.handle.block_on(self.lab.check(&self.spec(run)?)) {
            Verdict::Valid(facts) => facts,
            Verdict::Invalid { reason } => return Err(said(reason)),
            Verdict::NotRun { reason } => return Err(VariantError::NotTried(reason)),
        };
        let text = facts.inputs.iter().filter(|i| !i.optional).find(|i| i.datatype == DataType::Bytes);
        if let Some(text) = text {
            return Err(VariantError::Engine(format!("input `{}` is text: samples are numbers", text.name)));
        }
        let inputs = facts.inputs.iter().filter(|i| !i.optional).map(port).collect();
        Ok(Checked { inputs, outputs: facts.outputs.iter().map(port).collect(), bytes_resident: facts.bytes_resident })
    }

    fn load(&self, run: &Run) -> Result<Box<dyn Session>, VariantError> {
        let trial = self.lab.load(&self.spec(run)?).map_err(said)?;
        let outputs = trial.engine().signature().outputs.iter().map(port).collect();
        Ok(Box::new(Loaded { trial, outputs }))
    }

    fn time(&self, runs: &[Run], sample: &[Tensor], rows: &[u32]) -> Result<Vec<Result<Timing, VariantError>>, VariantError> {
        let specs = runs.iter().map(|run| self.spec(run)).collect::<Result<Vec<_>, _>>()?;
        let row: Vec<Input> = sample.iter().map(input).collect();
        let terms = Terms { budget: self.budget, stop: &|| false };
        let times = self.lab.time(&specs, &row, rows, &terms).unwrap_or_default();
        Ok(times.into_iter().map(|timing| timing.map_err(said)).collect())
    }
}

/// A model in a child.
struct Loaded {
    trial: Trial,
    outputs: Vec<Port>,
}

impl Session for Loaded {
    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, VariantError> {
        let inputs: Vec<Input> = inputs.iter().map(input).collect();
        let outputs = self.trial.run(&inputs).map_err(said)?;
        let tensor = |o: worker::engine::TensorOut| Tensor { name: o.name.to_string(), datatype: o.datatype, shape: o.shape, data: o.data };
        Ok(outputs.into_iter().map(tensor).collect())
    }
}
