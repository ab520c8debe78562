//! What a page holds when it is read for sending: computed, or in RAM.
//!
//! Never inside: which pages are sent, how they travel.

use netmodel::sys::memory::Piece;
use replay::GuestTime;
use replay::content::{STAMP_BYTES, Stamp};

use super::SourceJob;
use crate::migration::wire::PAGE_BYTES;

/// A page of zeros where it is sent whole.
pub(super) static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// What a page holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Zero,
    Data(Stamp, &'a [u8]),
    /// In RAM, whatever it is when the kernel reads it.
    Ram(Piece<'a>),
}

/// The page at a guest time. RAM is scanned for zeros only if asked to `look`.
pub(super) fn content(job: &SourceJob, page: u32, now: GuestTime, look: bool) -> Content<'_> {
    if let Some(ram) = job.ram.as_deref() {
        return if look && ram.is_zero(page) {
            Content::Zero
        } else {
            Content::Ram(ram.piece(page))
        };
    }
    let version = job.memory.version_at(page, now);
    if job.memory.is_zero(page, version) {
        return Content::Zero;
    }
    let (stamp, body) = job.memory.page(page, version);
    Content::Data(stamp, body)
}

/// The page's bytes in one piece.
pub(super) fn copy(job: &SourceJob, page: u32, content: &Content<'_>, into: &mut [u8; PAGE_BYTES]) {
    match content {
        Content::Zero => into.fill(0),
        Content::Data(stamp, body) => {
            into[..STAMP_BYTES].copy_from_slice(&stamp.encode());
            into[STAMP_BYTES..].copy_from_slice(body);
        }
        Content::Ram(_) => {
            if let Some(ram) = job.ram.as_deref() {
                ram.read(page, into);
            }
        }
    }
}
