//! Ports with the packets held for them: frames in, frames out, and what was counted on the way.
//!
//! A frame is read straight into a slot and written from it; nothing is allocated. What is delivered waits in an outbox
//! until the data thread writes it, so that it can read between two writes. Decisions are the core's.

use std::collections::VecDeque;
use std::io;

use super::core::Outcome;
use super::frame::{self, FRAME_MAX, Frame, FrameError};
use super::hop::Fate;
use super::port::Port;
use super::slab::{Slab, Slot};
use super::split::split;
use crate::backend::Heard;
use crate::counters::{PortCounters, RelayCounters};
use crate::sys::clock::now_ns;
use crate::topology::HostId;

/// All ports of a relay.
pub(super) struct PortIo {
    pub(super) ports: Vec<Port>,
    pub(super) counters: Vec<PortCounters>,
    pub(super) relay: RelayCounters,
    slab: Slab,
    outbox: VecDeque<Outgoing>,
    /// Where a frame goes that there is no room for.
    refuse: Vec<u8>,
    /// News that switches have heard, until the data thread passes it on.
    pub(super) heard: Vec<Heard>,
    /// The instant frames are being taken in, to tell them from those that were timed.
    entered_ns: u64,
}

/// Frames that may be due at once before the outbox grows: those of 60 ms at a super-frame every 250 µs.
const BURST: usize = 256;

/// A frame that is at its destination.
struct Outgoing {
    host: HostId,
    slot: Slot,
    fate: Fate,
    /// Since when, if it was timed.
    due_ns: Option<u64>,
}

/// What reading a port gave.
pub(super) enum Taken {
    /// There is nothing to read.
    Nothing,
    /// A frame that goes no further.
    Left,
    /// A frame that waits in a slot until it is kept.
    Frame(Frame, usize),
}

impl PortIo {
    pub(super) fn new(ports: Vec<Port>, slab: Slab) -> Self {
        Self {
            counters: vec![PortCounters::default(); ports.len()],
            ports,
            relay: RelayCounters::default(),
            slab,
            outbox: VecDeque::with_capacity(BURST),
            refuse: vec![0; FRAME_MAX],
            heard: Vec::new(),
            entered_ns: 0,
        }
    }

    /// What happens from now on was timed, or happens because a frame was taken in at this instant.
    pub(super) fn happens(&mut self, entered_ns: Option<u64>) {
        self.entered_ns = entered_ns.unwrap_or(u64::MAX);
    }

    /// Reads one frame of a port into the slab's spare slot.
    pub(super) fn read(&mut self, index: usize) -> Taken {
        let Some(port) = self.ports.get(index) else {
            return Taken::Nothing;
        };
        let counters = &mut self.counters[index];
        let spare = self.slab.spare();
        let has_room = spare.is_some();
        let buffer = spare.unwrap_or(&mut self.refuse);
        let length = match port.read(buffer) {
            Ok(Some(length)) => length,
            Ok(None) => return Taken::Nothing,
            Err(error) => {
                tracing::warn!(index, %error, "a port of the relay cannot be read");
                return Taken::Nothing;
            }
        };
        counters.read_packets += 1;
        match frame::parse(&buffer[..length], port.layer()) {
            Ok(frame) if has_room => return Taken::Frame(frame, length),
            Ok(_) => self.relay.no_room += 1,
            Err(FrameError::NotIpv4) => counters.not_ipv4 += 1,
            Err(FrameError::Malformed) => counters.malformed += 1,
        }
        Taken::Left
    }

    /// Keeps the frame read last.
    pub(super) fn keep(&mut self, length: usize) -> Slot {
        self.slab.keep(length)
    }

    /// Puts what was delivered into the outbox, forgets what was dropped or lost.
    pub(super) fn settle(&mut self, outcome: &Outcome<Slot>) {
        match *outcome {
            Outcome::Dropped { packet } | Outcome::Lost { packet } => self.slab.release(packet),
            Outcome::Heard {
                packet,
                address,
                switch,
            } => {
                self.slab.release(packet);
                self.heard.push(Heard { address, switch });
            }
            Outcome::Delivered {
                host,
                packet: slot,
                fate,
                at_ns,
            } => {
                let due_ns = (at_ns != self.entered_ns).then_some(at_ns);
                self.outbox.push_back(Outgoing {
                    host,
                    slot,
                    fate,
                    due_ns,
                });
            }
        }
    }

    /// Writes the first frame of the outbox; to whom.
    pub(super) fn write_next(&mut self) -> Option<HostId> {
        let next = self.outbox.pop_front()?;
        let index = next.host.0 as usize;
        let (port, counters) = (&self.ports[index], &mut self.counters[index]);
        let (bytes, layer) = (self.slab.frame(next.slot), port.layer());
        if let Port::Packet {
            host_mac, port_mac, ..
        } = port
        {
            frame::readdress(bytes, *host_mac, *port_mac);
        }
        if next.fate.marked {
            frame::mark(bytes, layer);
        }
        // Before the write, which runs the receiver's protocol stack.
        if let Some(due_ns) = next.due_ns {
            self.relay.lateness.record(now_ns().saturating_sub(due_ns));
        }
        let mut count = |written: io::Result<usize>| match written {
            Ok(_) => counters.written_packets += 1,
            Err(_) => counters.write_refused += 1,
        };
        if next.fate.lost == 0 {
            count(port.write(bytes));
        } else {
            let pieces = split(bytes, layer, next.fate.lost, |headers, payload| {
                count(port.write_parts(headers, payload));
            });
            pieces.expect("only a frame that parsed as divisible loses a part of itself");
        }
        self.slab.release(next.slot);
        Some(next.host)
    }

    /// Nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.outbox.is_empty()
    }
}
