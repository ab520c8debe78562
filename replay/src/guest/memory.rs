//! All of a guest's memory: behaviours side by side.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use traces::class::{Coupling, Scan};

use super::GuestTime;
use super::build::{Accesses, accesses};
use super::field::Field;
use super::layout::{Layout, MemoryError, MemorySpec};
use super::vcpus::{Deal, VcpuClocks};
use crate::bitmap::Bitmap;

/// Which page of a guest is written and read when, for all time: a value that is only ever read.
///
/// Reads are those of classes with a read rate; recordings of page sets hold writes alone. They are
/// drawn apart from the writes, which are the same whether or not anything is read.
///
/// A page follows the clocks of the vCPU that accesses it ([`Deal`]). Guest times here are the guest's, and what
/// its vCPUs' clocks read then is a constant away ([`MemoryModel::apart`]).
#[derive(Debug, Clone)]
pub struct MemoryModel {
    layout: Layout,
    writes: Field,
    reads: Field,
    scans: Vec<ScanJob>,
    deal: Deal,
    clocks: VcpuClocks,
}

/// Guest times: from the first, exclusive, to the second.
pub type Span = (GuestTime, GuestTime);

/// A [`Scan`] of a guest's, and where its pages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanJob {
    /// Its pages.
    pub pages: Range<u32>,
    /// When.
    pub scan: Scan,
    /// When first, ns from any instant on: drawn, one for all scans of a guest that are as often.
    pub first_ns: u64,
}

/// What a guest does to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessKind {
    /// It only looks.
    Read,
    /// It writes, whether or not it also reads.
    Write,
}

/// An access to a page, at a reading of the clock that the page's class follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    /// What.
    pub kind: AccessKind,
    /// Which clock.
    pub coupling: Coupling,
    /// Its reading.
    pub clock_ns: u64,
}

impl MemoryModel {
    /// The memory of the VM `vm_key` under a seed.
    ///
    /// # Errors
    /// When the parts do not fit, or one of them is no behaviour (see [`MemoryError`]).
    pub fn new(spec: &MemorySpec, seed: u64, vm_key: u64) -> Result<Self, MemoryError> {
        let layout = Layout::new(spec)?;
        let Accesses {
            writes,
            reads,
            scans,
        } = accesses(spec, &layout, seed, vm_key)?;
        Ok(Self {
            layout,
            writes,
            reads,
            scans,
            deal: Deal::default(),
            clocks: VcpuClocks::default(),
        })
    }

    /// The same memory of a guest of several vCPUs.
    #[must_use]
    pub fn of_vcpus(self, deal: Deal) -> Self {
        Self { deal, ..self }
    }

    /// The same memory of a guest whose vCPUs have parted, and of which none waits.
    #[must_use]
    pub fn apart(self, clocks: VcpuClocks) -> Self {
        Self { clocks, ..self }
    }

    /// Which vCPU accesses which page.
    #[must_use]
    pub fn deal(&self) -> &Deal {
        &self.deal
    }

    /// How far the vCPU of a page has come at a guest time.
    fn own(&self, page: u32, at: GuestTime) -> GuestTime {
        if self.clocks.are_one() {
            return at;
        }
        self.clocks.time(self.deal.vcpu(page), at)
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Jobs that read many pages in order, by their first page. [`Self::read_in`] does not know of them: when they are done
    /// depends on when their pages are there.
    #[must_use]
    pub fn scans(&self) -> &[ScanJob] {
        &self.scans
    }

    /// RAM in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.layout.ram_pages()
    }

    /// Which write of the page was the last at or before a guest time: 0 if there was none, else a
    /// number that grows with every write (though not by one).
    #[must_use]
    pub fn version_at(&self, page: u32, at: GuestTime) -> u64 {
        self.writes.version(page, self.own(page, at))
    }

    /// Whether the page is written in `(from, to]`.
    #[must_use]
    pub fn written_in(&self, page: u32, from: GuestTime, to: GuestTime) -> bool {
        let (from, to) = (self.own(page, from), self.own(page, to));
        self.writes.accessed(page, from, to)
    }

    /// Whether the page is read in `(from, to]`.
    #[must_use]
    pub fn read_in(&self, page: u32, from: GuestTime, to: GuestTime) -> bool {
        let (from, to) = (self.own(page, from), self.own(page, to));
        self.reads.accessed(page, from, to)
    }

    /// Sets the pages of `range` that are written in `(from, to]`. About 10 ns a page of a class;
    /// pages nothing writes cost nothing, nor do the classes of phases that are not on.
    ///
    /// # Panics
    /// If the bitmap is not of this guest's size.
    pub fn harvest_range(
        &self,
        range: Range<u32>,
        from: GuestTime,
        to: GuestTime,
        into: &mut Bitmap,
    ) {
        assert_eq!(into.len(), self.pages(), "a bitmap of another guest");
        self.find(&self.writes, &range, (from, to), into);
    }

    fn find(&self, field: &Field, range: &Range<u32>, span: Span, into: &mut Bitmap) {
        if self.clocks.are_one() {
            return field.harvest(range, span, into);
        }
        let own = |vcpu| {
            let time = |at| self.clocks.time(vcpu, at);
            (time(span.0), time(span.1))
        };
        let spans: Vec<Span> = (0..self.deal.vcpus()).map(own).collect();
        field.harvest_each(range, &self.deal, &spans, into);
    }

    /// Sets every page that is written in `(from, to]`.
    ///
    /// # Panics
    /// If the bitmap is not of this guest's size.
    pub fn harvest(&self, from: GuestTime, to: GuestTime, into: &mut Bitmap) {
        self.harvest_range(0..self.pages(), from, to, into);
    }

    /// Sets the pages of `range` that are read in `(from, to]`.
    ///
    /// # Panics
    /// If the bitmap is not of this guest's size.
    pub fn reads_range(
        &self,
        range: Range<u32>,
        from: GuestTime,
        to: GuestTime,
        into: &mut Bitmap,
    ) {
        assert_eq!(into.len(), self.pages(), "a bitmap of another guest");
        self.find(&self.reads, &range, (from, to), into);
    }

    /// Sets every page that its vCPU accesses, reading or writing, in that vCPU's span of its own time.
    ///
    /// # Panics
    /// If the bitmap is not of this guest's size, or there is not a span for each vCPU.
    pub fn accesses_each(&self, spans: &[Span], into: &mut Bitmap) {
        assert_eq!(into.len(), self.pages(), "a bitmap of another guest");
        assert_eq!(spans.len(), self.deal.vcpus() as usize, "a span a vCPU");
        for field in [&self.writes, &self.reads] {
            field.harvest_each(&(0..self.pages()), &self.deal, spans, into);
        }
    }

    /// The first access to the page after a time of its vCPU: what one that runs where the page is not
    /// yet waits for. `None` when there is none before its clock ends. A write that falls on the same
    /// nanosecond as a read is the one told.
    #[must_use]
    pub fn first_access(&self, page: u32, after: GuestTime) -> Option<Access> {
        let next = |field: &Field, kind| {
            let coupling = field.coupling(page)?;
            let version = |clock_ns| field.version(page, with_clock(after, coupling, clock_ns));
            let clock_ns = first_change(after.clock(coupling), version)?;
            Some(Access {
                kind,
                coupling,
                clock_ns,
            })
        };
        let read = next(&self.reads, AccessKind::Read);
        let write = next(&self.writes, AccessKind::Write);
        match (read, write) {
            (Some(read), Some(write)) if read.clock_ns < write.clock_ns => Some(read),
            (read, write) => write.or(read),
        }
    }
}

fn with_clock(at: GuestTime, coupling: Coupling, clock_ns: u64) -> GuestTime {
    match coupling {
        Coupling::Cpu => GuestTime {
            cpu_ns: clock_ns,
            ..at
        },
        Coupling::Time => GuestTime {
            run_ns: clock_ns,
            ..at
        },
    }
}

/// The first reading after `after` at which a version, which never falls, is another. Strides double
/// until it is, then the last one is halved: exact whatever makes the version, in about 100 looks.
fn first_change(after: u64, version: impl Fn(u64) -> u64) -> Option<u64> {
    let now = version(after);
    let (mut same, mut stride) = (after, 1u64);
    let mut changed = loop {
        let at = after.saturating_add(stride);
        if version(at) != now {
            break at;
        }
        if at == u64::MAX {
            return None;
        }
        (same, stride) = (at, stride.saturating_mul(2));
    };
    while changed - same > 1 {
        let middle = same + (changed - same) / 2;
        if version(middle) == now {
            same = middle;
        } else {
            changed = middle;
        }
    }
    Some(changed)
}

#[cfg(test)]
mod tests;
