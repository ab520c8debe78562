//! One recording from start to end: the ticks.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use crate::book::Book;
use crate::content::{self, Census, Contents, PAGE};
use crate::idle::{self, ReadSampling};
use crate::recording::Recording;
use crate::samples::Sampling;
use crate::sys::pagemap;
use crate::sys::ptrace;
use crate::sys::uffd::Uffd;
use crate::sys::{clock, memory};
use crate::tracer::{self, lock};
use traces::dirty::Tick;

/// What to record and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length of a tick.
    pub tick: Duration,
    /// Stop after this long; by default when the program and all it started have ended.
    pub duration: Option<Duration>,
    /// Time between samples of memory, threads and network.
    pub sample: Duration,
    /// Time between looks at all of the program's memory; zero: none.
    pub census: Duration,
    /// Leave transparent huge pages on.
    pub huge_pages: bool,
    /// Give each page a frame of its own for ever. By default the frames of a process that ended are
    /// given to the next pages of others, as a kernel does with memory.
    pub fresh_frames: bool,
    /// Record the pages of shared memory only: of a QEMU whose RAM is a `memory-backend-memfd` with
    /// `share=on`, those of its guest and no others.
    pub only_shared: bool,
    /// Record no pages.
    pub rates_only: bool,
    /// Title of the recording.
    pub title: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            duration: None,
            sample: Duration::from_secs(1),
            census: Duration::from_secs(15),
            huge_pages: false,
            fresh_frames: false,
            only_shared: false,
            rates_only: false,
            title: String::new(),
        }
    }
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Nothing to run.
    #[error("there is no command to record")]
    NoCommand,
    /// The program does not start.
    #[error("cannot run `{command}`: {source}")]
    Command {
        /// What was to be run.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses to trace.
    #[error("cannot trace `{command}`: {source}")]
    Trace {
        /// What was to be run.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// A tick must have a length that the machine can keep.
    #[error("a tick of {tick:?} is too short; the shortest is {shortest:?}")]
    Tick {
        /// As asked.
        tick: Duration,
        /// The shortest.
        shortest: Duration,
    },
}

/// The shortest tick: a scan of a large program takes some milliseconds.
const SHORTEST_TICK: Duration = Duration::from_millis(5);
/// Between SIGTERM and SIGKILL at the end.
const GRACE: Duration = Duration::from_secs(5);
/// Pages looked at in a census.
const CENSUS_PAGES: usize = 8192;

/// Whether this kernel can tell which pages a program writes; if not, what is missing.
///
/// # Errors
/// A sentence that names what is missing.
pub fn can_record_pages() -> Result<(), String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("following a program is written for x86-64 only".into());
    }
    pagemap::probe().map_err(|error| format!("PAGEMAP_SCAN (Linux 6.7): {error}"))?;
    Uffd::of_this_process()
        .map(drop)
        .map_err(|error| format!("userfaultfd with asynchronous write protection: {error}"))
}

/// Runs `command` and records it, until it has ended or `options.duration` is over or a signal (INT,
/// TERM, HUP) asks for the end. What is then left of it is terminated: a traced program cannot go on
/// without its tracer.
///
/// # Errors
/// When the command does not run or cannot be traced. A kernel without page tracking is no error: the
/// recording then holds rates only, and says so.
pub fn record(command: &[OsString], options: &Options) -> Result<Recording, RecordError> {
    if command.is_empty() {
        return Err(RecordError::NoCommand);
    }
    if options.tick < SHORTEST_TICK {
        return Err(RecordError::Tick {
            tick: options.tick,
            shortest: SHORTEST_TICK,
        });
    }
    let _signals = clock::StopSignals::block();
    if options.rates_only {
        return crate::rates::record(command, options, "asked for");
    }
    if let Err(missing) = can_record_pages() {
        return crate::rates::record(command, options, &missing);
    }
    let name = || command[0].to_string_lossy().into_owned();
    let book = Mutex::new(Book::new(options.fresh_frames, options.only_shared));
    let (started, is_started) = mpsc::sync_channel(1);
    let (ticks, status) = std::thread::scope(|scope| {
        let tracer = scope.spawn(|| tracer::trace(command, options.huge_pages, &book, &started));
        if let Ok(Err(source)) = is_started.recv() {
            let command = name();
            return Err(RecordError::Trace { command, source });
        }
        let mut ticks = Ticks::start(options);
        ticks.run(&book, &|| tracer.is_finished());
        terminate(&book, &|| tracer.is_finished());
        let ending = match tracer.join() {
            Ok(ending) => ending,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let status = ending.map_err(|source| RecordError::Command {
            command: name(),
            source,
        })?;
        Ok((ticks, status))
    })?;
    let book = book.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(ticks.finish(command, options, status, book))
}

/// Ends what is left of the program: in good order, then not.
fn terminate(book: &Mutex<Book>, finished: &dyn Fn() -> bool) {
    let mut signal = libc::SIGTERM;
    let mut patience = clock::now_ns() + nanos(GRACE);
    while !finished() {
        let pids = lock(book).processes();
        pids.into_iter().for_each(|pid| ptrace::kill(pid, signal));
        while !finished() && clock::now_ns() < patience {
            // A second signal from the user means now.
            if clock::wait_until(clock::now_ns() + 10_000_000) {
                break;
            }
        }
        signal = libc::SIGKILL;
        patience = clock::now_ns() + 100_000_000;
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The ticks of a recording so far.
pub(crate) struct Ticks {
    pub(crate) tick_ns: u64,
    start_ns: u64,
    pub(crate) started_unix_ms: u64,
    pub(crate) cpu_at_start_ns: u64,
    end_ns: u64,
    sample_ns: u64,
    census_ns: u64,
    next_sample: u64,
    next_census: u64,
    cpu_since_sample: u64,
    pub(crate) late_ns_max: u64,
    pub(crate) ticks: Vec<Tick>,
    pub(crate) scans: Vec<Range<u64>>,
    pub(crate) sampling: Sampling,
    pub(crate) reads: ReadSampling,
    pub(crate) contents: Contents,
    pub(crate) census: Vec<Census>,
}

impl Ticks {
    fn start(options: &Options) -> Self {
        let start_ns = clock::now_ns();
        let (sample_ns, census_ns) = (nanos(options.sample), nanos(options.census));
        Self {
            tick_ns: nanos(options.tick),
            start_ns,
            started_unix_ms: clock::unix_ms(),
            cpu_at_start_ns: clock::thread_cpu_ns(),
            end_ns: options.duration.map_or(u64::MAX, |duration| {
                start_ns.saturating_add(nanos(duration))
            }),
            sample_ns,
            census_ns,
            next_sample: start_ns.saturating_add(sample_ns),
            next_census: if census_ns == 0 {
                u64::MAX
            } else {
                start_ns.saturating_add(census_ns)
            },
            cpu_since_sample: 0,
            late_ns_max: 0,
            ticks: Vec::new(),
            scans: Vec::new(),
            sampling: Sampling::start(true),
            reads: ReadSampling::open(Path::new(idle::BITMAP)),
            contents: Contents::default(),
            census: Vec::new(),
        }
    }

    /// Ticks until the program has ended, the time is over or a signal comes.
    fn run(&mut self, book: &Mutex<Book>, finished: &dyn Fn() -> bool) {
        let mut deadline = self.start_ns;
        loop {
            // Ticks missed are skipped: the next one is longer, and says so by its end.
            let now = clock::now_ns();
            while deadline <= now {
                deadline += self.tick_ns;
            }
            let asked = clock::wait_until(deadline.min(self.end_ns));
            let over = asked || finished() || clock::now_ns() >= self.end_ns;
            self.tick(book, deadline, over);
            if over {
                return;
            }
        }
    }

    fn tick(&mut self, book: &Mutex<Book>, deadline: u64, last: bool) {
        let mut held = lock(book);
        let outcome = held.tick();
        let pages = held.sampler.take();
        let pids = held.processes();
        held.closed = last;
        drop(held);
        let (began, ended) = (outcome.scanned.start, outcome.scanned.end);
        self.late_ns_max = self.late_ns_max.max(began.saturating_sub(deadline));
        self.cpu_since_sample += outcome.cpu_ns;
        self.reads.wrote(&outcome.runs);
        self.sampling.wrote(&outcome.runs);
        self.ticks.push(Tick {
            t_ns: ended - self.start_ns,
            cpu_ns: outcome.cpu_ns,
            runs: outcome.runs,
        });
        self.scans.push(outcome.scanned);
        let mut page = [0u8; PAGE];
        for found in pages {
            if memory::read(found.pid, found.address, &mut page) {
                self.contents.look(found.frame, &page);
            }
        }
        if ended >= self.next_sample || last {
            let cpu_ns = std::mem::take(&mut self.cpu_since_sample);
            // In this order: clearing accessed bits would hide what they say of pages under watch.
            self.reads.look(idle::frame_at);
            self.sampling.take(ended - self.start_ns, cpu_ns, &pids);
            if self.reads.works() && !last {
                let (chosen, _) = lock(book).resident(idle::WATCHED);
                self.reads.watch(chosen, idle::frame_at);
            }
            self.next_sample = ended.saturating_add(self.sample_ns);
        }
        if ended >= self.next_census || (last && self.next_census != u64::MAX) {
            self.look_at_all(book, ended);
            self.next_census = ended.saturating_add(self.census_ns);
        }
    }

    fn look_at_all(&mut self, book: &Mutex<Book>, now: u64) {
        let (chosen, resident) = lock(book).resident(CENSUS_PAGES);
        if resident == 0 {
            return;
        }
        let mut pages = Vec::with_capacity(chosen.len());
        for found in chosen {
            let mut page = vec![0u8; PAGE].into_boxed_slice();
            if memory::read(found.pid, found.address, &mut page) {
                pages.push(page);
            }
        }
        let t_ms = (now - self.start_ns) / 1_000_000;
        self.census.push(content::census(t_ms, resident, &pages));
    }
}
