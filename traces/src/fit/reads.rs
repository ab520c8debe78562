//! Pages read and not written: how many, and how often, from accessed bits that gathered over windows of several
//! lengths.
//!
//! Inside: U(w) = Σ m_j (1 − e^(−q_j w)) fitted to the mean pages accessed and not written in windows of each length,
//! as D(t) is. Never inside: which pages they are, which nothing recorded says; who places them decides (`synth`).

use super::{Found, RATES, fit_found};
use crate::class::Coupling;

/// A window at whose end accessed bits were read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadWindow {
    /// Its length in seconds.
    pub window_s: f64,
    /// Pages accessed and not written in it.
    pub pages: u64,
}

/// Pages that are read.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ReadClass {
    /// How many.
    pub pages: u32,
    /// Reads per page and second of running time.
    pub rate: f64,
}

/// A fit, and how good it is: mean absolute relative errors of U(w), 0.1 = 10 %.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ReadFit {
    /// The classes.
    pub classes: Vec<ReadClass>,
    /// On the means fitted to.
    pub in_sample_error: f64,
    /// Fitted to every other window of each length, scored on those between.
    pub out_of_sample_error: f64,
    /// Windows in all.
    pub windows: usize,
}

/// Rates that windows of a second and more cannot tell apart are taken for the lowest of them: at 5 reads a second
/// 99 % of a class are read in the shortest window.
const FASTEST: f64 = 5.0;
/// Lengths a fit needs: two would fit any two classes.
const LENGTHS: usize = 3;
/// Lengths within a quarter are one: a sample comes with the first tick after its time.
const ALIKE: f64 = 1.25;

/// A recording's samples, by column, as far as they say what is read.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// When each was taken, in milliseconds.
    pub t_ms: &'a [u64],
    /// How long accessed bits had gathered then.
    pub accessed_ms: &'a [Option<u64>],
    /// Pages that were accessed in that time and not written.
    pub read_only_pages: &'a [Option<u64>],
    /// When the recorder looked at what all pages hold: that reads them, as the program does.
    pub census_ms: &'a [u64],
}

/// The windows of a recording that tell of its program alone: without those in which all pages were looked at, and
/// those that begin before `from_ms`.
#[must_use]
pub fn read_windows(samples: &Samples<'_>, from_ms: u64) -> Vec<ReadWindow> {
    let columns = samples.t_ms.iter().zip(samples.accessed_ms);
    let rows = columns.zip(samples.read_only_pages);
    let window = |((&end_ms, length), pages): ((&u64, &Option<u64>), &Option<u64>)| {
        let length = length.filter(|&length| length > 0)?;
        let start_ms = end_ms
            .checked_sub(length)
            .filter(|&start| start >= from_ms)?;
        // One that falls on the end of a window came after its bits were read and cleared.
        let looked = |at: &u64| (start_ms..end_ms).contains(at);
        if samples.census_ms.iter().any(looked) {
            return None;
        }
        Some(ReadWindow {
            window_s: length as f64 / 1000.0,
            pages: (*pages)?,
        })
    };
    rows.filter_map(window).collect()
}

/// Fits read classes, of `pages` pages at most. `None` with fewer than three lengths seen twice, or when nothing is read.
#[must_use]
pub fn fit_reads(windows: &[ReadWindow], pages: u32) -> Option<ReadFit> {
    let lengths = by_length(windows);
    let (mut even, mut odd, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for windows in lengths.iter().filter(|windows| windows.len() >= 2) {
        let part = |from: usize| mean(windows.iter().skip(from).step_by(2));
        even.push(part(0));
        odd.push(part(1));
        all.push(mean(windows.iter()));
    }
    if all.len() < LENGTHS {
        return None;
    }
    let classes = |found: &[Found]| fit_found(found, pages, Coupling::Time);
    let (whole, in_sample_error) = classes(&all)?;
    let (half, _) = classes(&even)?;
    let scored = || odd.iter().filter(|found| found.pages > 0.0);
    let off = scored().map(|found| (found.expected(&half) / found.pages - 1.0).abs());
    Some(ReadFit {
        classes: whole
            .iter()
            .map(|class| ReadClass {
                pages: class.pages,
                rate: class.rate,
            })
            .collect(),
        in_sample_error,
        out_of_sample_error: off.sum::<f64>() / scored().count().max(1) as f64,
        windows: lengths.iter().map(Vec::len).sum(),
    })
}

/// Windows of one length each, in their order, shortest first.
fn by_length(windows: &[ReadWindow]) -> Vec<Vec<ReadWindow>> {
    let mut order: Vec<usize> = (0..windows.len()).collect();
    order.sort_by(|&a, &b| windows[a].window_s.total_cmp(&windows[b].window_s));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        let near =
            |group: &&mut Vec<usize>| windows[index].window_s <= windows[group[0]].window_s * ALIKE;
        match groups.last_mut().filter(near) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    for group in &mut groups {
        group.sort_unstable();
    }
    groups
        .into_iter()
        .map(|group| group.into_iter().map(|index| windows[index]).collect())
        .collect()
}

/// The mean pages, and what share of each rate's pages is to be expected.
fn mean<'a>(windows: impl Iterator<Item = &'a ReadWindow>) -> Found {
    let (mut pages, mut shares, mut count) = (0.0, [0.0; RATES.len()], 0.0f64);
    for window in windows {
        pages += window.pages as f64;
        for (share, rate) in shares.iter_mut().zip(RATES) {
            if rate <= FASTEST {
                *share += -(-rate * window.window_s).exp_m1();
            }
        }
        count += 1.0;
    }
    Found {
        pages: pages / count.max(1.0),
        shares: shares.map(|share| share / count.max(1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::round_u64;

    /// Windows of 1, 2, 4, 8 and 16 s in turn, as the recorder takes them, of U(w) itself.
    fn windows(cycles: usize, u: impl Fn(f64) -> f64) -> Vec<ReadWindow> {
        let lengths = [1.0, 2.0, 4.0, 8.0, 16.0].into_iter().cycle();
        let window = |window_s| ReadWindow {
            window_s,
            pages: round_u64(u(window_s)),
        };
        lengths.take(cycles * 5).map(window).collect()
    }

    #[test]
    fn classes_that_read_are_found_again() {
        // 3,000 pages all the time, 8,000 at 0.2 a second, by hand: 3000 + 8000 (1 − e^(−0.2 w)).
        let found = fit_reads(
            &windows(4, |w| 3000.0 + 8000.0 * (1.0 - (-0.2 * w).exp())),
            20_000,
        )
        .unwrap();
        let at = |rate: f64| -> u32 {
            let near = found
                .classes
                .iter()
                .filter(|class| class.rate.total_cmp(&rate).is_eq());
            near.map(|class| class.pages).sum()
        };
        assert!(at(FASTEST).abs_diff(3000) < 90, "{found:?}");
        assert!(at(0.2).abs_diff(8000) < 400, "{found:?}");
        assert!(found.in_sample_error < 0.01 && found.out_of_sample_error < 0.01);
        assert_eq!(found.windows, 20);
        // All pages read all the time: the fastest class alone, not one a window cannot tell from it. It is 500 times
        // Σa/Σa² = 1.00135 large, since it expects a = 99.3 % of itself in the shortest window.
        let hot = fit_reads(&windows(2, |_| 500.0), 20_000).unwrap();
        assert_eq!(
            hot.classes,
            [ReadClass {
                pages: 501,
                rate: FASTEST
            }]
        );
    }

    #[test]
    fn no_more_pages_are_read_than_there_are() {
        // Growing with the window as far as windows go: a slow class as large as allowed.
        let found = fit_reads(&windows(4, |w| 100.0 * w), 2_000).unwrap();
        assert!(found.classes.iter().map(|class| class.pages).sum::<u32>() <= 2_000);
    }

    #[test]
    fn too_little_is_no_fit() {
        assert_eq!(fit_reads(&[], 100), None);
        let seconds = vec![
            ReadWindow {
                window_s: 1.0,
                pages: 7
            };
            50
        ];
        assert_eq!(fit_reads(&seconds, 100), None, "one length");
        assert_eq!(fit_reads(&windows(1, |_| 7.0), 100), None, "each once");
        assert_eq!(
            fit_reads(&windows(4, |_| 0.0), 100),
            None,
            "nothing is read"
        );
    }

    #[test]
    fn windows_are_those_the_bits_gathered_over() {
        let samples = Samples {
            t_ms: &[1000, 2000, 3000, 4000, 5000],
            accessed_ms: &[None, Some(1000), None, Some(2000), Some(1004)],
            read_only_pages: &[None, Some(9), None, Some(12), None],
            census_ms: &[],
        };
        let window = |window_s, pages| ReadWindow { window_s, pages };
        assert_eq!(read_windows(&samples, 0), [window(1.0, 9), window(2.0, 12)]);
        assert_eq!(read_windows(&samples, 1001), [window(2.0, 12)]);
        // A look at all pages with the first window's end is in the second, and in no other.
        let looked = |census_ms| {
            read_windows(
                &Samples {
                    census_ms,
                    ..samples
                },
                0,
            )
        };
        assert_eq!(looked(&[2000]), [window(1.0, 9)]);
        assert_eq!(looked(&[4000]), [window(1.0, 9), window(2.0, 12)]);
        assert_eq!(looked(&[1999, 3999]), []);
        let none = Samples {
            accessed_ms: &[],
            ..samples
        };
        assert_eq!(read_windows(&none, 0), [], "a recording that has them not");
    }
}
