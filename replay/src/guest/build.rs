//! From behaviours to the processes that write and read their pages.

use std::ops::Range;
use std::sync::Arc;

use traces::class::{Coupling, Locality, PageClass, PhasedClasses};

use super::field::{Field, Region, Source};
use super::layout::{Behaviour, Layout, MemoryError, MemorySpec};
use super::memory::ScanJob;
use super::pages::PagesWriter;
use super::poisson::PoissonWriter;
use super::sweep::SweepWriter;
use super::tempo::{SetClock, Tempo};
use crate::mix;

/// Keeps the draws of reads apart from those of writes.
const READS: u64 = 1;
/// Keeps the draws of a set's variation apart from those of its classes.
const VARIATION: u64 = u64::MAX;
/// Keeps the draws of scans apart from both: no behaviour has this number.
const SCANS: u64 = u64::MAX;

/// What accesses a guest's pages.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    pub(super) writes: Field,
    pub(super) reads: Field,
    pub(super) scans: Vec<ScanJob>,
}

/// A class set with its place and its clock.
struct Set<'c> {
    layer: usize,
    start: u32,
    classes: &'c [PageClass],
    clock: Option<Arc<SetClock>>,
}

/// The processes of a spec under a seed.
///
/// # Errors
/// When a behaviour is none.
pub(super) fn accesses(
    spec: &MemorySpec,
    layout: &Layout,
    seed: u64,
    vm_key: u64,
) -> Result<Accesses, MemoryError> {
    let mut all = Accesses::default();
    let scans = mix::key(&[seed, vm_key, SCANS]);
    for (index, behaviour) in spec.behaviours.iter().enumerate() {
        let range = layout
            .behaviour(index)
            .expect("a layout knows every behaviour of its spec");
        let key = |parts: &[u64]| {
            let head = [seed, vm_key, index as u64];
            mix::key(&[&head[..], parts].concat())
        };
        match behaviour {
            Behaviour::Idle => {}
            Behaviour::Classes(classes) => {
                let set = Set {
                    layer: 0,
                    start: range.start,
                    classes,
                    clock: None,
                };
                all.add(&set, |class| key(&[class]))?;
            }
            Behaviour::Phases(phased) => all.add_phases(phased, range.start, key)?,
            Behaviour::Pages {
                trace,
                coupling,
                loop_from_ns,
            } => {
                let writer = PagesWriter::new(key(&[0]), trace, *coupling, *loop_from_ns)?;
                let source = Source::Pages(Box::new(writer));
                all.writes.add(0, region(range, *coupling, source));
            }
        }
    }
    for job in &mut all.scans {
        job.first_ns = mix::below(scans, job.scan.every_ns);
    }
    all.scans.sort_by_key(|job| job.pages.start);
    all.scans.dedup(); // a class of several phases is scanned once
    Ok(all)
}

fn region(pages: Range<u32>, coupling: Coupling, source: Source) -> Region {
    Region {
        pages,
        coupling,
        source,
    }
}

impl Accesses {
    /// Each phase in a layer of its own.
    fn add_phases(
        &mut self,
        phased: &PhasedClasses,
        start: u32,
        key: impl Fn(&[u64]) -> u64,
    ) -> Result<(), MemoryError> {
        let clocks = SetClock::of(phased, |phase| key(&[phase as u64, VARIATION]))?;
        for (layer, (phase, clock)) in phased.phases.iter().zip(clocks).enumerate() {
            if phase.classes.iter().any(|c| c.coupling != phased.coupling) {
                return Err(MemoryError::MixedClocks);
            }
            let set = Set {
                layer,
                start: start + phase.first_page,
                classes: &phase.classes,
                clock: Some(clock),
            };
            self.add(&set, |class| key(&[layer as u64, class]))?;
        }
        Ok(())
    }

    /// A set's classes, one after another. `key` gives the key of a class.
    fn add(&mut self, set: &Set<'_>, key: impl Fn(u64) -> u64) -> Result<(), MemoryError> {
        let mut start = set.start;
        for (number, class) in set.classes.iter().enumerate() {
            let pages = start..start + class.pages;
            start = pages.end;
            if let Some(scan) = class.scan {
                if scan.every_ns == 0 || scan.after_ns == 0 {
                    return Err(MemoryError::ScanTimes);
                }
                let pages = pages.clone();
                let first_ns = 0;
                self.scans.push(ScanJob {
                    pages,
                    scan,
                    first_ns,
                });
            }
            let key = key(number as u64);
            for (field, rate, key) in [
                (&mut self.writes, class.rate, key),
                (&mut self.reads, class.read_rate, mix::key(&[key, READS])),
            ] {
                let tempo = Tempo::new(rate, set.clock.clone())?;
                let source = source(class, tempo, key)?;
                field.add(set.layer, region(pages.clone(), class.coupling, source));
            }
        }
        Ok(())
    }
}

/// The key of the variation of a phase.
#[cfg(test)]
pub(super) fn set_key(seed: u64, vm_key: u64, behaviour: u64, phase: usize) -> u64 {
    mix::key(&[seed, vm_key, behaviour, phase as u64, VARIATION])
}

fn source(class: &PageClass, tempo: Tempo, key: u64) -> Result<Source, MemoryError> {
    Ok(match class.locality {
        Locality::Scatter => Source::Poisson(tempo, PoissonWriter::new(key, 1)),
        Locality::Runs { pages: 0 } => return Err(MemoryError::EmptyRuns),
        Locality::Runs { pages } => Source::Poisson(tempo, PoissonWriter::new(key, pages)),
        Locality::Sweep => Source::Sweep(tempo, SweepWriter::new(class.pages)),
    })
}
