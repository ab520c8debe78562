//! What pages hold: a pure function of (VM, page, version) that both ends of a migration compute.
//!
//! Inside: which pages are zero, the stamp that says what a page on the wire is (`stamp`), and the pool
//! of ready-made page bodies (`pool`), so that sending costs no generation; how bodies are made
//! (`body`) so that codecs and XBZRLE find in them what a profile says (`recipe`). Never inside: which
//! version a page has (`guest`), sockets.

mod body;
mod contents;
mod family;
mod pool;
mod recipe;
mod simplex;
mod solved;
mod stamp;
pub mod xbzrle;

use traces::units::PAGE_SIZE;

pub use body::Texture;
pub use contents::{Contents, ContentsError, check_profiles};
pub use pool::PagePool;
pub use recipe::{Recipe, RecipeError};
pub use stamp::{ContentError, STAMP_BYTES, Stamp};
pub use traces::content::ContentProfile;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
const _: () = assert!(
    PAGE_BYTES as u64 == PAGE_SIZE,
    "the stamp and body fill a target page"
);

/// Bytes of a page after its stamp.
pub const BODY_BYTES: usize = PAGE_BYTES - STAMP_BYTES;

#[cfg(test)]
mod tests;
