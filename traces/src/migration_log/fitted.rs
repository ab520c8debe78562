//! Page classes that write as the syncs of a migration say. Pure.

use super::{MigrationLog, Sync};
use crate::class::{ClassPhase, Coupling, PageClass, PhasedClasses, Variation, unique_pages};
use crate::fit::{Found, RATES, fit_found};
use crate::units::round_u32;
use std::collections::BTreeMap;

/// What the guest wrote, as far as its migration tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Classes of which the readings would have found what they did.
    pub classes: Vec<PageClass>,
    /// Mean relative error of that on the means of readings whose windows are about as long.
    pub error: f64,
    /// How much more and how much less was found from one reading to the next than the classes say on average; `None` where there
    /// are too few short windows to tell, or not knowing when the log was read explains all of it.
    pub variation: Option<Variation>,
    /// Points it was fitted to.
    pub points: usize,
    /// The shortest and the longest window among them on the classes' clock, s.
    pub windows_s: (f64, f64),
}

/// Why there is no curve.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CurveError {
    /// The dirty log was never read while the guest ran.
    #[error(
        "{name}: no reading of the dirty log between two answers while the guest ran, so nothing says what it wrote; take the curve \
         from another migration of the guest"
    )]
    NoSync {
        /// Which migration.
        name: String,
    },
}

/// Fewest windows from which a spread is told.
const SPREAD_WINDOWS: usize = 10;

impl Curve {
    /// The curve through the readings of one or several migrations of a guest of `pages` pages.
    ///
    /// Their windows are those of the readings, so what QEMU's own way of re-arming the log leaves out is left out here: replay
    /// it with the log re-armed at every reading, or it is left out twice. What the classes follow is `coupling`: of CPU time a guest
    /// has less while it is throttled, as [`Sync::clock_s`] counts it.
    ///
    /// # Errors
    /// When there is no reading to fit to.
    pub fn fit(
        name: &str,
        syncs: &[Sync],
        pages: u64,
        coupling: Coupling,
    ) -> Result<Self, CurveError> {
        let found = to_be_found(syncs, coupling);
        let most = round_u32(pages as f64);
        let none = || CurveError::NoSync {
            name: name.to_owned(),
        };
        let fitted = fit_found(&by_length(syncs, &found, coupling), most, coupling);
        let (classes, error) = fitted.ok_or_else(none)?;
        let lengths = || syncs.iter().map(|sync| sync.clock_s(coupling));
        Ok(Self {
            variation: spread(syncs, &found, &classes, coupling),
            error,
            points: syncs.len(),
            windows_s: (
                lengths().fold(f64::INFINITY, f64::min),
                lengths().fold(0.0, f64::max),
            ),
            classes,
        })
    }

    /// The curve of one migration.
    ///
    /// # Errors
    /// As [`Curve::fit`].
    pub fn of(log: &MigrationLog, limit_ms: u64, coupling: Coupling) -> Result<Self, CurveError> {
        Self::fit(&log.name, &log.syncs(limit_ms), log.pages(), coupling)
    }

    /// The curve as a behaviour that goes on for ever, with its variation if there is one.
    #[must_use]
    pub fn behaviour(&self) -> PhasedClasses {
        /// A day: no migration takes longer, and then it begins anew.
        const LENGTH_NS: u64 = 86_400_000_000_000;
        let coupling = self
            .classes
            .first()
            .map_or(Coupling::Time, |class| class.coupling);
        PhasedClasses {
            coupling,
            phases: vec![ClassPhase {
                length_ns: LENGTH_NS,
                first_page: 0,
                classes: self.classes.clone(),
                variation: self.variation.clone(),
            }],
        }
    }
}

/// What each reading was to find of the pages of each rate.
///
/// A reading finds a page that was written since the one before, unless it was known to be dirty all the while. Of the pages of a
/// rate let κ be the share known to be dirty after a reading, all of them after the first. Of those a share u has not been
/// sent when the log is read again, so 1 − κu can be found, and p = 1 − e^(−rt) of them were written: φ = (1 − κu) p, and
/// κ becomes κu + φ. That pages of all rates are sent alike is taken for granted: they are sent in order of address.
fn to_be_found(syncs: &[Sync], coupling: Coupling) -> Vec<Found> {
    let mut known = [1.0; RATES.len()];
    let mut before_ms = f64::NEG_INFINITY;
    let each = syncs.iter().map(|sync| {
        if sync.at_ms < before_ms {
            known = [1.0; RATES.len()]; // another migration
        }
        before_ms = sync.at_ms;
        let mut shares = [0.0; RATES.len()];
        for ((share, known), rate) in shares.iter_mut().zip(&mut known).zip(RATES) {
            let left = *known * sync.unsent;
            *share = (1.0 - left) * -(-rate * sync.clock_s(coupling)).exp_m1();
            *known = left + *share;
        }
        Found {
            pages: sync.pages,
            shares,
        }
    });
    each.collect()
}

/// The mean of the readings whose windows are about as long (within a factor of √2): a migration that nearly converges reads its log
/// a hundred times in short windows and a few times in long ones, and each length is to count once.
///
/// Windows that are not known to a tenth are one group: sorted by a length that is mostly error, those taken for short hold as many pages
/// as those taken for long, which looks like pages written all the time.
fn by_length(syncs: &[Sync], found: &[Found], coupling: Coupling) -> Vec<Found> {
    let mut bins: BTreeMap<Option<i64>, Vec<&Found>> = BTreeMap::new();
    for (sync, found) in syncs
        .iter()
        .zip(found)
        .filter(|(sync, _)| sync.window_s > 0.0)
    {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the logarithm of a number of seconds is far below 2^63"
        )]
        let bin = (2.0 * sync.clock_s(coupling).log2()).floor() as i64;
        let bin = (!is_blurred(sync)).then_some(bin);
        bins.entry(bin).or_default().push(found);
    }
    let mean = |all: Vec<&Found>| {
        let mean = |of: &dyn Fn(&Found) -> f64| {
            all.iter().map(|found| of(found)).sum::<f64>() / all.len() as f64
        };
        Found {
            pages: mean(&|found| found.pages),
            shares: std::array::from_fn(|rate| mean(&|found| found.shares[rate])),
        }
    };
    bins.into_values().map(mean).collect()
}

/// Whether the standard deviation of a window, both ends of which lie anywhere between two answers, is more than a tenth of it.
fn is_blurred(sync: &Sync) -> bool {
    sync.blur_s / 6.0_f64.sqrt() > 0.1 * sync.window_s
}

/// How far what was found is spread about what the classes say, in windows no longer than twice the shortest half of them: log-normal,
/// with the correlation from one such window to the next.
fn spread(
    syncs: &[Sync],
    found: &[Found],
    classes: &[PageClass],
    coupling: Coupling,
) -> Option<Variation> {
    let window_s = |sync: &Sync| sync.clock_s(coupling);
    let mut lengths: Vec<f64> = syncs.iter().map(window_s).collect();
    lengths.sort_by(f64::total_cmp);
    let median = *lengths.get(lengths.len() / 2)?;
    let is_short = |sync: &Sync| window_s(sync) <= 2.0 * median && sync.pages > 0.0;
    let short = || syncs.iter().zip(found).filter(|(sync, _)| is_short(sync));
    let logs: Vec<f64> = short()
        .map(|(sync, found)| (sync.pages / found.expected(classes).max(1.0)).ln())
        .collect();
    let n = logs.len();
    if n < SPREAD_WINDOWS {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / n as f64;
    let scatter = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    // What not knowing the instants explains by itself: both ends of a window anywhere between two answers, evenly.
    let blur = |sync: &Sync| {
        let more = unique_pages(classes, window_s(sync) * 1.1)
            / unique_pages(classes, window_s(sync)).max(1.0);
        let elasticity = more.ln() / 1.1_f64.ln();
        (elasticity * sync.blur_s / sync.window_s).powi(2) / 6.0
    };
    let blurred = short().map(|(sync, _)| blur(sync)).sum::<f64>() / n as f64;
    let variance = scatter - blurred;
    if variance <= 0.0 {
        return None;
    }
    let product = |pair: &[f64]| (pair[0] - mean) * (pair[1] - mean);
    let covariance = logs.windows(2).map(product).sum::<f64>() / (n - 1) as f64;
    // Of a log-normal: the variance of the logarithm is ln(1 + cv²).
    let cv = variance.exp_m1().sqrt();
    let correlation = (covariance / variance).clamp(0.0, 0.99);
    let variation = Variation::LogNormal {
        cv,
        correlation: if correlation.is_finite() {
            correlation
        } else {
            0.0
        },
        step_ns: crate::units::round_u64(median * 1e9).max(1),
    };
    (cv > 0.0 && variation.check().is_ok()).then_some(variation)
}

#[cfg(test)]
#[path = "fitted_tests.rs"]
mod tests;
