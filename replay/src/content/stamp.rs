//! What a page that is not zero says of itself, and what is wrong with one that says something else.

/// Bytes of the stamp that opens every page that is not zero.
pub const STAMP_BYTES: usize = 32;

/// What a page that is not zero says of itself: 32 bytes, little-endian: VM key u64, version u64,
/// page u32, body u32, CRC-32 of the body u32, CRC-32 of the 28 bytes before u32.
///
/// `version` is that of the content: the version written, or 0 where a write left the page as it was
/// before all writes. So pages that hold the same are the same, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Key of the VM.
    pub vm_key: u64,
    /// Version of the content.
    pub version: u64,
    /// The page.
    pub page: u32,
    /// Which body of the pool follows.
    pub body: u32,
    /// CRC-32 of that body.
    pub body_crc: u32,
}

impl Stamp {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[0..8].copy_from_slice(&self.vm_key.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.page.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a stamp; `None` if its checksum does not hold.
    #[must_use]
    pub fn decode(bytes: &[u8; STAMP_BYTES]) -> Option<Self> {
        let four = |at: usize| {
            u32::from_le_bytes(
                bytes[at..at + 4]
                    .try_into()
                    .expect("four bytes of thirty-two"),
            )
        };
        let eight = |at: usize| {
            u64::from_le_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("eight bytes of thirty-two"),
            )
        };
        (crc32fast::hash(&bytes[..28]) == four(28)).then(|| Self {
            vm_key: eight(0),
            version: eight(8),
            page: four(16),
            body: four(20),
            body_crc: four(24),
        })
    }
}

/// A received page that is not what its sender should have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Not a page's length.
    #[error("a page of {len} bytes, not 4096")]
    Length {
        /// Bytes given.
        len: usize,
    },
    /// The stamp's checksum does not hold.
    #[error("the stamp of page {page} is damaged")]
    Stamp {
        /// The page expected.
        page: u32,
    },
    /// The page of another guest.
    #[error("page {page} belongs to VM {found}, not {expected}")]
    Vm {
        /// The page expected.
        page: u32,
        /// VM expected.
        expected: u64,
        /// VM in the stamp.
        found: u64,
    },
    /// Another page.
    #[error("page {found} arrived in the place of page {expected}")]
    Page {
        /// The page expected.
        expected: u32,
        /// Page in the stamp.
        found: u32,
    },
    /// A body that does not belong to the stamp.
    #[error("page {page} version {version} has a body other than its own")]
    Body {
        /// The page.
        page: u32,
        /// Version in the stamp.
        version: u64,
    },
}
