//! The user-space relay: shapes in this process what crosses its AF_PACKET ports.

mod core;
mod frame;
mod line;
mod queue;
