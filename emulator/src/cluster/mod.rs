//! A cluster of modelled hosts, and the view a balancer has of any cluster.
//!
//! Inside: pure values; time is an argument. Never inside: processes, sockets, clocks.

pub mod view_builder;

pub use view_builder::{HostFacts, ViewBuilder};
