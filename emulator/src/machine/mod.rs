//! The machine: the process that owns a computer's fabric and agents.
//!
//! ```text
//! migbed ──socketpair──► migbed machine     unshares user + net + PID, forks, then only waits
//!                          └─ (its child)      PID 1 of the new namespace: fabric, agents
//!                               ├─ migbed agent  one per host, in a namespace of its own
//!                               └─ …
//! ```
//!
//! The death of any of the upper three takes everything below with it: machine and child die with
//! their parents (PR_SET_PDEATHSIG), and the kernel kills every process of a PID namespace
//! whose init is gone. The network namespaces are held by nothing but these processes.
//!
//! Inside: starting and ending processes, routing control messages, the fabric. Never inside:
//! what happens when.

mod agents;
mod changes;
mod fabric;
mod init;
pub mod launch;
mod timetable;
mod vms;
mod watch;

pub use fabric::plan;
pub use launch::machine_main;
