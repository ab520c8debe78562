//! What was recorded and how it is stored: trace types, our formats, importers, statistics, fits, forecasts.
//!
//! Inside: values read from files, and pure arithmetic over them. Never inside: anything that runs
//! a VM or opens a data socket.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod class;
pub mod content;
pub mod cpu;
mod date;
pub mod dirty;
pub mod export;
pub mod fit;
pub mod forecast;
pub mod import;
pub mod migration_log;
pub mod profile;
pub mod resample;
pub mod stats;
pub mod store;
pub mod synth;
pub mod units;
