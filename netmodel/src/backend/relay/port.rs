//! Where frames enter and leave the relay: a packet socket on a veth, or a TUN device. Opened here, judged elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::RelayError;
use super::frame::Layer;
use crate::plan::VethPair;
use crate::sys::netlink::device_index;
use crate::sys::packet::PacketSocket;
use crate::sys::tun::TunDevice;

/// A host's port.
#[derive(Debug)]
pub(super) enum Port {
    Packet {
        socket: PacketSocket,
        host_mac: [u8; 6],
        port_mac: [u8; 6],
    },
    Tun(TunDevice),
}

impl Port {
    /// Opens the fabric's end of a pair, in the fabric's namespace.
    pub(super) fn open(pair: &VethPair) -> Result<Self, RelayError> {
        let socket =
            PacketSocket::open(device_index(&pair.port)?).map_err(|source| RelayError::Port {
                port: pair.port.clone(),
                source,
            })?;
        Ok(Self::Packet {
            socket,
            host_mac: pair.host_mac,
            port_mac: pair.port_mac,
        })
    }

    /// What its frames begin with.
    pub(super) fn layer(&self) -> Layer {
        match self {
            Self::Packet { .. } => Layer::Ethernet,
            Self::Tun(_) => Layer::Ip,
        }
    }

    /// Reads one frame; `None` when there is none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Packet { socket, .. } => socket.read(buffer),
            Self::Tun(device) => device.read(buffer),
        }
    }

    /// Writes one frame.
    pub(super) fn write(&self, frame: &[u8]) -> io::Result<usize> {
        match self {
            Self::Packet { socket, .. } => socket.write(frame),
            Self::Tun(device) => device.write(frame),
        }
    }

    /// Writes one frame, headers and payload apart.
    pub(super) fn write_parts(&self, headers: &[u8], payload: &[u8]) -> io::Result<usize> {
        match self {
            Self::Packet { socket, .. } => socket.write_parts(headers, payload),
            Self::Tun(device) => device.write_parts(headers, payload),
        }
    }

    /// Frames lost before they could be read; what a TUN device has no room for is among its device's drops.
    pub(super) fn socket_drops(&mut self) -> u64 {
        match self {
            Self::Packet { socket, .. } => socket.drops(),
            Self::Tun(_) => 0,
        }
    }
}

/// Closes ports side by side: for each the kernel waits until no processor can be using it any more (synchronize_net,
/// some 10 ms), and those who wait together share that.
pub(super) fn close_all(mut ports: Vec<Port>) {
    const TOGETHER: usize = 64;
    let each = ports.len().div_ceil(TOGETHER).max(1);
    std::thread::scope(|scope| {
        while !ports.is_empty() {
            let part = ports.split_off(ports.len().saturating_sub(each));
            // Without a thread to be had they are closed here, one after another.
            let closing = std::thread::Builder::new().spawn_scoped(scope, move || drop(part));
            drop(closing);
        }
    });
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Packet { socket, .. } => socket.as_fd(),
            Self::Tun(device) => device.as_fd(),
        }
    }
}
