//! An emulated host: one process in a network namespace of its own, with its VMs.
//!
//! Inside: the agent's process, its VMs' run time, its data sockets. Never inside: decisions (the
//! timeline and the balancer live in `migbed`), shaping (the fabric's).

mod net;
mod tenant;
