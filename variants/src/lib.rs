//! Makes variants of a model, checks them and measures them: quantized, cast, run by another engine.
//!
//! A recipe is a list of passes over an ONNX graph ([`pass::Pass`]), an engine and a precision hint. What a pass needs to know of the data
//! is in its parameters, so that a card replays its file byte for byte. Nothing that was made is believed before a child process has
//! loaded it, run it and compared its answers with those of the reference ([`make`]).
//!
//! Not here: running models ([`runtime::Runtime`] is the seam, cli puts the worker behind it), placing variants (`policy::plan`).

pub mod calibrate;
mod error;
pub mod fidelity;
pub mod graph;
pub mod make;
pub mod npy;
pub mod onnx;
pub mod pass;
pub mod prospect;
pub mod recipe;
pub mod report;
pub mod runtime;
pub mod samples;

pub use error::VariantError;
