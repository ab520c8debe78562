//! What opens a migration's further connections, in the size of QEMU's `MultiFDInit_t`.
//!
//! ```text
//! magic 0x11223344  4    version 1  4    uuid 16: migration 4, 0 4, key of the VM 8
//! number 1    kind 1    zeros 34
//! ```
//!
//! QEMU's has the guest's UUID where ours has the migration and the VM, and no kind: its channels for
//! requested pages open with nothing. Never inside: sockets.

use super::{u32_at, u64_at};

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 64;
/// `MULTIFD_MAGIC`.
pub const HELLO_MAGIC: u32 = 0x1122_3344;
/// `MULTIFD_VERSION`.
const HELLO_VERSION: u32 = 1;

/// What a further connection of a migration carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChannelKind {
    /// QEMU's multifd: packets of pages.
    Multifd,
    /// QEMU's postcopy-preempt: pages that were asked for.
    Preempt,
    /// Cloud Hypervisor's further connections: chunks of memory.
    Data,
    /// Cloud Hypervisor's post-copy: pages that the destination asks for.
    Fault,
}

impl ChannelKind {
    fn code(self) -> u8 {
        match self {
            Self::Multifd => 0, // where QEMU's has a zero
            Self::Preempt => 1,
            Self::Data => 2,
            Self::Fault => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        let all = [Self::Multifd, Self::Preempt, Self::Data, Self::Fault];
        all.into_iter().find(|kind| kind.code() == code)
    }
}

/// One of a migration's further connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId {
    /// What it carries.
    pub kind: ChannelKind,
    /// Its number among those of its kind, from 0.
    pub number: u8,
}

impl std::fmt::Display for ChannelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            ChannelKind::Multifd => "multifd channel",
            ChannelKind::Preempt => "preempt channel",
            ChannelKind::Data => "connection",
            ChannelKind::Fault => "fault connection",
        };
        write!(f, "{kind} {}", self.number)
    }
}

/// Who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Number of the migration in the run.
    pub migration: u32,
    /// Key of the VM.
    pub vm_key: u64,
    /// Which connection.
    pub channel: ChannelId,
}

impl Hello {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&HELLO_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&HELLO_VERSION.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.migration.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.vm_key.to_be_bytes());
        bytes[24] = self.channel.number;
        bytes[25] = self.channel.kind.code();
        bytes
    }

    /// Reads a hello; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let hello = Self {
            migration: u32_at(bytes, 8)?,
            vm_key: u64_at(bytes, 16)?,
            channel: ChannelId {
                kind: ChannelKind::of(bytes[25])?,
                number: bytes[24],
            },
        };
        (hello.encode() == *bytes).then_some(hello)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hello_by_hand() {
        let hello = Hello {
            migration: 3,
            vm_key: 0x0102,
            channel: ChannelId {
                kind: ChannelKind::Preempt,
                number: 7,
            },
        };
        let bytes = hello.encode();
        assert_eq!(
            bytes[..12],
            [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 3]
        );
        assert_eq!(bytes[16..26], [0, 0, 0, 0, 0, 0, 1, 2, 7, 1]);
        assert_eq!(Hello::decode(&bytes), Some(hello));
    }

    proptest! {
        #[test]
        fn a_damaged_hello_is_none_or_another_channel(at in 0..HELLO_BYTES, bit in 0..8u32) {
            let hello = Hello {
                migration: 1,
                vm_key: 2,
                channel: ChannelId { kind: ChannelKind::Multifd, number: 3 },
            };
            let mut bytes = hello.encode();
            bytes[at] ^= 1 << bit;
            // What is not in a field must be zero, so nothing slips through as this one.
            prop_assert_ne!(Hello::decode(&bytes), Some(hello));
        }
    }
}
