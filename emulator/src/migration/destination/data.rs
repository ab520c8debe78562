//! Chunks of memory on Cloud Hypervisor's further connections, each answered.
//!
//! Never inside: connections (`channel`), what pages mean.

use std::io::Write;

use super::DestinationError;
use super::channel::{BUFFER_BYTES, Input, Receiver};
use crate::migration::wire::cloud_hypervisor::{CloudHypervisorDecoder, encode_answer};
use crate::migration::wire::{Event, MAX_RECORD_BYTES};

/// Chunks, until the connection ends between two.
pub(super) fn receive(receiver: &Receiver<'_>) -> Result<(), DestinationError> {
    let mut decoder = CloudHypervisorDecoder::of_memory(receiver.job.memory.pages());
    let mut input = Input::new(receiver, BUFFER_BYTES);
    loop {
        while let Some((taken, event)) = decoder.decode(input.held(), input.offset)? {
            match event {
                Event::Page { page, bytes } => {
                    receiver.pages.take(page, bytes);
                }
                Event::AnswerWanted => {
                    let mut socket = &receiver.channel.socket;
                    let offset = input.offset;
                    socket
                        .write_all(&encode_answer(true))
                        .map_err(|source| DestinationError::Io { offset, source })?;
                }
                _ => {}
            }
            input.advance(taken);
        }
        if !input.more(MAX_RECORD_BYTES)? {
            return if decoder.is_between() && input.held().is_empty() {
                Ok(())
            } else {
                let offset = input.offset;
                Err(DestinationError::Closed { offset })
            };
        }
    }
}
