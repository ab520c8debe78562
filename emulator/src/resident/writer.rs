//! Which page a vCPU writes when: the writes of `GuestMemory`, in their order, as guest time passes.
//!
//! A stretch of guest time ahead is planned at once, from the dirty sets of the model: whoever is in one
//! is looked up by halves until each write has its step of a millisecond. A step's pages are written
//! when the step is over, in their last version of it. Never inside: threads, clocks.

use std::ops::Range;
use std::sync::Arc;

use replay::guest::{Deal, GuestTime};
use replay::{Bitmap, MemoryModel};
use traces::class::Coupling;

use super::Ram;
use crate::migration::guest::GuestMemory;

/// Guest time between two looks at what is to be written.
pub(super) const STEP_NS: u64 = 1_000_000;
/// Steps planned at once: what a plan costs is 10 ns a page of RAM.
const STEPS: usize = 256;
/// Guest time that has leapt so far is not gone through: only the last versions are written.
const LEAP_NS: u64 = 4 * STEPS as u64 * STEP_NS;
/// The pages of one vCPU among several.
#[derive(Debug, Clone)]
pub struct Share {
    index: u32,
    deal: Deal,
}

impl Share {
    /// Those of a vCPU, of a guest that has so many.
    #[must_use]
    pub fn of(memory: &GuestMemory, index: u32, vcpus: u32) -> Self {
        let deal = memory.model().deal();
        let deal = match deal.vcpus() == vcpus {
            true => deal.clone(),
            // While vCPUs have one clock nothing hangs on whose a page is.
            false => Deal::alike(vcpus),
        };
        Self { index, deal }
    }

    /// All pages.
    #[must_use]
    pub fn all() -> Self {
        Self {
            index: 0,
            deal: Deal::default(),
        }
    }

    /// Whether a page is one of them.
    #[must_use]
    pub fn has(&self, page: u32) -> bool {
        self.deal.vcpu(page) == self.index
    }

    /// Calls `with` for each run of its pages.
    pub(super) fn runs(&self, pages: u32, mut with: impl FnMut(Range<u32>)) {
        if self.deal.vcpus() == 1 {
            return with(0..pages);
        }
        let all = 0..pages;
        let parts = self.deal.parts(&all);
        let own = parts.filter(|(_, vcpu)| *vcpu == self.index);
        own.for_each(|(part, _)| with(part));
    }
}

/// What one clock of the guest has written, and will next.
#[derive(Debug)]
struct Track {
    coupling: Coupling,
    /// Everything up to here is in RAM.
    done: u64,
    /// Where the plan begins, and the pages of each of its steps.
    begin: u64,
    steps: Vec<Vec<u32>>,
    /// Steps that are over.
    over: usize,
}

impl Track {
    fn step_end(&self, step: usize) -> u64 {
        self.begin + (step as u64 + 1) * STEP_NS
    }

    /// Both clocks, of which writes of this coupling hang on one.
    fn at(&self, clock: u64) -> GuestTime {
        match self.coupling {
            Coupling::Cpu => GuestTime {
                cpu_ns: clock,
                run_ns: 0,
            },
            Coupling::Time => GuestTime {
                cpu_ns: 0,
                run_ns: clock,
            },
        }
    }
}

/// Writes a share of a VM's pages.
#[derive(Debug)]
pub struct Writer {
    memory: GuestMemory,
    ram: Arc<Ram>,
    share: Share,
    tracks: [Track; 2],
    scratch: Bitmap,
    writes: u64,
}

impl Writer {
    /// Of a guest whose writes up to `at` are in RAM.
    #[must_use]
    pub fn new(memory: GuestMemory, ram: Arc<Ram>, share: Share, at: GuestTime) -> Self {
        let track = |coupling| Track {
            coupling,
            done: at.clock(coupling),
            begin: at.clock(coupling),
            steps: Vec::new(),
            over: 0,
        };
        Self {
            scratch: Bitmap::new(memory.pages()),
            memory,
            ram,
            share,
            tracks: [track(Coupling::Cpu), track(Coupling::Time)],
            writes: 0,
        }
    }

    /// Puts into RAM what its pages hold at the guest time it begins at.
    pub fn fill(&mut self) {
        let at = GuestTime {
            cpu_ns: self.tracks[0].done,
            run_ns: self.tracks[1].done,
        };
        let (memory, ram) = (&self.memory, &self.ram);
        self.share.runs(memory.pages(), |pages| {
            for page in pages {
                let version = memory.version_at(page, at);
                if !memory.is_zero(page, version) {
                    ram.store(memory, page, version);
                }
            }
        });
    }

    /// Pages written so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// How far RAM is behind a guest time, on the clock that is further behind.
    #[must_use]
    pub fn behind_ns(&self, at: GuestTime) -> u64 {
        let behind = |track: &Track| at.clock(track.coupling).saturating_sub(track.done);
        self.tracks.iter().map(behind).max().unwrap_or(0)
    }

    /// Writes the steps that are over at `to`.
    pub fn advance(&mut self, to: GuestTime) {
        for number in 0..self.tracks.len() {
            let to = to.clock(self.tracks[number].coupling);
            self.go(number, to);
        }
    }

    /// Writes everything up to `to`: RAM then holds what the model says of that guest time.
    pub fn reach(&mut self, to: GuestTime) {
        self.advance(to);
        for number in 0..self.tracks.len() {
            let track = &self.tracks[number];
            let to = to.clock(track.coupling);
            if to > track.done {
                // Less than a step is left, and it is planned.
                let step = track.over;
                self.write_step(number, step, to);
            }
        }
    }

    fn go(&mut self, number: usize, to: u64) {
        if to.saturating_sub(self.tracks[number].done) > LEAP_NS {
            self.leap(number, to);
        }
        while self.tracks[number].done < to {
            let track = &self.tracks[number];
            if track.over == track.steps.len() {
                self.plan(number);
                continue;
            }
            let (step, end) = (track.over, track.step_end(track.over));
            if end > to {
                return;
            }
            self.write_step(number, step, end);
            self.tracks[number].over += 1;
        }
    }

    /// Writes the pages of a step that are written by `to`, not beyond the step's end.
    fn write_step(&mut self, number: usize, step: usize, to: u64) {
        let track = &mut self.tracks[number];
        let pages = std::mem::take(&mut track.steps[step]);
        let (from, until) = (track.at(track.done), track.at(to));
        track.done = to;
        let model = self.memory.model();
        for &page in &pages {
            if model.written_in(page, from, until) {
                self.ram
                    .write(&self.memory, page, model.version_at(page, until));
                self.writes += 1;
            }
        }
        // The step may be looked at again.
        self.tracks[number].steps[step] = pages;
    }

    /// Sets `scratch` to the share's pages written on one clock in `(from, to]`.
    fn find(&mut self, from: GuestTime, to: GuestTime) {
        self.scratch.clear_all();
        let (model, scratch) = (self.memory.model(), &mut self.scratch);
        self.share.runs(model.pages(), |pages| {
            model.harvest_range(pages, from, to, scratch);
        });
    }

    /// Only the last versions of what is written up to `to`.
    fn leap(&mut self, number: usize, to: u64) {
        let track = &self.tracks[number];
        let (from, until) = (track.at(track.done), track.at(to));
        self.find(from, until);
        let mut next = self.scratch.next_set(0);
        while let Some(page) = next {
            let version = self.memory.version_at(page, until);
            self.ram.write(&self.memory, page, version);
            self.writes += 1;
            next = self.scratch.next_set(page + 1);
        }
        let track = &mut self.tracks[number];
        (track.done, track.begin, track.over) = (to, to, 0);
        track.steps.clear();
    }

    fn plan(&mut self, number: usize) {
        let track = &mut self.tracks[number];
        track.begin = track.done;
        track.over = 0;
        track.steps.resize(STEPS, Vec::new());
        track.steps.iter_mut().for_each(Vec::clear);
        let (from, to) = (track.at(track.begin), track.at(track.step_end(STEPS - 1)));
        self.find(from, to);
        let (track, model) = (&mut self.tracks[number], self.memory.model());
        let mut next = self.scratch.next_set(0);
        while let Some(page) = next {
            place(track, model, page, 0, STEPS);
            next = self.scratch.next_set(page + 1);
        }
    }
}

/// Puts a page that is written in steps `first..last` into those that write it.
fn place(track: &mut Track, model: &MemoryModel, page: u32, first: usize, last: usize) {
    if last - first == 1 {
        track.steps[first].push(page);
        return;
    }
    let middle = first + (last - first) / 2;
    let begin = |step: usize| track.at(track.begin + step as u64 * STEP_NS);
    let (start, half, end) = (begin(first), begin(middle), begin(last));
    if model.written_in(page, start, half) {
        place(track, model, page, first, middle);
    }
    if model.written_in(page, half, end) {
        place(track, model, page, middle, last);
    }
}
