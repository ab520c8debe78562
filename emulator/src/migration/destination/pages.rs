//! What a destination has received of its guest's memory: checked as it comes, compared at the end.
//!
//! Shared by the threads of all connections. Never inside: sockets, the stream, the dirty log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use replay::content::{STAMP_BYTES, xbzrle};
use replay::{Bitmap, GuestTime, VmState};

use super::DestinationError;
use crate::migration::guest::{DestinationGuest, GuestMemory};
use crate::migration::record::{BadPage, Verification};
use crate::migration::wire::PAGE_BYTES;
use crate::resident::{Lacking, Ram};

/// Examples of bad pages kept.
const EXAMPLES: usize = 8;
/// Pages compared while nobody writes: some 10 ms.
const STILL_PAGES: u32 = 8_192;
/// Versions are below these: cells of guest time times a small constant.
const NEVER_RECEIVED: u64 = u64::MAX;
const ZERO_PAGE: u64 = u64::MAX - 1;

/// The version that each page holds.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    memory: &'a GuestMemory,
    ram: Option<&'a Arc<Ram>>,
    /// RAM that the guest runs on while pages are missing.
    lacking: OnceLock<Arc<Lacking>>,
    versions: Box<[AtomicU64]>,
    bad: AtomicU64,
    torn: AtomicU64,
}

/// What became of a page that was missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is there.
    Now,
    /// It was there already, and is as it was.
    Before,
    /// What came is no page of this guest.
    Damaged,
}

impl<'a> Pages<'a> {
    pub(super) fn new(memory: &'a GuestMemory, ram: Option<&'a Arc<Ram>>) -> Self {
        let never = || AtomicU64::new(NEVER_RECEIVED);
        Self {
            memory,
            ram,
            lacking: OnceLock::new(),
            versions: (0..memory.pages()).map(|_| never()).collect(),
            bad: AtomicU64::new(0),
            torn: AtomicU64::new(0),
        }
    }

    /// Memory is zero where nothing comes.
    pub(super) fn begin_zero(&self) {
        for version in &self.versions {
            version.store(ZERO_PAGE, Ordering::Relaxed);
        }
    }

    fn set(&self, page: u32, version: u64) {
        self.versions[page as usize].store(version, Ordering::Relaxed);
    }

    /// A page's 4096 bytes: whether they are a page of this guest.
    pub(super) fn take(&self, page: u32, bytes: &[u8]) -> bool {
        let may_be_zero = bytes[..STAMP_BYTES].iter().all(|&byte| byte == 0);
        if may_be_zero && bytes.iter().all(|&byte| byte == 0) {
            self.take_zero(page);
            return true;
        }
        if let Some(ram) = self.ram {
            ram.receive(page, bytes);
        }
        let version = self.memory.verify(bytes, page).unwrap_or_else(|_| {
            // RAM that is written while it is read may arrive half old and half new. Its bit is set
            // after the write, so it comes again; if it does not, comparing finds it missing.
            let count = if self.ram.is_some() {
                &self.torn
            } else {
                &self.bad
            };
            count.fetch_add(1, Ordering::Relaxed);
            NEVER_RECEIVED
        });
        self.set(page, version);
        version != NEVER_RECEIVED
    }

    pub(super) fn take_zero(&self, page: u32) {
        self.set(page, ZERO_PAGE);
        if let Some(ram) = self.ram {
            ram.receive_zero(page);
        }
    }

    /// From here on the guest may run here, without these pages. RAM that is there is without them from now on, whatever
    /// it held, and the kernel stops who touches one; `None` where pages are computed.
    pub(super) fn lack(&self, pages: &Bitmap) -> std::io::Result<Option<Arc<Lacking>>> {
        let Some(ram) = self.ram else {
            return Ok(None);
        };
        let lacking = ram.lack(pages.clone())?;
        // A destination starts its guest once.
        Ok(Some(Arc::clone(self.lacking.get_or_init(|| lacking))))
    }

    /// A page that the guest may be waiting for; without bytes it is one of zeros. It is in RAM whole or not at all, and
    /// never over what the guest has written.
    pub(super) fn place(
        &self,
        page: u32,
        bytes: Option<&[u8; PAGE_BYTES]>,
    ) -> Result<Placed, DestinationError> {
        let zero = bytes.is_none_or(|bytes| bytes.iter().all(|&byte| byte == 0));
        let version = match bytes.filter(|_| !zero) {
            None => ZERO_PAGE,
            Some(bytes) => match self.memory.verify(bytes, page) {
                Ok(version) => version,
                Err(_) => {
                    self.bad.fetch_add(1, Ordering::Relaxed);
                    return Ok(Placed::Damaged);
                }
            },
        };
        if let Some(lacking) = self.lacking.get() {
            let placed = match bytes.filter(|_| !zero) {
                None => lacking.place_zero(page),
                Some(bytes) => lacking.place(page, bytes),
            };
            if !placed.map_err(|source| DestinationError::Place { page, source })? {
                return Ok(Placed::Before);
            }
        }
        self.set(page, version);
        Ok(Placed::Now)
    }

    /// What differs from what the page holds. Without RAM that is computed from its version.
    pub(super) fn take_delta(&self, page: u32, encoding: &[u8]) -> Result<(), DestinationError> {
        let mut bytes = [0; PAGE_BYTES];
        let held = self.versions[page as usize].load(Ordering::Relaxed);
        match (self.ram, held) {
            (Some(ram), _) => ram.read(page, &mut bytes),
            (None, ZERO_PAGE) => {}
            (None, NEVER_RECEIVED) => {
                // Nothing that it could differ from; it is missing unless it comes again.
                self.bad.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            (None, version) => {
                let (stamp, body) = self.memory.page(page, version);
                bytes[..STAMP_BYTES].copy_from_slice(&stamp.encode());
                bytes[STAMP_BYTES..].copy_from_slice(body);
            }
        }
        xbzrle::decode(encoding, &mut bytes)
            .map_err(|source| DestinationError::Delta { page, source })?;
        self.take(page, &bytes);
        Ok(())
    }

    /// A page that was discarded is missing again.
    pub(super) fn forget(&self, page: u32) {
        self.set(page, NEVER_RECEIVED);
    }

    /// Pages that are missing.
    pub(super) fn missing_pages(&self) -> Bitmap {
        let mut missing = Bitmap::new(self.memory.pages());
        for (page, version) in (0..).zip(&self.versions) {
            if version.load(Ordering::Relaxed) == NEVER_RECEIVED {
                missing.set(page);
            }
        }
        missing
    }

    /// How many pages never came whole, and the first of them.
    pub(super) fn missing(&self) -> Option<(u64, u32)> {
        let never = |version: &AtomicU64| version.load(Ordering::Relaxed) == NEVER_RECEIVED;
        let missing = (0_u32..)
            .zip(&self.versions)
            .filter(|(_, version)| never(version));
        let mut pages = missing.map(|(page, _)| page);
        let first = pages.next()?;
        Some((1 + pages.count() as u64, first))
    }

    /// Pages that were wrong on receipt, and of RAM those that came half written.
    pub(super) fn bad_and_torn(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.bad), read(&self.torn))
    }

    /// Every page against what guest time says of it. Independent of everything the source noted. RAM that pages were
    /// placed in while the guest ran is compared as it is by now as well: what the guest has written since is there, over
    /// what came.
    pub(super) fn compare(
        &self,
        stopped: &VmState,
        guest: Option<&dyn DestinationGuest>,
    ) -> Verification {
        let memory = &self.memory.apart(&stopped.vcpus);
        let stopped_at = stopped.guest_time();
        let mut verification = Verification {
            pages: u64::from(self.memory.pages()),
            bad: 0,
            examples: Vec::new(),
        };
        let mut good = Bitmap::new(self.memory.pages());
        for (page, got) in (0..).zip(&self.versions) {
            let got = got.load(Ordering::Relaxed);
            if judge(memory, page, stopped_at, got, &mut verification) {
                good.set(page);
            }
        }
        let placed = self.ram.filter(|_| self.lacking.get().is_some());
        if let Some((ram, guest)) = placed.zip(guest) {
            self.compare_now(ram, guest, &good, &mut verification);
        }
        verification
    }

    /// These pages of RAM while the guest runs, a part at a time, so that nobody is held for long.
    fn compare_now(
        &self,
        ram: &Ram,
        guest: &dyn DestinationGuest,
        pages: &Bitmap,
        verification: &mut Verification,
    ) {
        let (all, mut next) = (self.memory.pages(), 0);
        let mut bytes = [0; PAGE_BYTES];
        while next < all {
            let part = next..all.min(next.saturating_add(STILL_PAGES));
            guest.hold_still(&mut |reading| {
                let memory = &self.memory.apart(&reading.vcpus);
                for page in part.clone().filter(|&page| pages.get(page)) {
                    let held = if ram.is_zero(page) {
                        ZERO_PAGE
                    } else {
                        ram.read(page, &mut bytes);
                        memory.verify(&bytes, page).unwrap_or(NEVER_RECEIVED)
                    };
                    judge(memory, page, reading.time, held, verification);
                }
            });
            next = part.end;
        }
    }
}

/// Whether a page holds what it should.
fn judge(
    memory: &GuestMemory,
    page: u32,
    at: GuestTime,
    got: u64,
    verification: &mut Verification,
) -> bool {
    let expected = memory.version_at(page, at);
    let wanted = if memory.is_zero(page, expected) {
        ZERO_PAGE
    } else {
        memory.content_version(page, expected)
    };
    if got == wanted {
        return true;
    }
    verification.bad += 1;
    if verification.examples.len() < EXAMPLES {
        let got = match got {
            NEVER_RECEIVED => None,
            ZERO_PAGE => Some(0),
            version => Some(version),
        };
        verification.examples.push(BadPage {
            page,
            expected,
            got,
        });
    }
    false
}
