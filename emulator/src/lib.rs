//! The testbed: machine, agents, migration engines, timeline, balancers, records, reports.
//!
//! Inside: everything that runs an emulation and tells what happened. Never inside: kernel calls
//! that belong to the `sys` modules of `netmodel`.

pub mod balance;
pub mod clock;
pub mod cluster;
pub mod event;
pub mod ids;
pub mod migration;
pub mod model;
pub mod placement;
pub mod report;
pub mod results;
pub mod scenario;
