//! AF_PACKET sockets that carry the virtio-net header.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A raw packet socket bound to one device of the namespace it was opened in, not blocking.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    drops: u64,
}

/// Asked of the kernel for either direction: some 60 ms at 2 Gbit/s of 16 KiB frames. Forced where we may.
const BUFFER_BYTES: libc::c_int = 32 << 20;

impl PacketSocket {
    /// Opens a socket on device `index`; it sees what the device receives, not what is sent through it.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        // SAFETY: plain system call without pointers; protocol 0 receives nothing before bind.
        let raw = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            libc::socket(libc::AF_PACKET, kind, 0)
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor the kernel just gave us and nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set_option(
            fd.as_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            1,
        )?;
        let buffers = [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ];
        for (forced, allowed) in buffers {
            set_option(fd.as_fd(), libc::SOL_SOCKET, forced, BUFFER_BYTES)
                .or_else(|_| set_option(fd.as_fd(), libc::SOL_SOCKET, allowed, BUFFER_BYTES))?;
        }
        bind(fd.as_fd(), index)?;
        Ok(Self { fd, drops: 0 })
    }

    /// Room the kernel really gave for frames not read yet.
    pub(crate) fn receive_buffer(&self) -> io::Result<usize> {
        Ok(nix::sys::socket::getsockopt(
            &self.fd,
            nix::sys::socket::sockopt::RcvBuf,
        )?)
    }

    /// Reads one frame with its virtio-net header; `None` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(&self.fd, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one frame with its virtio-net header.
    pub(crate) fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(&self.fd, frame)?)
    }

    /// Writes one frame, headers and payload apart.
    pub(crate) fn write_parts(&self, headers: &[u8], payload: &[u8]) -> io::Result<usize> {
        let parts = [io::IoSlice::new(headers), io::IoSlice::new(payload)];
        Ok(nix::sys::uio::writev(&self.fd, &parts)?)
    }

    /// Frames lost for want of room in the receive buffer, since the socket was opened.
    pub(crate) fn drops(&mut self) -> u64 {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = u32::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(0);
        // SAFETY: the kernel writes at most `length` bytes into `stats`, which is that long and lives on.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        // Reading resets the kernel's counter.
        if result == 0 {
            self.drops += u64::from(stats.tp_drops);
        }
        self.drops
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = u32::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the kernel reads `length` bytes from `value`, an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bind(fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // ETH_P_ALL in network order, so that what is not IPv4 is seen and counted.
    let protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
    let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all-zero is a valid sockaddr_ll, a plain C struct of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
    // SAFETY: the kernel reads `length` bytes from `address`, which is that long and outlives the call.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
