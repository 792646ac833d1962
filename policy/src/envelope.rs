//! What a request and a reply say besides tensor bytes.

use crate::Shape;

/// Value of a request, tensor or response parameter.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the protocol's and say all there is")]
pub enum Param {
    Bool(bool),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    String(String),
}

/// Parameters in the order they came. Few, so a list beats a map.
pub type Parameters = Vec<(String, Param)>;

/// An input as the client describes it; nothing in it is checked yet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InputTensor {
    /// Name of the model's input.
    pub name: String,
    /// Element type as spelled by the client.
    pub datatype: String,
    /// Dimensions as given, batch included.
    pub shape: Shape,
    /// Tensor parameters.
    pub parameters: Parameters,
    /// Length of its bytes (typed contents are counted as the raw bytes they became).
    pub byte_length: u64,
}

/// An output the client asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestedOutput {
    /// Name of the model's output.
    pub name: String,
    /// Tensor parameters.
    pub parameters: Parameters,
}

/// A request without its tensor bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Envelope {
    /// Model name as given.
    pub model: String,
    /// Version as given; empty lets the server choose.
    pub version: String,
    /// The caller's own id, echoed.
    pub id: String,
    /// Request parameters.
    pub parameters: Parameters,
    /// Inputs in the order given.
    pub inputs: Vec<InputTensor>,
    /// Outputs asked for; empty means all.
    pub outputs: Vec<RequestedOutput>,
}

impl Envelope {
    /// The request parameter `name`.
    pub fn parameter(&self, name: &str) -> Option<&Param> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, p)| p)
    }
}

/// An output as answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutputTensor {
    /// Name of the model's output.
    pub name: String,
    /// Element type in the protocol's spelling.
    pub datatype: String,
    /// Dimensions, batch included.
    pub shape: Shape,
    /// Tensor parameters.
    pub parameters: Parameters,
}

/// Who served a request and where its time went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Served {
    /// Name of the variant, such as `fp32@ort`.
    pub variant: String,
    /// Id of the worker.
    pub worker: String,
    /// Microseconds from arrival at the worker to the start of the batch.
    pub queue_us: u64,
    /// Microseconds of the engine call it rode in.
    pub compute_us: u64,
}

/// A reply without its tensor bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// Model name.
    pub model: String,
    /// The version that answered, never empty.
    pub version: String,
    /// The request's id.
    pub id: String,
    /// Response parameters.
    pub parameters: Parameters,
    /// Outputs in the model's order.
    pub outputs: Vec<OutputTensor>,
}

/// Names of the response parameters that carry [`Served`].
impl Served {
    /// Response parameter for the variant.
    pub const VARIANT: &'static str = "sluice_variant";
    /// Response parameter for the variant's accuracy, relative to the reference.
    pub const ACCURACY: &'static str = "sluice_accuracy";
    /// Response parameter for the worker.
    pub const WORKER: &'static str = "sluice_worker";
    /// Response parameter for the time in queue.
    pub const QUEUE_US: &'static str = "sluice_queue_us";
    /// Response parameter for the time in the engine.
    pub const COMPUTE_US: &'static str = "sluice_compute_us";

    /// As response parameters.
    pub fn into_parameters(self) -> Parameters {
        let count = |n: u64| Param::Int64(i64::try_from(n).unwrap_or(i64::MAX));
        vec![
            (Self::VARIANT.to_owned(), Param::String(self.variant)),
            (Self::WORKER.to_owned(), Param::String(self.worker)),
            (Self::QUEUE_US.to_owned(), count(self.queue_us)),
            (Self::COMPUTE_US.to_owned(), count(self.compute_us)),
        ]
    }

    /// Microseconds at the worker, as the parameters of a reply tell; none where they do not.
    pub fn total_us(parameters: &Parameters) -> Option<u64> {
        let count = |name: &str| match parameters.iter().find(|(known, _)| known == name)? {
            (_, Param::Int64(us)) => u64::try_from(*us).ok(),
            _ => None,
        };
        count(Self::QUEUE_US)?.checked_add(count(Self::COMPUTE_US)?)
    }
}
