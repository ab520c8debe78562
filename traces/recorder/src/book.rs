//! The books of a recording: address spaces, tasks, frames, and the pages written since the last
//! tick. The tracer and the ticks both write here, one at a time, which is what makes tick
//! boundaries the same for all of them.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use crate::content::Sampler;
use crate::frames::{Frames, Owner, runs};
use crate::space::{EVERYWHERE, Space, Watch};
use crate::sys::clock;
use crate::sys::pagemap::{Scan, Scanner};
use traces::dirty::Run;

/// Why a program was not watched whose system calls the filter does not know.
const NEVER_STOPPED: &str = "it made none of the system calls the filter knows (a 32-bit program?)";

/// A traced thread.
#[derive(Debug)]
pub(crate) struct Task {
    /// Its process.
    pub(crate) pid: i32,
    /// Its address space's number.
    pub(crate) space: u32,
    /// What to do when its system call ends.
    pub(crate) after: After,
    /// Whether it has stopped for the first time.
    pub(crate) started: bool,
}

/// What is done when a system call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    Nothing,
    /// Shared memory was mapped, as long as the caller said.
    Mapped { len: Option<u64> },
    /// Pages were moved or a mapping made longer.
    Remapped { from: u64, old_len: u64 },
}

/// What the recorder did and what it took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Times a thread of the program was stopped for us.
    pub(crate) stops: u64,
    /// Time with the program's pages being read and protected at ticks.
    pub(crate) scan_ns: u64,
    pub(crate) scan_ns_max: u64,
    /// Scans that failed, of a process just gone as a rule.
    pub(crate) failed_scans: u64,
    /// CPU time of the thread that traces.
    pub(crate) tracer_cpu_ns: u64,
    /// Processes seen.
    pub(crate) processes: u64,
    /// Program images (`exec`) seen.
    pub(crate) images: u64,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) spaces: BTreeMap<u32, Space>,
    pub(crate) tasks: BTreeMap<i32, Task>,
    pub(crate) frames: Frames,
    pub(crate) work: Work,
    /// Why address spaces could not be watched, and how many.
    pub(crate) unwatched: BTreeMap<String, u64>,
    pub(crate) sampler: Sampler,
    /// The last tick is over: what is written from here on does not belong to the recording.
    pub(crate) closed: bool,
    written: Vec<u32>,
    scanner: Scanner,
    cpu: BTreeMap<i32, u64>,
    cpu_ns: u64,
    next_space: u32,
    only_shared: bool,
}

/// What a tick found.
#[derive(Debug)]
pub(crate) struct TickOutcome {
    /// When the scan began and when it had ended.
    pub(crate) scanned: Range<u64>,
    pub(crate) cpu_ns: u64,
    pub(crate) runs: Vec<Run>,
}

impl Book {
    /// `only_shared`: private memory is not watched.
    pub(crate) fn new(fresh_frames: bool, only_shared: bool) -> Self {
        Self {
            spaces: BTreeMap::new(),
            tasks: BTreeMap::new(),
            frames: Frames::new(fresh_frames, only_shared),
            work: Work::default(),
            unwatched: BTreeMap::new(),
            sampler: Sampler::default(),
            closed: false,
            written: Vec::new(),
            scanner: Scanner::new(),
            cpu: BTreeMap::new(),
            cpu_ns: 0,
            next_space: 0,
            only_shared,
        }
    }

    /// A new address space of process `pid`.
    pub(crate) fn open_space(&mut self, pid: i32, brk: u64) -> io::Result<u32> {
        let number = self.next_space;
        let space = Space::open(number, pid, brk, self.only_shared)?;
        self.next_space += 1;
        self.spaces.insert(number, space);
        Ok(number)
    }

    /// A task no longer uses an address space; the last one ends it.
    pub(crate) fn release_space(&mut self, number: u32) {
        let Some(space) = self.spaces.get_mut(&number) else {
            return;
        };
        space.users = space.users.saturating_sub(1);
        if space.users > 0 {
            // Another process has it still (a parent waiting in vfork): ask about that one.
            let mut tasks = self.tasks.values();
            if let Some(task) = tasks.find(|task| task.space == number) {
                space.pid = task.pid;
            }
            return;
        }
        let reason = match &space.watch {
            Watch::No(reason) => Some(reason.as_str()),
            Watch::Pending if space.program => Some(NEVER_STOPPED),
            Watch::Pending | Watch::Yes => None,
        };
        if let Some(reason) = reason {
            *self.unwatched.entry(reason.to_owned()).or_default() += 1;
        }
        self.spaces.remove(&number);
        self.frames.forget(Owner::Space(number));
    }

    /// Notes what was written in a range so far; nothing is protected again.
    pub(crate) fn note(&mut self, space: u32, range: &Range<u64>) {
        self.collect(space, range, Scan::Written);
    }

    /// Notes what was written anywhere in an address space, and protects it again.
    pub(crate) fn note_and_protect(&mut self, space: u32) {
        self.collect(space, &EVERYWHERE, Scan::WrittenAndProtect);
    }

    fn collect(&mut self, space: u32, range: &Range<u64>, scan: Scan) {
        let Some(space) = self.spaces.get(&space).filter(|_| !self.closed) else {
            return;
        };
        let (written, sampler) = (&mut self.written, &mut self.sampler);
        let result = space.collect(range, scan, &mut self.scanner, &mut self.frames, |found| {
            written.push(found.frame);
            sampler.offer(found);
        });
        if result.is_err() {
            self.work.failed_scans += 1;
        }
    }

    /// Protects a range whose pages look written but are not new.
    pub(crate) fn disregard(&mut self, space: u32, range: &Range<u64>) {
        let Some(space) = self.spaces.get(&space) else {
            return;
        };
        if space.disregard(range, &mut self.scanner).is_err() {
            self.work.failed_scans += 1;
        }
    }

    /// Takes the CPU time of a process up to now.
    pub(crate) fn note_cpu(&mut self, pid: i32) {
        if let Some(now) = clock::process_cpu_ns(pid) {
            let before = self.cpu.entry(pid).or_default();
            self.cpu_ns += now.saturating_sub(*before);
            *before = now.max(*before);
        }
    }

    /// The CPU time a process has had before it is recorded does not count.
    pub(crate) fn start_cpu(&mut self, pid: i32) {
        self.cpu
            .insert(pid, clock::process_cpu_ns(pid).unwrap_or(0));
    }

    /// A process has ended.
    pub(crate) fn end_cpu(&mut self, pid: i32) {
        self.cpu.remove(&pid);
    }

    /// Ends a tick: what was written in it, everywhere.
    pub(crate) fn tick(&mut self) -> TickOutcome {
        let start = clock::now_ns();
        let numbers: Vec<u32> = self.spaces.keys().copied().collect();
        for number in numbers {
            let Some(space) = self.spaces.get_mut(&number) else {
                continue;
            };
            if space.watch == Watch::Yes {
                space.refresh();
                self.note_and_protect(number);
            }
        }
        let end = clock::now_ns();
        self.work.scan_ns += end - start;
        self.work.scan_ns_max = self.work.scan_ns_max.max(end - start);
        let pids: Vec<i32> = self.cpu.keys().copied().collect();
        pids.into_iter().for_each(|pid| self.note_cpu(pid));
        let runs = runs(&mut self.written);
        self.written.clear();
        TickOutcome {
            scanned: start..end,
            cpu_ns: std::mem::take(&mut self.cpu_ns),
            runs,
        }
    }

    /// Up to `limit` pages that are there and have frames, each frame once, chosen by hash; and how
    /// many there are.
    pub(crate) fn resident(&mut self, limit: usize) -> (Vec<crate::space::Found>, u64) {
        let mut chosen = crate::content::Lowest::new(limit);
        let mut seen = std::collections::HashSet::new();
        for space in self.spaces.values() {
            let scanned = space.present(&mut self.scanner, &mut self.frames, |found| {
                if seen.insert(found.frame) {
                    chosen.offer(found);
                }
            });
            self.work.failed_scans += u64::from(scanned.is_err());
        }
        (chosen.take(), seen.len() as u64)
    }

    /// The processes there are.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.tasks.values().map(|task| task.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}
