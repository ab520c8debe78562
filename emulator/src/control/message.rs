//! The messages. Postcard in length-delimited frames; the first message of each side says the
//! protocol version, and a peer of another version is refused.

mod from_agent;
mod machine;
mod to_agent;

pub use from_agent::*;
pub use machine::*;
pub use to_agent::*;

/// Version of these messages.
pub const PROTOCOL: u16 = 7;
