//! Which missing page each vCPU of a guest touches next: the memory model's accesses as the limit that the vCPU
//! may run to. Pure; times are arguments, and all of them the vCPUs' own.
//!
//! The accesses are looked up ahead, a window of a vCPU's time at a time: a harvest of the windows finds the
//! pages, and only theirs are dated. Never inside: threads, the wire, what pages hold.

use std::collections::BTreeSet;

pub use scans::Scans;

use replay::guest::Span;
use replay::{Bitmap, GuestTime, MemoryModel};
use traces::class::Coupling;

mod scans;

/// How far ahead accesses are known at least once half of it is used up, by either clock: a window's
/// harvest costs about 10 ns a page of a class, so a percent or two of a core.
const WINDOW_NS: u64 = 100_000_000;
/// The clock of served CPU runs as fast as all vCPUs together.
const WINDOW_CPU_NS: u64 = 200_000_000;

/// How far a vCPU may run: it stands still at the last instant at which each clock is below its reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// Of the CPU time served; `None`: no limit.
    pub cpu_ns: Option<u64>,
    /// Of the time run.
    pub run_ns: Option<u64>,
}

impl Limit {
    /// As far as it likes.
    pub const NONE: Self = Self {
        cpu_ns: None,
        run_ns: None,
    };

    /// Which clock of a guest time has reached it.
    #[must_use]
    pub fn reached(&self, at: GuestTime) -> Option<Coupling> {
        if self.cpu_ns.is_some_and(|limit| at.cpu_ns >= limit) {
            Some(Coupling::Cpu)
        } else if self.run_ns.is_some_and(|limit| at.run_ns >= limit) {
            Some(Coupling::Time)
        } else {
            None
        }
    }
}

/// What is known of a vCPU's accesses.
#[derive(Debug)]
struct Ahead {
    /// They are known up to here.
    horizon: GuestTime,
    /// (clock, page) of accesses of missing pages, by clock; those of pages that came since are skipped.
    cpu: BTreeSet<(u64, u32)>,
    run: BTreeSet<(u64, u32)>,
}

/// Missing pages, and when each vCPU wants them.
#[derive(Debug)]
pub struct Upcoming<'a> {
    model: &'a MemoryModel,
    missing: Bitmap,
    left: u64,
    vcpus: Vec<Ahead>,
    found: Bitmap,
}

impl<'a> Upcoming<'a> {
    /// A guest whose vCPUs stand at `at` without these pages. Nothing is known yet: see [`Upcoming::look_ahead`].
    #[must_use]
    pub fn new(model: &'a MemoryModel, missing: Bitmap, at: &[GuestTime]) -> Self {
        let ahead = |&horizon: &GuestTime| Ahead {
            horizon,
            cpu: BTreeSet::new(),
            run: BTreeSet::new(),
        };
        Self {
            model,
            left: missing.count(),
            found: Bitmap::new(missing.len()),
            missing,
            vcpus: at.iter().map(ahead).collect(),
        }
    }

    /// Pages that are missing.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The missing pages.
    #[must_use]
    pub fn missing(&self) -> &Bitmap {
        &self.missing
    }

    /// The vCPU that accesses a page.
    #[must_use]
    pub fn vcpu(&self, page: u32) -> usize {
        self.model.deal().vcpu(page) as usize
    }

    /// Whether a vCPU at `at` has used up half of what is known.
    #[must_use]
    pub fn is_short(&self, vcpu: usize, at: GuestTime) -> bool {
        let horizon = self.vcpus[vcpu].horizon;
        self.left > 0
            && (at.run_ns.saturating_add(WINDOW_NS / 2) >= horizon.run_ns
                || at.cpu_ns.saturating_add(WINDOW_CPU_NS / 2) >= horizon.cpu_ns)
    }

    /// Looks up the accesses of the next window of some vCPUs.
    pub fn look_ahead(&mut self, whose: impl Fn(usize) -> bool) {
        let window = |(vcpu, ahead): (usize, &Ahead)| {
            let from = ahead.horizon;
            if !whose(vcpu) {
                return (from, from);
            }
            let to = GuestTime {
                cpu_ns: from.cpu_ns.saturating_add(WINDOW_CPU_NS),
                run_ns: from.run_ns.saturating_add(WINDOW_NS),
            };
            (from, to)
        };
        let windows: Vec<Span> = self.vcpus.iter().enumerate().map(window).collect();
        self.found.clear_all();
        self.model.accesses_each(&windows, &mut self.found);
        for page in self.found.iter().filter(|&page| self.missing.get(page)) {
            let vcpu = self.model.deal().vcpu(page) as usize;
            let Some(access) = self.model.first_access(page, windows[vcpu].0) else {
                continue;
            };
            let ahead = &mut self.vcpus[vcpu];
            match access.coupling {
                Coupling::Cpu => ahead.cpu.insert((access.clock_ns, page)),
                Coupling::Time => ahead.run.insert((access.clock_ns, page)),
            };
        }
        for (ahead, (_, to)) in self.vcpus.iter_mut().zip(windows) {
            ahead.horizon = to;
        }
    }

    /// A page came: whether it was missing.
    pub fn arrived(&mut self, page: u32) -> bool {
        let was_missing = self.missing.clear(page);
        self.left -= u64::from(was_missing);
        was_missing
    }

    /// How far a vCPU may run: to its next access of a page that is missing, or to the end of what is
    /// known.
    pub fn limit(&mut self, vcpu: usize) -> Limit {
        if self.left == 0 {
            return Limit::NONE;
        }
        let GuestTime { cpu_ns, run_ns } = self.vcpus[vcpu].horizon;
        let cpu = self
            .next(vcpu, Coupling::Cpu)
            .map_or(cpu_ns, |(clock, _)| clock - 1);
        let run = self
            .next(vcpu, Coupling::Time)
            .map_or(run_ns, |(clock, _)| clock - 1);
        Limit {
            cpu_ns: Some(cpu.saturating_add(1)),
            run_ns: Some(run.saturating_add(1)),
        }
    }

    /// The page that a vCPU waits for which stands at the limit of a clock; `None` if that was the end of what is
    /// known.
    pub fn awaited(&mut self, vcpu: usize, clock: Coupling) -> Option<u32> {
        self.next(vcpu, clock).map(|(_, page)| page)
    }

    /// A vCPU's next access of a missing page by a clock.
    fn next(&mut self, vcpu: usize, clock: Coupling) -> Option<(u64, u32)> {
        let ahead = &mut self.vcpus[vcpu];
        let accesses = match clock {
            Coupling::Cpu => &mut ahead.cpu,
            Coupling::Time => &mut ahead.run,
        };
        while let Some(&first) = accesses.first() {
            if self.missing.get(first.1) {
                return Some(first);
            }
            accesses.pop_first();
        }
        None
    }
}

#[cfg(test)]
mod tests;
