//! An engine made of a closure, for tests of what surrounds engines.

use super::{
    CancelFlag, Engine, EngineError, EngineSignature, ExecutionProvider, ProviderReport, TensorOut, TensorView, Terminate, check_inputs,
};
use bytes::Bytes;
use policy::{DataType, TensorSpec};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What a [`FakeEngine`] computes: inputs, already found to fit the signature, to outputs.
pub type Compute = Box<dyn FnMut(&[TensorView<'_>], &CancelFlag) -> Result<Vec<TensorOut>, EngineError> + Send>;

/// See the module.
pub struct FakeEngine {
    signature: EngineSignature,
    report: ProviderReport,
    compute: Compute,
}

impl FakeEngine {
    /// An engine on the processor that takes and gives `signature`, by `compute`.
    pub fn new(signature: EngineSignature, compute: Compute) -> Self {
        let cpu = ExecutionProvider::Cpu;
        let report = ProviderReport { asked: cpu, used: vec![("FakeExecutionProvider".to_owned(), 1)], summary: cpu, fallback: None };
        Self { signature, report, compute }
    }

    /// The sum `OUTPUT0` and difference `OUTPUT1` of FP32 `INPUT0` and `INPUT1` of `[-1,16]`.
    pub fn add_sub() -> Self {
        let spec = |name| spec(name, DataType::Fp32, &[-1, 16]);
        let signature = signature(vec![spec("INPUT0"), spec("INPUT1")], vec![spec("OUTPUT0"), spec("OUTPUT1")]);
        let compute = |inputs: &[TensorView<'_>], _: &CancelFlag| {
            let of = |name| inputs.iter().find(|i| i.name == name).map(|i| (i.shape, floats(i.data)));
            let (Some((shape, a)), Some((other, b))) = (of("INPUT0"), of("INPUT1")) else { return Ok(Vec::new()) };
            if shape != other {
                return Err(EngineError::BadInput { what: format!("INPUT0 is {shape:?}, INPUT1 is {other:?}") });
            }
            let output = |name: &str, op: fn(f32, f32) -> f32| TensorOut {
                name: Arc::from(name),
                datatype: DataType::Fp32,
                shape: shape.to_vec(),
                data: a.iter().zip(&b).flat_map(|(a, b)| op(*a, *b).to_le_bytes()).collect(),
            };
            Ok(vec![output("OUTPUT0", |a, b| a + b), output("OUTPUT1", |a, b| a - b)])
        };
        Self::new(signature, Box::new(compute))
    }

    /// `OUTPUT0` is `INPUT0`, of `datatype` and `[-1,-1]`.
    pub fn identity(datatype: DataType) -> Self {
        let signature = signature(vec![spec("INPUT0", datatype, &[-1, -1])], vec![spec("OUTPUT0", datatype, &[-1, -1])]);
        let compute = |inputs: &[TensorView<'_>], _: &CancelFlag| {
            let output = |i: &TensorView<'_>| TensorOut {
                name: Arc::from("OUTPUT0"),
                datatype: i.datatype,
                shape: i.shape.to_vec(),
                data: Bytes::copy_from_slice(i.data),
            };
            Ok(inputs.iter().map(output).collect())
        };
        Self::new(signature, Box::new(compute))
    }

    /// Takes FP32 `x` of `[-1,4]` and gives nothing until it is cancelled.
    pub fn endless() -> Self {
        let signature = signature(vec![spec("x", DataType::Fp32, &[-1, 4])], vec![spec("y", DataType::Fp32, &[-1, 4])]);
        let compute = |_: &[TensorView<'_>], cancel: &CancelFlag| {
            pause(Duration::MAX, cancel)?;
            Err(EngineError::Cancelled)
        };
        Self::new(signature, Box::new(compute))
    }
}

/// For computations that take time: waits for `length`.
///
/// # Errors
/// [`EngineError::Cancelled`] once `cancel` is set.
pub fn pause(length: Duration, cancel: &CancelFlag) -> Result<(), EngineError> {
    let stop = Arc::new(Stop::default());
    let _armed = cancel.arm(stop.clone()).ok_or(EngineError::Cancelled)?;
    let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (stopped, _) = stop.1.wait_timeout_while(stopped, length, |stopped| !*stopped).unwrap_or_else(PoisonError::into_inner);
    if *stopped { Err(EngineError::Cancelled) } else { Ok(()) }
}

/// Was the pause ended?
#[derive(Default)]
struct Stop(Mutex<bool>, Condvar);

impl Terminate for Stop {
    fn terminate(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_all();
    }
}

fn signature(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> EngineSignature {
    EngineSignature { inputs, outputs, ..EngineSignature::default() }
}

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), optional: false, graph_shape: None }
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect()
}

impl Engine for FakeEngine {
    fn provider(&self) -> &ProviderReport {
        &self.report
    }

    fn signature(&self) -> &EngineSignature {
        &self.signature
    }

    fn run(&mut self, inputs: &[TensorView<'_>], cancel: &CancelFlag) -> Result<Vec<TensorOut>, EngineError> {
        check_inputs(&self.signature, inputs)?;
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        (self.compute)(inputs, cancel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract::{Subject, check};

    #[test]
    fn the_fake_keeps_the_contract() {
        check(&Subject {
            add_sub: &|| Box::new(FakeEngine::add_sub()),
            identity_bytes: Some(&|| Box::new(FakeEngine::identity(DataType::Bytes))),
            endless: &|| Box::new(FakeEngine::endless()),
        });
    }
}
