//! All of a guest's memory: behaviours side by side.

use std::ops::Range;

use traces::class::{Coupling, Locality, PageClass};

use super::GuestTime;
use super::layout::{Behaviour, Layout, MemoryError, MemorySpec};
use super::pages::PagesWriter;
use super::poisson::PoissonWriter;
use super::sweep::SweepWriter;
use crate::bitmap::Bitmap;
use crate::mix;

/// Which page of a guest is written when, for all time: a value that is only ever read.
#[derive(Debug, Clone)]
pub struct MemoryModel {
    layout: Layout,
    /// Ascending and apart; pages in no region are never written.
    regions: Vec<Region>,
}

#[derive(Debug, Clone)]
struct Region {
    pages: Range<u32>,
    coupling: Coupling,
    writer: Writer,
}

#[derive(Debug, Clone)]
enum Writer {
    Poisson(PoissonWriter),
    /// The rate's fixed-point form is the same as a class's, so it is kept in one.
    Sweep(PoissonWriter, SweepWriter),
    Pages(Box<PagesWriter>),
}

impl MemoryModel {
    /// The memory of the VM `vm_key` under a seed.
    ///
    /// # Errors
    /// When the parts do not fit, or one of them is no behaviour (see [`MemoryError`]).
    pub fn new(spec: &MemorySpec, seed: u64, vm_key: u64) -> Result<Self, MemoryError> {
        let layout = Layout::new(spec)?;
        let mut regions = Vec::new();
        for (index, behaviour) in spec.behaviours.iter().enumerate() {
            let range = layout
                .behaviour(index)
                .expect("a layout knows every behaviour of its spec");
            let key = |part: usize| mix::key(&[seed, vm_key, index as u64, part as u64]);
            match behaviour {
                Behaviour::Idle => {}
                Behaviour::Classes(classes) => {
                    let mut start = range.start;
                    for (part, class) in classes.iter().enumerate() {
                        let pages = start..start + class.pages;
                        start = pages.end;
                        let writer = class_writer(class, key(part))?;
                        regions.push(Region {
                            pages,
                            coupling: class.coupling,
                            writer,
                        });
                    }
                }
                Behaviour::Pages {
                    trace,
                    coupling,
                    loop_from_ns,
                } => {
                    let writer = PagesWriter::new(key(0), trace, *coupling, *loop_from_ns)?;
                    let (coupling, writer) = (*coupling, Writer::Pages(Box::new(writer)));
                    regions.push(Region {
                        pages: range,
                        coupling,
                        writer,
                    });
                }
            }
        }
        regions.retain(|region| !region.pages.is_empty());
        Ok(Self { layout, regions })
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// RAM in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.layout.ram_pages()
    }

    fn region(&self, page: u32) -> Option<&Region> {
        let index = self
            .regions
            .partition_point(|region| region.pages.end <= page);
        self.regions
            .get(index)
            .filter(|region| region.pages.contains(&page))
    }

    /// Which write of the page was the last at or before a guest time: 0 if there was none, else a
    /// number that grows with every write (though not by one).
    #[must_use]
    pub fn version_at(&self, page: u32, at: GuestTime) -> u64 {
        self.region(page)
            .map_or(0, |region| region.version(page, at))
    }

    /// Whether the page is written in `(from, to]`.
    #[must_use]
    pub fn written_in(&self, page: u32, from: GuestTime, to: GuestTime) -> bool {
        self.region(page)
            .is_some_and(|region| region.written(page, from, to))
    }

    /// Sets the pages of `range` that are written in `(from, to]`. About 10 ns a page of a class;
    /// pages nothing writes cost nothing.
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
        for region in &self.regions {
            let pages = region.pages.start.max(range.start)..region.pages.end.min(range.end);
            if !pages.is_empty() {
                region.harvest(&pages, from, to, into);
            }
        }
    }

    /// Sets every page that is written in `(from, to]`.
    ///
    /// # Panics
    /// If the bitmap is not of this guest's size.
    pub fn harvest(&self, from: GuestTime, to: GuestTime, into: &mut Bitmap) {
        self.harvest_range(0..self.pages(), from, to, into);
    }
}

fn class_writer(class: &PageClass, key: u64) -> Result<Writer, MemoryError> {
    if !(0.0..1e9).contains(&class.rate) {
        return Err(MemoryError::Rate { rate: class.rate });
    }
    Ok(match class.locality {
        Locality::Scatter => Writer::Poisson(PoissonWriter::new(key, class.rate, 1)),
        Locality::Runs { pages: 0 } => return Err(MemoryError::EmptyRuns),
        Locality::Runs { pages } => Writer::Poisson(PoissonWriter::new(key, class.rate, pages)),
        Locality::Sweep => {
            let rate = PoissonWriter::new(key, class.rate, 1);
            Writer::Sweep(rate, SweepWriter::new(class.pages))
        }
    })
}

impl Region {
    fn version(&self, page: u32, at: GuestTime) -> u64 {
        let (offset, clock) = (page - self.pages.start, at.clock(self.coupling));
        match &self.writer {
            Writer::Poisson(class) => class.version(offset, class.operational(clock)),
            Writer::Sweep(rate, sweep) => sweep.version(offset, rate.operational(clock)),
            Writer::Pages(pages) => pages.version(offset, clock),
        }
    }

    fn written(&self, page: u32, from: GuestTime, to: GuestTime) -> bool {
        let offset = page - self.pages.start;
        let (from_ns, to_ns) = (from.clock(self.coupling), to.clock(self.coupling));
        if to_ns <= from_ns {
            return false;
        }
        match &self.writer {
            Writer::Poisson(class) => {
                class.written(offset, class.operational(from_ns), class.operational(to_ns))
            }
            Writer::Sweep(..) | Writer::Pages(_) => {
                self.version(page, from) != self.version(page, to)
            }
        }
    }

    fn harvest(&self, pages: &Range<u32>, from: GuestTime, to: GuestTime, into: &mut Bitmap) {
        let base = self.pages.start;
        let offsets = pages.start - base..pages.end - base;
        let (from, to) = (from.clock(self.coupling), to.clock(self.coupling));
        let words = into.words_mut();
        let mut mark = |run: Range<u32>, written: bool| {
            for page in run.start + base..run.end + base {
                words[(page / 64) as usize] |= u64::from(written) << (page % 64);
            }
        };
        match &self.writer {
            Writer::Poisson(class) => {
                class.harvest(
                    offsets,
                    class.operational(from),
                    class.operational(to),
                    mark,
                );
            }
            Writer::Sweep(rate, sweep) => {
                let (from, to) = (rate.operational(from), rate.operational(to));
                sweep.harvest(&offsets, from, to, |run| mark(run, true));
            }
            Writer::Pages(writer) => writer.harvest(&offsets, from, to, |run| mark(run, true)),
        }
    }
}

#[cfg(test)]
mod tests;
