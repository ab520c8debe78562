//! What engines and those who drive them say to each other.
//!
//! Never inside: the rules of any engine, clocks, sockets.

/// `TARGET_PAGE_SIZE` of x86.
pub const PAGE_BYTES: u64 = 4096;
/// `MAX_WAIT`: a slice ends when *more* than this has passed, in whole milliseconds.
pub const SLICE_MS: u64 = 50;
/// A slice reads the clock after its pages 1, 65, 129, …
pub const CLOCK_CHECK_PAGES: u64 = 64;
pub(super) const NS_PER_MS: u64 = 1_000_000;

/// What the engine sees of the stream and of its bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed {
    /// Pages set in the migration bitmap.
    pub dirty_pages: u64,
    /// Bytes the socket has accepted since the beginning.
    pub accepted_bytes: u64,
    /// Pages (normal and zero) put into the stream since the beginning.
    pub sent_pages: u64,
    /// Post-copy: whether it was asked for (`migrate-start-postcopy`).
    pub start_postcopy: bool,
    /// Post-copy: whether the destination waits for pages, which go whatever the window's credit.
    pub urgent: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read the dirty log into the bitmap, report it with `synced`, ask again.
    Sync,
    /// Send pages as the slice allows, then the end-of-section mark, flush, ask again.
    SendSlice(Slice),
    /// Send every page of the bitmap once, from the first, and hear of it if the wire format has the
    /// destination say so; ask again.
    SendPass(Pass),
    /// The window's credit is spent: wait until this monotonic instant, ask again.
    SleepUntil(u64),
    /// Stop the guest, sync, send everything left with no rate limit, then the device state; while
    /// pages are pulled: nothing is left, end the stream.
    Complete,
    /// Stop the guest, sync, tell the destination which pages it lacks, hand the device state over and
    /// let it run there; report it with `postcopy_started`, ask again. Cloud Hypervisor's: stop the guest, hand the state
    /// over, serve what is asked for; nothing more is asked of the engine.
    StartPostcopy,
    /// The engine's own time limit passed: an error, the guest goes on at the source.
    GiveUp,
}

/// A pass over the bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    /// Leave out, and keep in the bitmap, what the log already holds as written again when its
    /// batch comes up: it would be sent again anyway.
    pub skip_rewritten: bool,
}

/// One call of `ram_save_iterate`: how long pages may be sent before the next decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    begin_ns: u64,
    pages: u64,
    check_pages: u64,
    credit_end_bytes: Option<u64>,
}

impl Slice {
    pub(super) fn new(begin_ns: u64, check_pages: u64, credit_end_bytes: Option<u64>) -> Self {
        Self {
            begin_ns,
            pages: 0,
            check_pages,
            credit_end_bytes,
        }
    }

    /// The final round, or any of `qemu-rounds`: no clock, no credit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            begin_ns: u64::MAX,
            pages: 0,
            check_pages: CLOCK_CHECK_PAGES,
            credit_end_bytes: None,
        }
    }

    /// Before each page: whether the window's credit allows one more. Like QEMU's, the test lets
    /// a window overshoot by what was not yet handed to the socket.
    #[must_use]
    pub fn has_credit(&self, accepted_bytes: u64) -> bool {
        self.credit_end_bytes
            .is_none_or(|end| accepted_bytes <= end)
    }

    /// After each page: whether the slice goes on. The clock is read for one page in [`CLOCK_CHECK_PAGES`].
    pub fn page_sent(&mut self, now_ns: impl FnOnce() -> u64) -> bool {
        let check = self.pages.is_multiple_of(self.check_pages);
        self.pages += 1;
        !check || now_ns().saturating_sub(self.begin_ns) / NS_PER_MS <= SLICE_MS
    }

    /// Pages sent in it so far.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

/// The live statistics, under QMP's names whatever the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// `dirty-sync-count`: the setup's, those of the loop, the final one.
    pub dirty_sync_count: u64,
    /// `dirty-pages-rate`, pages a second over the last period of at least 1 s.
    pub dirty_pages_rate: u64,
    /// Periods of that rate that have ended.
    pub periods: u64,
    /// `expected-downtime`, ms.
    pub expected_downtime_ms: u64,
    /// `mbps` of the last window.
    pub mbps: f64,
    /// `pages-per-second` of the last window.
    pub pages_per_second: u64,
    /// `threshold_size`, bytes: the guest is stopped when no more is left to send.
    pub threshold_bytes: u64,
}

pub(super) fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
