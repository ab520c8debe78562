//! The bytes of a page-write file on their way in, with their place in it for errors.

use std::io::{self, Read};

use super::{PageWriteError, Part};

/// A reader that knows where it is.
pub(super) struct Source<R> {
    pub(super) input: R,
    pub(super) offset: u64,
    pub(super) part: Part,
    pub(super) part_offset: u64,
}

impl<R> Source<R> {
    pub(super) fn begin(&mut self, part: Part) {
        self.part = part;
        self.part_offset = self.offset;
    }

    pub(super) fn field(
        &self,
        field: &'static str,
        value: u64,
        expected: &'static str,
    ) -> PageWriteError {
        PageWriteError::Field {
            part: self.part,
            offset: self.part_offset,
            field,
            value,
            expected,
        }
    }

    pub(super) fn io(&self, source: io::Error) -> PageWriteError {
        PageWriteError::Io {
            part: self.part,
            offset: self.offset,
            source,
        }
    }

    pub(super) fn expect(
        &self,
        field: &'static str,
        value: u64,
        good: bool,
        expected: &'static str,
    ) -> Result<(), PageWriteError> {
        if good {
            Ok(())
        } else {
            Err(self.field(field, value, expected))
        }
    }

    pub(super) fn compare(&self, stored: u32, found: u32) -> Result<(), PageWriteError> {
        let (part, offset) = (self.part, self.part_offset);
        if stored == found {
            return Ok(());
        }
        Err(PageWriteError::Checksum {
            part,
            offset,
            expected: stored,
            found,
        })
    }
}

impl<R: Read> Source<R> {
    /// Exactly `len` bytes; allocates as they come.
    pub(super) fn bytes(
        &mut self,
        len: u32,
        expected: &'static str,
    ) -> Result<Vec<u8>, PageWriteError> {
        let mut bytes = Vec::new();
        let got = self
            .input
            .by_ref()
            .take(u64::from(len))
            .read_to_end(&mut bytes);
        let got = got.map_err(|error| self.io(error))?;
        self.offset += got as u64;
        if bytes.len() as u64 == u64::from(len) {
            return Ok(bytes);
        }
        Err(PageWriteError::Cut {
            part: self.part,
            offset: self.offset,
            expected,
        })
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        expected: &'static str,
    ) -> Result<[u8; N], PageWriteError> {
        let len = u32::try_from(N).expect("small");
        let bytes = self.bytes(len, expected)?;
        Ok(bytes.try_into().expect("as many bytes as asked"))
    }

    /// Reads a stored checksum and compares it.
    pub(super) fn checksum(&mut self, found: u32) -> Result<(), PageWriteError> {
        let stored = u32::from_le_bytes(self.array("a checksum")?);
        self.compare(stored, found)
    }
}
