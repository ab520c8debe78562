//! Jobs of a guest's that read many pages in order ([`traces::class::Scan`]): which missing page one waits for. Pure;
//! instants are arguments.
//!
//! A guest that waits for a page stands still in its own time, and the clock on the wall does not: what it does every
//! second by that clock is due as soon as it may go on. Never inside: accesses at instants of the guest's own time.

use std::collections::VecDeque;

use replay::{Bitmap, ScanJob};

/// The scans of a guest.
#[derive(Debug)]
pub struct Scans {
    jobs: Vec<(ScanJob, u64)>,
    /// What is left of those begun: page to go on at, one past the last.
    under_way: VecDeque<(u32, u32)>,
}

impl Scans {
    /// Of a guest that runs from an instant on.
    #[must_use]
    pub fn new(jobs: &[ScanJob], from_ns: u64) -> Self {
        let due = |job: &ScanJob| (job.clone(), from_ns.saturating_add(job.first_ns));
        Self {
            jobs: jobs.iter().map(due).collect(),
            under_way: VecDeque::new(),
        }
    }

    /// When one is due next, unless one is under way.
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        let idle = self.under_way.is_empty();
        let due = self.jobs.iter().map(|(_, due_ns)| *due_ns);
        due.min().filter(|_| idle)
    }

    /// The reading of its own time at which a guest that is at `run_ns` sees that one is due; `None` if none is.
    #[must_use]
    pub fn seen_at(&self, now_ns: u64, run_ns: u64) -> Option<u64> {
        let due = self.jobs.iter().filter(|(_, due_ns)| *due_ns <= now_ns);
        due.map(|(job, _)| run_ns.saturating_add(job.scan.after_ns))
            .min()
    }

    /// The guest has looked: those that are due begin.
    pub fn begin(&mut self, now_ns: u64) {
        for (job, due_ns) in &mut self.jobs {
            if *due_ns <= now_ns {
                self.under_way.push_back((job.pages.start, job.pages.end));
                // What it has missed by more than a turn is not made up for.
                let turns = (now_ns - *due_ns) / job.scan.every_ns + 1;
                *due_ns = due_ns.saturating_add(turns.saturating_mul(job.scan.every_ns));
            }
        }
    }

    /// Whether the guest is at one.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// The page that the one under way waits for; `None` once all are done.
    pub fn awaited(&mut self, missing: &Bitmap) -> Option<u32> {
        while let Some((at, end)) = self.under_way.front_mut() {
            if let Some(page) = missing.next_set(*at).filter(|page| page < end) {
                *at = page;
                return Some(page);
            }
            self.under_way.pop_front();
        }
        None
    }
}
