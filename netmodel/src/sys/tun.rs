//! TUN devices that carry the virtio-net header: a card whose other end is a descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// A TUN device of the namespace it was made in, which goes with this descriptor. Not blocking.
#[derive(Debug)]
pub(crate) struct TunDevice {
    file: OwnedFd,
}

/// The node everybody opens; whether one may is for the kernel to say.
const NODE: &str = "/dev/net/tun";

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
/// Both together or not at all; Linux 6.2.
const TUN_F_USO: libc::c_ulong = 0x20 | 0x40;

const TUNSETIFF: libc::c_ulong = nix::request_code_write!(b'T', 202, size_of::<libc::c_int>());
const TUNSETOFFLOAD: libc::c_ulong = nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>());

impl TunDevice {
    /// Makes a device in the calling thread's namespace.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        let file = open()?;
        let mut request = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            flags: IFF_TUN | IFF_NO_PI | IFF_VNET_HDR,
            rest: [0; 22],
        };
        // One byte short, so that the kernel finds a zero at the end.
        let room = request.name[..libc::IFNAMSIZ - 1].get_mut(..name.len());
        let room = room.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        room.copy_from_slice(name.as_bytes());
        // SAFETY: the kernel reads and writes one `struct ifreq`, which `request` is as long as and outlives the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        let device = Self { file: file.into() };
        let segments = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        device
            .offload(segments | TUN_F_USO)
            .or_else(|_| device.offload(segments))?;
        Ok(device)
    }

    /// Says which super-frames and unfinished checksums may be read.
    fn offload(&self, what: libc::c_ulong) -> io::Result<()> {
        // SAFETY: the argument is a number, no pointer.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, what) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads one packet with its virtio-net header; `None` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(&self.file, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one packet with its virtio-net header.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(&self.file, packet)?)
    }

    /// Writes one packet, headers and payload apart.
    pub(crate) fn write_parts(&self, headers: &[u8], payload: &[u8]) -> io::Result<usize> {
        let parts = [io::IoSlice::new(headers), io::IoSlice::new(payload)];
        Ok(nix::sys::uio::writev(&self.file, &parts)?)
    }
}

fn open() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open(NODE)
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
