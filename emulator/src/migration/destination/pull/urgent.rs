//! Requested pages that come on a connection of their own: QEMU's `postcopy-preempt`.
//!
//! Never inside: the main stream, and what the guest waits for.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use super::faults::Pull;
use crate::migration::destination::DestinationJob;
use crate::migration::destination::pages::{NEVER_RECEIVED, ZERO_PAGE};
use crate::migration::wire::{Decoder, Event, MAX_RECORD_BYTES};

/// Reads pages until the connection ends, or nothing is missing any more. Bytes read. What is no page ends it:
/// those that it was to bring are then missing, which the end of the main stream finds out.
pub(super) fn receive(job: &DestinationJob, pull: &Pull<'_>, mut socket: &TcpStream) -> u64 {
    let mut decoder = Decoder::pages_alone(job.memory.pages());
    let mut buffer = vec![0; 2 * MAX_RECORD_BYTES];
    let (mut start, mut end, mut read) = (0, 0, 0);
    while !pull.is_over() {
        loop {
            let (taken, page, version) = match decoder.decode(&buffer[start..end]) {
                Ok(Some((taken, Event::Page { page, bytes }))) => {
                    (taken, page, job.memory.verify(bytes, page).ok())
                }
                Ok(Some((taken, Event::ZeroPage { page }))) => (taken, page, Some(ZERO_PAGE)),
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => return read,
            };
            start += taken;
            if pull.lacks(page) {
                pull.placed_urgent(page, version.unwrap_or(NEVER_RECEIVED));
            } else {
                pull.came_twice();
            }
        }
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        match socket.read(&mut buffer[end..]) {
            Ok(0) => return read,
            Ok(bytes) => {
                end += bytes;
                read += bytes as u64;
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                _ => return read,
            },
        }
    }
    read
}
