//! Bodies of the Open Inference Protocol's REST infer call: bytes in, bytes out.
//!
//! * [`read_request`]: a JSON part and, behind it, the tensors sent as binary data. Those stay slices of the body; `data`
//!   goes from its JSON text straight into the tensor's raw bytes.
//! * [`read_raw_binary`]: a body that is nothing but the bytes of the model's only input.
//! * [`write_reply`]: the reverse, each output as JSON or as binary data as the request asked.
//!
//! What is read here is well-formed and within bounds, no more: names, types and shapes are `policy::check_request`'s to judge.
//! Not here: HTTP, its headers, compression, and what lies in shared memory.

mod data;
mod json;
mod reply;
mod request;

use crate::chain::Chain;

pub use reply::{RestReply, write_reply};
pub use request::{read_raw_binary, read_request};

/// Bounds on what is written as JSON.
pub mod limits {
    /// Most bytes of a request's JSON part, and of the raw tensors that become JSON in a reply: in either direction a tensor takes
    /// at most a few times that.
    pub const JSON_BYTES_MAX: usize = 64 << 20;
    /// Deepest nesting of the arrays in `data`.
    pub const NESTING_MAX: usize = 100;
}

/// Request parameter: are outputs binary data where nothing else is said?
const BINARY_DATA_OUTPUT: &str = "binary_data_output";
/// Parameter of an output asked for: is this one binary data?
const BINARY_DATA: &str = "binary_data";
/// Parameter of a tensor: how many bytes behind the JSON part are its own.
const BINARY_DATA_SIZE: &str = "binary_data_size";

/// A request read from its REST form.
#[derive(Debug, Clone)]
pub struct RestRequest {
    /// All but the tensor bytes. The parameters that say how bytes travel (`binary_data_size`, `binary_data`,
    /// `binary_data_output`) are taken out.
    pub envelope: policy::Envelope,
    /// One chain per input, in the envelope's order; empty for an input in shared memory.
    pub raw: Vec<Chain>,
    /// How the reply is to be written.
    pub reply: ReplyForm,
}

/// Which outputs a reply carries as binary data; the others are JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyForm {
    binary: bool,
    outputs: Vec<(String, bool)>,
}

impl ReplyForm {
    /// Every output is binary data.
    pub fn all_binary() -> Self {
        Self { binary: true, outputs: Vec::new() }
    }

    /// Is `output` binary data? What was said of the output itself goes before what was said of the request.
    pub fn is_binary(&self, output: &str) -> bool {
        self.outputs.iter().find(|(name, _)| name == output).map_or(self.binary, |(_, binary)| *binary)
    }
}

#[cfg(test)]
mod tests;
