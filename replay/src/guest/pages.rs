//! The page sets of a recording, replayed tick by tick and then round and round.
//!
//! A page of tick i is written at one instant within the tick's interval, drawn per (page, tick,
//! lap). Ticks up to where the loop begins happen once; the others repeat for ever. Ticks are
//! numbered through all laps: tick n of the endless series is tick n of the recording in the first
//! lap, and one of the loop's afterwards.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use traces::class::Coupling;
use traces::dirty::PageWriteTrace;

use super::MemoryError;
use crate::mix;

/// Writes as a recording has them.
#[derive(Debug, Clone)]
pub(super) struct PagesWriter {
    key: u64,
    trace: Arc<PageWriteTrace>,
    /// End of each tick on the coupled clock; ascending, though ticks may take no time on it.
    ends: Vec<u64>,
    /// First tick of the loop.
    loop_tick: usize,
    /// The clock where the loop begins.
    loop_start: u64,
    /// Length of a lap; never 0.
    lap: u64,
    index: OnceLock<Index>,
}

/// For each page, the ticks that write it: built when a version is first asked for, since most
/// guests are never looked at so closely. A machine holds less than 2^32 ticks.
#[derive(Debug, Clone)]
struct Index {
    starts: Vec<usize>,
    ticks: Vec<u32>,
}

/// A tick of the endless series.
#[derive(Debug, Clone, Copy)]
struct TickAt {
    tick: usize,
    lap: u64,
    start: u64,
    end: u64,
}

impl PagesWriter {
    pub(super) fn new(
        key: u64,
        trace: &Arc<PageWriteTrace>,
        coupling: Coupling,
        loop_from_ns: u64,
    ) -> Result<Self, MemoryError> {
        check(trace)?;
        let loop_tick = trace
            .ticks
            .partition_point(|tick| tick.t_ns <= loop_from_ns);
        if loop_tick == trace.ticks.len() {
            return Err(MemoryError::NothingToRepeat {
                title: trace.title.clone(),
                loop_from_ns,
            });
        }
        let mut cpu = 0u64;
        let ends: Vec<u64> = trace
            .ticks
            .iter()
            .map(|tick| {
                cpu = cpu.saturating_add(tick.cpu_ns);
                match coupling {
                    Coupling::Cpu => cpu,
                    Coupling::Time => tick.t_ns,
                }
            })
            .collect();
        let loop_start = if loop_tick == 0 {
            0
        } else {
            ends[loop_tick - 1]
        };
        let lap = ends[ends.len() - 1] - loop_start;
        if lap == 0 {
            return Err(MemoryError::NoCpu {
                title: trace.title.clone(),
                loop_from_ns,
            });
        }
        let index = OnceLock::new();
        Ok(Self {
            key,
            trace: Arc::clone(trace),
            ends,
            loop_tick,
            loop_start,
            lap,
            index,
        })
    }

    /// How many ticks of the endless series are over at a reading of the clock.
    fn over(&self, clock: u64) -> u64 {
        let whole = |ticks: usize| ticks as u64;
        if clock < self.loop_start.saturating_add(self.lap) {
            return whole(self.ends.partition_point(|&end| end <= clock));
        }
        let beyond = clock - self.loop_start;
        let (lap, phase) = (beyond / self.lap, self.loop_start + beyond % self.lap);
        let per_lap = whole(self.ends.len() - self.loop_tick);
        // At the very start of a lap only the lap before is over: ticks of no length count when
        // time has come to them within this lap, which `phase` = `loop_start` has as well.
        let within = self.ends[self.loop_tick..].partition_point(|&end| end <= phase);
        whole(self.loop_tick) + lap * per_lap + whole(within)
    }

    /// Tick number `n` of the endless series.
    fn tick_at(&self, n: u64) -> TickAt {
        let per_lap = (self.ends.len() - self.loop_tick) as u64;
        let (tick, lap) = match n.checked_sub(self.loop_tick as u64) {
            None => (usize::try_from(n).expect("below the loop's first tick"), 0),
            Some(in_loop) => {
                let within = usize::try_from(in_loop % per_lap).expect("below the ticks held");
                (self.loop_tick + within, in_loop / per_lap)
            }
        };
        let shift = lap.saturating_mul(self.lap);
        let start = if tick == 0 { 0 } else { self.ends[tick - 1] };
        TickAt {
            tick,
            lap,
            start: start.saturating_add(shift),
            end: self.ends[tick].saturating_add(shift),
        }
    }

    /// When a page of a tick is written: in `(start, end]`, or at `end` if that takes no time.
    fn instant(&self, page: u32, at: &TickAt) -> u64 {
        let length = at.end - at.start;
        if length == 0 {
            return at.end;
        }
        let key = self.key ^ at.lap.wrapping_mul(mix::GOLDEN);
        at.start + 1 + mix::below(mix::draw(key, page, at.tick as u64), length)
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
            let pages = self.trace.pages as usize;
            let mut starts = vec![0usize; pages + 1];
            let all = || self.trace.ticks.iter().flat_map(traces::dirty::Tick::pages);
            all().for_each(|page| starts[page as usize + 1] += 1);
            (0..pages).for_each(|page| starts[page + 1] += starts[page]);
            let mut next = starts.clone();
            let mut ticks = vec![0u32; starts[pages]];
            for (number, tick) in (0u32..).zip(&self.trace.ticks) {
                for page in tick.pages() {
                    ticks[next[page as usize]] = number;
                    next[page as usize] += 1;
                }
            }
            Index { starts, ticks }
        })
    }

    /// How often the page at `offset` has been written.
    pub(super) fn version(&self, offset: u32, clock: u64) -> u64 {
        let index = self.index();
        let page = offset as usize;
        let ticks = &index.ticks[index.starts[page]..index.starts[page + 1]];
        let before = |tick: usize| ticks.partition_point(|&t| (t as usize) < tick) as u64;
        let now = self.tick_at(self.over(clock));
        let per_lap = ticks.len() as u64 - before(self.loop_tick);
        let under_way = ticks
            .binary_search_by_key(&now.tick, |&t| t as usize)
            .is_ok()
            && self.instant(offset, &now) <= clock;
        before(now.tick) + now.lap * per_lap + u64::from(under_way)
    }

    /// Calls `mark` with runs of offsets within `range` written in `(from, to]`; runs may repeat.
    pub(super) fn harvest(
        &self,
        range: &Range<u32>,
        from: u64,
        to: u64,
        mut mark: impl FnMut(Range<u32>),
    ) {
        if to <= from {
            return;
        }
        let (first, last) = (self.over(from), self.over(to));
        let (recorded, per_lap) = (
            self.ends.len() as u64,
            (self.ends.len() - self.loop_tick) as u64,
        );
        // The lap of finished ticks before the one under way holds every page of the loop, so those
        // between the recording's own end and it add nothing.
        let skip_to = last.saturating_sub(per_lap);
        let mut n = first;
        while n <= last {
            if n > recorded && n > first && n < skip_to {
                n = skip_to;
            }
            let at = self.tick_at(n);
            let whole = at.start >= from && at.end <= to && n != first;
            for run in &self.trace.ticks[at.tick].runs {
                let clipped = run.start.max(range.start)..(run.start + run.len).min(range.end);
                if clipped.is_empty() {
                    continue;
                }
                if whole {
                    mark(clipped);
                    continue;
                }
                for page in clipped {
                    let instant = self.instant(page, &at);
                    if instant > from && instant <= to {
                        mark(page..page + 1);
                    }
                }
            }
            n += 1;
        }
    }
}

fn check(trace: &PageWriteTrace) -> Result<(), MemoryError> {
    let mut last = 0;
    for (index, tick) in trace.ticks.iter().enumerate() {
        if tick.t_ns < last {
            return Err(MemoryError::TickBack {
                title: trace.title.clone(),
                tick: index,
            });
        }
        last = tick.t_ns;
        let ends = tick
            .runs
            .iter()
            .map(|run| u64::from(run.start) + u64::from(run.len));
        if let Some(page) = ends.max().filter(|&end| end > u64::from(trace.pages)) {
            let (title, pages) = (trace.title.clone(), trace.pages);
            return Err(MemoryError::PageBeyond {
                title,
                tick: index,
                page,
                pages,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use traces::dirty::{Run, Tick};

    use super::*;

    fn trace(ticks: &[(u64, u64, &[u32])]) -> Arc<PageWriteTrace> {
        let ticks = ticks
            .iter()
            .map(|&(t_ns, cpu_ns, pages)| Tick {
                t_ns,
                cpu_ns,
                runs: pages.iter().map(|&start| Run { start, len: 1 }).collect(),
            })
            .collect();
        Arc::new(PageWriteTrace {
            title: "t".into(),
            pages: 4,
            interval_ns: 10,
            ticks,
        })
    }

    fn writer(loop_from: u64, coupling: Coupling) -> PagesWriter {
        let trace = trace(&[
            (10, 3, &[0, 1, 3]),
            (20, 0, &[1]),
            (30, 7, &[2]),
            (35, 2, &[1, 2]),
        ]);
        PagesWriter::new(5, &trace, coupling, loop_from).unwrap()
    }

    #[test]
    fn the_opening_burst_happens_once() {
        let pages = writer(10, Coupling::Time);
        assert_eq!(pages.version(0, 10), 1);
        assert_eq!(pages.version(0, 100_000), 1, "page 0 is in the burst only");
        // 35 ns, then laps of 25: pages 1 and 2 twice each lap.
        assert_eq!(pages.version(1, 35), 3);
        assert_eq!(pages.version(1, 35 + 25 * 4), 3 + 2 * 4);
        assert_eq!(pages.version(2, 35 + 25 * 4), 2 + 2 * 4);
    }

    #[test]
    fn ticks_without_cpu_time_happen_between_their_neighbours() {
        let pages = writer(0, Coupling::Cpu);
        assert_eq!(pages.version(1, 2) + pages.version(3, 2), {
            let burst = pages.tick_at(0);
            u64::from(pages.instant(1, &burst) <= 2) + u64::from(pages.instant(3, &burst) <= 2)
        });
        assert_eq!(
            pages.version(1, 3),
            2,
            "the tick of no CPU time is over with the one before"
        );
        assert_eq!(pages.version(1, 12), 3);
        assert_eq!(pages.version(1, 24), 6);
    }

    #[test]
    fn recordings_that_cannot_be_looped_are_refused() {
        let ticks = trace(&[(10, 0, &[0]), (20, 0, &[1])]);
        let late = PagesWriter::new(1, &ticks, Coupling::Time, 20).unwrap_err();
        assert!(
            matches!(late, MemoryError::NothingToRepeat { .. }),
            "{late}"
        );
        let no_cpu = PagesWriter::new(1, &ticks, Coupling::Cpu, 0).unwrap_err();
        assert!(matches!(no_cpu, MemoryError::NoCpu { .. }), "{no_cpu}");
        let back = PagesWriter::new(1, &trace(&[(10, 1, &[]), (5, 1, &[])]), Coupling::Time, 0);
        assert!(matches!(back, Err(MemoryError::TickBack { tick: 1, .. })));
        let beyond = PagesWriter::new(1, &trace(&[(10, 1, &[4])]), Coupling::Time, 0);
        assert!(matches!(
            beyond,
            Err(MemoryError::PageBeyond { page: 5, .. })
        ));
    }

    proptest! {
        #[test]
        fn harvest_sees_what_versions_say(
            loop_from in 0u64..30, cpu in any::<bool>(), from in 0u64..150, length in 0u64..150,
        ) {
            let coupling = if cpu { Coupling::Cpu } else { Coupling::Time };
            let pages = writer(loop_from, coupling);
            let mut seen = [false; 4];
            pages.harvest(&(0..4), from, from + length, |run| {
                run.for_each(|page| seen[page as usize] = true);
            });
            for page in 0..4u32 {
                let written = pages.version(page, from) != pages.version(page, from + length);
                prop_assert_eq!(seen[page as usize], written, "page {}", page);
            }
        }

        #[test]
        fn versions_never_fall(loop_from in 0u64..30, cpu in any::<bool>()) {
            let coupling = if cpu { Coupling::Cpu } else { Coupling::Time };
            let pages = writer(loop_from, coupling);
            for page in 0..4 {
                let versions: Vec<u64> = (0..200).map(|clock| pages.version(page, clock)).collect();
                prop_assert!(versions.windows(2).all(|pair| pair[0] <= pair[1]));
            }
        }
    }
}
