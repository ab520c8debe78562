//! A guest that runs while pages are missing, and the thread that asks for those it waits for.
//!
//! Inside: what the two threads of a destination share, the requests, and how long they took. Never
//! inside: reading the stream, what pages hold.

use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::mono_ns;
use crate::migration::destination::{DestinationError, DestinationJob};
use crate::migration::guest::{DestinationGuest, Standing};
use crate::migration::record::{LATENCY_BUCKETS, PostcopyDestination};
use crate::migration::upcoming::Limit;
use crate::migration::usage::ThreadMeter;
use crate::migration::wire::{encode_shut, postcopy};
use crate::resident::Lacking;
use replay::{Bitmap, GuestTime, VmState};

use super::back::Back;
use super::kernel::{Released, Stopped};
use super::waits::{Blocked, Standstill, Waits};

pub(super) const NS_PER_MS: u64 = 1_000_000;
/// Without news the thread looks so often: its only other reason to wake is a change.
pub(super) const LOOK_NS: u64 = 20_000_000;
/// The guest's time is asked for at least once in so many pages.
const LOOK_PAGES: usize = 64;

struct State<'a> {
    waits: Waits<'a>,
    /// Of RAM that is there: who waits, as the kernel says.
    stopped: Stopped,
    limit: Limit,
    over: bool,
    /// No page comes on the connection for requested ones any more.
    urgent_over: bool,
    /// The guest's time when it was last asked for.
    time: GuestTime,
    /// When each missing page was placed, in the guest's time.
    placed: Vec<(u32, GuestTime)>,
    figures: PostcopyDestination,
}

/// Shared by the thread that reads the stream and the one that asks.
pub(super) struct Pull<'a> {
    job: &'a DestinationJob,
    /// RAM that is there: the kernel stops the guest, not what is known of its accesses.
    lacking: Option<Arc<Lacking>>,
    state: Mutex<State<'a>>,
    changed: Condvar,
    back: Back,
}

/// What became of the thread that asks.
pub(super) struct Ran {
    pub(super) resumed_ns: Option<u64>,
    pub(super) error: Option<DestinationError>,
    pub(super) cpu_ns: u64,
    pub(super) run_queue_ns: u64,
}

impl<'a> Pull<'a> {
    pub(super) fn new(
        job: &'a DestinationJob,
        missing: Bitmap,
        lacking: Option<Arc<Lacking>>,
        at: GuestTime,
    ) -> Self {
        // The kernel does not tell when a thread was stopped.
        let computed = lacking.is_none().then_some(0);
        let figures = PostcopyDestination {
            missing_pages: missing.count(),
            latency_dist: vec![0; LATENCY_BUCKETS],
            asked_late_ns_sum: computed,
            held_ns: computed,
            overrun: computed,
            ..PostcopyDestination::default()
        };
        let waits = Waits::new(job.memory.model(), missing, at);
        Self {
            job,
            lacking,
            state: Mutex::new(State {
                waits,
                stopped: Stopped::default(),
                limit: Limit::NONE,
                over: false,
                urgent_over: false,
                time: at,
                placed: Vec::new(),
                figures,
            }),
            changed: Condvar::new(),
            back: Back::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        // Every method leaves `State` consistent before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lacks(&self, page: u32) -> bool {
        self.lock().waits.upcoming.missing().get(page)
    }

    pub(super) fn left(&self) -> u64 {
        self.lock().waits.upcoming.left()
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    pub(super) fn came_twice(&self) {
        self.lock().figures.came_twice += 1;
    }

    /// The pages that are here.
    pub(super) fn received(&self) -> Bitmap {
        let state = self.lock();
        let missing = state.waits.upcoming.missing();
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

    /// Notes that a thread waits for a page, if that is still missing: whether the page is to be asked for.
    pub(super) fn stopped(
        &self,
        page: u32,
        note: impl FnOnce(&mut Stopped) -> bool,
    ) -> Option<bool> {
        let state = &mut *self.lock();
        if !state.waits.upcoming.missing().get(page) {
            return None;
        }
        let asks = note(&mut state.stopped);
        state.figures.requests += u64::from(asks);
        Some(asks)
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
        while state.waits.upcoming.left() > 0 {
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
        let state = &mut *guard;
        let now_ns = mono_ns();
        let waited = state.waits.arrived(page, now_ns);
        if state.waits.upcoming.left() == 0 {
            state.figures.whole_ns = Some(now_ns);
            self.changed.notify_all();
        }
        if self.lacking.is_some() {
            let Released { since_ns, stood_ns } = state.stopped.arrived(page, now_ns);
            state.figures.blocktime_ns += stood_ns;
            if let Some(since_ns) = since_ns {
                state.figures.answered(now_ns.saturating_sub(since_ns));
            }
            return;
        }
        if let Some(blocked) = waited {
            let took_ns = now_ns.saturating_sub(blocked.since_ns);
            state.figures.blocktime_ns += took_ns;
            state.figures.answered(took_ns);
        }
        if state.waits.is_scanning() {
            // The guest is at the next page of it at once, or done: the other thread looks.
            state.placed.push((page, state.time));
            if waited.is_some() {
                drop(guard);
                self.changed.notify_all();
            }
            return;
        }
        let limit = state.waits.limit(now_ns, state.time);
        let goes_on = limit != state.limit || waited.is_some();
        // Asking costs more than placing a page of zeros does, so not for each.
        let looks = goes_on || state.placed.len().is_multiple_of(LOOK_PAGES);
        let standing = looks.then(|| self.job.guest.standing());
        if let Some(Standing::Running { time, .. } | Standing::Stopped { time, .. }) = standing {
            state.time = time;
        }
        state.placed.push((page, state.time));
        if !goes_on {
            return;
        }
        if let Some(Standing::Stopped { since_ns, .. }) = standing.filter(|_| waited.is_none()) {
            state.figures.blocktime_ns += now_ns.saturating_sub(since_ns);
        }
        state.limit = limit;
        self.job.guest.run_within(limit);
        drop(guard);
        self.changed.notify_all();
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
                self.say(|bytes, _| bytes.extend_from_slice(&encode_shut(1)));
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
            state.waits.upcoming.look_ahead();
            state.limit = state.waits.upcoming.limit();
            self.job.guest.run_within(state.limit);
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
        self.lock().waits.started(model, resumed_ns);
        self.say(|bytes, _| postcopy::pong(postcopy::PACKAGE_PING, bytes));
        Ok(resumed_ns)
    }

    fn watch(&self) {
        let mut guard = self.lock();
        while !guard.over {
            let state = &mut *guard;
            let now_ns = mono_ns();
            let until_ns = match self.job.guest.standing() {
                Standing::Gone => return,
                Standing::Running { time, until_ns } => {
                    state.time = time;
                    if state.waits.upcoming.is_short(time) {
                        state.waits.upcoming.look_ahead();
                    }
                    if self.renew(state, now_ns) {
                        continue;
                    }
                    // A scan that is due already is at the limit.
                    let due_ns = state.waits.due_ns().filter(|due_ns| *due_ns > now_ns);
                    until_ns
                        .min(now_ns + LOOK_NS)
                        .min(due_ns.unwrap_or(u64::MAX))
                }
                Standing::Stopped { .. } if state.waits.blocked.is_some() => now_ns + LOOK_NS,
                Standing::Stopped {
                    time,
                    clock,
                    since_ns,
                } => {
                    state.time = time;
                    let why = state.waits.stands(time, clock, since_ns, now_ns);
                    if let Standstill::Blocked(Blocked { page, since_ns }) = why {
                        state.figures.requests += 1;
                        *state.figures.asked_late_ns_sum.get_or_insert(0) +=
                            now_ns.saturating_sub(since_ns);
                        drop(guard);
                        self.ask(page);
                        guard = self.lock();
                        continue;
                    }
                    if let Standstill::Free { since_ns } | Standstill::Horizon { since_ns } = why {
                        // This thread was late to look on.
                        *state.figures.held_ns.get_or_insert(0) += now_ns.saturating_sub(since_ns);
                    }
                    if matches!(why, Standstill::Horizon { .. }) {
                        state.waits.upcoming.look_ahead();
                    }
                    state.limit = state.waits.limit(now_ns, time);
                    self.job.guest.run_within(state.limit);
                    continue;
                }
            };
            let wait = Duration::from_nanos(until_ns.saturating_sub(mono_ns()));
            if !wait.is_zero() {
                let waited = self.changed.wait_timeout(guard, wait);
                guard = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Lets a guest that runs run to another limit, if there is one.
    fn renew(&self, state: &mut State<'_>, now_ns: u64) -> bool {
        let limit = state.waits.limit(now_ns, state.time);
        let other = limit != state.limit;
        if other {
            state.limit = limit;
            self.job.guest.run_within(limit);
        }
        other
    }

    /// The account, once nothing more will come.
    pub(super) fn conclude(self, stopped_at: GuestTime) -> PostcopyDestination {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let model = self.job.memory.model();
        let touched = |&&(page, at): &&(u32, GuestTime)| {
            model.written_in(page, stopped_at, at) || model.read_in(page, stopped_at, at)
        };
        PostcopyDestination {
            never_came: state.waits.upcoming.left(),
            overrun: (state.figures.overrun)
                .map(|_| state.placed.iter().filter(touched).count() as u64),
            ..state.figures
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
        self.say(|bytes, named| postcopy::request(page, std::mem::replace(named, true), bytes));
    }

    /// The pages that the guest waited for when the connection broke.
    pub(super) fn ask_again(&self) {
        let (blocked, stopped) = {
            let state = self.lock();
            (state.waits.blocked, state.stopped.pages())
        };
        let pages = blocked.map(|Blocked { page, .. }| page).into_iter();
        pages.chain(stopped).for_each(|page| self.ask(page));
    }
}

impl PostcopyDestination {
    /// A page that was asked for is there after so long.
    fn answered(&mut self, ns: u64) {
        self.latency_ns_sum += ns;
        self.latency_ns_max = self.latency_ns_max.max(ns);
        let us = (ns / 1_000).max(1);
        let bucket = (us.ilog2() as usize).min(LATENCY_BUCKETS - 1);
        if let Some(count) = self.latency_dist.get_mut(bucket) {
            *count += 1;
        }
    }
}
