//! Pages written as Poisson processes, drawn counter-based.
//!
//! By the time-rescaling theorem a Poisson process of any rate is a unit-rate process read on
//! another clock, Λ = rate × clock. Λ is cut into unit cells; how many writes a cell holds is
//! Poisson(1) and where they lie is uniform, both drawn from a hash of (key, unit, cell). So the
//! writes of any interval can be had without those before it. An intensity that varies belongs into Λ
//! ([`Tempo`](super::tempo::Tempo)) and changes nothing here.

use std::ops::Range;

use super::tempo::Operational;
use crate::mix;

/// The writes of one class.
#[derive(Debug, Clone)]
pub(super) struct PoissonWriter {
    key: u64,
    /// Pages written together.
    block: u32,
}

/// Most writes a cell can hold. Poisson(1) exceeds 20 with probability 2e-20, below the 2^-64 that
/// a draw can resolve.
const MOST: usize = 20;

/// Versions are `cell × SLOTS + number of the write in its cell (from 1)`.
const SLOTS: u64 = 32;

/// `draw >= ABOVE[n]` when the cell holds more than n writes: floor(2^64 × P(Poisson(1) ≤ n)), in
/// integers so that every machine has the same. Test `the_table_is_poisson` recomputes it.
const ABOVE: [u64; MOST] = above();

/// 2^64 / e, rounded: P(0) and P(1).
const ONE_OVER_E: u64 = 6_786_177_901_268_885_274;

const fn above() -> [u64; MOST] {
    let mut table = [0u64; MOST];
    let mut sum = 0u64;
    let mut factorial = 1u64;
    let mut n = 0;
    while n < MOST {
        if n > 1 {
            factorial *= n as u64;
        }
        sum = sum.saturating_add(ONE_OVER_E / factorial);
        table[n] = sum;
        n += 1;
    }
    table
}

const fn split(at: Operational) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    let fraction = at as u64;
    ((at >> 64) as u64, fraction)
}

impl PoissonWriter {
    /// Writes of a key to blocks of so many pages.
    pub(super) fn new(key: u64, block: u32) -> Self {
        Self { key, block }
    }

    /// Number of writes of a cell at or before a fraction of it.
    ///
    /// The first two are looked at without branching, here and below: whether a cell holds them is
    /// a coin toss no processor predicts, and a wrong guess costs more than the arithmetic. Cells
    /// of more than two are 8 in 100.
    #[inline]
    fn count(draw: u64, until: u64) -> u64 {
        let at = |n: u64| mix::nth(draw, n) <= until;
        let mut count =
            u64::from((draw >= ABOVE[0]) & at(0)) + u64::from((draw >= ABOVE[1]) & at(1));
        let mut n = 2;
        while n < MOST && draw >= ABOVE[n] {
            count += u64::from(at(n as u64));
            n += 1;
        }
        count
    }

    /// Whether a cell holds a write in `[from, from + length]`.
    #[inline]
    fn any(draw: u64, from: u64, length: u64) -> bool {
        let at = |n: u64| mix::nth(draw, n).wrapping_sub(from) <= length;
        let mut any = ((draw >= ABOVE[0]) & at(0)) | ((draw >= ABOVE[1]) & at(1));
        let mut n = 2;
        while n < MOST && draw >= ABOVE[n] {
            any |= at(n as u64);
            n += 1;
        }
        any
    }

    #[inline]
    fn unit(&self, offset: u32) -> u32 {
        if self.block == 1 {
            offset
        } else {
            offset / self.block
        }
    }

    /// The version of the page at `offset` in the class: which write was the last.
    pub(super) fn version(&self, offset: u32, at: Operational) -> u64 {
        let unit = self.unit(offset);
        let (last, fraction) = split(at);
        let (mut cell, mut until) = (last, fraction);
        // A cell is empty with probability 1/e: 1.6 cells are looked at on average.
        loop {
            let count = Self::count(mix::draw(self.key, unit, cell), until);
            if count > 0 {
                return cell.saturating_mul(SLOTS).saturating_add(count);
            }
            if cell == 0 {
                return 0;
            }
            (cell, until) = (cell - 1, u64::MAX);
        }
    }

    /// Whether a unit is written in the window.
    #[inline]
    fn unit_written(&self, unit: u32, window: &Window) -> bool {
        let draw = |cell| mix::draw(self.key, unit, cell);
        match *window {
            Window::Empty => false,
            Window::Cell { cell, from, length } => Self::any(draw(cell), from, length),
            Window::Cells {
                first,
                from,
                last,
                until,
            } => {
                let in_last = Self::any(draw(last), 0, until);
                let in_first =
                    || from.is_some_and(|from| Self::any(draw(first), from, u64::MAX - from));
                if last - first == 1 {
                    return in_last | in_first();
                }
                // The two latest cells decide for most; then whole cells, latest first.
                (in_last | (draw(last - 1) >= ABOVE[0]))
                    || (first + 1..last - 1)
                        .rev()
                        .any(|cell| draw(cell) >= ABOVE[0])
                    || in_first()
            }
        }
    }

    /// Whether the page at `offset` is written in operational time `(from, to]`.
    pub(super) fn written(&self, offset: u32, from: Operational, to: Operational) -> bool {
        self.unit_written(self.unit(offset), &Window::new(from, to))
    }

    /// Calls `mark` with consecutive runs of offsets that fill `range`, and whether they are
    /// written in `(from, to]`.
    pub(super) fn harvest(
        &self,
        range: Range<u32>,
        from: Operational,
        to: Operational,
        mut mark: impl FnMut(Range<u32>, bool),
    ) {
        let window = Window::new(from, to);
        if self.block == 1 {
            // Told apart outside the loop: the loop is the cost of a harvest.
            if let Window::Cell { cell, from, length } = window {
                for unit in range {
                    let draw = mix::draw(self.key, unit, cell);
                    mark(unit..unit + 1, Self::any(draw, from, length));
                }
            } else {
                for unit in range {
                    mark(unit..unit + 1, self.unit_written(unit, &window));
                }
            }
            return;
        }
        let mut offset = range.start;
        while offset < range.end {
            let unit = self.unit(offset);
            let end = unit
                .saturating_add(1)
                .saturating_mul(self.block)
                .min(range.end);
            mark(offset..end, self.unit_written(unit, &window));
            offset = end;
        }
    }
}

/// An interval `(from, to]` of operational time, cut at cells.
#[derive(Debug, Clone, Copy)]
enum Window {
    Empty,
    /// Within one cell: the fractions `[from, from + length]`.
    Cell {
        cell: u64,
        from: u64,
        length: u64,
    },
    /// From fraction `from` of `first` (`None`: nothing of it is left) to `until` of `last`.
    Cells {
        first: u64,
        from: Option<u64>,
        last: u64,
        until: u64,
    },
}

impl Window {
    fn new(from: Operational, to: Operational) -> Self {
        if to <= from {
            return Self::Empty;
        }
        let ((first, after), (last, until)) = (split(from), split(to));
        if first == last {
            return Self::Cell {
                cell: last,
                from: after + 1,
                length: until - after - 1,
            };
        }
        Self::Cells {
            first,
            from: after.checked_add(1),
            last,
            until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_poisson() {
        let (mut sum, mut term) = (0.0, f64::exp(-1.0));
        for (n, &limit) in ABOVE.iter().enumerate() {
            if n > 0 {
                term /= n as f64;
            }
            sum += term;
            let found = limit as f64 / mix::TWO_POW_64;
            assert!(
                (found - sum).abs() < 1e-15,
                "P(≤ {n}) is {sum}, the table says {found}"
            );
        }
        assert!(
            ABOVE[MOST - 1] > u64::MAX - 64,
            "what is left is below what a draw resolves"
        );
    }

    /// Every write of a unit up to an instant, by walking cells: the plain form of what the
    /// look-ups compute.
    fn instants(writer: &PoissonWriter, unit: u32, cells: u64) -> Vec<f64> {
        let mut all = Vec::new();
        for cell in 0..cells {
            let draw = mix::draw(writer.key, unit, cell);
            let many = ABOVE.iter().filter(|&&limit| draw >= limit).count();
            all.extend(
                (0..many as u64).map(|n| cell as f64 + mix::nth(draw, n) as f64 / mix::TWO_POW_64),
            );
        }
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn gaps_are_exponential() {
        let writer = PoissonWriter::new(mix::key(&[1, 2, 3]), 1);
        let mut gaps: Vec<f64> = (0..200)
            .flat_map(|unit| {
                let at = instants(&writer, unit, 200);
                at.windows(2)
                    .map(|pair| pair[1] - pair[0])
                    .collect::<Vec<_>>()
            })
            .collect();
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let distance = gaps.iter().enumerate().map(|(i, &gap)| {
            let expected = 1.0 - (-gap).exp();
            (expected - i as f64 / n)
                .abs()
                .max((expected - (i as f64 + 1.0) / n).abs())
        });
        let ks = distance.fold(0.0, f64::max) * n.sqrt();
        // Kolmogorov's distribution: 1.95 is its 99.9 % point.
        assert!(ks < 1.95, "Kolmogorov-Smirnov {ks} over {n} gaps");
    }

    #[test]
    fn counts_over_odd_windows_are_poisson() {
        let writer = PoissonWriter::new(mix::key(&[7]), 1);
        for window in [0.3, 1.0, 1.7, 2.9] {
            let mut histogram = [0u32; 9];
            let (mut total, cells) = (0.0, 60);
            for unit in 0..2_000 {
                let at = instants(&writer, unit, cells);
                let mut from = 0.37;
                while from + window < cells as f64 {
                    let count = at
                        .iter()
                        .filter(|&&x| x > from && x <= from + window)
                        .count();
                    histogram[count.min(8)] += 1;
                    total += 1.0;
                    from += window;
                }
            }
            let (mut chi2, mut degrees, mut term, mut rest) = (0.0, -1, f64::exp(-window), 1.0);
            for (n, &seen) in histogram.iter().enumerate() {
                let p = if n == 8 { rest } else { term };
                rest -= p;
                term *= window / (n + 1) as f64;
                if p * total > 5.0 {
                    chi2 += (f64::from(seen) - p * total).powi(2) / (p * total);
                    degrees += 1;
                }
            }
            // Mean = degrees, variance = 2 × degrees; 5 sigma.
            let limit = f64::from(degrees) + 5.0 * f64::from(2 * degrees).sqrt();
            assert!(
                chi2 < limit,
                "window {window}: chi-square {chi2}, limit {limit}"
            );
        }
    }

    #[test]
    fn look_ups_agree_with_the_list_of_writes() {
        let writer = PoissonWriter::new(mix::key(&[11]), 1);
        let tempo = super::super::tempo::Tempo::new(2.5, None).unwrap();
        for unit in 0..50 {
            let at = instants(&writer, unit, 30);
            for step in 0..400u64 {
                let clock = step * 17_345_678;
                let upto = |ns: u64| {
                    let cells = tempo.at(ns) as f64 / mix::TWO_POW_64;
                    at.iter().filter(|&&x| x <= cells).count()
                };
                let version = writer.version(unit, tempo.at(clock));
                assert_eq!(version == 0, upto(clock) == 0, "unit {unit} at {clock}");
                for length in [1_000_000, 300_000_000, 2_000_000_000] {
                    let (from, to) = (clock, clock + length);
                    let written = writer.written(unit, tempo.at(from), tempo.at(to));
                    assert_eq!(
                        written,
                        upto(to) > upto(from),
                        "unit {unit}, {from} to {to}"
                    );
                }
            }
        }
    }
}
