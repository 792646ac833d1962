//! A load generator that does not flatter. In an open loop requests are due at moments fixed in advance, and latency counts
//! from the moment a request was due, not from when the client got round to sending it; in a closed loop a fixed number of
//! callers each wait for their answer.
//!
//! * [`schedule`]: when requests are due, from a seed; pure. [`trace`] reads recorded ones, [`mix`] says what is asked.
//! * [`run`] sends one load at one target; [`measure`] repeats it, at several targets in turn.
//! * [`sim`]: the same schedule and the same report over a fleet that is only described, in virtual time.
//! * [`report`]: what came of it, for people and programs; [`svg`] and [`hdr_log`] are its pictures.
//!
//! Works against any server of the Open Inference Protocol, over gRPC or REST. Not here: TLS, streaming calls.

mod client;
mod error;
mod hdr_log;
mod live;
mod measure;
pub mod mix;
mod pacer;
mod record;
pub mod report;
mod request;
pub mod schedule;
mod script;
mod sender;
pub mod sim;
mod stats;
mod svg;
mod target;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
pub mod trace;

pub use error::LoadError;
pub use hdr_log::hdr_log;
pub use live::{Load, run};
pub use measure::{Measured, Measurement, Subject, measure};
pub use mix::{Ask, Mix};
pub use record::{AskRecord, Interval, VariantRecord};
pub use report::Report;
pub use request::request_of;
pub use schedule::{Arrivals, Pace};
pub use script::Script;
pub use stats::Spread;
pub use svg::{Chart, charts, svg};
pub use target::{Protocol, Target, connect};
