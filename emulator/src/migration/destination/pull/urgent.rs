//! Requested pages that come on a connection of their own: QEMU's `postcopy-preempt`.
//!
//! Never inside: the main stream, and what the guest waits for.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};

use super::faults::Pull;
use crate::migration::destination::DestinationJob;
use crate::migration::destination::pages::Pages;
use crate::migration::wire::{Decoder, Event, MAX_RECORD_BYTES};

/// Reads pages until the connection ends, or nothing is missing any more. Bytes read. What is no page of this
/// guest ends it. What it was to bring then breaks the main connection too, as in QEMU: the migration is taken
/// up again without it.
pub(super) fn receive(
    job: &DestinationJob,
    pull: &Pull<'_>,
    pages: &Pages<'_>,
    socket: &TcpStream,
) -> u64 {
    let read = place(job, pull, pages, socket);
    // Whatever else comes is read by nobody.
    let _ = socket.shutdown(Shutdown::Both);
    pull.urgent_ended();
    if !pull.is_over() && pull.left() > 0 {
        let _ = job.socket.shutdown(Shutdown::Both);
    }
    read
}

fn place(job: &DestinationJob, pull: &Pull<'_>, pages: &Pages<'_>, mut socket: &TcpStream) -> u64 {
    let mut decoder = Decoder::pages_alone(job.memory.pages());
    let mut buffer = vec![0; 2 * MAX_RECORD_BYTES];
    let (mut start, mut end, mut read) = (0, 0, 0);
    while !pull.is_over() {
        loop {
            let (taken, page, bytes) = match decoder.decode(&buffer[start..end]) {
                Ok(Some((taken, Event::Page { page, bytes }))) => (taken, page, Some(bytes)),
                Ok(Some((taken, Event::ZeroPage { page }))) => (taken, page, None),
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => return read,
            };
            start += taken;
            if super::place(pages, pull, page, bytes).is_err() {
                return read;
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
