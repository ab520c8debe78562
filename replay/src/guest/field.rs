//! One kind of access, writes or reads, to all pages: what is asked of [`MemoryModel`] and how the
//! processes of a page add up. Never inside: what a behaviour means (`build`).
//!
//! [`MemoryModel`]: super::MemoryModel

use std::ops::Range;

use traces::class::Coupling;

use super::GuestTime;
use super::memory::Span;
use super::pages::PagesWriter;
use super::poisson::PoissonWriter;
use super::sweep::SweepWriter;
use super::tempo::Tempo;
use super::vcpus::Deal;
use crate::bitmap::Bitmap;

/// Layers of regions. The regions of a layer are ascending and apart; a page may be in one region of
/// each layer (one a phase), and its accesses are those of all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Field {
    layers: Vec<Vec<Region>>,
}

/// Pages that one class or recording accesses.
#[derive(Debug, Clone)]
pub(super) struct Region {
    pub(super) pages: Range<u32>,
    pub(super) coupling: Coupling,
    pub(super) source: Source,
}

/// What accesses them.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Poisson(Tempo, PoissonWriter),
    Sweep(Tempo, SweepWriter),
    Pages(Box<PagesWriter>),
}

impl Field {
    /// Adds a region to a layer; within a layer in ascending order.
    pub(super) fn add(&mut self, layer: usize, region: Region) {
        if region.pages.is_empty() || region.source.stands() {
            return;
        }
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, Vec::new);
        }
        self.layers[layer].push(region);
    }

    fn regions(&self, page: u32) -> impl Iterator<Item = &Region> {
        self.layers.iter().filter_map(move |layer| {
            let index = layer.partition_point(|region| region.pages.end <= page);
            layer
                .get(index)
                .filter(|region| region.pages.contains(&page))
        })
    }

    /// The clock a page's accesses follow; none of a page that has none. All layers of a page share
    /// it, since the phases of a behaviour do.
    pub(super) fn coupling(&self, page: u32) -> Option<Coupling> {
        self.regions(page).next().map(|region| region.coupling)
    }

    /// Grows with every access to the page. A sum over layers: each grows with its own.
    pub(super) fn version(&self, page: u32, at: GuestTime) -> u64 {
        self.regions(page).fold(0, |sum: u64, region| {
            sum.saturating_add(region.version(page, at))
        })
    }

    /// Whether the page is accessed in `(from, to]`.
    pub(super) fn accessed(&self, page: u32, from: GuestTime, to: GuestTime) -> bool {
        self.regions(page)
            .any(|region| region.accessed(page, from, to))
    }

    /// Regions with what they have of a range.
    fn within(&self, range: &Range<u32>) -> impl Iterator<Item = (&Region, Range<u32>)> {
        let (start, end) = (range.start, range.end);
        let clipped =
            move |region: &Region| region.pages.start.max(start)..region.pages.end.min(end);
        let all = self.layers.iter().flatten();
        all.map(move |region| (region, clipped(region)))
            .filter(|(_, pages)| !pages.is_empty())
    }

    /// Sets the pages of `range` that are accessed in a span.
    pub(super) fn harvest(&self, range: &Range<u32>, span: Span, into: &mut Bitmap) {
        for (region, pages) in self.within(range) {
            region.harvest(&pages, span, into);
        }
    }

    /// Sets the pages of `range` that their vCPU accesses in its span.
    pub(super) fn harvest_each(
        &self,
        range: &Range<u32>,
        deal: &Deal,
        spans: &[Span],
        into: &mut Bitmap,
    ) {
        if let Some(&span) = spans
            .first()
            .filter(|&&span| spans.iter().all(|&s| s == span))
        {
            return self.harvest(range, span, into);
        }
        for (region, pages) in self.within(range) {
            region.harvest_each(&pages, deal, spans, into);
        }
    }
}

impl Source {
    fn stands(&self) -> bool {
        match self {
            Self::Poisson(tempo, _) | Self::Sweep(tempo, _) => tempo.stands(),
            Self::Pages(_) => false,
        }
    }
}

impl Region {
    fn version(&self, page: u32, at: GuestTime) -> u64 {
        let (offset, clock) = (page - self.pages.start, at.clock(self.coupling));
        match &self.source {
            Source::Poisson(tempo, class) => class.version(offset, tempo.at(clock)),
            Source::Sweep(tempo, sweep) => sweep.version(offset, tempo.at(clock)),
            Source::Pages(pages) => pages.version(offset, clock),
        }
    }

    fn accessed(&self, page: u32, from: GuestTime, to: GuestTime) -> bool {
        let offset = page - self.pages.start;
        let (from_ns, to_ns) = (from.clock(self.coupling), to.clock(self.coupling));
        if to_ns <= from_ns {
            return false;
        }
        match &self.source {
            Source::Poisson(tempo, class) => {
                class.written(offset, tempo.at(from_ns), tempo.at(to_ns))
            }
            Source::Sweep(..) | Source::Pages(_) => {
                self.version(page, from) != self.version(page, to)
            }
        }
    }

    fn harvest_each(&self, pages: &Range<u32>, deal: &Deal, spans: &[Span], into: &mut Bitmap) {
        let Source::Pages(writer) = &self.source else {
            for (part, vcpu) in deal.parts(pages) {
                self.harvest(&part, spans[vcpu as usize], into);
            }
            return;
        };
        // Each look goes through whole ticks: one a vCPU, not one a block.
        let base = self.pages.start;
        let offsets = pages.start - base..pages.end - base;
        for (vcpu, (from, to)) in (0..).zip(spans) {
            let (from, to) = (from.clock(self.coupling), to.clock(self.coupling));
            writer.harvest(&offsets, from, to, |run| {
                let run = run.start + base..run.end + base;
                for page in run.filter(|&page| deal.vcpu(page) == vcpu) {
                    into.set(page);
                }
            });
        }
    }

    fn harvest(&self, pages: &Range<u32>, (from, to): Span, into: &mut Bitmap) {
        let base = self.pages.start;
        let offsets = pages.start - base..pages.end - base;
        let (from, to) = (from.clock(self.coupling), to.clock(self.coupling));
        let words = into.words_mut();
        let mut mark = |run: Range<u32>, written: bool| {
            for page in run.start + base..run.end + base {
                words[(page / 64) as usize] |= u64::from(written) << (page % 64);
            }
        };
        match &self.source {
            Source::Poisson(tempo, class) => {
                let (from, to) = (tempo.at(from), tempo.at(to));
                // A phase that is not on: nothing is looked at.
                if to > from {
                    class.harvest(offsets, from, to, mark);
                }
            }
            Source::Sweep(tempo, sweep) => {
                sweep.harvest(&offsets, tempo.at(from), tempo.at(to), |run| {
                    mark(run, true);
                });
            }
            Source::Pages(writer) => writer.harvest(&offsets, from, to, |run| mark(run, true)),
        }
    }
}
