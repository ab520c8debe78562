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
mod tests {
    use super::*;

    fn sync(at_s: f64, window_s: f64, pages: f64) -> Sync {
        Sync {
            at_ms: at_s * 1e3,
            window_s,
            pages,
            unsent: 0.0,
            blur_s: 0.0,
            throttled: 0.0,
        }
    }

    #[test]
    fn what_was_known_is_not_found_again() {
        // Everything is known after the first reading, a quarter unsent at the second: of pages written all the time three
        // quarters are found, all are known; half unsent at the third: half.
        let reading = |at_s, unsent| Sync {
            unsent,
            ..sync(at_s, 10.0, 1.0)
        };
        let found = to_be_found(
            &[reading(10.0, 0.25), reading(20.0, 0.5), reading(5.0, 0.0)],
            Coupling::Time,
        );
        let hot = |n: usize| found[n].shares[0];
        assert!((hot(0) - 0.75).abs() < 1e-9 && (hot(1) - 0.5).abs() < 1e-9);
        // Another migration: nothing unsent, all found.
        assert!((hot(2) - 1.0).abs() < 1e-9);
        // Once in 5 s on average: 1 - e^-2 of the three quarters; then of what is not known and unsent.
        let p = 1.0 - (-2.0_f64).exp();
        let first = 0.75 * p;
        let second = (1.0 - 0.5 * (0.25 + first)) * p;
        assert!((found[0].shares[4] - first).abs() < 1e-9);
        assert!((found[1].shares[4] - second).abs() < 1e-9);
    }

    /// A migration that goes round and round with more than half unsent at every reading, played page class by page class.
    #[test]
    fn a_guest_that_writes_what_is_still_to_be_sent_is_not_taken_for_a_calm_one() {
        let truth = [PageClass::new(20_000, 5.0), PageClass::new(60_000, 0.2)];
        let mut known: Vec<f64> = truth.iter().map(|class| f64::from(class.pages)).collect();
        let mut syncs = Vec::new();
        let mut at_s = 0.0;
        let windows = [(20.0, 0.0), (4.0, 0.1), (1.5, 0.3), (0.7, 0.45)];
        for (window_s, unsent) in windows.into_iter().chain([(0.25, 0.6); 40]) {
            at_s += window_s;
            let found = truth.iter().zip(&mut known).map(|(class, known)| {
                let left = *known * unsent;
                let new = (f64::from(class.pages) - left) * (1.0 - (-class.rate * window_s).exp());
                *known = left + new;
                new
            });
            let pages = found.sum();
            syncs.push(Sync {
                unsent,
                ..sync(at_s, window_s, pages)
            });
        }
        let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
        for t in [0.25, 1.0, 5.0] {
            let off = unique_pages(&curve.classes, t) / unique_pages(&truth, t) - 1.0;
            assert!(off.abs() < 0.03, "{t}: {off}");
        }
        // What the readings themselves say of 0.25 s is a good deal less.
        let said = syncs[40].pages / unique_pages(&truth, 0.25);
        assert!(said < 0.75, "{said}");
    }

    #[test]
    fn classes_go_through_the_points() {
        // 1,000 pages that are hot and 50,000 written every 20 s.
        let d = |t: f64| 1000.0 * (1.0 - (-10.0 * t).exp()) + 50_000.0 * (1.0 - (-t / 20.0).exp());
        let windows = [0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 12.0, 25.0];
        let syncs: Vec<Sync> = windows.iter().map(|&w| sync(w, w, d(w))).collect();
        let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
        assert!(curve.error < 0.02, "{curve:?}");
        for w in [0.25, 0.7, 3.0, 20.0] {
            let off = unique_pages(&curve.classes, w) / d(w) - 1.0;
            assert!(off.abs() < 0.05, "{w}: {off}");
        }
        assert_eq!(curve.variation, None, "too few short windows");
        assert_eq!(curve.windows_s, (0.2, 25.0));
        assert_eq!(
            curve.behaviour().pages(),
            curve
                .classes
                .iter()
                .map(|c| u64::from(c.pages))
                .sum::<u64>()
        );
    }

    /// 20,000 pages, each written 5 times a second of CPU time, read under throttles.
    #[test]
    fn readings_under_a_throttle_say_what_the_guest_writes_without() {
        let throttles = [0.0, 0.2, 0.4, 0.6];
        let windows = [0.1, 0.3, 1.0];
        let mut at_s = 0.0;
        let readings = windows
            .iter()
            .flat_map(|window_s| throttles.map(|taken| (*window_s, taken)));
        let syncs: Vec<Sync> = readings
            .map(|(window_s, throttled)| {
                at_s += window_s;
                let cpu_s: f64 = window_s * (1.0 - throttled);
                let pages = 20_000.0 * (1.0 - (-5.0 * cpu_s).exp());
                Sync {
                    throttled,
                    ..sync(at_s, window_s, pages)
                }
            })
            .collect();
        let off = |coupling| {
            let curve = Curve::fit("m", &syncs, 1 << 20, coupling).unwrap();
            let found = unique_pages(&curve.classes, 0.1);
            found / (20_000.0 * (1.0 - (-0.5_f64).exp())) - 1.0
        };
        assert!(off(Coupling::Cpu).abs() < 0.01, "{}", off(Coupling::Cpu));
        assert!(off(Coupling::Time) < -0.1, "{}", off(Coupling::Time));
    }

    #[test]
    fn what_differs_from_reading_to_reading_is_a_variation() {
        // Every other window finds twice what the one before did.
        let pages = |n: u32| if n.is_multiple_of(2) { 500.0 } else { 1000.0 };
        let syncs: Vec<Sync> = (1..40).map(|n| sync(f64::from(n), 0.4, pages(n))).collect();
        let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
        let Some(Variation::LogNormal {
            cv,
            correlation,
            step_ns,
        }) = curve.variation
        else {
            panic!("{curve:?}");
        };
        // ± ln(2)/2: a standard deviation of the logarithm of 0.35.
        assert!((cv - 0.36).abs() < 0.02, "{cv}");
        assert_eq!((correlation, step_ns), (0.0, 400_000_000));
    }

    #[test]
    fn many_short_windows_do_not_outvote_a_long_one() {
        // 300 readings of 0.3 s that found a tenth less than one of 10 s lets expect: by themselves they say 8,670 pages in 10 s.
        let mut syncs: Vec<Sync> = (0..300).map(|n| sync(f64::from(n), 0.3, 270.0)).collect();
        syncs.push(sync(400.0, 10.0, 10_000.0));
        let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
        let off = unique_pages(&curve.classes, 10.0) / 10_000.0 - 1.0;
        assert!(off.abs() < 0.1, "{off}");
        assert_eq!(curve.points, 301);
    }

    #[test]
    fn what_polling_blurs_is_no_variation() {
        // Windows of 0.4 s, known to 0.2 s at either end, of which pages differ by as much as that explains.
        let pages = |n: u32| if n.is_multiple_of(2) { 500.0 } else { 650.0 };
        let of = |blur_s: f64| {
            let blurred = |n: u32| Sync {
                blur_s,
                ..sync(f64::from(n), 0.4, pages(n))
            };
            let mut syncs: Vec<Sync> = (1..40).map(blurred).collect();
            syncs.push(sync(60.0, 4.0, 4000.0));
            Curve::fit("m", &syncs, 1 << 20, Coupling::Time)
                .unwrap()
                .variation
        };
        assert!(of(0.0).is_some());
        assert_eq!(of(0.4), None);
    }

    /// Pages written once a second, read every 0.2 to 0.6 s, and after 1 to 8, at instants that are told to 0.2 s.
    #[test]
    fn instants_that_are_not_known_make_no_hot_pages() {
        let truth = [PageClass::new(40_000, 1.0)];
        let polled = |at_s: f64| (at_s * 5.0).ceil() / 5.0;
        let mut at_s = 0.0;
        let mut read = |window_s: f64| {
            let began_s = at_s;
            at_s += window_s;
            Sync {
                blur_s: 0.2,
                ..sync(
                    at_s,
                    polled(at_s) - polled(began_s),
                    unique_pages(&truth, window_s),
                )
            }
        };
        let mut syncs: Vec<Sync> = (0..200_u32)
            .map(|n| read(0.2 + f64::from(n * 7 % 41) / 100.0))
            .filter(|sync| sync.window_s > 0.0)
            .collect();
        syncs.extend([1.0, 2.0, 4.0, 8.0].map(read));
        let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
        let hot = curve.classes.iter().filter(|class| class.rate > 10.0);
        let hot: u32 = hot.map(|class| class.pages).sum();
        assert!(hot < 400, "{:?}", curve.classes);
    }

    #[test]
    fn nothing_read_is_no_curve() {
        let error = Curve::fit("m", &[], 10, Coupling::Time).unwrap_err();
        assert!(error.to_string().contains("another migration"), "{error}");
    }
}
