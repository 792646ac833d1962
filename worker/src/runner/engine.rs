//! An engine that is in a runner, as the worker's engine thread sees it.

use super::mail::{Ask, Mail, Tensor, Told};
use super::process::Runner;
use super::slots::{Slot, Slots};
use crate::arena::Arena;
use crate::engine::{CancelFlag, Engine, EngineError, EngineSignature, ProviderReport, TensorOut, TensorView, Terminate};
use policy::DataType;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub(super) struct RunnerEngine {
    report: ProviderReport,
    signature: EngineSignature,
    output_names: Vec<Arc<str>>,
    mail: Mail,
    /// Until its owner takes it.
    arena: Option<Arena>,
    slots: Slots,
    stop: Arc<Stop>,
}

/// Which run of which engine to stop.
struct Stop {
    runner: Arc<Runner>,
    engine: u64,
    run: AtomicU64,
}

impl Terminate for Stop {
    fn terminate(&self) {
        self.runner.stop(self.engine, self.run.load(Ordering::Acquire));
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.runner.unload(self.engine);
    }
}

impl RunnerEngine {
    pub(super) fn new(
        runner: Arc<Runner>,
        engine: u64,
        report: ProviderReport,
        signature: EngineSignature,
        mail: Mail,
        arena: Arena,
        slots: Slots,
    ) -> Self {
        let output_names = signature.outputs.iter().map(|spec| Arc::from(spec.name.as_str())).collect();
        let stop = Arc::new(Stop { runner, engine, run: AtomicU64::new(0) });
        Self { report, signature, output_names, mail, arena: Some(arena), slots, stop }
    }

    /// Tells where `inputs` lie in the arena, after copying them there if the arena is still ours.
    fn place(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, EngineError> {
        let mut copied = self.arena.as_mut().map(Arena::assemble);
        let mut tensors = Vec::with_capacity(inputs.len());
        for view in inputs {
            let place = self.signature.inputs.iter().position(|spec| spec.name == view.name);
            let unknown = || EngineError::BadInput { what: format!("input `{}` is not one of the model's", view.name) };
            let offset = match (&mut copied, view.in_arena) {
                (Some(copied), _) => {
                    let region = copied.gather(std::iter::once(view.data));
                    region.map_err(|e| EngineError::OutOfMemory { reason: e.to_string() })?.offset
                }
                (None, Some(offset)) => offset,
                (None, None) => return Err(EngineError::Failed { reason: format!("input `{}` is not in the engine's arena", view.name) }),
            };
            tensors.push(Tensor {
                place: place.and_then(|place| u32::try_from(place).ok()).ok_or_else(unknown)?,
                datatype: number(view.datatype),
                shape: view.shape.to_vec(),
                offset: offset as u64,
                len: view.data.len() as u64,
            });
        }
        Ok(tensors)
    }

    fn ask(&mut self, run: u64, inputs: Vec<Tensor>, slot: &Slot) -> Result<Told, EngineError> {
        let ask = Ask { run, inputs, slot: slot.offset, slot_len: slot.len() as u64 };
        // What cannot be sent was too long, and nothing has happened; without an answer there is nobody left.
        self.mail.send(&ask).map_err(|e| EngineError::NotComputed { reason: e.to_string() })?;
        let told: Told = self.mail.receive().map_err(|_| self.stop.runner.ended())?;
        if told.error.is_empty() {
            return Ok(told);
        }
        Err(serde_json::from_slice(&told.error).unwrap_or_else(|e| EngineError::Failed { reason: format!("a runner's answer: {e}") }))
    }

    /// The outputs in `slot`, lent.
    fn outputs(&self, told: Told, slot: &Arc<Slot>) -> Option<Vec<TensorOut>> {
        let output = |tensor: Tensor| {
            let place = usize::try_from(tensor.place).ok()?;
            let datatype = datatype(tensor.datatype)?;
            let data = slot.bytes(tensor.region()?)?;
            Some(TensorOut { name: self.output_names.get(place)?.clone(), datatype, shape: tensor.shape, data })
        };
        told.outputs.into_iter().map(output).collect()
    }
}

impl Engine for RunnerEngine {
    fn provider(&self) -> &ProviderReport {
        &self.report
    }

    fn signature(&self) -> &EngineSignature {
        &self.signature
    }

    fn arena(&mut self) -> Option<Arena> {
        self.arena.take()
    }

    fn run(&mut self, inputs: &[TensorView<'_>], cancel: &CancelFlag) -> Result<Vec<TensorOut>, EngineError> {
        let no_slot = |e: std::io::Error| EngineError::OutOfMemory { reason: format!("memory for outputs: {e}") };
        let inputs = self.place(inputs)?;
        let mut slot = self.slots.take(0).map_err(no_slot)?;
        let run = self.stop.run.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let Some(armed) = cancel.arm(self.stop.clone()) else { return Err(EngineError::Cancelled) };
        let mut told = self.ask(run, inputs, &slot)?;
        drop(armed);
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        if told.needed > 0 {
            slot = self.slots.take(usize::try_from(told.needed).unwrap_or(usize::MAX)).map_err(no_slot)?;
            told = self.ask(0, Vec::new(), &slot)?;
        }
        self.outputs(told, &slot).ok_or_else(|| EngineError::Failed { reason: "a runner told of outputs that are not there".to_owned() })
    }
}

/// How a type crosses.
pub(super) fn number(datatype: DataType) -> u32 {
    DataType::ALL.iter().position(|known| *known == datatype).and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX)
}

/// Back again.
pub(super) fn datatype(number: u32) -> Option<DataType> {
    DataType::ALL.get(usize::try_from(number).ok()?).copied()
}
