//! The control plane: `migbed` ⇄ `machine` ⇄ agents, out of band over inherited socketpairs.
//!
//! Inside: the messages and their framing. Never inside: the emulated network; nothing here crosses
//! it, and nothing of a guest's memory crosses here.

pub mod channel;
pub mod message;
