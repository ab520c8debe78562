//! Which pages were written, tick by tick: the page-level form of a recording.

use serde::{Deserialize, Serialize};

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

impl PageWriteTrace {
    /// The end of the last tick; 0 when there is none.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.ticks.last().map_or(0, |tick| tick.t_ns)
    }
}
