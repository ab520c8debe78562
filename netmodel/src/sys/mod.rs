//! The edge to the kernel: namespaces, netlink, packet sockets, clocks, memory and its faults, probes.
//!
//! The only place of this crate with `unsafe` and with clock reads. Nothing here decides anything.

mod attributes;
pub mod clock;
pub mod memory;
pub mod netlink;
pub mod netns;
pub(crate) mod packet;
pub mod probe;
pub mod procfs;
pub mod sched;
pub(crate) mod tc;
pub mod tcpinfo;
pub(crate) mod tun;
pub mod userfault;
