//! Puts records of the stream into a buffer.

use super::*;

/// Puts records into a buffer. The page's 4096 bytes follow `page_header` and are the caller's.
#[derive(Debug, Default)]
pub struct Encoder {
    named: bool,
}

impl Encoder {
    /// Header, and if QEMU's records follow, OPEN_RETURN_PATH if asked, and the RAM list.
    pub fn setup(&mut self, header: &Header, out: &mut Vec<u8>) {
        Self::header(header, out);
        if header.format != Format::Qemu {
            return;
        }
        if header.return_path {
            out.push(SECTION_COMMAND);
            out.extend_from_slice(&COMMAND_OPEN_RETURN_PATH.to_be_bytes());
            out.extend_from_slice(&0_u16.to_be_bytes());
        }
        if header.postcopy {
            postcopy::advise(out);
        }
        out.extend_from_slice(&ram_list(header.ram_pages, header.streams.multifd > 0));
    }

    fn header(header: &Header, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&header.migration.to_be_bytes());
        let mut flags = u32::from(header.return_path) * HEADER_RETURN_PATH;
        flags |= u32::from(header.postcopy) * HEADER_POSTCOPY;
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&header.vm_key.to_be_bytes());
        out.extend_from_slice(&header.memory_check.to_be_bytes());
        out.extend_from_slice(&header.ram_pages.to_be_bytes());
        out.extend_from_slice(&header.format.code().to_be_bytes());
        out.extend_from_slice(&header.streams.encode());
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
    }

    /// The header of a connection that takes an interrupted post-copy up again: commands follow it.
    pub fn recovery(&mut self, header: &Header, out: &mut Vec<u8>) {
        Self::header(header, out);
        self.named = false;
    }

    /// Begins a slice's section, or the final round's.
    pub fn section(&mut self, last: bool, out: &mut Vec<u8>) {
        out.push(if last { SECTION_END } else { SECTION_PART });
        out.extend_from_slice(&RAM_SECTION.to_be_bytes());
    }

    /// The head of a page whose 4096 bytes follow.
    pub fn page_header(&mut self, page: u32, out: &mut Vec<u8>) {
        self.page_word(page, FLAG_PAGE, out);
    }

    /// A page of zeros: 9 bytes.
    pub fn zero_page(&mut self, page: u32, out: &mut Vec<u8>) {
        self.page_word(page, FLAG_ZERO, out);
        out.push(0);
    }

    /// A page as its difference from what it held when sent last: 3 bytes and the encoding follow its
    /// word.
    ///
    /// # Panics
    /// If the encoding is longer than a page.
    pub fn delta(&mut self, page: u32, encoding: &[u8], out: &mut Vec<u8>) {
        self.page_word(page, FLAG_XBZRLE, out);
        out.push(ENCODING_XBZRLE);
        assert!(encoding.len() <= PAGE_BYTES, "longer ones are sent whole");
        let length = u16::try_from(encoding.len()).expect("at most 4096");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(encoding);
    }

    /// Asks the destination to wait for all channels.
    pub fn multifd_flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FLAG_MULTIFD_FLUSH.to_be_bytes());
    }

    /// Ends a slice's section.
    pub fn end_of_section(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FLAG_EOS.to_be_bytes());
        footer(RAM_SECTION, out);
    }

    /// Device state: the guest's own bytes, padded to `total_bytes` in all (mark, lengths, footer
    /// included), or as long as it must be.
    ///
    /// # Panics
    /// If the state is longer than [`MAX_STATE_BYTES`]: it is ours to keep small.
    pub fn device_state(&mut self, state: &[u8], total_bytes: u64, out: &mut Vec<u8>) {
        out.push(SECTION_FULL);
        out.extend_from_slice(&DEVICE_SECTION.to_be_bytes());
        state::put(state, total_bytes.saturating_sub(5 + 5), out);
        footer(DEVICE_SECTION, out);
    }

    /// The last byte of the stream.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.push(SECTION_EOF);
    }

    fn page_word(&mut self, page: u32, flag: u64, out: &mut Vec<u8>) {
        let offset = u64::from(page) * PAGE_BYTES as u64;
        let again = if self.named { FLAG_CONTINUE } else { 0 };
        out.extend_from_slice(&(offset | flag | again).to_be_bytes());
        if !std::mem::replace(&mut self.named, true) {
            out.extend_from_slice(&counted_name());
        }
    }
}
