//! Threads that write a VM's RAM, one a vCPU.
//!
//! While trace time runs each looks every millisecond how far the guest has come and writes what is due;
//! while it is held or jumps they leave RAM alone, and go over what was skipped when they run again or
//! are parked. Parking is acknowledged: then RAM holds exactly what the guest time says, and nobody
//! writes. In RAM of which pages are missing they read as well (`touches`), and the kernel stops them. Never
//! inside: what is written.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use replay::guest::GuestTime;
use serde::{Deserialize, Serialize};

use super::touches::Touches;
use super::writer::STEP_NS;
use super::{Ram, Share, Writer};
use crate::clock::mono_ns;
use crate::migration::guest::{GuestMemory, Reading};

/// How often it is looked whether a thread that is waited for is still there.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often RAM is brought up to date in a row: each time takes a small part of the time before.
const SETTLINGS: u32 = 3;

/// Tells how far a guest's vCPUs have come.
pub trait GuestClock: Send + Sync {
    /// How far a vCPU has come, now; `None` while trace time does not run, or the guest is not here.
    fn running(&self, vcpu: u32) -> Option<GuestTime>;
    /// A vCPU has done all that was due when it last looked: if it waited for a page, its time goes on.
    fn caught_up(&self, _vcpu: u32) {}
}

/// What vCPU threads did since they were last asked to begin counting.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct WritersReport {
    /// Pages written.
    pub writes: u64,
    /// Guest time by which RAM was behind when a thread had a look: the most. A thread that keeps up is
    /// two steps of a millisecond behind at most, and as late as it was woken.
    pub behind_ns_max: u64,
    /// The same on average over looks.
    pub behind_ns_mean: u64,
    /// How long it took to bring RAM up to date before the migration, ns.
    pub settle_ns: u64,
    /// How long the threads took to stop, the last writes included, ns.
    pub park_ns: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum Wish {
    Run,
    /// At these times, each vCPU's own.
    Park(Arc<Reading>),
    Stop,
}

#[derive(Debug)]
struct Order {
    wish: Wish,
    /// Counts wishes.
    number: u64,
    /// Threads that have done what the last wish says.
    obeyed: u32,
}

#[derive(Debug, Default)]
struct Counters {
    writes: AtomicU64,
    looks: AtomicU64,
    behind_ns: AtomicU64,
    behind_ns_max: AtomicU64,
    settle_ns: AtomicU64,
    park_ns: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    order: Mutex<Order>,
    changed: Condvar,
    counters: Counters,
    /// The kernel's numbers of the threads; 0 of one that has not begun.
    threads: Vec<AtomicU32>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of one VM; they end with it.
#[derive(Debug)]
pub struct Vcpus {
    shared: Arc<Shared>,
    ram: Arc<Ram>,
    /// Held by whoever needs them parked.
    still: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Vcpus {
    /// Starts `vcpus` threads for a guest whose writes up to `at` are in RAM, or with `fill` are put
    /// there first.
    ///
    /// # Errors
    /// When the kernel has no thread to give; those started have ended again.
    pub fn start(
        memory: &GuestMemory,
        ram: &Arc<Ram>,
        vcpus: u32,
        at: &Reading,
        fill: bool,
        clock: &Arc<dyn GuestClock>,
    ) -> std::io::Result<Self> {
        let of = vcpus.max(1);
        let shared = Arc::new(Shared {
            threads: (0..of).map(|_| AtomicU32::new(0)).collect(),
            order: Mutex::new(Order {
                wish: Wish::Run,
                number: 0,
                obeyed: 0,
            }),
            changed: Condvar::new(),
            counters: Counters::default(),
        });
        let mut all = Self {
            shared,
            ram: Arc::clone(ram),
            still: Mutex::default(),
            threads: Vec::new(),
        };
        for index in 0..of {
            let (share, at) = (Share::of(memory, index, of), at.of(index));
            let touches = ram
                .lacking()
                .map(|lacking| Touches::new(memory, lacking.pages(), share.clone(), at));
            let writer = Writer::new(memory.clone(), Arc::clone(ram), share, at);
            let vcpu = Vcpu {
                index,
                writer,
                touches,
                ram: Arc::clone(ram),
            };
            let (shared, clock) = (Arc::clone(&all.shared), Arc::clone(clock));
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{index}"))
                .spawn(move || run(vcpu, fill, &shared, clock.as_ref()))?;
            all.threads.push(thread);
        }
        Ok(all)
    }

    /// Stops writing at a time of the guest, of which no vCPU has come further by the clock. When it returns RAM is
    /// what it was then.
    pub fn park(&self, at: &Reading) {
        let _alone = self.alone();
        self.park_at(at);
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has nobody write while `with` looks at RAM, which is then what it was at the guest time told. The guest may run
    /// meanwhile: what it writes is made up for. False when there is no time to tell: the guest has gone.
    pub fn hold_still(
        &self,
        now: impl Fn() -> Option<Reading>,
        with: impl FnOnce(&Reading),
    ) -> bool {
        let _alone = self.alone();
        // A thread may have seen a later time than this one; once all are parked, none has seen a later than the next.
        let seen = now().map(|at| self.park_at(&at));
        let still = seen.and_then(|()| now());
        if let Some(at) = &still {
            self.park_at(at);
            with(at);
        }
        self.unpark();
        still.is_some()
    }

    /// Which vCPU's thread has this number.
    #[must_use]
    pub fn of_thread(&self, thread: u32) -> Option<u32> {
        let mut threads = self.shared.threads.iter();
        let index = threads.position(|number| number.load(Ordering::Acquire) == thread)?;
        u32::try_from(index).ok()
    }

    fn park_at(&self, at: &Reading) {
        let began = mono_ns();
        let number = self.wish(Wish::Park(Arc::new(at.clone())));
        let mut order = self.shared.lock();
        while (order.obeyed as usize) < self.threads.len() && order.number == number {
            let waited = self.shared.changed.wait_timeout(order, PATIENCE);
            order = waited.unwrap_or_else(PoisonError::into_inner).0;
            let died = self.threads.iter().any(JoinHandle::is_finished);
            assert!(
                !died,
                "a vCPU's thread has died: its panic is on standard error"
            );
        }
        let took = mono_ns() - began;
        self.shared.counters.park_ns.store(took, Ordering::Relaxed);
    }

    /// Writes again.
    pub fn unpark(&self) {
        let _ = self.wish(Wish::Run);
    }

    /// Brings RAM up to date, whatever was skipped, and counts from here on. The guest may run meanwhile:
    /// what it writes while a long stretch is made up for is made up for as well.
    pub fn settle(&self, now: impl Fn() -> Reading) {
        let _alone = self.alone();
        let began = mono_ns();
        for _ in 0..SETTLINGS {
            self.park_at(&now());
        }
        let counters = &self.shared.counters;
        for counter in [
            &counters.writes,
            &counters.looks,
            &counters.behind_ns,
            &counters.behind_ns_max,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        counters
            .settle_ns
            .store(mono_ns() - began, Ordering::Relaxed);
        self.unpark();
    }

    /// What was counted.
    #[must_use]
    pub fn report(&self) -> WritersReport {
        let counters = &self.shared.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WritersReport {
            writes: of(&counters.writes),
            behind_ns_max: of(&counters.behind_ns_max),
            behind_ns_mean: of(&counters.behind_ns) / of(&counters.looks).max(1),
            settle_ns: of(&counters.settle_ns),
            park_ns: of(&counters.park_ns),
        }
    }

    /// The number of the wish.
    fn wish(&self, wish: Wish) -> u64 {
        let mut order = self.shared.lock();
        order.wish = wish;
        order.number += 1;
        order.obeyed = 0;
        self.shared.changed.notify_all();
        order.number
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        let _ = self.wish(Wish::Stop);
        // Nobody is left for whom a page could be missing: who waits for one goes on, and ends.
        self.ram.let_go();
        for thread in self.threads.drain(..) {
            // One that panicked has told so on standard error.
            let _ = thread.join();
        }
    }
}

/// What one thread has.
struct Vcpu {
    index: u32,
    writer: Writer,
    /// While pages of RAM may be missing.
    touches: Option<Touches>,
    ram: Arc<Ram>,
}

impl Vcpu {
    /// Reads what is due by then of pages that may be missing.
    fn touch(&mut self, by: GuestTime) {
        // The lock is asked for once a look, and only by those that came without all their pages.
        if self.touches.is_some() && self.ram.lacking().is_none() {
            self.touches = None;
        }
        if let Some(touches) = &mut self.touches {
            touches.reads(by, |page| self.ram.touch(page));
            touches.scans(by, mono_ns(), |page| self.ram.touch(page));
        }
    }
}

fn run(mut vcpu: Vcpu, fill: bool, shared: &Shared, clock: &dyn GuestClock) {
    let thread = u32::try_from(nix::unistd::gettid().as_raw()).unwrap_or_default();
    if let Some(number) = shared.threads.get(vcpu.index as usize) {
        number.store(thread, Ordering::Release);
    }
    if fill {
        vcpu.writer.fill();
    }
    let mut obeyed = 0;
    let mut order = shared.lock();
    loop {
        match order.wish.clone() {
            Wish::Stop => return,
            Wish::Park(_) if obeyed == order.number => {
                order = shared
                    .changed
                    .wait(order)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            Wish::Park(at) => {
                let number = order.number;
                drop(order);
                let at = at.of(vcpu.index);
                vcpu.touch(at);
                counted(&mut vcpu.writer, shared, |writer| writer.reach(at));
                clock.caught_up(vcpu.index);
                order = shared.lock();
                obeyed = number;
                if order.number == number {
                    order.obeyed += 1;
                    shared.changed.notify_all();
                }
            }
            Wish::Run => {
                let number = order.number;
                drop(order);
                if let Some(now) = clock.running(vcpu.index) {
                    look(&vcpu.writer, shared, now);
                    vcpu.touch(now);
                    counted(&mut vcpu.writer, shared, |writer| writer.advance(now));
                    clock.caught_up(vcpu.index);
                }
                order = shared.lock();
                if order.number == number {
                    let step = Duration::from_nanos(STEP_NS);
                    order = shared
                        .changed
                        .wait_timeout(order, step)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }
}

fn look(writer: &Writer, shared: &Shared, now: GuestTime) {
    let (behind, counters) = (writer.behind_ns(now), &shared.counters);
    counters.looks.fetch_add(1, Ordering::Relaxed);
    counters.behind_ns.fetch_add(behind, Ordering::Relaxed);
    counters.behind_ns_max.fetch_max(behind, Ordering::Relaxed);
}

fn counted(writer: &mut Writer, shared: &Shared, act: impl FnOnce(&mut Writer)) {
    let before = writer.writes();
    act(writer);
    let more = writer.writes() - before;
    shared.counters.writes.fetch_add(more, Ordering::Relaxed);
}
