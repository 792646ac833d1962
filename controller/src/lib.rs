//! The control loop of a cluster: one leader observes, plans, and writes placements.
//!
//! Level-triggered: every plan starts from all there is, so a controller may be stopped at any line and another goes on.
//!
//! Invariants, each named by the test that fails without it:
//! * I3: a leader that has been replaced changes nothing. Each of its transactions compares the revision at which its
//!   election key was created, and each placement carries its epoch, which is above every epoch seen before.
//!
//! Not here: what the plan is (`policy::plan`), and anything the data plane needs: it serves on while no controller runs.

mod config;
mod controller;
mod election;
#[cfg(test)]
mod tests;
mod write;

pub use config::ControllerConfig;
pub use controller::{Controller, Handle, Status};
