//! Which pages were written, tick by tick: the page-level form of a recording.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::cpu::{CpuSample, CpuTrace, CpuTraceError};

/// A run of consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First page.
    pub start: u32,
    /// Number of pages, at least 1.
    pub len: u32,
}

/// What one tick of a recording holds: everything observed in `(t_ns - dur_ns, t_ns]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// End of the tick, from the start of the recording.
    pub t_ns: u64,
    /// CPU time used by the recorded program in the tick, all threads.
    pub cpu_ns: u64,
    /// Distinct pages written in the tick: ascending runs that do not touch.
    pub runs: Vec<Run>,
}

impl Tick {
    /// Distinct pages written.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.len)).sum()
    }

    /// The pages, ascending.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs
            .iter()
            .flat_map(|run| run.start..run.start + run.len)
    }
}

/// A page-level recording of one program or guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageWriteTrace {
    /// What was recorded, for people.
    pub title: String,
    /// Pages ever written: page indices are below this.
    pub pages: u32,
    /// Nominal tick.
    pub interval_ns: u64,
    /// Ticks in ascending `t_ns`.
    pub ticks: Vec<Tick>,
}

/// What is wrong with a page-write trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageWriteTraceError {
    /// Ticks must have ascending ends.
    #[error("tick {tick} ends at {t_ns} ns, not after the tick before it ({previous_ns} ns)")]
    ClockBack {
        /// Which tick.
        tick: usize,
        /// Its end.
        t_ns: u64,
        /// The end of the tick before.
        previous_ns: u64,
    },
    /// A run must hold a page.
    #[error("tick {tick} holds a run of no pages at page {start}")]
    EmptyRun {
        /// Which tick.
        tick: usize,
        /// Where the run starts.
        start: u32,
    },
    /// Runs must ascend and not touch.
    #[error("tick {tick}: the run at page {start} overlaps or touches the one ending at {end}")]
    RunOrder {
        /// Which tick.
        tick: usize,
        /// Where the run starts.
        start: u32,
        /// The first page after the run before it.
        end: u32,
    },
    /// A page beyond the declared number of pages.
    #[error("tick {tick} writes page {page}, but the trace has {pages} pages")]
    PageOutOfRange {
        /// Which tick.
        tick: usize,
        /// The last page of the run.
        page: u64,
        /// Pages of the trace.
        pages: u32,
    },
}

impl PageWriteTrace {
    /// The end of the last tick; 0 when there is none.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.ticks.last().map_or(0, |tick| tick.t_ns)
    }

    /// Number of (tick, page) marks.
    #[must_use]
    pub fn marks(&self) -> u64 {
        self.ticks.iter().map(Tick::page_count).sum()
    }

    /// Checks what every reader relies on: ascending ticks, ascending runs, pages in range.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self) -> Result<(), PageWriteTraceError> {
        let mut previous = None;
        for (tick, value) in self.ticks.iter().enumerate() {
            if let Some(previous_ns) = previous.filter(|&p| value.t_ns <= p) {
                let t_ns = value.t_ns;
                return Err(PageWriteTraceError::ClockBack {
                    tick,
                    t_ns,
                    previous_ns,
                });
            }
            previous = Some(value.t_ns);
            check_runs(tick, &value.runs, self.pages)?;
        }
        Ok(())
    }

    /// The ticks that end in `(range.start, range.end]`, moved so that the part starts at 0.
    ///
    /// The part starts where the last tick left out ended, so no tick changes its length.
    #[must_use]
    pub fn slice(&self, range: Range<u64>) -> Self {
        let first = self.ticks.partition_point(|tick| tick.t_ns <= range.start);
        let last = self
            .ticks
            .partition_point(|tick| tick.t_ns <= range.end)
            .max(first);
        let origin = first.checked_sub(1).map_or(0, |i| self.ticks[i].t_ns);
        let shifted = |tick: &Tick| Tick {
            t_ns: tick.t_ns - origin,
            ..tick.clone()
        };
        Self {
            title: self.title.clone(),
            pages: self.pages,
            interval_ns: self.interval_ns,
            ticks: self.ticks[first..last].iter().map(shifted).collect(),
        }
    }

    /// The recording without its first `skip_ns`.
    ///
    /// A recording's first tick holds everything touched before the recorder attached, and start-up
    /// follows it; a replayer that repeats the recording must leave both out of the loop.
    #[must_use]
    pub fn steady(&self, skip_ns: u64) -> Self {
        self.slice(skip_ns..u64::MAX)
    }

    /// The recording from `from_ns` on: its pages are those written from then on, renumbered in order,
    /// and its first tick holds all of them, as if they had been touched before the recorder attached.
    /// Pages written before and never again are left out: to a guest they are memory like any other.
    /// What took CPU time before is not demand.
    #[must_use]
    pub fn settled(&self, from_ns: u64) -> Self {
        let first = self.ticks.partition_point(|tick| tick.t_ns <= from_ns);
        let Some(last) = first.checked_sub(1).map(|last| &self.ticks[last]) else {
            return self.clone();
        };
        let after = &self.ticks[first..];
        let mut written = vec![false; usize::try_from(self.pages).unwrap_or(0)];
        for run in after.iter().flat_map(|tick| &tick.runs) {
            let (start, len) = (run.start as usize, run.len as usize);
            written[start..start + len].fill(true);
        }
        // How many written pages lie below each.
        let mut pages = 0;
        let below: Vec<u32> = written
            .iter()
            .map(|&written| {
                pages += u32::from(written);
                pages - u32::from(written)
            })
            .collect();
        // Pages left out lie between runs, never within one; so runs keep their lengths, and two may
        // come to touch.
        let renumbered = |runs: &[Run]| {
            let mut all: Vec<Run> = Vec::with_capacity(runs.len());
            for run in runs {
                let start = below[run.start as usize];
                match all.last_mut() {
                    Some(before) if before.start + before.len == start => before.len += run.len,
                    _ => all.push(Run { start, ..*run }),
                }
            }
            all
        };
        let touched = Run {
            start: 0,
            len: pages,
        };
        let before = Tick {
            t_ns: self.interval_ns,
            cpu_ns: 0,
            runs: if pages > 0 { vec![touched] } else { Vec::new() },
        };
        let shifted = |tick: &Tick| Tick {
            t_ns: tick.t_ns - last.t_ns + self.interval_ns,
            cpu_ns: tick.cpu_ns,
            runs: renumbered(&tick.runs),
        };
        Self {
            title: self.title.clone(),
            pages,
            interval_ns: self.interval_ns,
            ticks: std::iter::once(before)
                .chain(after.iter().map(shifted))
                .collect(),
        }
    }

    /// The CPU demand of the recorded program, one interval a tick.
    ///
    /// Ticks shorter than half the nominal interval are the recorder finding its feet (a share over
    /// 1 ms of a millisecond counter means nothing), so their CPU time goes to the tick after them.
    /// That of a short *first* tick was used before the recording began and is left out.
    ///
    /// # Errors
    /// When the trace spans no time.
    pub fn cpu_trace(&self) -> Result<CpuTrace, CpuTraceError> {
        let mut samples = Vec::with_capacity(self.ticks.len());
        let (mut start_ns, mut cpu_ns) = (0u64, 0u64);
        for (index, tick) in self.ticks.iter().enumerate() {
            let dur_ns = tick.t_ns.saturating_sub(start_ns);
            let short = dur_ns < self.interval_ns / 2;
            cpu_ns = cpu_ns.saturating_add(tick.cpu_ns);
            if short && index == 0 {
                cpu_ns = 0;
            }
            let last = index + 1 == self.ticks.len();
            if dur_ns == 0 || (short && !last) {
                continue;
            }
            let milli = u128::from(cpu_ns) * 1000 / u128::from(dur_ns);
            samples.push(CpuSample {
                dur_ns,
                milli: u32::try_from(milli).unwrap_or(u32::MAX),
            });
            (start_ns, cpu_ns) = (tick.t_ns, 0);
        }
        CpuTrace::new(samples)
    }
}

fn check_runs(tick: usize, runs: &[Run], pages: u32) -> Result<(), PageWriteTraceError> {
    let mut end: Option<u32> = None;
    for run in runs {
        let start = run.start;
        if run.len == 0 {
            return Err(PageWriteTraceError::EmptyRun { tick, start });
        }
        if let Some(end) = end.filter(|&end| start <= end) {
            return Err(PageWriteTraceError::RunOrder { tick, start, end });
        }
        let run_end = u64::from(start) + u64::from(run.len);
        if run_end > u64::from(pages) {
            return Err(PageWriteTraceError::PageOutOfRange {
                tick,
                page: run_end - 1,
                pages,
            });
        }
        end = Some(start + run.len);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
