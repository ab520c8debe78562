//! A class set for each phase of a recording: the whole of it as a program that goes through its phases
//! again and again.

use std::ops::Range;

use super::{FitError, Phase, Varied, curve, fit, fit_varied};
use crate::class::{ClassPhase, Coupling, PageClass, PhasedClasses, Variation};
use crate::dirty::{PageWriteTrace, Tick};
use crate::units::round_u32;

/// Fits every phase, on one clock, with or without variation.
///
/// Phases are stretched to meet each other and the ends of the recording, all but its first tick, so
/// that a guest that replays the CPU demand beside it is in the phase it was in. A phase in which the
/// clock stands still is left out; one that writes nothing has no classes. Of each phase's pages as
/// many lie over those of the phases before as did when recorded: it begins so far before their end.
///
/// # Errors
/// When the clock stands still in all of them.
pub fn fit_phases(
    trace: &PageWriteTrace,
    phases: &[Phase],
    coupling: Coupling,
    varies: bool,
) -> Result<PhasedClasses, FitError> {
    let mut seen = Seen::new(trace.pages);
    let mut fitted: Vec<ClassPhase> = Vec::new();
    for range in stretched(trace, phases) {
        let part = trace.slice(range.clone());
        let length_ns = match coupling {
            Coupling::Cpu => part.ticks.iter().map(|tick| tick.cpu_ns).sum(),
            Coupling::Time => part.duration_ns(),
        };
        let shared = seen.add(&part.ticks);
        if length_ns == 0 {
            continue;
        }
        let (classes, variation) = one(trace, &range, coupling, varies);
        let end = fitted.iter().map(ClassPhase::end).max().unwrap_or(0);
        let pages: u64 = classes.iter().map(|class| u64::from(class.pages)).sum();
        // A fit of many classes may hold a page more or less than the recording.
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        let over = round_u32(pages as f64 * shared);
        let room = trace
            .pages
            .saturating_sub(u32::try_from(pages).unwrap_or(u32::MAX));
        fitted.push(ClassPhase {
            length_ns,
            first_page: end.saturating_sub(over).min(room),
            classes,
            variation,
        });
    }
    if fitted.is_empty() {
        return Err(FitError::NoCpu);
    }
    Ok(PhasedClasses {
        coupling,
        phases: fitted,
    })
}

/// A phase too short or too quiet for a curve has no classes.
fn one(
    trace: &PageWriteTrace,
    range: &Range<u64>,
    coupling: Coupling,
    varies: bool,
) -> (Vec<PageClass>, Option<Variation>) {
    if varies && let Ok(found) = fit_varied(trace, range, coupling) {
        let Varied {
            classes, variation, ..
        } = found;
        return (classes, Some(variation));
    }
    let points = curve(trace, range.clone(), coupling).unwrap_or_default();
    if points.is_empty() {
        return (Vec::new(), None);
    }
    (fit(&points, trace.pages, coupling), None)
}

/// The phases without gaps, from the end of the first tick to the end.
fn stretched(trace: &PageWriteTrace, phases: &[Phase]) -> Vec<Range<u64>> {
    let first = trace.ticks.first().map_or(0, |tick| tick.t_ns);
    let starts = phases.iter().map(|phase| phase.range_ns.start).skip(1);
    let mut ends: Vec<u64> = starts.collect();
    ends.push(trace.duration_ns());
    let mut start = first;
    let one = |end: u64| {
        let range = start..end.max(start);
        start = range.end;
        range
    };
    ends.into_iter().map(one).collect()
}

/// The pages of the phases so far.
struct Seen {
    seen: Vec<bool>,
    /// Marks the pages of the phase that is added.
    latest: Vec<u32>,
    phase: u32,
}

impl Seen {
    fn new(pages: u32) -> Self {
        let pages = usize::try_from(pages).unwrap_or(0);
        Self {
            seen: vec![false; pages],
            latest: vec![0; pages],
            phase: 0,
        }
    }

    /// Adds a phase; the share of its pages that earlier phases have written.
    fn add(&mut self, ticks: &[Tick]) -> f64 {
        self.phase += 1;
        let (mut distinct, mut shared) = (0u32, 0u32);
        for page in ticks.iter().flat_map(Tick::pages) {
            let page = page as usize;
            let Some(latest) = self.latest.get_mut(page).filter(|l| **l != self.phase) else {
                continue;
            };
            *latest = self.phase;
            distinct += 1;
            shared += u32::from(self.seen[page]);
            self.seen[page] = true;
        }
        f64::from(shared) / f64::from(distinct.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Run;
    use crate::units::NS_PER_S;

    /// 10 s over pages 0..400, 20 s over 300..500, each page about once in 2 s; the clock of the second
    /// at half speed.
    fn two_places() -> PageWriteTrace {
        let ticks = (0..300u32).map(|i| {
            let (base, pages) = if i < 100 { (0, 400) } else { (300, 200) };
            let len = pages / 20;
            Tick {
                t_ns: u64::from(i + 1) * 100_000_000,
                cpu_ns: if i < 100 { 80_000_000 } else { 40_000_000 },
                runs: vec![Run {
                    start: base + i * 7 % 20 * len,
                    len,
                }],
            }
        });
        PageWriteTrace {
            title: String::new(),
            pages: 5000,
            interval_ns: 100_000_000,
            ticks: ticks.collect(),
        }
    }

    #[test]
    fn phases_last_as_long_as_recorded_and_share_as_many_pages() {
        let trace = two_places();
        let phase = |range_ns| Phase {
            range_ns,
            cores: 0.5,
            pages_per_s: 100.0,
        };
        let cuts = [
            phase(NS_PER_S / 10..9 * NS_PER_S),
            phase(10 * NS_PER_S..29 * NS_PER_S),
        ];
        let found = fit_phases(&trace, &cuts, Coupling::Cpu, false).unwrap();
        let lengths: Vec<u64> = found.phases.iter().map(|p| p.length_ns).collect();
        assert_eq!(lengths, [99 * 80_000_000, 200 * 40_000_000]);
        let [first, second] = &found.phases[..] else {
            panic!("{found:?}");
        };
        let pages = |phase: &ClassPhase| phase.end() - u64::from(phase.first_page);
        // Half of the second's pages are the first's.
        let shared = first.end() - u64::from(second.first_page);
        assert!(shared.abs_diff(pages(second) / 2) <= 1, "{found:?}");
        let time = fit_phases(&trace, &cuts, Coupling::Time, true).unwrap();
        assert_eq!(time.phases[1].length_ns, 20 * NS_PER_S);
        assert!(time.phases[1].variation.is_some());
        assert!(time.pages() <= 5000);
    }

    #[test]
    fn phases_without_cpu_time_are_not_on_its_clock() {
        let mut trace = two_places();
        trace.ticks[100..]
            .iter_mut()
            .for_each(|tick| tick.cpu_ns = 0);
        let phases = super::super::phases(&trace);
        let found = fit_phases(&trace, &phases, Coupling::Cpu, false).unwrap();
        assert!(found.phases.len() < phases.len().max(2), "{found:?}");
        trace.ticks.iter_mut().for_each(|tick| tick.cpu_ns = 0);
        let none = fit_phases(&trace, &phases, Coupling::Cpu, false);
        assert_eq!(none, Err(FitError::NoCpu));
    }
}
