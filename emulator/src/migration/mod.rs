//! Live migration: engines over one page stream, each deciding as its original.
//!
//! Inside: parameters, the wire, source and destination, engines' decision rules (pure), records.
//! Never inside: namespaces, the timeline, balancing.

pub mod channels;
pub mod codec;
pub mod destination;
pub mod engine;
pub mod faults;
pub mod guest;
pub mod metrics;
pub mod ownership;
pub mod params;
pub mod record;
pub mod source;
pub mod transport;
pub mod upcoming;
mod usage;
pub mod wire;

#[cfg(test)]
mod tests;
