//! The network of the testbed: what is asked (units, links, topology), what has to be done for it (the plan), what
//! carries it (namespaces and the user-space relay), and whether it came out as asked (calibration, audit).
//!
//! Nothing here knows about virtual machines but that some of them have addresses of their own, which move. System calls and clock reads live in `sys` alone; everything that
//! decides takes values and returns values.

#![warn(missing_docs)]

pub mod audit;
pub mod backend;
pub mod calibrate;
pub mod capacity;
pub mod counters;
pub mod delivery;
pub mod flow;
pub mod link;
pub mod plan;
pub mod ports;
pub mod qdisc;
pub mod residual;
pub mod schedule;
pub mod sys;
pub mod topology;
pub mod units;
