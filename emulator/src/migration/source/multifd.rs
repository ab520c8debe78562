//! QEMU's multifd at the source: channels, each a thread and a connection, and the queue before them.
//!
//! ```text
//! migration's thread   pages ─► queue of a packet ─► the next idle channel, in turn
//! channel's thread     zero pages found, packed, one writev; a SYNC when asked for
//! ```
//!
//! A page is read by its channel, after its dirty bit was cleared by the migration's thread. Never
//! inside: which pages are sent, when to synchronise.

use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use super::content::{Content, ZEROS, content, copy};
use super::traffic::{Traffic, add};
use super::{SourceError, SourceJob};
use crate::migration::channels::Channel;
use crate::migration::codec::{self, Packer};
use crate::migration::params::ZeroPageDetection;
use crate::migration::transport::{POLL, PageStream};
use crate::migration::wire::PAGE_BYTES;
use crate::migration::wire::hello::{ChannelKind, HELLO_BYTES};
use crate::migration::wire::multifd::{FLAG_SYNC, Packet, put_header, set_data_bytes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Idle,
    Packet(u64),
    Sync(u64),
}

#[derive(Debug)]
struct Slot {
    work: Work,
    pages: Vec<u32>,
}

#[derive(Debug)]
struct Slots {
    of: Vec<Slot>,
    error: Option<SourceError>,
    quit: bool,
}

#[derive(Debug)]
struct Shared {
    slots: Mutex<Slots>,
    /// A channel became idle, or failed.
    ready: Condvar,
    /// A channel has work, or is to end.
    wake: Vec<Condvar>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something of the channels.
    fn wait<'s, T>(
        &'s self,
        mut slots: MutexGuard<'s, Slots>,
        go_on: impl Fn() -> Result<(), SourceError>,
        ready: impl Fn(&Slots) -> Option<T>,
    ) -> Result<(MutexGuard<'s, Slots>, T), SourceError> {
        loop {
            if let Some(error) = slots.error.take() {
                return Err(error);
            }
            if let Some(found) = ready(&slots) {
                return Ok((slots, found));
            }
            slots = self
                .ready
                .wait_timeout(slots, POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            go_on()?;
        }
    }
}

/// The migration's side of its channels.
#[derive(Debug)]
pub(super) struct Multifd<'a> {
    job: &'a SourceJob,
    shared: Arc<Shared>,
    queue: Vec<u32>,
    next: usize,
    packets: u64,
}

impl<'a> Multifd<'a> {
    /// Starts a thread for each of the migration's multifd channels.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        job: &'a SourceJob,
        traffic: &'a Traffic,
    ) -> Option<Self>
    where
        'a: 'scope,
    {
        let multifd = |channel: &&Channel| channel.id.kind == ChannelKind::Multifd;
        let channels: Vec<_> = job.channels.iter().filter(multifd).collect();
        if channels.is_empty() {
            return None;
        }
        let slot = || Slot {
            work: Work::Idle,
            pages: Vec::with_capacity(job.packet_pages),
        };
        let shared = Arc::new(Shared {
            slots: Mutex::new(Slots {
                of: channels.iter().map(|_| slot()).collect(),
                error: None,
                quit: false,
            }),
            ready: Condvar::new(),
            wake: channels.iter().map(|_| Condvar::new()).collect(),
        });
        for (index, channel) in channels.into_iter().enumerate() {
            add(&traffic.control_bytes, HELLO_BYTES as u64);
            add(&traffic.accepted, HELLO_BYTES as u64);
            let sender = Sender {
                job,
                traffic,
                channel,
                index,
                shared: Arc::clone(&shared),
            };
            let thread = Builder::new().name(format!("mig-fd-{}", channel.id.number));
            if let Err(error) = thread.spawn_scoped(scope, move || sender.run()) {
                shared.lock().error = Some(SourceError::Io(error));
            }
        }
        Some(Self {
            job,
            shared,
            queue: Vec::with_capacity(job.packet_pages),
            next: 0,
            packets: 0,
        })
    }

    /// Puts a page into the queue; a full queue goes to a channel, which is waited for. `go_on` says
    /// whether to wait on.
    pub(super) fn page(
        &mut self,
        page: u32,
        go_on: impl Fn() -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        self.queue.push(page);
        if self.queue.len() < self.job.packet_pages {
            return Ok(());
        }
        self.hand_over(go_on)
    }

    /// Everything queued, and a SYNC on every channel, is on its way when this returns.
    pub(super) fn sync(
        &mut self,
        go_on: impl Fn() -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        if !self.queue.is_empty() {
            self.hand_over(&go_on)?;
        }
        let first = self.packets;
        self.packets += self.shared.wake.len() as u64;
        let shared = &self.shared;
        let mut slots = shared.lock();
        for (number, index) in (first..).zip(0..shared.wake.len()) {
            let idle = |slots: &Slots| (slots.of[index].work == Work::Idle).then_some(());
            slots = shared.wait(slots, &go_on, idle)?.0;
            slots.of[index].work = Work::Sync(number);
            shared.wake[index].notify_one();
        }
        let idle = |slots: &Slots| slots.of.iter().all(|slot| slot.work == Work::Idle);
        drop(shared.wait(slots, &go_on, |slots| idle(slots).then_some(()))?);
        Ok(())
    }

    /// What a channel failed with, if one has.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        match self.shared.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Lets the threads end; after a failure without what they still have.
    pub(super) fn end(&self, failed: bool) {
        self.shared.lock().quit = true;
        if failed {
            for channel in &self.job.channels {
                // One that is no longer connected needs no shutdown.
                let _ = channel.socket.shutdown(Shutdown::Both);
            }
        }
        for wake in &self.shared.wake {
            wake.notify_one();
        }
    }

    fn hand_over(
        &mut self,
        go_on: impl Fn() -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let count = self.shared.wake.len();
        let next = self.next;
        let idle = |slots: &Slots| {
            let turns = (next..next + count).map(|turn| turn % count);
            turns
                .into_iter()
                .find(|&index| slots.of[index].work == Work::Idle)
        };
        let shared = &self.shared;
        let (mut slots, index) = shared.wait(shared.lock(), &go_on, idle)?;
        let slot = &mut slots.of[index];
        std::mem::swap(&mut slot.pages, &mut self.queue);
        slot.work = Work::Packet(self.packets);
        drop(slots);
        shared.wake[index].notify_one();
        self.queue.clear();
        self.packets += 1;
        self.next = (index + 1) % count;
        Ok(())
    }
}

/// One channel's thread.
struct Sender<'a> {
    job: &'a SourceJob,
    traffic: &'a Traffic,
    channel: &'a Channel,
    index: usize,
    shared: Arc<Shared>,
}

impl Sender<'_> {
    fn run(&self) {
        self.traffic.metered(|| {
            if let Err(error) = self.send() {
                let mut slots = self.shared.lock();
                // What the others fail with when all are shut down tells nothing.
                if !slots.quit {
                    slots.error.get_or_insert(error);
                }
                drop(slots);
                self.shared.ready.notify_one();
            }
        });
    }

    fn send(&self) -> Result<(), SourceError> {
        let job = self.job;
        let mut packer = Packer::new(&job.params.multifd).map_err(SourceError::Codec)?;
        let codec = codec::flag(job.params.multifd.compression);
        let mut out = PageStream::new(
            &self.channel.socket,
            &job.control,
            job.packet_pages,
            job.deadline_ns,
        );
        let mut pages = Vec::with_capacity(job.packet_pages);
        let mut sorted = Sorted::default();
        while let Some(work) = self.wait(&mut pages) {
            match work {
                Work::Sync(number) => {
                    let sync = Packet {
                        flags: codec | FLAG_SYNC,
                        number,
                        ..Packet::default()
                    };
                    let none = std::iter::empty();
                    out.put(|bytes| put_header(&sync, job.packet_pages, none, bytes));
                    out.flush()?;
                }
                Work::Packet(number) => {
                    let now = job.guest.guest_time();
                    let detection = job.params.zero_page_detection;
                    let look = detection == ZeroPageDetection::Multifd;
                    sorted.clear();
                    for &page in &pages {
                        match content(job, page, now, look) {
                            Content::Zero if look => sorted.zero.push(page),
                            content => sorted.normal.push((page, content)),
                        }
                    }
                    let packet = sorted.packet(codec, number);
                    sorted.put(job, &packet, packer.as_mut(), &mut out)?;
                    out.flush()?;
                }
                Work::Idle => {}
            }
            self.account(&mut out, work, &sorted);
            self.done();
        }
        Ok(())
    }

    /// The next work, its pages in `pages`; `None` at the end.
    fn wait(&self, pages: &mut Vec<u32>) -> Option<Work> {
        let mut slots = self.shared.lock();
        loop {
            if slots.quit {
                return None;
            }
            let slot = &mut slots.of[self.index];
            if slot.work != Work::Idle {
                std::mem::swap(&mut slot.pages, pages);
                slot.pages.clear();
                return Some(slot.work);
            }
            slots = self.shared.wake[self.index]
                .wait(slots)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As in QEMU a packet counts when all of it was accepted.
    fn account(&self, out: &mut PageStream<'_>, work: Work, sorted: &Sorted<'_>) {
        let bytes = std::mem::take(&mut out.bytes);
        let traffic = self.traffic;
        let all = out.take_accepted();
        match work {
            Work::Sync(_) => add(&traffic.control_bytes, all),
            _ => {
                add(&traffic.data_bytes, bytes.normal);
                add(&traffic.header_bytes, all - bytes.normal);
                add(&traffic.normal_pages, sorted.normal.len() as u64);
                add(&traffic.zero_pages, sorted.zero.len() as u64);
            }
        }
        add(&traffic.accepted, all);
    }

    fn done(&self) {
        self.shared.lock().of[self.index].work = Work::Idle;
        self.shared.ready.notify_one();
    }
}

/// The pages of a packet, those of zeros apart.
#[derive(Debug, Default)]
struct Sorted<'a> {
    normal: Vec<(u32, Content<'a>)>,
    zero: Vec<u32>,
}

impl<'a> Sorted<'a> {
    fn clear(&mut self) {
        self.normal.clear();
        self.zero.clear();
    }

    fn packet(&self, flags: u32, number: u64) -> Packet {
        let count = |pages: usize| u32::try_from(pages).expect("at most 128");
        let normal = count(self.normal.len());
        Packet {
            flags,
            normal,
            zero: count(self.zero.len()),
            data_bytes: normal * u32::try_from(PAGE_BYTES).expect("4096"),
            number,
        }
    }

    /// The packet, and its pages as they are or packed.
    fn put(
        &self,
        job: &'a SourceJob,
        packet: &Packet,
        packer: Option<&mut Packer>,
        out: &mut PageStream<'a>,
    ) -> Result<(), SourceError> {
        let normal = self.normal.iter().map(|(page, _)| *page);
        let pages = normal.chain(self.zero.iter().copied());
        out.put(|bytes| put_header(packet, job.packet_pages, pages, bytes));
        let Some(packer) = packer else {
            for (_, content) in &self.normal {
                match content {
                    Content::Zero => out.put_body(&ZEROS),
                    Content::Data(stamp, body) => {
                        out.put(|bytes| bytes.extend_from_slice(&stamp.encode()));
                        out.put_body(body);
                    }
                    Content::Ram(piece) => out.put_piece(*piece),
                }
            }
            out.bytes.normal = u64::from(packet.data_bytes);
            return Ok(());
        };
        let mut result = Ok(());
        let data_bytes = out.put(|bytes| {
            let start = bytes.len();
            let mut copied = [0; PAGE_BYTES];
            for (at, (page, content)) in self.normal.iter().enumerate() {
                copy(job, *page, content, &mut copied);
                let last = at + 1 == self.normal.len();
                result = packer.page(&copied, last, bytes);
                if result.is_err() {
                    return;
                }
            }
            let data_bytes = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
            set_data_bytes(data_bytes, 0, bytes);
        });
        out.bytes.normal = data_bytes;
        result.map_err(SourceError::Codec)
    }
}
