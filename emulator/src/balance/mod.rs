//! Balancers: what they see, what they may ask for, the built-in policies. Pure: values in, values
//! out, so that the emulator and a simulator call the same code.
//!
//! Inside: the view, the policies and their options (`policy`), the arbiter between a policy's
//! wishes and the migrations (`moves`), the metrics of a run (`metrics`). Never inside: sockets,
//! clocks, processes.

pub mod metrics;
pub mod moves;
pub mod policy;
pub mod view;

pub use policy::{POLICIES, PolicyError, policy};
