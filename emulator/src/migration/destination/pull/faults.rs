//! A guest that runs while pages are missing, and the thread that asks for those its vCPUs wait for.
//!
//! Inside: what the two threads of a destination share, the requests, and how long they took. Never
//! inside: reading the stream, what pages hold.

use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::mono_ns;
use crate::migration::destination::{DestinationError, DestinationJob};
use crate::migration::guest::{DestinationGuest, Standing};
use crate::migration::record::PostcopyDestination;
use crate::migration::usage::ThreadMeter;
use crate::migration::wire::cloud_hypervisor::encode_answer;
use crate::migration::wire::{encode_shut, postcopy};
use crate::resident::Lacking;
use replay::{Bitmap, GuestTime, VmState};

use super::asked::Asked;
use super::back::Back;
use super::kernel::Halted;
use super::state::State;
use super::waits::Blocked;

pub(super) const NS_PER_MS: u64 = 1_000_000;
/// Without news the thread looks so often: its only other reason to wake is a change.
pub(super) const LOOK_NS: u64 = 20_000_000;
/// The guest's time is asked for at least once in so many pages.
const LOOK_PAGES: usize = 64;

struct Shared<'a> {
    guest: State<'a>,
    /// Of RAM that is there: who waits, as the kernel says.
    halted: Halted,
    over: bool,
    /// No page comes on the connection for requested ones any more.
    urgent_over: bool,
}

/// Shared by the thread that reads the stream and the one that asks.
pub(super) struct Pull<'a> {
    job: &'a DestinationJob,
    /// RAM that is there: the kernel stops the guest, not what is known of its accesses.
    lacking: Option<Arc<Lacking>>,
    state: Mutex<Shared<'a>>,
    changed: Condvar,
    back: Back,
    /// Where requests are for another connection, and whoever asks over it.
    asked: Option<Asked>,
}

/// What became of the thread that asks.
pub(super) struct Ran {
    pub(super) resumed_ns: Option<u64>,
    pub(super) error: Option<DestinationError>,
    pub(super) cpu_ns: u64,
    pub(super) run_queue_ns: u64,
}

impl<'a> Pull<'a> {
    /// Of a guest that was stopped with this state.
    pub(super) fn new(
        job: &'a DestinationJob,
        missing: Bitmap,
        lacking: Option<Arc<Lacking>>,
        stopped: &VmState,
    ) -> Self {
        let model = job.memory.model();
        let own = |vcpu| stopped.vcpus.time(vcpu, stopped.guest_time());
        let at: Vec<GuestTime> = (0..model.deal().vcpus()).map(own).collect();
        Self {
            job,
            lacking,
            state: Mutex::new(Shared {
                halted: Halted::of(at.len()),
                guest: State::new(model, missing, at),
                over: false,
                urgent_over: false,
            }),
            changed: Condvar::new(),
            back: Back::default(),
            asked: None,
        }
    }

    /// The same, of pages that are asked for one by one over a connection of their own.
    pub(super) fn on_demand(self) -> Self {
        Self {
            asked: Some(Asked::default()),
            ..self
        }
    }

    /// The page to ask for next over that connection: one that the guest waits for, else the first from `from` on, and
    /// whether it is that.
    pub(super) fn next(&self, from: u32) -> Option<(u32, bool)> {
        let state = self.lock();
        let missing = state.guest.waits.upcoming.missing();
        let asked = self.asked.as_ref();
        let wanted = asked.and_then(|asked| asked.take(|page| missing.get(page)));
        let unasked = || missing.next_set(from).map(|page| (page, true));
        wanted.map(|page| (page, false)).or_else(unasked)
    }

    /// Whether the guest waits for a page.
    pub(super) fn is_awaited(&self) -> bool {
        let state = self.lock();
        let mut blocked = state.guest.waits.blocked.iter();
        blocked.any(Option::is_some) || !state.halted.pages().is_empty()
    }

    /// A page was fetched before the guest waited for it.
    pub(super) fn prefaulted(&self) {
        *self.lock().guest.figures.prefaulted_pages.get_or_insert(0) += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Shared<'a>> {
        // Every method leaves `Shared` consistent before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn vcpus(&self) -> std::ops::Range<usize> {
        self.lock().guest.vcpus()
    }

    pub(super) fn lacks(&self, page: u32) -> bool {
        self.lock().guest.waits.upcoming.missing().get(page)
    }

    pub(super) fn left(&self) -> u64 {
        self.lock().guest.waits.upcoming.left()
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    pub(super) fn came_twice(&self) {
        self.lock().guest.figures.came_twice += 1;
    }

    /// The pages that are here.
    pub(super) fn received(&self) -> Bitmap {
        let state = self.lock();
        let missing = state.guest.waits.upcoming.missing();
        let all = 0..missing.len();
        let mut received = Bitmap::new(missing.len());
        received.set_words(|word| !missing.word_within(word, &all));
        received
    }

    pub(super) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
        if let Some(lacking) = &self.lacking {
            lacking.interrupt();
        }
    }

    pub(super) fn guest(&self) -> &dyn DestinationGuest {
        self.job.guest.as_ref()
    }

    /// Notes that a vCPU's thread waits for a page, if that is still missing: whether the page is to be asked for.
    pub(super) fn halted(
        &self,
        page: u32,
        note: impl FnOnce(&mut Halted) -> Option<usize>,
    ) -> Option<bool> {
        let state = &mut *self.lock();
        if !state.guest.waits.upcoming.missing().get(page) {
            return None;
        }
        let asks = note(&mut state.halted);
        if let Some(vcpu) = asks {
            state.guest.figures.requests += 1;
            state.guest.figures.vcpus[vcpu].requests += 1;
        }
        Some(asks.is_some())
    }

    /// The connection for requested pages has ended.
    pub(super) fn urgent_ended(&self) {
        self.lock().urgent_over = true;
        self.changed.notify_all();
    }

    /// Waits for those pages until none is missing: whether that was so within `ns`.
    pub(super) fn wait_for_last(&self, ns: u64) -> bool {
        let until_ns = mono_ns().saturating_add(ns);
        let mut state = self.lock();
        while state.guest.waits.upcoming.left() > 0 {
            let left = until_ns.saturating_sub(mono_ns());
            if left == 0 || state.urgent_over {
                return false;
            }
            let waited = self.changed.wait_timeout(state, Duration::from_nanos(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// A missing page is there: whoever waits for it goes on.
    pub(super) fn placed(&self, page: u32) {
        let mut guard = self.lock();
        if self.lacking.is_some() {
            let now_ns = mono_ns();
            let ended = guard.halted.arrived(page, now_ns);
            if guard.guest.placed_in_ram(page, &ended, now_ns) {
                self.changed.notify_all();
            }
            return;
        }
        let state = &mut guard.guest;
        let came = state.came(page, mono_ns());
        // Asking costs more than placing a page of zeros does, so not for each.
        let looks = came.changes() || state.placed().is_multiple_of(LOOK_PAGES);
        let standing = looks.then(|| self.job.guest.standing());
        let vcpus = match &standing {
            Some(Standing::Here { vcpus, .. }) => Some(&vcpus[..]),
            Some(Standing::Gone) | None => None,
        };
        state.account(&came, vcpus);
        if !came.limits.is_empty() {
            self.job.guest.run_within(&came.limits);
        }
        drop(guard);
        if came.changes() {
            self.changed.notify_all();
        }
    }

    /// Lets the guest run, then asks for what it waits for, until all pages are there.
    pub(super) fn run(&self, state: VmState) -> Ran {
        let meter = ThreadMeter::start();
        let (resumed_ns, error) = match self.start(state) {
            Ok(resumed_ns) => {
                match &self.lacking {
                    Some(lacking) => self.watch_threads(lacking),
                    None => self.watch(),
                }
                (Some(resumed_ns), None)
            }
            Err(error) => {
                self.end();
                // The promise first, then the word of it; who reads the stream is woken by its end.
                let committed = self.job.control.gate.abandon();
                assert!(!committed, "nobody else commits this migration");
                self.say(|bytes, _| bytes.extend_from_slice(&self.word(false)));
                let _ = self.job.control.abandon();
                (None, Some(error))
            }
        };
        let (cpu_ns, run_queue_ns) = meter.used_ns();
        Ran {
            resumed_ns,
            error,
            cpu_ns,
            run_queue_ns,
        }
    }

    /// Loads the state and commits. On an error the guest was not started and never will be; otherwise it
    /// runs here, and the PONG of the package's PING tells the source so.
    fn start(&self, state: VmState) -> Result<u64, DestinationError> {
        let loaded_ns = mono_ns();
        if self.lacking.is_none() {
            let mut state = self.lock();
            let limits = state.guest.begin();
            self.job.guest.run_within(&limits);
        }
        let control = &self.job.control;
        control.wait_until(loaded_ns + self.job.load_time_ms * NS_PER_MS)?;
        let guest = &self.job.guest;
        control.may_go_on()?;
        let resumed_ns = control
            .gate
            .commit(|| guest.commit_and_resume(state))?
            .ok_or(DestinationError::Abandoned)?;
        guest.resumed();
        let model = self.job.memory.model();
        self.lock().guest.waits.started(model, resumed_ns);
        self.say(|bytes, _| bytes.extend_from_slice(&self.word(true)));
        Ok(resumed_ns)
    }

    /// What tells the source that the guest runs here, or never will.
    fn word(&self, runs: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        match (&self.asked, runs) {
            (Some(_), _) => bytes.extend_from_slice(&encode_answer(runs)),
            (None, true) => postcopy::pong(postcopy::PACKAGE_PING, &mut bytes),
            (None, false) => bytes.extend_from_slice(&encode_shut(1)),
        }
        bytes
    }

    fn watch(&self) {
        let mut guard = self.lock();
        while !guard.over {
            let state = &mut guard.guest;
            let now_ns = mono_ns();
            let Standing::Here { vcpus, until_ns } = self.job.guest.standing() else {
                return;
            };
            let look = state.look(&vcpus, now_ns);
            if !look.limits.is_empty() {
                self.job.guest.run_within(&look.limits);
            }
            if !look.pages.is_empty() {
                drop(guard);
                look.pages.into_iter().for_each(|page| self.ask(page));
                guard = self.lock();
                continue;
            }
            if !look.limits.is_empty() {
                continue;
            }
            // A scan that is due already is at the limit.
            let due_ns = state.waits.due_ns().filter(|due_ns| *due_ns > now_ns);
            let until_ns = until_ns
                .min(now_ns + LOOK_NS)
                .min(due_ns.unwrap_or(u64::MAX));
            let wait = Duration::from_nanos(until_ns.saturating_sub(mono_ns()));
            if !wait.is_zero() {
                let waited = self.changed.wait_timeout(guard, wait);
                guard = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// The account, once nothing more will come.
    pub(super) fn conclude(self) -> PostcopyDestination {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let figures = state.guest.conclude(self.job.memory.model());
        match self.lacking {
            None => figures,
            // The kernel does not tell when it stopped a thread, and lets none pass.
            Some(_) => PostcopyDestination {
                asked_late_ns_sum: None,
                held_ns: None,
                overrun: None,
                ..figures
            },
        }
    }

    pub(super) fn connect(&self, socket: &TcpStream) -> std::io::Result<()> {
        self.back.connect(socket)
    }

    pub(super) fn disconnect(&self) {
        self.back.disconnect();
    }

    /// Best effort: see [`Back::say`].
    pub(super) fn say(&self, put: impl FnOnce(&mut Vec<u8>, &mut bool)) {
        self.back.say(put);
    }

    pub(super) fn ask(&self, page: u32) {
        if let Some(asked) = &self.asked {
            asked.put(page);
            return;
        }
        self.say(|bytes, named| postcopy::request(page, std::mem::replace(named, true), bytes));
    }

    /// The pages that vCPUs waited for when the connection broke.
    pub(super) fn ask_again(&self) {
        let pages: Vec<u32> = {
            let state = self.lock();
            let blocked = state.guest.waits.blocked.iter().flatten();
            let computed = blocked.map(|Blocked { page, .. }| *page);
            computed.chain(state.halted.pages()).collect()
        };
        pages.into_iter().for_each(|page| self.ask(page));
    }
}
