//! Packet-delivery traces: a link described by the instants at which packets may leave, as Mahimahi records them.
//!
//! Each line of a file is a millisecond at which 1504 bytes may leave; a millisecond may stand on several lines. The last
//! line is also the length of the trace, which then begins again. Bytes that nothing waited for are lost, as a radio's are.
//! Pure values: who uses the opportunities is the relay's queue.

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::BitRate;

/// Bytes that may leave at one opportunity: Mahimahi's largest TUN packet, an MTU of 1500 and 4 bytes of TUN header.
pub const OPPORTUNITY_BYTES: u64 = 1504;
/// What Mahimahi counts over the IP bytes of a packet; a link that should be as Mahimahi's has this `overhead`.
pub const OVERHEAD_MAHIMAHI: u16 = 4;

/// When a link may send.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeliveryTrace {
    /// By rising millisecond, none twice.
    runs: Vec<Run>,
    period_ms: u64,
}

/// Opportunities of one millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    at_ms: u64,
    /// Opportunities up to and with this millisecond.
    until: u64,
}

/// Why something is not a packet-delivery trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// A line is not a number of milliseconds.
    #[error(
        "line {line}: `{text}` is not a millisecond; each line is a whole number, as `mm-link` takes them"
    )]
    NotMilliseconds {
        /// Counted from 1.
        line: usize,
        /// What stands there, shortened.
        text: String,
    },
    /// Time goes back.
    #[error("line {line}: {ms} ms comes after {before} ms; lines must not go back in time")]
    Backwards {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        ms: u64,
        /// What stands before it.
        before: u64,
    },
    /// More than memory is given to.
    #[error("line {line}: more than {limit} different milliseconds; cut the trace")]
    TooLong {
        /// Counted from 1.
        line: usize,
        /// How many there may be.
        limit: usize,
    },
    /// No line at all.
    #[error("the trace is empty; it needs at least one millisecond above 0")]
    Empty,
    /// It lasts no time, so that it cannot be repeated.
    #[error("the trace ends at 0 ms; its last line is its length and must be above 0")]
    NoLength,
    /// The stored form of a trace is damaged.
    #[error("`{text}` is not a stored packet-delivery trace at item {item}")]
    Stored {
        /// Counted from 0, the length.
        item: usize,
        /// What stands there, shortened.
        text: String,
    },
}

/// Some 70 minutes with something every millisecond; 64 MiB of memory.
const RUNS_MAX: usize = 1 << 22;
/// Far above any recording, and below what would overflow the arithmetic on instants: 2^43 ms in ns is below 2^63.
const MS_MAX: u64 = 1 << 43;
/// As many a millisecond is 50 Tbit/s.
const COUNT_MAX: u64 = 1 << 22;
const NS_PER_MS: i128 = 1_000_000;

impl DeliveryTrace {
    /// Reads a file as `mm-link` takes it.
    ///
    /// # Errors
    /// [`DeliveryError`] with the line.
    pub fn parse(text: &str) -> Result<Self, DeliveryError> {
        let mut runs = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let ms = text.trim().parse().ok().filter(|ms| *ms <= MS_MAX);
            let ms: u64 = ms.ok_or_else(|| DeliveryError::NotMilliseconds {
                line,
                text: shortened(text),
            })?;
            let before = runs.last().map_or(0, |run: &Run| run.at_ms);
            if ms < before {
                return Err(DeliveryError::Backwards { line, ms, before });
            }
            push(&mut runs, ms, 1).ok_or(DeliveryError::TooLong {
                line,
                limit: RUNS_MAX,
            })?;
        }
        let period_ms = runs.last().ok_or(DeliveryError::Empty)?.at_ms;
        if period_ms == 0 {
            return Err(DeliveryError::NoLength);
        }
        Ok(Self { runs, period_ms })
    }

    /// How long it takes until it begins again.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    /// Opportunities in one period.
    #[must_use]
    pub fn opportunities(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.until)
    }

    /// What leaves in the long run if something always waits.
    #[must_use]
    pub fn mean_rate(&self) -> BitRate {
        let bits = u128::from(self.opportunities()) * u128::from(OPPORTUNITY_BYTES) * 8;
        let bps = u64::try_from(bits * 1000 / u128::from(self.period_ms)).unwrap_or(u64::MAX);
        // One opportunity in the longest period is less than 1 bit/s.
        BitRate::from_bps(bps.max(1)).expect("at least 1")
    }

    /// The most that may leave within any span of this length.
    #[must_use]
    pub fn most_bytes_in(&self, span: Duration) -> u64 {
        let span_ms = u64::try_from(span.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let whole = (span_ms / self.period_ms).saturating_mul(self.opportunities());
        let rest_ms = span_ms % self.period_ms;
        // A window that begins with each run, over the seam of two periods.
        let total = self.opportunities();
        let again = self.runs.iter().map(|run| Run {
            at_ms: run.at_ms + self.period_ms,
            until: run.until + total,
        });
        let ends: Vec<Run> = self.runs.iter().copied().chain(again).collect();
        let (mut end, mut most, mut before) = (0, 0, 0);
        for run in &self.runs {
            while end < ends.len() && ends[end].at_ms <= run.at_ms + rest_ms {
                end += 1;
            }
            most = most.max(ends[end - 1].until - before);
            before = run.until;
        }
        whole.saturating_add(most).saturating_mul(OPPORTUNITY_BYTES)
    }

    /// The same instants with one opportunity of `k` left: space divided by `k`.
    #[must_use]
    pub fn divided(&self, k: u32) -> Self {
        let k = u64::from(k.max(1));
        let mut runs: Vec<Run> = Vec::new();
        for run in &self.runs {
            // Rounded up, so that at least one is left.
            let until = run.until.div_ceil(k);
            if runs.last().map_or(0, |last| last.until) < until {
                runs.push(Run { until, ..*run });
            }
        }
        Self {
            runs,
            period_ms: self.period_ms,
        }
    }

    /// The number of the first opportunity after an instant, both counted from the beginning of the trace.
    pub(crate) fn first_after(&self, elapsed_ns: i128) -> i128 {
        let period_ns = i128::from(self.period_ms) * NS_PER_MS;
        let (round, within) = (
            elapsed_ns.div_euclid(period_ns),
            elapsed_ns.rem_euclid(period_ns),
        );
        let past = self
            .runs
            .partition_point(|run| i128::from(run.at_ms) * NS_PER_MS <= within);
        let before = past.checked_sub(1).map_or(0, |run| self.runs[run].until);
        round * i128::from(self.opportunities()) + i128::from(before)
    }

    /// When an opportunity is, from the beginning of the trace.
    pub(crate) fn instant_ns(&self, number: i128) -> i128 {
        let total = i128::from(self.opportunities());
        let (round, within) = (number.div_euclid(total), number.rem_euclid(total));
        let run = self
            .runs
            .partition_point(|run| i128::from(run.until) <= within);
        (round * i128::from(self.period_ms) + i128::from(self.runs[run].at_ms)) * NS_PER_MS
    }
}

/// One more opportunity, or several, at a millisecond not before the last; `None` when there is no room.
fn push(runs: &mut Vec<Run>, at_ms: u64, count: u64) -> Option<()> {
    match runs.last_mut() {
        Some(last) if last.at_ms == at_ms => last.until += count,
        last => {
            let until = last.map_or(0, |last| last.until) + count;
            if runs.len() == RUNS_MAX {
                return None;
            }
            runs.push(Run { at_ms, until });
        }
    }
    Some(())
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The stored form: the period, then for each millisecond with opportunities the gap to the one before and how many,
/// equal ones counted: `1000 1*500 2x3*250` is 500 times one after a millisecond, then 250 times three after two.
impl fmt::Display for DeliveryTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.period_ms)?;
        let (mut ms, mut until) = (0, 0);
        let steps: Vec<(u64, u64)> = self
            .runs
            .iter()
            .map(|run| {
                let step = (run.at_ms - ms, run.until - until);
                (ms, until) = (run.at_ms, run.until);
                step
            })
            .collect();
        for same in steps.chunk_by(|a, b| a == b) {
            let (gap, count) = same[0];
            f.write_char(' ')?;
            write!(f, "{gap}")?;
            if count != 1 {
                write!(f, "x{count}")?;
            }
            if same.len() != 1 {
                write!(f, "*{}", same.len())?;
            }
        }
        Ok(())
    }
}

impl FromStr for DeliveryTrace {
    type Err = DeliveryError;

    fn from_str(text: &str) -> Result<Self, DeliveryError> {
        let mut items = text.split(' ').enumerate();
        let (_, first) = items.next().ok_or(DeliveryError::Empty)?;
        let bad = |item, text| DeliveryError::Stored {
            item,
            text: shortened(text),
        };
        let period_ms: Option<u64> = first.parse().ok();
        let period_ms = period_ms
            .filter(|ms| (1..=MS_MAX).contains(ms))
            .ok_or_else(|| bad(0, first))?;
        let mut runs = Vec::new();
        for (item, text) in items {
            let step = stored_step(text).filter(|step| step.1 > 0);
            let (gap, count, times) = step.ok_or_else(|| bad(item, text))?;
            for _ in 0..times {
                let at_ms = runs.last().map_or(0, |run: &Run| run.at_ms) + gap;
                let grows = runs.is_empty() || gap > 0;
                if at_ms > period_ms || !grows {
                    return Err(bad(item, text));
                }
                push(&mut runs, at_ms, count).ok_or_else(|| bad(item, text))?;
            }
        }
        if runs.is_empty() {
            return Err(DeliveryError::Empty);
        }
        Ok(Self { runs, period_ms })
    }
}

/// `GAP[xCOUNT][*TIMES]`.
fn stored_step(text: &str) -> Option<(u64, u64, u64)> {
    let (step, times) = text.split_once('*').unwrap_or((text, "1"));
    let (gap, count) = step.split_once('x').unwrap_or((step, "1"));
    let (gap, count, times) = (gap.parse().ok()?, count.parse().ok()?, times.parse().ok()?);
    // A count of one line is bounded as its instants are; neither sum can overflow below these.
    (gap <= MS_MAX && count <= COUNT_MAX).then_some((gap, count, times))
}

/// Short: a trace can have a million runs.
impl fmt::Debug for DeliveryTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryTrace")
            .field("period", &self.period())
            .field("opportunities", &self.opportunities())
            .finish_non_exhaustive()
    }
}

impl TryFrom<String> for DeliveryTrace {
    type Error = DeliveryError;

    fn try_from(text: String) -> Result<Self, DeliveryError> {
        text.parse()
    }
}

impl From<DeliveryTrace> for String {
    fn from(trace: DeliveryTrace) -> Self {
        trace.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trace(lines: &[u64]) -> DeliveryTrace {
        let text: String = lines.iter().map(|ms| format!("{ms}\n")).collect();
        DeliveryTrace::parse(&text).unwrap()
    }

    #[test]
    fn a_trace_is_read_as_mahimahi_reads_it() {
        let trace = trace(&[0, 5, 5, 10]);
        assert_eq!(trace.period(), Duration::from_millis(10));
        assert_eq!(trace.opportunities(), 4);
        // 4 × 1504 bytes in 10 ms.
        assert_eq!(trace.mean_rate().bps(), 4 * 1504 * 8 * 100);
        let instants: Vec<i128> = (-1..6).map(|n| trace.instant_ns(n) / NS_PER_MS).collect();
        assert_eq!(instants, [0, 0, 5, 5, 10, 10, 15]);
        let first = |ms: i128| trace.first_after(ms * NS_PER_MS);
        assert_eq!(
            [first(-1), first(0), first(4), first(5), first(9), first(10)],
            [-1, 1, 1, 3, 3, 5]
        );
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let of = |text| DeliveryTrace::parse(text).unwrap_err().to_string();
        assert!(of("1\n2\nx3\n").starts_with("line 3: `x3`"));
        assert!(of("1\n\n2\n").starts_with("line 2: ``"));
        assert!(of("5\n4\n").starts_with("line 2: 4 ms comes after 5 ms"));
        assert!(of("").contains("empty"));
        assert!(of("0\n0\n").contains("ends at 0 ms"));
        assert!(of("1.5\n").starts_with("line 1"));
        assert!(of("99999999999999\n").starts_with("line 1"));
    }

    #[test]
    fn a_steady_trace_is_stored_in_a_few_bytes() {
        let steady: Vec<u64> = (1..=1000).collect();
        assert_eq!(trace(&steady).to_string(), "1000 1*1000");
        assert_eq!(trace(&[0, 5, 5, 10]).to_string(), "10 0 5x2 5");
    }

    #[test]
    fn a_divided_trace_keeps_its_length_and_every_kth_opportunity() {
        let lines: Vec<u64> = (1..=100).collect();
        let divided = trace(&lines).divided(10);
        assert_eq!(divided.opportunities(), 10);
        assert_eq!(divided.period(), Duration::from_millis(100));
        assert_eq!(divided.to_string(), "100 1 10*9");
        assert_eq!(trace(&[7]).divided(1000).opportunities(), 1);
    }

    #[test]
    fn the_densest_span_may_lie_over_the_seam() {
        let trace = trace(&[0, 1, 50, 99, 100]);
        // 99, 100, then 100 (the next 0) and 101.
        assert_eq!(trace.most_bytes_in(Duration::from_millis(2)), 4 * 1504);
        assert_eq!(trace.most_bytes_in(Duration::from_millis(202)), 14 * 1504);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_trace_or_an_error(text: String, numbers: Vec<u16>) {
            let _ = DeliveryTrace::parse(&text);
            let _ = text.parse::<DeliveryTrace>();
            let lines: String = numbers.iter().map(|n| format!("{n}\n")).collect();
            let _ = DeliveryTrace::parse(&lines);
            let _ = lines.replace('\n', "*").parse::<DeliveryTrace>();
        }

        #[test]
        fn stored_traces_read_back(gaps in prop::collection::vec(0..4_u64, 1..300)) {
            let mut ms = 0;
            let mut lines: Vec<u64> = gaps.iter().map(|gap| { ms += gap; ms }).collect();
            lines.push(ms + 1);
            let trace = trace(&lines);
            prop_assert_eq!(trace.to_string().parse::<DeliveryTrace>(), Ok(trace.clone()));
            let json = serde_json::to_string(&trace).unwrap();
            prop_assert_eq!(serde_json::from_str::<DeliveryTrace>(&json).unwrap(), trace.clone());
            let divided = trace.divided(7);
            prop_assert_eq!(divided.to_string().parse::<DeliveryTrace>(), Ok(divided));
        }

        #[test]
        fn opportunities_are_the_lines_over_and_over(
            gaps in prop::collection::vec(0..4_u64, 1..40),
            elapsed_ns in -100_000_000..500_000_000_i128,
        ) {
            let mut ms = 0;
            let mut lines: Vec<u64> = gaps.iter().map(|gap| { ms += gap; ms }).collect();
            lines.push(ms + 1);
            let trace = trace(&lines);
            let number = trace.first_after(elapsed_ns);
            prop_assert!(trace.instant_ns(number) > elapsed_ns);
            prop_assert!(trace.instant_ns(number - 1) <= elapsed_ns);
            let (round, line) = (number.div_euclid(lines.len() as i128), number.rem_euclid(lines.len() as i128));
            let at = lines[usize::try_from(line).unwrap()];
            let period = i128::from(ms + 1);
            prop_assert_eq!(trace.instant_ns(number), (round * period + i128::from(at)) * NS_PER_MS);
        }
    }
}
