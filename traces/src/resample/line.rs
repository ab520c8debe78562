//! Straight lines through an interval's ends and its middle, the mean kept.
//!
//! An interval of mean m that begins at b and ends at e has the value c = 2m − (b + e)/2 in its
//! middle: its mean is then (b + 2c + e)/4 = m. c stays within [lo, hi] when both b and e lie within
//! [2m − hi, 2m − lo], so an end that two intervals share is the mean of theirs, moved into what
//! both allow. Where they allow nothing in common each takes its own nearest value: a jump.

use crate::cpu::CpuTrace;

use super::bounds;

/// An interval's line, in quarters of a thousandth of a core so that all of it is whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Knots {
    begin: i64,
    middle: i64,
    end: i64,
}

const UNIT: i64 = 4;

/// Where an interval's ends may lie.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: i64,
    to: i64,
}

/// The line of every interval; the last one goes on to the first, as the trace repeats.
pub(super) fn knots(trace: &CpuTrace, cap_milli: u32) -> Vec<Knots> {
    let samples = trace.samples();
    let mean = |index: usize| i64::from(samples[index].milli) * UNIT;
    let ranges: Vec<Range> = (0..samples.len())
        .map(|index| {
            let (lo, hi) = bounds(samples[index].milli, trace.spread(index), cap_milli);
            let (lo, hi) = (i64::from(lo) * UNIT, i64::from(hi) * UNIT);
            Range {
                from: lo.max(2 * mean(index) - hi),
                to: hi.min(2 * mean(index) - lo),
            }
        })
        .collect();
    // What an interval has at the end it shares with another.
    let end = |own: usize, other: usize| {
        let wanted = i64::midpoint(mean(own), mean(other)) & !1;
        let (own, other) = (ranges[own], ranges[other]);
        let (from, to) = (own.from.max(other.from), own.to.min(other.to));
        if from <= to {
            wanted.clamp(from, to)
        } else {
            wanted.clamp(own.from, own.to)
        }
    };
    (0..samples.len())
        .map(|index| {
            let before = (index + samples.len() - 1) % samples.len();
            let after = (index + 1) % samples.len();
            let (begin, end) = (end(index, before), end(index, after));
            // Ends are even, so the half is whole.
            let middle = 2 * mean(index) - i64::midpoint(begin, end);
            Knots { begin, middle, end }
        })
        .collect()
}

impl Knots {
    /// The line's mean over each of `count` equal steps, in thousandths of a core. Each boundary's
    /// integral is rounded, so errors do not add up, the sum is exactly `count × mean`, and values
    /// stay within whole bounds.
    pub(super) fn values(self, mean: u32, count: u64) -> Vec<u32> {
        let count_i = i128::from(count);
        // ∫ from 0 to j/count, times 4 × UNIT × count² (all terms are whole then).
        let integral = |j: i128| {
            let (b, c, e) = (
                i128::from(self.begin),
                i128::from(self.middle),
                i128::from(self.end),
            );
            let half =
                |from: i128, to: i128, j: i128| from * j * count_i * 4 + (to - from) * j * j * 4;
            if 2 * j <= count_i {
                half(b, c, j)
            } else {
                // From the end backwards: the whole is the mean.
                let whole = i128::from(mean) * i128::from(UNIT) * 4 * count_i * count_i;
                whole - half(e, c, count_i - j)
            }
        };
        // Sum of the values of j steps is the integral × count / (4 × UNIT × count²).
        let divisor = 4 * i128::from(UNIT) * count_i;
        let total = |j: i128| (integral(j) + divisor / 2).div_euclid(divisor);
        (0..count_i)
            .map(|j| u32::try_from(total(j + 1) - total(j)).unwrap_or(0))
            .collect()
    }
}
