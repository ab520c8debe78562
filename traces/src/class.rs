//! Page classes: the compact form of a memory behaviour.
//!
//! K classes of pages; class k holds `pages` pages, each written as a Poisson process of `rate`
//! writes a second. Together they generate the curve of unique pages dirtied in a window of t
//! seconds, D(t) = Σ n_k (1 − e^(−r_k t)). One dirty rate cannot (reference: a single rate is wrong
//! by up to 7×). What a program does changes: [`PhasedClasses`] is one class set after another, each
//! with an intensity that may vary ([`Variation`]).
//!
//! Never inside: draws (`replay::guest`), fits (`fit`).

use serde::{Deserialize, Serialize};

use crate::content::ContentProfile;

/// The clock that drives the writes of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Coupling {
    /// Writes follow the CPU time the guest was served: `rate` is per second of one core.
    #[default]
    Cpu,
    /// Writes follow the time the guest runs (is not paused), whatever CPU it gets.
    Time,
}

/// How the pages of a class lie in memory and follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// Every page on its own.
    #[default]
    Scatter,
    /// Blocks of this many consecutive pages are written together.
    Runs {
        /// Pages a block.
        pages: u32,
    },
    /// A walker that goes round the class in address order, one page after another, at
    /// `pages × rate` pages a second. No randomness.
    Sweep,
}

/// One class of pages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PageClass {
    /// Number of pages, n_k.
    pub pages: u32,
    /// Writes per page and second of the coupled clock, r_k.
    pub rate: f64,
    /// Reads per page and second of the coupled clock, beside the writes.
    #[serde(default)]
    pub read_rate: f64,
    /// The clock.
    #[serde(default)]
    pub coupling: Coupling,
    /// Where the pages lie.
    #[serde(default)]
    pub locality: Locality,
    /// What its pages hold, where that is not what the guest's others do. Of pages that several phases
    /// write, the class of the first phase that has them says it.
    #[serde(default)]
    pub content: Option<ContentProfile>,
    /// A job that reads all its pages.
    #[serde(default)]
    pub scan: Option<Scan>,
}

/// A job of a guest's that reads every page of a class, one after another in address order, whenever it is due: a
/// checksum, a collector of garbage, a report. It stops nobody where all pages are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scan {
    /// How often, ns by the clock on the wall, which goes on while the guest waits for a page.
    pub every_ns: u64,
    /// The guest sees that it is due after so much of its own running time, ns: a batch of its other work, which begins
    /// with the same wake-up.
    pub after_ns: u64,
}

impl PageClass {
    /// A class that is only written, page by page, as its guest is served CPU time. Other values by
    /// `PageClass { locality, ..PageClass::new(pages, rate) }`, so that a new one breaks nobody.
    #[must_use]
    pub const fn new(pages: u32, rate: f64) -> Self {
        Self {
            pages,
            rate,
            read_rate: 0.0,
            coupling: Coupling::Cpu,
            locality: Locality::Scatter,
            content: None,
            scan: None,
        }
    }
}

/// How the intensity of a class set varies in the short term: all its rates are multiplied by a
/// factor that changes with the coupled clock. Its mean over a lap is 1 exactly, so rates in the
/// long run are those of the classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variation {
    /// Log-normal, its logarithm autoregressive of order one. Drawn from (seed, VM).
    LogNormal {
        /// Standard deviation over mean.
        cv: f64,
        /// Correlation of the logarithm from one step to the next, 0 to below 1.
        correlation: f64,
        /// The factor stays for so long.
        step_ns: u64,
    },
    /// A series as recorded. It is gone through lap by lap, each lap from another place, drawn from
    /// (seed, VM, lap), round to that place again.
    Series {
        /// Each factor stays for so long.
        step_ns: u64,
        /// The factors; only their ratios count.
        intensities: Vec<u32>,
    },
}

/// A variation that is none.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum VariationError {
    /// Steps of no length, or more than there is time for.
    #[error("{steps} steps of {step_ns} ns are not 1 ns to 2^62 ns long")]
    Length {
        /// Steps of a lap.
        steps: usize,
        /// Length of one.
        step_ns: u64,
    },
    /// A spread that cannot be.
    #[error("a coefficient of variation of {cv} is not in 0..=10")]
    Spread {
        /// The coefficient.
        cv: f64,
    },
    /// A correlation that cannot be.
    #[error("a correlation of {correlation} from step to step is not in 0..1")]
    Correlation {
        /// The correlation.
        correlation: f64,
    },
    /// Nothing but zeros.
    #[error("all {steps} intensities are 0")]
    Nothing {
        /// Intensities.
        steps: usize,
    },
}

impl Variation {
    /// Longest lap. Log-normal ones have fewer than 2^20 steps.
    const LAP_NS: u64 = 1 << 62;

    /// Whether it is one: a spread of 0 to 10, a correlation from 0 to below 1, a series that is not
    /// all 0, steps of some length.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), VariationError> {
        let (steps, step_ns) = match self {
            Self::LogNormal { step_ns, .. } => (1 << 20, *step_ns),
            Self::Series {
                step_ns,
                intensities,
            } => (intensities.len(), *step_ns),
        };
        let lap = step_ns.checked_mul(steps as u64);
        if !lap.is_some_and(|lap| (1..=Self::LAP_NS).contains(&lap)) {
            return Err(VariationError::Length { steps, step_ns });
        }
        match self {
            Self::LogNormal { cv, .. } if !(0.0..=10.0).contains(cv) => {
                Err(VariationError::Spread { cv: *cv })
            }
            Self::LogNormal { correlation, .. } if !(0.0..1.0).contains(correlation) => {
                let correlation = *correlation;
                Err(VariationError::Correlation { correlation })
            }
            Self::Series { intensities, .. } if intensities.iter().all(|&m| m == 0) => {
                Err(VariationError::Nothing { steps })
            }
            Self::LogNormal { .. } | Self::Series { .. } => Ok(()),
        }
    }
}

/// One phase of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassPhase {
    /// How long it lasts on the clock of the phases.
    pub length_ns: u64,
    /// Where its classes begin, in pages from the first of the behaviour. They lie one after another
    /// from there, in the order given.
    #[serde(default)]
    pub first_page: u32,
    /// What writes in it; none if nothing does.
    pub classes: Vec<PageClass>,
    /// How its intensity varies, on a clock that only runs in this phase.
    #[serde(default)]
    pub variation: Option<Variation>,
}

/// Class sets one after another, and then again from the first, for ever.
///
/// All phases lie over the same pages, those of the behaviour: a program's heap stays where it is
/// when the program turns to something else. Page p of the behaviour belongs, in each phase, to the
/// class that has it there, counted from the phase's `first_page`, or to none, and is then left alone
/// while the phase lasts. So two phases that begin at page 0 and list their hottest class first share
/// their hottest pages, and one that begins where the other ends shares none. A page written in one
/// phase keeps what it holds in the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PhasedClasses {
    /// The clock of the phases. Their classes follow the same.
    pub coupling: Coupling,
    /// The phases; one at least.
    pub phases: Vec<ClassPhase>,
}

impl PhasedClasses {
    /// Pages of the behaviour: as many as the phase that reaches farthest.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.phases.iter().map(ClassPhase::end).max().unwrap_or(0)
    }

    /// All classes, phase by phase.
    pub fn classes_mut(&mut self) -> impl Iterator<Item = &mut PageClass> {
        self.phases.iter_mut().flat_map(|phase| &mut phase.classes)
    }
}

impl ClassPhase {
    /// One past its last page, from the first of the behaviour.
    #[must_use]
    pub fn end(&self) -> u64 {
        let pages = self.classes.iter().map(|class| u64::from(class.pages));
        u64::from(self.first_page) + pages.sum::<u64>()
    }
}

/// Unique pages dirtied in a window of `window_s` seconds of the coupled clock, D(t).
#[must_use]
pub fn unique_pages(classes: &[PageClass], window_s: f64) -> f64 {
    classes
        .iter()
        .map(|class| {
            let expected = class.rate * window_s;
            let share = match class.locality {
                Locality::Sweep => expected.min(1.0),
                Locality::Scatter | Locality::Runs { .. } => -(-expected).exp_m1(),
            };
            f64::from(class.pages) * share
        })
        .sum()
}
