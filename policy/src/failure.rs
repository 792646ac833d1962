//! Every reason a request gets no answer, and the one table from reason to wire.

use crate::rollout::AliasError;
use crate::{DataType, NameError};
use std::fmt;

/// Canonical gRPC status codes, with their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are gRPC's and say all there is")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// May the same request be tried on another worker?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: it would fail there too, or may have been done already.
    Never,
    /// Yes, once, before a response header and within the deadline.
    OtherWorker,
}

/// A shape in a message: `[2,3]`, with `-1` for any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dims(pub Vec<i64>);

impl From<&[i64]> for Dims {
    /// Keeps the first nine dimensions: more is already beyond the limit, and a message stays short.
    fn from(dims: &[i64]) -> Self {
        Self(dims.iter().copied().take(9).collect())
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Why a request got no answer. The only error that leaves through a front door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum Failure {
    // The caller's mistake.
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("model `{model}`: {error}")]
    Alias { model: String, error: AliasError },
    #[error("malformed request: {what}")]
    Malformed { what: String },
    #[error("model `{model}` is not known")]
    UnknownModel { model: String },
    #[error("model `{model}` has no version {version}")]
    UnknownVersion { model: String, version: String },
    #[error("model `{model}` has no version that is ready: {reason}")]
    NoVersion { model: String, reason: String },
    #[error("model `{model}` has no variant `{variant}` that is ready")]
    UnknownVariant { model: String, variant: String },
    #[error("{what}: {got} is over the limit of {limit}")]
    Limit { what: String, got: u64, limit: u64 },
    #[error("expected {expected} inputs, got {got}; the model takes {names}")]
    InputCount { expected: usize, got: usize, names: String },
    #[error("input `{input}` is not one of the model's inputs: {names}")]
    UnknownInput { input: String, names: String },
    #[error("input `{input}` appears twice")]
    DuplicateInput { input: String },
    #[error("input `{input}` is missing")]
    MissingInput { input: String },
    #[error("output `{output}` is not one of the model's outputs: {names}")]
    UnknownOutput { output: String, names: String },
    #[error("output `{output}` is asked for twice")]
    DuplicateOutput { output: String },
    #[error("input `{input}`: datatype {got:?} is not one of the protocol's")]
    UnknownDatatype { input: String, got: String },
    #[error("input `{input}`: expected datatype {expected}, got {got}")]
    Datatype { input: String, expected: DataType, got: DataType },
    #[error("input `{input}`: expected shape {expected}, got {got}")]
    ShapeMismatch { input: String, expected: Dims, got: Dims },
    #[error("input `{input}`: shape {got} {why}")]
    BadShape { input: String, got: Dims, why: &'static str },
    #[error("batch of {rows} rows is over the max_batch_size of {max_batch_size} of model `{model}`")]
    BatchTooLarge { model: String, rows: u64, max_batch_size: u32 },
    #[error("input `{input}` has {got} rows, input `{first}` has {expected}: all inputs of a request carry the same batch")]
    BatchMismatch { input: String, first: String, expected: i64, got: i64 },
    #[error("input `{input}`: expected {expected} bytes for shape {shape} of {datatype}, got {got}")]
    ByteLength { input: String, expected: u64, got: u64, shape: Dims, datatype: DataType },
    #[error("input `{input}`: {what}")]
    BytesTensor { input: String, what: String },
    #[error("input `{input}` carries typed contents while the request has raw_input_contents: use one or the other for the whole request")]
    RawAndTyped { input: String },
    #[error("the request has {inputs} inputs but {raw} raw_input_contents: one entry per input outside shared memory is expected")]
    RawCount { inputs: usize, raw: usize },
    #[error("input `{input}`: {what}")]
    TypedContents { input: String, what: String },
    #[error("parameter `{name}`: {what}")]
    Parameter { name: String, what: String },
    #[error("shared memory region `{region}` is not registered")]
    UnknownRegion { region: String },
    #[error("shared memory region `{region}` is registered already: unregister it first")]
    RegionExists { region: String },
    #[error("shared memory region `{region}`: {what}")]
    Region { region: String, what: String },
    #[error("{header} {name:?} is not one this server reads: identity, gzip and deflate")]
    Encoding { header: &'static str, name: String },
    #[error("message of {got} bytes is over the limit of {limit}")]
    MessageTooLarge { got: u64, limit: u64 },
    #[error("the engine refused the input: {what}")]
    EngineInput { what: String },
    #[error("output `{output}`: {what}")]
    NotJson { output: String, what: String },

    // The cluster cannot take it.
    #[error("model `{model}` version {version} is not ready: {reason}")]
    NotReady { model: String, version: String, reason: String },
    #[error("this gateway has not learned yet what is served, retry after {retry_ms} ms")]
    NoTable { retry_ms: u32 },
    #[error("no replica of model `{model}` is reachable, retry after {retry_ms} ms")]
    NoReplica { model: String, retry_ms: u32 },
    #[error("model `{model}` is asleep and is being loaded, which takes longer than this request can wait; retry after {retry_ms} ms")]
    Asleep { model: String, retry_ms: u32 },
    #[error("no variant of model `{model}` that is ready is known to be as accurate as {floor}: the best is {best}")]
    Floor { model: String, floor: String, best: String },
    #[error("the queue is full at {queued} requests, retry after {retry_ms} ms")]
    QueueFull { queued: usize, retry_ms: u32 },
    #[error("every replica of model `{model}` is too busy to answer in time, retry after {retry_ms} ms")]
    Busy { model: String, retry_ms: u32 },
    #[error("the request waited {waited_us} us in the queue, {allowed_us} us are allowed")]
    QueueTimeout { waited_us: u64, allowed_us: u64 },
    #[error("too many bytes in flight: {in_flight} of {limit}, retry after {retry_ms} ms")]
    Overloaded { in_flight: u64, limit: u64, retry_ms: u32 },
    #[error("this process is draining, retry after {retry_ms} ms")]
    Draining { retry_ms: u32 },
    #[error("the connection to the worker was lost before it answered")]
    ConnectionLost,

    // This caller may not have it.
    #[error("tenant `{tenant}` has used up its {what}, retry after {retry_ms} ms")]
    Quota { tenant: String, what: String, retry_ms: u32 },

    // Time.
    #[error("the deadline passed {late_us} us ago")]
    DeadlineExceeded { late_us: u64 },
    #[error("the request stopped coming, or came too slowly: {seconds} s and a second for every 16 KiB are allowed")]
    Stalled { seconds: u64 },
    #[error("the answer is predicted to come {late_us} us too late, so the request is not started")]
    Hopeless { late_us: u64 },
    #[error("the caller cancelled the request")]
    Cancelled,

    // The control plane.
    #[error("{what} is not supported: {why}")]
    Unsupported { what: String, why: String },
    #[error("{what}")]
    Refused { what: String },
    #[error("model `{model}` failed to load: {reason}")]
    LoadFailed { model: String, reason: String },
    #[error("model `{model}` is in use: {reason}")]
    InUse { model: String, reason: String },
    #[error("the registry did not answer: {reason}")]
    Registry { reason: String },

    // Ours.
    #[error("the engine failed: {reason}")]
    Engine { reason: String },
    #[error("a worker answered something that is not a reply: {what}")]
    BadReply { what: String },
    /// What a worker said, passed on as it is.
    #[error("{message}")]
    Remote { code: Code, message: String, retry_ms: Option<u32> },
}

impl Failure {
    /// gRPC code, HTTP status, and whether another worker may be tried.
    /// No `_` arm: a new failure must decide all three.
    pub fn wire(&self) -> (Code, u16, Retry) {
        use Retry::{Never, OtherWorker};
        match self {
            Self::Name(_)
            | Self::Alias { .. }
            | Self::Malformed { .. }
            | Self::Limit { .. }
            | Self::InputCount { .. }
            | Self::UnknownInput { .. }
            | Self::DuplicateInput { .. }
            | Self::MissingInput { .. }
            | Self::UnknownOutput { .. }
            | Self::DuplicateOutput { .. }
            | Self::UnknownDatatype { .. }
            | Self::Datatype { .. }
            | Self::ShapeMismatch { .. }
            | Self::BadShape { .. }
            | Self::BatchTooLarge { .. }
            | Self::BatchMismatch { .. }
            | Self::ByteLength { .. }
            | Self::BytesTensor { .. }
            | Self::RawAndTyped { .. }
            | Self::RawCount { .. }
            | Self::TypedContents { .. }
            | Self::Parameter { .. }
            | Self::Region { .. }
            | Self::EngineInput { .. }
            | Self::NotJson { .. } => (Code::InvalidArgument, 400, Never),
            Self::UnknownModel { .. }
            | Self::UnknownVersion { .. }
            | Self::NoVersion { .. }
            | Self::UnknownVariant { .. }
            | Self::UnknownRegion { .. } => (Code::NotFound, 404, Never),
            Self::RegionExists { .. } => (Code::AlreadyExists, 400, Never),
            Self::MessageTooLarge { .. } => (Code::ResourceExhausted, 413, Never),
            Self::Quota { .. } => (Code::ResourceExhausted, 429, Never),
            Self::NotReady { .. } | Self::QueueFull { .. } | Self::Overloaded { .. } | Self::Draining { .. } | Self::ConnectionLost => {
                (Code::Unavailable, 503, OtherWorker)
            }
            Self::NoTable { .. }
            | Self::NoReplica { .. }
            | Self::Asleep { .. }
            | Self::Floor { .. }
            | Self::Busy { .. }
            | Self::Registry { .. }
            | Self::QueueTimeout { .. } => (Code::Unavailable, 503, Never),
            Self::DeadlineExceeded { .. } | Self::Hopeless { .. } => (Code::DeadlineExceeded, 504, Never),
            Self::Stalled { .. } => (Code::DeadlineExceeded, 408, Never),
            // What gRPC says of an encoding it has not, and what HTTP says.
            Self::Encoding { .. } => (Code::Unimplemented, 415, Never),
            Self::Cancelled => (Code::Cancelled, 400, Never),
            Self::Unsupported { .. } => (Code::Unimplemented, 501, Never),
            Self::Refused { .. } => (Code::Unavailable, 503, Never),
            Self::LoadFailed { .. } => (Code::InvalidArgument, 400, Never),
            Self::InUse { .. } => (Code::FailedPrecondition, 400, Never),
            Self::Engine { .. } | Self::BadReply { .. } => (Code::Internal, 500, Never),
            Self::Remote { code, .. } => match code {
                Code::Unavailable => (Code::Unavailable, 503, OtherWorker),
                other => (*other, other.http_status(), Never),
            },
        }
    }

    /// A thread of this process ended before it gave its result.
    pub fn thread_ended(error: &dyn std::error::Error) -> Self {
        Self::Engine { reason: format!("a thread of this process ended: {error}") }
    }

    /// After how many milliseconds it is worth asking again, where that is known.
    pub fn retry_ms(&self) -> Option<u32> {
        match self {
            Self::NoTable { retry_ms }
            | Self::NoReplica { retry_ms, .. }
            | Self::Asleep { retry_ms, .. }
            | Self::Busy { retry_ms, .. }
            | Self::QueueFull { retry_ms, .. }
            | Self::Overloaded { retry_ms, .. }
            | Self::Quota { retry_ms, .. }
            | Self::Draining { retry_ms } => Some(*retry_ms),
            Self::Remote { retry_ms, .. } => *retry_ms,
            _ => None,
        }
    }
}

impl Code {
    /// The code with this number; unknown numbers are UNKNOWN, as gRPC says.
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }

    /// gRPC's number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The HTTP status Triton's REST surface gives it (and ours where Triton has none).
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::InvalidArgument | Self::AlreadyExists | Self::Cancelled | Self::Unknown | Self::FailedPrecondition => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::ResourceExhausted => 429,
            Self::Internal => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_cluster_cannot_take_may_be_tried_elsewhere() {
        let lost = Failure::ConnectionLost.wire();
        assert_eq!(lost, (Code::Unavailable, 503, Retry::OtherWorker));
        let late = Failure::DeadlineExceeded { late_us: 1 }.wire();
        assert_eq!(late, (Code::DeadlineExceeded, 504, Retry::Never));
        let waited = Failure::QueueTimeout { waited_us: 7, allowed_us: 5 };
        assert_eq!(waited.wire(), (Code::Unavailable, 503, Retry::Never), "as Triton answers it");
        assert_eq!(waited.to_string(), "the request waited 7 us in the queue, 5 us are allowed");
        let quota = Failure::Quota { tenant: "blue".to_owned(), what: "9 requests in flight".to_owned(), retry_ms: 4 };
        assert_eq!(quota.wire(), (Code::ResourceExhausted, 429, Retry::Never), "the caller's fault, not the cluster's");
        assert_eq!(quota.retry_ms(), Some(4));
        let remote = Failure::Remote { code: Code::Internal, message: String::new(), retry_ms: None }.wire();
        assert_eq!(remote, (Code::Internal, 500, Retry::Never));
    }

    #[test]
    fn code_numbers_are_grpcs() {
        for n in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 16] {
            assert_eq!(Code::from_number(n).number(), n);
        }
        assert_eq!(Code::from_number(77), Code::Unknown);
    }
}
