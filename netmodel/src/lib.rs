//! placeholder
pub mod link;
pub mod units;
