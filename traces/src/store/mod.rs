//! Our own formats: the page-write trace file and the bundle.
//!
//! Inside: bytes to values and back, checks. Never inside: other people's formats (see `import`).

pub mod bundle;
pub(crate) mod columns;
pub mod page_write;
pub mod partial;
pub mod sample;
pub mod series;
pub mod sort;
pub(crate) mod table;
mod varint;
