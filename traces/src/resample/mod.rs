//! Demand within the intervals of a CPU trace: finer steps whose mean over every interval is the
//! recorded one, exactly.
//!
//! Inside: pure arithmetic, the same for the same trace, options and seed. Never inside: demand
//! over longer times than an interval; that is the trace's own.

mod line;
mod spread;

use serde::{Deserialize, Serialize};

use crate::cpu::{CpuSample, CpuSpread, CpuTrace};

/// What demand does within an interval of which the mean is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Resample {
    /// It stays at the mean.
    #[default]
    Hold,
    /// It goes in straight lines from interval to interval: continuous, but where bounds forbid it
    /// (after an interval that is all at its bound, demand must jump to be elsewhere).
    Linear,
    /// It varies as the recorded minimum, maximum and 95th percentile say; intervals without a
    /// maximum are held.
    Spread,
}

impl Resample {
    /// Names as in scenarios.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("hold", Self::Hold),
        ("linear", Self::Linear),
        ("spread", Self::Spread),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Linear => "linear",
            Self::Spread => "spread",
        }
    }
}

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What demand does.
    pub kind: Resample,
    /// Length of a step; an interval that is no multiple of it gets steps as near to it as divide
    /// it evenly (what is over, below a nanosecond a step, stays at the mean).
    pub step_ns: u64,
    /// Most demand of an interval whose maximum is not recorded, thousandths of a core.
    pub cap_milli: u32,
    /// Of [`Resample::Spread`].
    pub seed: u64,
}

/// Steps one trace may come to: 64 MiB of them.
pub const STEPS_MAX: u64 = 1 << 21;

/// More steps than are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "steps of {step_ns} ns would cut the trace's {period_ns} ns into {steps} steps, more than {STEPS_MAX}"
)]
pub struct TooMany {
    /// Step asked for.
    pub step_ns: u64,
    /// Length of the trace.
    pub period_ns: u64,
    /// Steps it would come to.
    pub steps: u64,
}

/// The trace in finer steps. Every interval keeps its mean to the thousandth of a core, in exact
/// work, and its bounds.
///
/// # Errors
/// When that would be more than [`STEPS_MAX`] steps.
pub fn resample(trace: &CpuTrace, options: &Options) -> Result<CpuTrace, TooMany> {
    if options.kind == Resample::Hold {
        return Ok(trace.clone());
    }
    let steps: u64 = trace
        .samples()
        .iter()
        .map(|sample| pieces(sample.dur_ns, options.step_ns))
        .fold(0, u64::saturating_add);
    if steps > STEPS_MAX {
        return Err(TooMany {
            step_ns: options.step_ns,
            period_ns: trace.period_ns(),
            steps,
        });
    }
    let mut out = Vec::with_capacity(usize::try_from(steps).unwrap_or(0));
    match options.kind {
        Resample::Spread => {
            let mut path = spread::Path::new(options);
            for (index, sample) in trace.samples().iter().enumerate() {
                let count = pieces(sample.dur_ns, options.step_ns);
                let values = path.values(sample.milli, trace.spread(index), count);
                push(&mut out, *sample, &values);
            }
        }
        Resample::Hold | Resample::Linear => {
            for (index, knots) in line::knots(trace, options.cap_milli)
                .into_iter()
                .enumerate()
            {
                let sample = trace.samples()[index];
                let count = pieces(sample.dur_ns, options.step_ns);
                push(&mut out, sample, &knots.values(sample.milli, count));
            }
        }
    }
    Ok(CpuTrace::new(out).expect("steps of a valid trace have lengths that sum to its own"))
}

/// Steps an interval is cut into, at least 1 and not shorter than a nanosecond.
fn pieces(dur_ns: u64, step_ns: u64) -> u64 {
    let step_ns = step_ns.max(1);
    // Half a step up: below 2^63 for any length this is not reached by, saturating beyond.
    (dur_ns.saturating_add(step_ns / 2) / step_ns).clamp(1, dur_ns)
}

/// Least and most demand of an interval: what is recorded, or 0 and the cap; never beside the mean.
fn bounds(mean: u32, spread: CpuSpread, cap_milli: u32) -> (u32, u32) {
    let least = spread.min.unwrap_or(0).min(mean);
    (least, spread.max.unwrap_or(cap_milli).max(mean))
}

/// Puts an interval's steps down; their values sum to `count × mean`. Equal neighbours are one step.
fn push(out: &mut Vec<CpuSample>, interval: CpuSample, values: &[u32]) {
    let count = values.len() as u64;
    let dur_ns = interval.dur_ns / count;
    let over_ns = interval.dur_ns - dur_ns * count;
    let steps = values.iter().map(|&milli| CpuSample { dur_ns, milli });
    let over = (over_ns > 0).then_some(CpuSample {
        dur_ns: over_ns,
        milli: interval.milli,
    });
    for step in steps.chain(over) {
        match out.last_mut() {
            Some(last) if last.milli == step.milli => last.dur_ns += step.dur_ns,
            _ => out.push(step),
        }
    }
}

#[cfg(test)]
mod tests;
