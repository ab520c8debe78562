//! Pages on their way into the stream: QEMU's slices, Xen's batches, Cloud Hypervisor's tables.
//!
//! A page is read at the guest time of its batch, which is not before its bit was cleared. Never
//! inside: when to send, decisions.

use super::{Session, SourceError};
use crate::clock::mono_ns;
use crate::migration::engine::step::{PAGE_BYTES, Pass, Slice};
use crate::migration::guest::GuestMemory;
use crate::migration::ownership::SourceSide;
use crate::migration::source::Fault;
use crate::migration::wire::cloud_hypervisor::{self as cloud, Request};
use crate::migration::wire::{self, Format, xen};
use crate::resident::Ram;
use netmodel::sys::memory::Piece;
use replay::Bitmap;
use replay::content::Stamp;

/// A page of zeros where the format sends it whole.
static ZEROS: [u8; wire::PAGE_BYTES] = [0; wire::PAGE_BYTES];

/// What a page holds.
enum Content<'a> {
    Zero,
    Data(Stamp, &'a [u8]),
    /// In RAM, whatever it is when the kernel reads it.
    Ram(Piece<'a>),
}

impl<'a> Session<'a> {
    /// One slice: its mark, pages, end of section; all of it flushed.
    pub(super) fn send_section(&mut self, mut slice: Slice, last: bool) -> Result<(), SourceError> {
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.section(last, bytes));
        while slice.has_credit(self.out.accepted()) {
            let Some(page) = self.dirty.next_set_wrapping(self.cursor) else {
                break;
            };
            self.send_page(page)?;
            if !slice.page_sent(mono_ns) {
                break;
            }
        }
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.end_of_section(bytes));
        self.sections += 1;
        self.flush()
    }

    /// Every page of the bitmap once, from the first, in the format's own units.
    pub(super) fn send_pass(&mut self, pass: Pass) -> Result<(), SourceError> {
        match self.format {
            Format::CloudHypervisor => self.send_table(),
            Format::Qemu | Format::Xen => self.send_batches(pass),
        }
    }

    fn send_batches(&mut self, pass: Pass) -> Result<(), SourceError> {
        let most = self.job.xen_batch_pages.clamp(1, xen::BATCH_PAGES);
        let mut batch = Vec::with_capacity(most);
        let mut next = self.dirty.next_set(0);
        while next.is_some() {
            batch.clear();
            // The log is peeked at once a batch, and nothing of it is cleared.
            let now = self.job.guest.guest_time();
            while let Some(page) = next.filter(|_| batch.len() < most) {
                if !(pass.skip_rewritten && self.log.written_since_sync(page, now)) {
                    self.take(page);
                    if !self.loses(page) {
                        batch.push(page);
                    }
                }
                next = self.dirty.next_set(page + 1);
            }
            if batch.is_empty() {
                continue;
            }
            self.out.bytes.header += self.out.put(|bytes| xen::page_data(&batch, bytes));
            for &page in &batch {
                self.put_whole(page)?;
            }
            self.flush()?;
        }
        Ok(())
    }

    /// The table of a pass, its pages, and the destination's answer. In the first pass memory that
    /// was never touched is left out.
    fn send_table(&mut self) -> Result<(), SourceError> {
        if self.rounds.is_empty() {
            self.leave_out_untouched();
        }
        let table = ranges(&self.dirty);
        let request = Request::Memory {
            ranges: table.len() as u64,
        };
        self.out.bytes.header += self.out.put(|bytes| cloud::request(request, bytes));
        for &(first, end) in &table {
            let put = |bytes: &mut Vec<u8>| cloud::range(first, end - first, bytes);
            self.out.bytes.header += self.out.put(put);
            if self.out.is_full() {
                self.flush()?;
            }
        }
        for page in table.iter().flat_map(|&(first, end)| first..end) {
            self.take(page);
            self.put_whole(page)?;
        }
        self.flush()?;
        self.answer(None)
    }

    fn leave_out_untouched(&mut self) {
        let (memory, now) = (&self.job.memory, self.job.guest.guest_time());
        for page in 0..self.dirty.len() {
            if memory.version_at(page, now) == 0 && memory.is_zero(page, 0) {
                self.dirty.clear(page);
                self.remaining_pages -= 1;
            }
        }
    }

    /// Its bit is cleared as it is sent; later writes show at the next sync.
    fn take(&mut self, page: u32) {
        self.dirty.clear(page);
        self.remaining_pages -= 1;
        self.cursor = if page + 1 < self.dirty.len() {
            page + 1
        } else {
            0
        };
    }

    /// The guest time of the batch is not before the chunk's clearing, so no write falls between.
    fn content(&mut self, page: u32) -> Content<'a> {
        let now = match self.batch_time {
            Some(now) => now,
            None => *self.batch_time.insert(self.job.guest.guest_time()),
        };
        self.log.before_send(page, now);
        let ram: Option<&'a Ram> = self.job.ram.as_deref();
        if let Some(ram) = ram {
            return match ram.is_zero(page) {
                true => Content::Zero,
                false => Content::Ram(ram.piece(page)),
            };
        }
        let memory: &'a GuestMemory = &self.job.memory;
        let version = memory.version_at(page, now);
        if memory.is_zero(page, version) {
            return Content::Zero;
        }
        let (stamp, body) = memory.page(page, version);
        Content::Data(stamp, body)
    }

    /// A page of QEMU's stream: a zero page is a mark.
    fn send_page(&mut self, page: u32) -> Result<(), SourceError> {
        self.take(page);
        self.put_page(page)
    }

    /// The same of a page whose bit is cleared already.
    pub(super) fn put_page(&mut self, page: u32) -> Result<(), SourceError> {
        if self.loses(page) {
            return Ok(());
        }
        let content = self.content(page);
        let encoder = &mut self.encoder;
        match content {
            Content::Zero => {
                self.out.bytes.header += self.out.put(|bytes| encoder.zero_page(page, bytes));
                self.round.zero_pages += 1;
                self.sent()
            }
            Content::Data(stamp, body) => {
                self.out.bytes.header += self.out.put(|bytes| encoder.page_header(page, bytes));
                self.put_data(stamp, body)
            }
            Content::Ram(piece) => {
                self.out.bytes.header += self.out.put(|bytes| encoder.page_header(page, bytes));
                self.put_ram(piece)
            }
        }
    }

    /// The 4096 bytes of a page, whatever they are.
    fn put_whole(&mut self, page: u32) -> Result<(), SourceError> {
        match self.content(page) {
            Content::Zero => {
                self.out.put_body(&ZEROS);
                self.out.bytes.normal += PAGE_BYTES;
                self.round.normal_pages += 1;
                self.sent()
            }
            Content::Data(stamp, body) => self.put_data(stamp, body),
            Content::Ram(piece) => self.put_ram(piece),
        }
    }

    fn put_data(&mut self, stamp: Stamp, body: &'a [u8]) -> Result<(), SourceError> {
        self.out
            .put(|bytes| bytes.extend_from_slice(&stamp.encode()));
        self.out.put_body(body);
        self.out.bytes.normal += PAGE_BYTES;
        self.round.normal_pages += 1;
        self.sent()
    }

    fn put_ram(&mut self, piece: Piece<'a>) -> Result<(), SourceError> {
        self.out.put_piece(piece);
        self.out.bytes.normal += PAGE_BYTES;
        self.round.normal_pages += 1;
        self.sent()
    }

    fn sent(&mut self) -> Result<(), SourceError> {
        self.sent_pages += 1;
        if self.out.is_full() {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), SourceError> {
        self.batch_time = None;
        self.out.flush()?;
        let now = mono_ns();
        if now >= self.published_ns + super::PUBLISH_NS {
            self.published_ns = now;
            let status = match self.side {
                SourceSide::Handed => "postcopy-device",
                SourceSide::Serving => "postcopy-active",
                _ if self.round.paused => "device",
                _ => "active",
            };
            self.publish(status);
        }
        Ok(())
    }

    /// Whether a fault makes this page fail on its way.
    fn loses(&mut self, page: u32) -> bool {
        for fault in &self.job.faults {
            if let Fault::LosePages {
                after,
                pages,
                put_back,
            } = *fault
                && self.sent_pages >= after
                && self.lost < pages
            {
                self.lost += 1;
                if put_back {
                    let mut back = Bitmap::new(self.dirty.len());
                    back.set(page);
                    self.log.put_back(&back);
                }
                return true;
            }
        }
        false
    }
}

/// First and one past the last page of each run of set bits.
pub(super) fn ranges(bits: &Bitmap) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    let mut next = bits.next_set(0);
    while let Some(page) = next {
        match ranges.last_mut() {
            Some((_, end)) if *end == page => *end = page + 1,
            _ => ranges.push((page, page + 1)),
        }
        next = bits.next_set(page + 1);
    }
    ranges
}
