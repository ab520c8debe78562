//! Page classes: the compact form of a memory behaviour.
//!
//! K classes of pages; class k holds `pages` pages, each written as a Poisson process of `rate`
//! writes a second. Together they generate the curve of unique pages dirtied in a window of t
//! seconds, D(t) = Σ n_k (1 − e^(−r_k t)). One dirty rate cannot (reference: a single rate is wrong
//! by up to 7×).

use serde::{Deserialize, Serialize};

/// The clock that drives the writes of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
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
    /// The clock.
    #[serde(default)]
    pub coupling: Coupling,
    /// Where the pages lie.
    #[serde(default)]
    pub locality: Locality,
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
