//! QEMU's multifd packets at the destination.
//!
//! Never inside: connections and where they meet (`channel`), what pages mean.

use super::DestinationError;
use super::channel::{BUFFER_BYTES, Input, Receiver};
use crate::migration::codec::{self, Unpacker};
use crate::migration::wire::PAGE_BYTES;
use crate::migration::wire::multifd::{
    FLAG_SYNC, PACKET_PAGES, data_bytes_max, decode_header, header_bytes,
};

/// Packets, until the connection ends between two.
pub(super) fn receive(receiver: &Receiver<'_>) -> Result<(), DestinationError> {
    let most = receiver.job.packet_pages;
    let compression = receiver.job.streams.compression;
    let codec = codec::flag(compression);
    let mut unpacker = Unpacker::new(compression)?;
    let room = header_bytes(PACKET_PAGES)
        + match unpacker {
            None => BUFFER_BYTES,
            Some(_) => usize::try_from(data_bytes_max(u32::try_from(most).unwrap_or(u32::MAX)))
                .unwrap_or(BUFFER_BYTES)
                .max(BUFFER_BYTES),
        };
    let mut input = Input::new(receiver, room);
    let ram_pages = receiver.job.memory.pages();
    let mut pages = Vec::with_capacity(most);
    let mut page_bytes = [0; PAGE_BYTES];
    loop {
        let offset = input.offset;
        let Some(header) = input.take(header_bytes(most), true)? else {
            return Ok(());
        };
        let packet = decode_header(header, most, codec, ram_pages, offset, &mut pages)?;
        let (normal, zero) = pages.split_at(packet.normal as usize);
        match &mut unpacker {
            None => {
                for &page in normal {
                    let bytes = input.take(PAGE_BYTES, false)?.unwrap_or_default();
                    receiver.pages.take(page, bytes);
                }
            }
            Some(unpacker) => {
                let bytes = packet.data_bytes as usize;
                let mut data = input.take(bytes, false)?.unwrap_or_default();
                for &page in normal {
                    unpacker.page(&mut data, &mut page_bytes)?;
                    receiver.pages.take(page, &page_bytes);
                }
                unpacker.end(data)?;
            }
        }
        for &page in zero {
            receiver.pages.take_zero(page);
        }
        if packet.flags & FLAG_SYNC != 0 && !receiver.shared.arrive() {
            return Ok(());
        }
    }
}
