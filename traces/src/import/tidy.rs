//! The samples of one VM, in order of time but doubled, overlapping or without an end, made into
//! intervals that follow one another.
//!
//! Pure: samples in, samples out, memory bounded whatever the trace. Never inside: files, formats.

use crate::store::sample::{Sample, Values};
use crate::store::series::{Metric, flags};
use crate::units::{round_u32, round_u64};

/// What a format says of its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// They have a length. Of those at one instant the last counts; one that reaches into the next
    /// is cut there.
    Given,
    /// They have a length, and those at one time ran side by side: they are added up.
    Sum,
    /// They hold until the next one.
    Hold(Hold),
}

/// How long an instant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// The usual distance and the longest that is no gap; the median and 1.5 times it when `None`.
    pub(super) step_ms: Option<(u32, u32)>,
    /// Network and disk bytes are counters since some start: differences are taken.
    pub(super) counters: Counters,
    /// Network and disk bytes are rates, in thousandths of a byte per second.
    pub(super) rates: bool,
}

/// Which values only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counters {
    /// None.
    No,
    /// Network and disk; differences over at least this long, spread evenly: a coarse counter says
    /// nothing of shorter times.
    Bytes { window_ms: u32 },
    /// As `Bytes`, and CPU holds microseconds of CPU time.
    CpuAndBytes,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TidyCounts {
    /// Samples dropped because a later one has the same instant.
    pub(super) duplicates: u64,
    /// Samples cut because the next one begins earlier.
    pub(super) cut: u64,
    /// Samples added to another of the same time.
    pub(super) summed: u64,
    /// Samples dropped because too many ran at once.
    pub(super) dropped: u64,
    /// Counters that went back.
    pub(super) resets: u64,
}

/// Samples that are held back until more is known.
#[derive(Debug)]
pub(super) struct Tidy {
    rule: Rule,
    held: Vec<Sample>,
    /// End of what was given out, for sums.
    cursor_ms: i64,
    /// The step in use, for instants: usual, longest.
    step: Option<(u32, u32)>,
    pub(super) counts: TidyCounts,
}

/// Samples from which the median step is taken.
const PRELUDE: usize = 256;
/// Samples of one VM at one time, and of one window of a counter. Beyond it the input is no trace.
const MOST_HELD: usize = 4096;
const BYTES: [Metric; 4] = [
    Metric::NetRxBytes,
    Metric::NetTxBytes,
    Metric::DiskRdBytes,
    Metric::DiskWrBytes,
];

impl Tidy {
    pub(super) fn new(rule: Rule) -> Self {
        let step = match rule {
            Rule::Hold(hold) => hold.step_ms,
            Rule::Given | Rule::Sum => None,
        };
        Self {
            rule,
            held: Vec::new(),
            cursor_ms: i64::MIN,
            step,
            counts: TidyCounts::default(),
        }
    }

    /// Takes the next sample of the VM and appends what is finished to `out`.
    pub(super) fn sample(&mut self, sample: Sample, out: &mut Vec<Sample>) {
        match self.rule {
            Rule::Given => self.given(sample, out),
            Rule::Sum => self.sum(sample, out),
            Rule::Hold(hold) => self.hold(hold, sample, out),
        }
    }

    /// The VM has no more samples.
    pub(super) fn end(&mut self, out: &mut Vec<Sample>) {
        match self.rule {
            Rule::Given => out.append(&mut self.held),
            Rule::Sum => {
                self.sum_until(i64::MAX, out);
                self.cursor_ms = i64::MIN;
            }
            Rule::Hold(hold) => {
                if self.step.is_none() {
                    self.fix_step(hold, out);
                }
                self.close_window(hold, out);
                self.step = hold.step_ms;
            }
        }
    }

    fn given(&mut self, sample: Sample, out: &mut Vec<Sample>) {
        if let Some(mut last) = self.held.pop() {
            let t_ms = sample.interval.t_ms;
            if last.interval.t_ms == t_ms {
                self.counts.duplicates += 1;
            } else {
                if last.interval.end_ms() > t_ms {
                    self.counts.cut += 1;
                    last = part(&last, last.interval.t_ms, t_ms);
                }
                out.push(last);
            }
        }
        self.held.push(sample);
    }

    fn sum(&mut self, sample: Sample, out: &mut Vec<Sample>) {
        self.sum_until(sample.interval.t_ms, out);
        self.counts.summed += u64::from(!self.held.is_empty());
        self.cursor_ms = sample.interval.t_ms;
        if self.held.len() < MOST_HELD {
            self.held.push(sample);
        } else {
            self.counts.dropped += 1;
        }
    }

    /// Gives out what is known up to `until_ms`: between two instants at which nothing begins or ends,
    /// the sum of all that runs.
    fn sum_until(&mut self, until_ms: i64, out: &mut Vec<Sample>) {
        while let Some(next) = self.held.iter().map(|s| s.interval.end_ms()).min() {
            let end = next.min(until_ms);
            if end > self.cursor_ms {
                out.push(sum(&self.held, self.cursor_ms, end));
                self.cursor_ms = end;
            }
            if next > until_ms {
                break;
            }
            self.held.retain(|sample| sample.interval.end_ms() > next);
        }
    }

    fn hold(&mut self, hold: Hold, sample: Sample, out: &mut Vec<Sample>) {
        if let Some(last) = self.held.last_mut()
            && last.interval.t_ms == sample.interval.t_ms
        {
            self.counts.duplicates += 1;
            *last = sample;
            return;
        }
        if self.step.is_none() {
            self.held.push(sample);
            if self.held.len() == PRELUDE {
                self.fix_step(hold, out);
            }
            return;
        }
        self.held_at_step(hold, sample, out);
    }

    /// The step is known: a sample behind those of the open window.
    fn held_at_step(&mut self, hold: Hold, sample: Sample, out: &mut Vec<Sample>) {
        let (_, longest) = self.step.unwrap_or((1, 1));
        let t_ms = sample.interval.t_ms;
        if let (Some(first), Some(last)) = (self.held.first(), self.held.last()) {
            let step = t_ms.abs_diff(last.interval.t_ms);
            if step > u64::from(longest) {
                self.close_window(hold, out);
            } else {
                let window_ms = match hold.counters {
                    Counters::Bytes { window_ms } => window_ms,
                    Counters::No | Counters::CpuAndBytes => 0,
                };
                let full = t_ms.abs_diff(first.interval.t_ms) >= u64::from(window_ms)
                    || self.held.len() >= MOST_HELD;
                self.held.push(sample);
                if full {
                    self.finish_window(hold, out);
                }
                return;
            }
        }
        self.held.push(sample);
    }

    /// Takes the usual step from the samples held, and goes on with them.
    fn fix_step(&mut self, hold: Hold, out: &mut Vec<Sample>) {
        let mut steps: Vec<u64> = self
            .held
            .windows(2)
            .map(|pair| pair[1].interval.t_ms.abs_diff(pair[0].interval.t_ms))
            .collect();
        steps.sort_unstable();
        // Five minutes, the step of most public traces, when there is but one sample; at most a day:
        // two distant samples say nothing of their step.
        let median = steps.get(steps.len() / 2).copied().unwrap_or(300_000);
        let median = round_u32(median.clamp(1, 86_400_000) as f64);
        self.step = Some((median, median + median / 2));
        for sample in std::mem::take(&mut self.held) {
            self.held_at_step(hold, sample, out);
        }
    }

    /// All samples held but the last get their end and what the counters say; the last opens the next
    /// window.
    fn finish_window(&mut self, hold: Hold, out: &mut Vec<Sample>) {
        let Some(last) = self.held.pop() else {
            return;
        };
        let mut whole = std::mem::take(&mut self.held);
        let ends: Vec<i64> = whole
            .iter()
            .skip(1)
            .chain([&last])
            .map(|next| next.interval.t_ms)
            .collect();
        for (sample, end) in whole.iter_mut().zip(ends) {
            sample.interval.dur_ms = round_u32(end.abs_diff(sample.interval.t_ms) as f64);
        }
        self.differences(hold, &mut whole, &last);
        out.append(&mut whole);
        self.held.push(last);
    }

    /// Nothing follows within the longest step: the last sample holds for the usual one, and no
    /// counter tells what was used in it.
    fn close_window(&mut self, hold: Hold, out: &mut Vec<Sample>) {
        self.finish_window(hold, out);
        let (usual, _) = self.step.unwrap_or((1, 1));
        for mut last in self.held.drain(..) {
            last.interval.dur_ms = usual;
            match hold.counters {
                Counters::No => rates(hold, &mut last),
                Counters::Bytes { .. } => BYTES.iter().for_each(|&m| last.values.set(m, None)),
                Counters::CpuAndBytes => {
                    BYTES.iter().for_each(|&m| last.values.set(m, None));
                    last.values.set(Metric::CpuMilli, None);
                }
            }
            out.push(last);
        }
    }

    fn differences(&mut self, hold: Hold, whole: &mut [Sample], next: &Sample) {
        match hold.counters {
            Counters::No => {
                whole.iter_mut().for_each(|sample| rates(hold, sample));
                return;
            }
            Counters::Bytes { .. } => {}
            Counters::CpuAndBytes => self.difference(Metric::CpuMilli, whole, next),
        }
        for metric in BYTES {
            self.difference(metric, whole, next);
        }
    }

    /// What a counter gained from the first of `whole` to `next`, spread over their lengths.
    fn difference(&mut self, metric: Metric, whole: &mut [Sample], next: &Sample) {
        let readings: Vec<Option<u64>> = whole
            .iter()
            .chain([next])
            .map(|sample| sample.values.get(metric))
            .collect();
        let known: Vec<u64> = readings.iter().flatten().copied().collect();
        let reset = !known.is_sorted();
        let ends = readings
            .first()
            .copied()
            .flatten()
            .zip(next.values.get(metric));
        let gained = ends.filter(|_| !reset).map(|(from, to)| to - from);
        let total: u64 = whole.iter().map(|s| u64::from(s.interval.dur_ms)).sum();
        let mut before = 0u64;
        for sample in whole.iter_mut() {
            let after = before + u64::from(sample.interval.dur_ms);
            // Rounded sums, not summed roundings: the shares add up to what was gained.
            let share = gained.map(|gained| {
                let at = |ms: u64| u128::from(gained) * u128::from(ms) / u128::from(total.max(1));
                u64::try_from(at(after) - at(before)).unwrap_or(u64::MAX)
            });
            let value = match metric {
                // Microseconds per millisecond are thousandths of a core.
                Metric::CpuMilli => share.map(|us| us / u64::from(sample.interval.dur_ms.max(1))),
                _ => share,
            };
            sample.values.set(metric, value);
            if reset {
                sample.interval.flags |= flags::COUNTER_RESET;
            }
            before = after;
        }
        self.counts.resets += u64::from(reset);
    }
}

/// Rates to bytes in the interval, where the format has rates.
fn rates(hold: Hold, sample: &mut Sample) {
    if !hold.rates {
        return;
    }
    let seconds = f64::from(sample.interval.dur_ms) / 1000.0;
    for metric in BYTES {
        let rate = sample.values.get(metric);
        let bytes = rate.map(|rate| round_u64(rate as f64 / 1000.0 * seconds));
        sample.values.set(metric, bytes);
    }
}

/// A stretch of a sample: bytes by its share of the length, the rest as it is.
fn part(sample: &Sample, from_ms: i64, to_ms: i64) -> Sample {
    let mut part = *sample;
    let whole = u64::from(sample.interval.dur_ms.max(1));
    let dur = to_ms.abs_diff(from_ms).min(whole);
    part.interval.t_ms = from_ms;
    part.interval.dur_ms = round_u32(dur as f64);
    if dur < whole {
        for metric in BYTES {
            let share = |bytes: u64| u128::from(bytes) * u128::from(dur) / u128::from(whole);
            let bytes = sample.values.get(metric).map(share);
            part.values
                .set(metric, bytes.map(|b| u64::try_from(b).unwrap_or(u64::MAX)));
        }
    }
    part
}

/// What all samples that run in a stretch use together. Extremes of several have no sum.
fn sum(running: &[Sample], from_ms: i64, to_ms: i64) -> Sample {
    let mut total = part(&running[0], from_ms, to_ms);
    let added = [
        Metric::CpuMilli,
        Metric::MemUsedBytes,
        Metric::MemActiveBytes,
    ];
    for other in &running[1..] {
        let other = part(other, from_ms, to_ms);
        let mut values = Values::default();
        for metric in added.into_iter().chain(BYTES) {
            // What one of them did not record makes the sum unknown.
            let both = total.values.get(metric).zip(other.values.get(metric));
            values.set(metric, both.map(|(a, b)| a.saturating_add(b)));
        }
        total.values = values;
        total.interval.flags |= other.interval.flags;
    }
    total
}

#[cfg(test)]
#[path = "tidy_tests.rs"]
mod tests;
