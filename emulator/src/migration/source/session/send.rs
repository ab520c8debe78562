//! Pages on their way into the stream: QEMU's slices, Xen's batches, Cloud Hypervisor's tables.
//!
//! A page is read at the guest time of its batch, which is not before its bit was cleared. Never
//! inside: when to send, decisions.

use std::cell::RefCell;

use super::{Session, SourceError};
use crate::clock::mono_ns;
use crate::migration::engine::step::{PAGE_BYTES, Pass, Slice};
use crate::migration::ownership::SourceSide;
use crate::migration::params::ZeroPageDetection;
use crate::migration::source::Fault;
use crate::migration::source::content::{Content, ZEROS, content};
use crate::migration::source::xbzrle::Outcome;
use crate::migration::wire::cloud_hypervisor::{self as cloud, Request};
use crate::migration::wire::{DELTA_HEAD_BYTES, Format, xen};
use replay::{Bitmap, GuestTime};

impl<'a> Session<'a> {
    /// One slice: its mark, pages, end of section; all of it flushed.
    pub(super) fn send_section(&mut self, mut slice: Slice, last: bool) -> Result<(), SourceError> {
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.section(last, bytes));
        while slice.has_credit(self.out.accepted()) {
            let Some(page) = self.next_dirty()? else {
                break;
            };
            self.send_page(page, last)?;
            if !slice.page_sent(mono_ns) {
                break;
            }
        }
        if last {
            self.flush_channels()?;
        }
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.end_of_section(bytes));
        self.sections += u64::from(!last);
        self.flush()
    }

    /// The next page of the walk, in address order. At the end of RAM channels are synchronised, and
    /// deltas begin.
    fn next_dirty(&mut self) -> Result<Option<u32>, SourceError> {
        if let Some(page) = self.dirty.next_set(self.cursor) {
            return Ok(Some(page));
        }
        self.flush_channels()?;
        if let Some(xbzrle) = &mut self.xbzrle {
            xbzrle.round_of_ram_ended();
        }
        Ok(self.dirty.next_set(0))
    }

    /// Synchronises the channels, and tells the destination where in the main stream.
    fn flush_channels(&mut self) -> Result<(), SourceError> {
        if self.multifd.is_none() {
            return Ok(());
        }
        self.sync_channels()?;
        let encoder = &mut self.encoder;
        self.out.bytes.control += self.out.put(|bytes| encoder.multifd_flush(bytes));
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
        if self.data.is_some() {
            return self.send_chunks(&table);
        }
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

    /// The table over the further connections.
    fn send_chunks(&mut self, table: &[(u32, u32)]) -> Result<(), SourceError> {
        for page in table.iter().flat_map(|&(first, end)| first..end) {
            self.take(page);
            self.batch_time(page);
        }
        self.batch_time = None;
        let (data, out) = (&self.data, &mut self.out);
        if let Some(data) = data {
            let sampled = RefCell::new(out);
            data.send(table, || {
                let mut out = sampled.borrow_mut();
                out.sample();
                out.may_go_on()
            })?;
        }
        Ok(())
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
        self.cursor = page + 1;
    }

    /// The guest time at which pages of this batch are read. It is not before the chunk's clearing, so no
    /// write falls between.
    fn batch_time(&mut self, page: u32) -> GuestTime {
        let now = match self.batch_time {
            Some(now) => now,
            None => *self.batch_time.insert(self.job.guest.guest_time()),
        };
        self.log.before_send(page, now);
        now
    }

    fn content(&mut self, page: u32, look: bool) -> Content<'a> {
        let now = self.batch_time(page);
        content(self.job, page, now, look)
    }

    /// A page of QEMU's stream: into the queue of channels, or as a mark, a delta, or whole.
    fn send_page(&mut self, page: u32, last: bool) -> Result<(), SourceError> {
        self.take(page);
        if self.loses(page) {
            return Ok(());
        }
        let detection = self.job.params.zero_page_detection;
        let channels = self.multifd.is_some();
        if channels && detection != ZeroPageDetection::Legacy {
            return self.queue(page);
        }
        let look = detection != ZeroPageDetection::None;
        let content = self.content(page, look);
        if look && matches!(content, Content::Zero) {
            let generation = self.engine.statistics().dirty_sync_count;
            if let Some(xbzrle) = &mut self.xbzrle {
                xbzrle.zero_page(page, generation);
            }
            let encoder = &mut self.encoder;
            self.out.bytes.header += self.out.put(|bytes| encoder.zero_page(page, bytes));
            self.round.zero_pages += 1;
            return self.sent();
        }
        if channels {
            return self.queue(page);
        }
        if self.xbzrle.is_some() {
            return self.send_delta(page, content, last);
        }
        self.send_whole(page, content)
    }

    /// A page whose bit is cleared already and that the running guest may wait for: a mark, or whole.
    pub(super) fn put_pulled(&mut self, page: u32) -> Result<(), SourceError> {
        if self.loses(page) {
            return Ok(());
        }
        match self.content(page, true) {
            Content::Zero => {
                let encoder = &mut self.encoder;
                self.out.bytes.header += self.out.put(|bytes| encoder.zero_page(page, bytes));
                self.round.zero_pages += 1;
                self.sent()
            }
            content => self.send_whole(page, content),
        }
    }

    fn send_whole(&mut self, page: u32, content: Content<'a>) -> Result<(), SourceError> {
        let encoder = &mut self.encoder;
        self.out.bytes.header += self.out.put(|bytes| encoder.page_header(page, bytes));
        self.put_content(content)
    }

    /// Into the queue of the channels, one of which reads it.
    fn queue(&mut self, page: u32) -> Result<(), SourceError> {
        self.batch_time(page);
        let (multifd, out) = (&mut self.multifd, &self.out);
        if let Some(multifd) = multifd {
            multifd.page(page, || out.may_go_on())?;
        }
        self.out.sample();
        Ok(())
    }

    /// As a delta if the cache has what it held.
    fn send_delta(
        &mut self,
        page: u32,
        content: Content<'a>,
        last: bool,
    ) -> Result<(), SourceError> {
        let generation = self.engine.statistics().dirty_sync_count;
        let Some(xbzrle) = &mut self.xbzrle else {
            return self.send_whole(page, content);
        };
        let encoder = &mut self.encoder;
        match xbzrle.page(self.job, page, &content, generation, last) {
            Outcome::Unchanged => {
                self.round.xbzrle_pages += 1;
                Ok(())
            }
            Outcome::Delta => {
                let (encoding, mut delta) = (&xbzrle.encoding, 0);
                let all = self.out.put(|bytes| {
                    encoder.delta(page, encoding, bytes);
                    delta = (DELTA_HEAD_BYTES + encoding.len()) as u64;
                });
                self.out.bytes.header += all - delta;
                self.out.bytes.delta += delta;
                self.round.xbzrle_pages += 1;
                self.delta_pages += 1;
                self.sent()
            }
            Outcome::Whole { copied: false } => self.send_whole(page, content),
            Outcome::Whole { copied: true } => {
                self.out.bytes.header += self.out.put(|bytes| encoder.page_header(page, bytes));
                self.out
                    .put(|bytes| bytes.extend_from_slice(&xbzrle.now[..]));
                self.whole_put()
            }
        }
    }

    /// The 4096 bytes of a page, whatever they are.
    fn put_whole(&mut self, page: u32) -> Result<(), SourceError> {
        let content = self.content(page, false);
        self.put_content(content)
    }

    fn put_content(&mut self, content: Content<'a>) -> Result<(), SourceError> {
        match content {
            Content::Zero => self.out.put_body(&ZEROS),
            Content::Data(stamp, body) => {
                self.out
                    .put(|bytes| bytes.extend_from_slice(&stamp.encode()));
                self.out.put_body(body);
            }
            Content::Ram(piece) => self.out.put_piece(piece),
        }
        self.whole_put()
    }

    fn whole_put(&mut self) -> Result<(), SourceError> {
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
