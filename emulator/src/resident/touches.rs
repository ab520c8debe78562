//! Which missing page a vCPU reads when: reads change nothing in RAM, so they are done only while pages may be missing,
//! and of each page only the first. Pure; who touches is an argument.
//!
//! Never inside: which pages have come (the kernel knows, and stops who is too early), writes (`writer`).

use std::collections::BTreeSet;

use replay::guest::{AccessKind, GuestTime};
use replay::{Bitmap, MemoryModel};
use traces::class::Coupling;

use super::Share;
use crate::migration::guest::GuestMemory;
use crate::migration::upcoming::Scans;

/// Guest time whose reads are looked up at once: what that costs is 10 ns a page of a class.
const WINDOW_NS: u64 = 100_000_000;

/// The first reads of a vCPU's pages that came without their contents, and the scans that begin with one of its pages.
#[derive(Debug)]
pub(super) struct Touches {
    memory: GuestMemory,
    share: Share,
    /// Missing in the beginning, and not read since.
    untouched: Bitmap,
    /// Reads are known up to here.
    horizon: GuestTime,
    cpu: BTreeSet<(u64, u32)>,
    run: BTreeSet<(u64, u32)>,
    found: Bitmap,
    scans: Option<Scans>,
    /// Reading of the guest's time at which it sees that a scan is due.
    sees_at: Option<u64>,
}

impl Touches {
    /// Of a guest that stands at `at`.
    pub(super) fn new(memory: &GuestMemory, missing: &Bitmap, share: Share, at: GuestTime) -> Self {
        Self {
            memory: memory.clone(),
            share,
            untouched: missing.clone(),
            horizon: at,
            cpu: BTreeSet::new(),
            run: BTreeSet::new(),
            found: Bitmap::new(missing.len()),
            scans: None,
            sees_at: None,
        }
    }

    /// Calls `touch` for the reads that are due at a guest time, in their order by each clock.
    pub(super) fn reads(&mut self, by: GuestTime, mut touch: impl FnMut(u32)) {
        loop {
            for (accesses, clock_ns) in [(&mut self.cpu, by.cpu_ns), (&mut self.run, by.run_ns)] {
                while let Some((_, page)) = accesses
                    .first()
                    .copied()
                    .filter(|(due_ns, _)| *due_ns <= clock_ns)
                {
                    accesses.pop_first();
                    if self.untouched.clear(page) {
                        touch(page);
                    }
                }
            }
            if self.horizon.cpu_ns >= by.cpu_ns && self.horizon.run_ns >= by.run_ns {
                return;
            }
            self.look_ahead();
        }
    }

    /// Calls `touch` for the pages of scans that are due: one after another, as one vCPU does it.
    pub(super) fn scans(&mut self, by: GuestTime, now_ns: u64, mut touch: impl FnMut(u32)) {
        let (model, share) = (self.memory.model(), &self.share);
        let scans = self.scans.get_or_insert_with(|| {
            let own = model
                .scans()
                .iter()
                .filter(|job| share.has(job.pages.start));
            Scans::new(&own.cloned().collect::<Vec<_>>(), now_ns)
        });
        if self.sees_at.is_none() {
            self.sees_at = scans.seen_at(now_ns, by.run_ns);
        }
        if self.sees_at.take_if(|at_ns| by.run_ns >= *at_ns).is_some() {
            scans.begin(now_ns);
            while let Some(page) = scans.awaited(&self.untouched) {
                touch(page);
                self.untouched.clear(page);
            }
        }
    }

    fn look_ahead(&mut self) {
        let from = self.horizon;
        let to = GuestTime {
            cpu_ns: from.cpu_ns.saturating_add(WINDOW_NS),
            run_ns: from.run_ns.saturating_add(WINDOW_NS),
        };
        let (model, found): (&MemoryModel, _) = (self.memory.model(), &mut self.found);
        found.clear_all();
        self.share.runs(model.pages(), |pages| {
            model.reads_range(pages, from, to, found);
        });
        for page in self.found.iter().filter(|&page| self.untouched.get(page)) {
            // One that is written first is touched by that.
            let access = model.first_access(page, from);
            let Some(access) = access.filter(|access| access.kind == AccessKind::Read) else {
                continue;
            };
            match access.coupling {
                Coupling::Cpu => self.cpu.insert((access.clock_ns, page)),
                Coupling::Time => self.run.insert((access.clock_ns, page)),
            };
        }
        self.horizon = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resident::tests::{PAGES, memory, time};

    /// Against every read of the model, whatever the steps: each missing page once, when its turn comes, by its own vCPU.
    #[test]
    fn each_missing_page_is_read_once_and_not_before_its_time() {
        let memory = memory(3, "memcached");
        let model = memory.model();
        let mut missing = Bitmap::new(PAGES);
        (0..PAGES).filter(|page| page % 3 > 0).for_each(|page| {
            missing.set(page);
        });
        let (begin, end) = (time(1_000), time(4_000));
        let mut by: Vec<Vec<u32>> = Vec::new();
        for index in 0..2 {
            let share = Share::of(&memory, index, 2);
            let mut touches = Touches::new(&memory, &missing, share, begin);
            let mut touched = Vec::new();
            for ms in (1_000..4_000).step_by(13).chain([4_000]) {
                let at = time(ms);
                touches.reads(at, |page| {
                    assert!(model.read_in(page, begin, at), "page {page} at {ms} ms");
                    touched.push(page);
                });
            }
            by.push(touched);
        }
        let mut all = by.concat();
        all.sort_unstable();
        let read_first = |&page: &u32| {
            let first = model.first_access(page, begin);
            missing.get(page)
                && model.read_in(page, begin, end)
                && first.is_some_and(|first| first.kind == AccessKind::Read)
        };
        let expected: Vec<u32> = (0..PAGES).filter(read_first).collect();
        assert!(expected.len() > 50, "{}", expected.len());
        let missed = expected.iter().filter(|page| !all.contains(page)).count();
        assert_eq!(missed, 0);
        let mut once = all.clone();
        once.dedup();
        assert_eq!(once, all, "each page once");
        for (index, pages) in by.iter().enumerate() {
            assert!(
                pages
                    .iter()
                    .all(|page| page / 64 % 2 == u32::try_from(index).unwrap())
            );
        }
    }
}
