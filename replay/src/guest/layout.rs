//! What a guest's memory is made of, and where each part lies.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use traces::class::{Coupling, PageClass, PhasedClasses, VariationError};
use traces::content::ContentProfile;
use traces::dirty::PageWriteTrace;

/// What writes a guest's memory. A guest may have several, each in pages of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// Nothing.
    Idle,
    /// Classes of pages, one after another in the order given; sweeps among them.
    Classes(Vec<PageClass>),
    /// Class sets one after another over the same pages, each with its variation.
    Phases(PhasedClasses),
    /// The pages of a recording, tick by tick.
    Pages {
        /// The recording; occupies as many pages as it knows.
        trace: Arc<PageWriteTrace>,
        /// Whether ticks pass with the guest's CPU time (the recording's `cpu_ns` is then the
        /// clock) or with the time it runs.
        coupling: Coupling,
        /// Ticks that end after this instant of the recording are repeated for ever; those before
        /// (the burst of everything touched so far, which opens a recording) happen once.
        loop_from_ns: u64,
    },
}

/// The memory of one VM.
///
/// Layout, from page 0: first the resident pages, then the behaviours in the order given (and the
/// classes of each in theirs), then the rest of RAM, which is zero and never written but for the
/// resident pages that lie at its top.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemorySpec {
    /// RAM in pages of 4 KiB.
    pub ram_pages: u32,
    /// Pages that hold data from the start and are never written, besides those of the behaviours.
    pub resident_pages: u32,
    /// How many of them lie at the top of RAM, as a kernel's descriptors of its pages do; not more than
    /// there are. A migration sends these last.
    #[serde(default)]
    pub high_pages: u32,
    /// What writes.
    pub behaviours: Vec<Behaviour>,
    /// Whether the behaviours' pages are zero until first written (a guest just booted). By
    /// default they hold data from the start: a workload under way has touched them long ago.
    #[serde(default)]
    pub fresh: bool,
    /// What pages hold, but those of classes that say it themselves.
    #[serde(default)]
    pub content: ContentProfile,
}

/// A memory that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MemoryError {
    /// The parts need more pages than there are.
    #[error("resident pages and behaviours need {needed} pages of RAM, the VM has {ram_pages}")]
    TooSmall {
        /// Pages needed.
        needed: u64,
        /// Pages there are.
        ram_pages: u32,
    },
    /// A rate of writes or reads that is none.
    #[error("a rate of {rate} a second is not in 0..1e9")]
    Rate {
        /// The rate.
        rate: f64,
    },
    /// A class of runs of no pages.
    #[error("a class written in runs needs runs of at least one page")]
    EmptyRuns,
    /// A scan that is due for ever, or looked for.
    #[error("a scan needs times of at least 1 ns")]
    ScanTimes,
    /// Phases that take no time, or longer than there is.
    #[error("phases need a length of at least 1 ns each, and of less than 2^64 ns in all")]
    PhaseLength,
    /// Phases on one clock, a class of theirs on the other.
    #[error(
        "the classes of phases follow the clock of the phases: give all of them one `coupling`"
    )]
    MixedClocks,
    /// A variation that is none.
    #[error(transparent)]
    Variation(#[from] VariationError),
    /// A recording without ticks, or with nothing after the loop begins.
    #[error("recording `{title}` has no tick after {loop_from_ns} ns to repeat")]
    NothingToRepeat {
        /// Title of the recording.
        title: String,
        /// Where the loop was to begin.
        loop_from_ns: u64,
    },
    /// A recording coupled to CPU time that used none.
    #[error("recording `{title}` used no CPU time after {loop_from_ns} ns: couple it to time")]
    NoCpu {
        /// Title of the recording.
        title: String,
        /// Where the loop was to begin.
        loop_from_ns: u64,
    },
    /// Ticks out of order.
    #[error("tick {tick} of recording `{title}` ends before the one before it")]
    TickBack {
        /// Title of the recording.
        title: String,
        /// Index of the tick.
        tick: usize,
    },
    /// A page the recording says it does not have.
    #[error("tick {tick} of recording `{title}` writes page {page} of {pages}")]
    PageBeyond {
        /// Title of the recording.
        title: String,
        /// Index of the tick.
        tick: usize,
        /// One past the last page of the run.
        page: u64,
        /// Pages of the recording.
        pages: u32,
    },
}

/// Where the parts of a guest's memory lie. Both ends of a migration compute it from the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    ram_pages: u32,
    /// Pages below this hold data at guest time 0 …
    filled: u32,
    /// … and from this on.
    high: u32,
    /// The pages of each behaviour, in order.
    behaviours: Vec<Range<u32>>,
}

impl Layout {
    /// Lays out a spec.
    ///
    /// # Errors
    /// When the parts do not fit into RAM.
    pub fn new(spec: &MemorySpec) -> Result<Self, MemoryError> {
        let sizes = spec.behaviours.iter().map(Behaviour::pages);
        let needed = sizes.fold(u64::from(spec.resident_pages), u64::saturating_add);
        if needed > u64::from(spec.ram_pages) {
            return Err(MemoryError::TooSmall {
                needed,
                ram_pages: spec.ram_pages,
            });
        }
        let high_pages = spec.high_pages.min(spec.resident_pages);
        let low_pages = spec.resident_pages - high_pages;
        let mut at = low_pages;
        let behaviours = spec
            .behaviours
            .iter()
            .map(|behaviour| {
                let pages = u32::try_from(behaviour.pages()).expect("the sum was compared to RAM");
                let range = at..at + pages;
                at = range.end;
                range
            })
            .collect();
        let filled = if spec.fresh { low_pages } else { at };
        Ok(Self {
            ram_pages: spec.ram_pages,
            filled,
            high: spec.ram_pages - high_pages,
            behaviours,
        })
    }

    /// RAM in pages.
    #[must_use]
    pub fn ram_pages(&self) -> u32 {
        self.ram_pages
    }

    /// The pages of a behaviour, by its place in the spec.
    #[must_use]
    pub fn behaviour(&self, index: usize) -> Option<Range<u32>> {
        self.behaviours.get(index).cloned()
    }

    /// Whether the page holds nothing but zeros until it is first written.
    #[must_use]
    pub fn starts_zero(&self, page: u32) -> bool {
        (self.filled..self.high).contains(&page)
    }
}

impl Behaviour {
    /// Pages the behaviour occupies.
    #[must_use]
    pub fn pages(&self) -> u64 {
        match self {
            Self::Idle => 0,
            Self::Classes(classes) => classes.iter().map(|class| u64::from(class.pages)).sum(),
            Self::Phases(phased) => phased.pages(),
            Self::Pages { trace, .. } => u64::from(trace.pages),
        }
    }
}
