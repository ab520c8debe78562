//! What carries packets.

mod relay;
