//! The runs of a model.
#![allow(unsafe_code, reason = "a C API")]

use super::handle::{Compiled, Handle, OvError, OvResult, Port, check};
use super::message;
use super::tensor::{self, Input, Parts};
use crate::engine::{CancelFlag, Engine, EngineError, EngineSignature, ProviderReport, TensorOut, TensorView, Terminate, check_inputs};
use openvino_sys as sys;
use std::sync::Arc;
use sys::ov_status_e as Status;

/// A compiled model and its one request.
pub(super) struct OvEngine {
    request: Arc<Request>,
    inputs: Vec<Port>,
    outputs: Vec<(Port, Arc<str>)>,
    signature: EngineSignature,
    report: ProviderReport,
    cores: Vec<usize>,
    /// Per input, for bytes that come at an address that does not suit their type. Kept, since fresh pages cost more than
    /// the copy; bounded by the largest input seen.
    scratch: Vec<Vec<u8>>,
    /// Behind the request, which goes first.
    _compiled: Compiled,
}

struct Request(Handle<sys::ov_infer_request_t>);

impl Request {
    fn cancel(&self) {
        // SAFETY: the request lives. Stopping one that does not run changes nothing, and failing to stop it is seen by how it ends.
        let _ = unsafe { sys::ov_infer_request_cancel(self.0.as_ptr()) };
    }

    /// Waits for the end of a run that was started, whatever that is.
    fn wait(&self) -> OvResult<()> {
        // SAFETY: the request lives.
        check(unsafe { sys::ov_infer_request_wait(self.0.as_ptr()) })
    }
}

impl Terminate for Request {
    fn terminate(&self) {
        self.cancel();
    }
}

impl OvEngine {
    pub(super) fn new(
        compiled: Compiled,
        request: Handle<sys::ov_infer_request_t>,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        signature: EngineSignature,
        report: ProviderReport,
        cores: Vec<usize>,
    ) -> Self {
        let names = signature.outputs.iter().map(|spec| Arc::from(spec.name.as_str()));
        let outputs = outputs.into_iter().zip(names).collect();
        let scratch = signature.inputs.iter().map(|_| Vec::new()).collect();
        Self { request: Arc::new(Request(request)), inputs, outputs, signature, report, cores, scratch, _compiled: compiled }
    }

    /// The runtime's own thread computes while this one waits, which costs some 20 microseconds. Its call that computes on this thread
    /// will not do: in 2026.4.1 that says a run went well whose node failed, and it does not stop.
    ///
    /// A run is started before the flag is armed, so that it is surely under way when somebody stops it: the runtime forgets a stop that
    /// comes before.
    fn call(&mut self, inputs: &[TensorView<'_>], places: &[usize], cancel: &CancelFlag) -> OvResult<()> {
        let request = self.request.0.as_ptr();
        let mut scratch: Vec<_> = self.scratch.iter_mut().map(Some).collect();
        let mut tensors = Vec::with_capacity(places.len());
        for (view, place) in inputs.iter().zip(places) {
            let (port, scratch) = (self.inputs.get(*place), scratch.get_mut(*place).and_then(Option::take));
            let (Some(port), Some(scratch)) = (port, scratch) else { continue };
            let input = Input::over(view, scratch)?;
            // SAFETY: request, port and tensor live; `&mut self` makes this the request's only run. The request keeps the tensor, but
            // does not look at its bytes before it is given another one at the next run.
            check(unsafe { sys::ov_infer_request_set_tensor_by_const_port(request, port.as_ptr(), input.as_ptr()) })?;
            tensors.push(input);
        }
        // SAFETY: the request lives; the bytes under its inputs live until the wait below is over.
        check(unsafe { sys::ov_infer_request_start_async(request) })?;
        let armed = cancel.arm(self.request.clone());
        if armed.is_none() {
            self.request.cancel();
        }
        let ended = self.request.wait();
        drop((armed, tensors));
        ended
    }

    fn output(&self, port: &Port) -> OvResult<Parts> {
        // SAFETY: request and port live.
        let tensor =
            Handle::made(|place| unsafe { sys::ov_infer_request_get_tensor_by_const_port(self.request.0.as_ptr(), port.as_ptr(), place) })?;
        tensor::contents(&tensor)
    }
}

impl Engine for OvEngine {
    fn cores(&self) -> &[usize] {
        &self.cores
    }

    fn provider(&self) -> &ProviderReport {
        &self.report
    }

    fn signature(&self) -> &EngineSignature {
        &self.signature
    }

    fn run(&mut self, inputs: &[TensorView<'_>], cancel: &CancelFlag) -> Result<Vec<TensorOut>, EngineError> {
        let places = check_inputs(&self.signature, inputs)?;
        inputs.iter().try_for_each(tensor::check_range)?;
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let ended = self.call(inputs, &places, cancel);
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        ended.map_err(|e| message::of_run(&e))?;
        let mut answers = Vec::with_capacity(self.outputs.len());
        for (port, name) in &self.outputs {
            let (datatype, shape, data) = self.output(port).map_err(|e: OvError| match e.status {
                Status::INFER_CANCELLED => EngineError::Failed { reason: e.text },
                _ => message::of_run(&e),
            })?;
            answers.push(TensorOut { name: name.clone(), datatype, shape, data });
        }
        Ok(answers)
    }
}
