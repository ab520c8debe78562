//! The testbed: machine, agents, migration engines, timeline, balancers, records, reports.
//!
//! Inside: everything that runs an emulation and tells what happened. Never inside: kernel calls
//! that belong to the `sys` modules of `netmodel`.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod agent;
pub mod balance;
pub mod characterise;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod computer;
pub mod control;
pub mod event;
pub mod ids;
pub mod incident;
pub mod lone;
pub mod machine;
pub mod migration;
pub mod model;
pub mod orchestrator;
pub mod placement;
pub mod report;
pub mod resident;
pub mod results;
pub mod run;
pub mod scenario;
pub mod timeline;
pub mod units;
pub mod validate;
