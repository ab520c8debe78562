//! The harness of the end-to-end tests and benchmarks.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod measure;
