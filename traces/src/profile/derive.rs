//! A profile's figures out of a recording.
//!
//! Inside: what is taken of a page-level recording, one figure after another, so that the built-in
//! profiles can be made again from the library by anybody. Never inside: what is done with them.

use serde::{Deserialize, Serialize};

use crate::class::{Coupling, PageClass};
use crate::dirty::PageWriteTrace;
use crate::fit::{FitError, ReadFit, ReadWindow, fit_reads, fit_recording_with};
use crate::stats::{autocorrelation, dirty_curve, distinct_per_second};
use crate::units::{NS_PER_S, round_u32};

/// Consecutive pages written together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RunShare {
    /// Pages a run.
    pub pages: u32,
    /// Share of the written pages that lie in such runs.
    pub share: f64,
}

/// What a profile takes of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Classes fitted to all but the start-up, on the clock of the profile.
    pub classes: Vec<PageClass>,
    /// Pages read, on the clock of the profile; none where no windows of several lengths were recorded.
    #[serde(default)]
    pub reads: Option<ReadFit>,
    /// Relative error of D(t): fitted on the first half, scored on the second.
    pub out_of_sample_error: f64,
    /// Mean CPU use in that time, in cores: what the rates were measured at.
    pub cores: f64,
    /// Written pages by the length of the run they lie in, at the recording's tick: 1, 2 to 7, 8 to 31
    /// and more, each with the mean length of its runs.
    pub runs: Vec<RunShare>,
    /// Standard deviation over mean of the distinct pages of a second.
    pub cv: f64,
    /// Their correlation from one second to the next.
    pub lag1: f64,
}

/// The first seconds of the library's recordings are start-up and loading, as in the table of its README.
pub const START_UP_NS: u64 = 5 * NS_PER_S;

/// Longest run of each bin of [`Recorded::runs`].
const RUN_BINS: [u32; 4] = [1, 7, 31, u32::MAX];

/// What a recording's samples say of reads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampledReads {
    /// Windows of accessed bits after the start-up.
    pub windows: Vec<ReadWindow>,
    /// Resident pages: no more are read.
    pub resident_pages: u32,
}

/// The figures of a recording, its classes on the clock of `coupling`; `sweep`: its pages are one
/// walker's.
///
/// # Errors
/// When the recording is too short to fit.
pub fn recorded(
    trace: &PageWriteTrace,
    coupling: Coupling,
    sweep: bool,
    reads: &SampledReads,
) -> Result<Recorded, FitError> {
    let phase = START_UP_NS..u64::MAX;
    // Fitted on running time, where the grid of rates reaches from a tick to the whole recording, and
    // then put on the clock of CPU time at the mean CPU use: the recorded loads are steady.
    let (mut classes, report) = fit_recording_with(trace, phase.clone(), Coupling::Time)?;
    for class in &mut classes {
        class.coupling = coupling;
        if coupling == Coupling::Cpu {
            class.rate = thousandth(class.rate / report.cores);
        }
    }
    let mut reads = fit_reads(&reads.windows, reads.resident_pages);
    if let Some(reads) = &mut reads {
        for class in reads
            .classes
            .iter_mut()
            .filter(|_| coupling == Coupling::Cpu)
        {
            class.rate = thousandth(class.rate / report.cores);
        }
        reads.in_sample_error = thousandth(reads.in_sample_error);
        reads.out_of_sample_error = thousandth(reads.out_of_sample_error);
    }
    if sweep {
        classes = walker(trace, &phase, coupling);
    }
    let part = trace.slice(phase.clone());
    let seconds: Vec<f64> = distinct_per_second(&part)
        .into_iter()
        .map(|pages| pages as f64)
        .collect();
    let mean = seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
    let variance = seconds.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
    let deviation = (variance / seconds.len().saturating_sub(1).max(1) as f64).sqrt();
    Ok(Recorded {
        classes,
        reads,
        out_of_sample_error: thousandth(report.out_of_sample_error),
        cores: thousandth(report.cores),
        runs: runs(&part),
        cv: thousandth(deviation / mean.max(f64::MIN_POSITIVE)),
        lag1: thousandth(autocorrelation(&seconds, 1).unwrap_or(0.0)),
    })
}

/// One class that goes round: all the pages written, as many a second as a tick holds.
fn walker(
    trace: &PageWriteTrace,
    phase: &std::ops::Range<u64>,
    coupling: Coupling,
) -> Vec<PageClass> {
    let all = trace.slice(phase.clone()).ticks.len().max(1);
    let curve = dirty_curve(trace, &[1, all], phase.clone());
    let [tick, whole] = curve[..] else {
        return Vec::new();
    };
    let clock_s = match coupling {
        Coupling::Cpu => tick.window_cpu_s,
        Coupling::Time => tick.window_s,
    };
    let rate = thousandth(tick.pages / clock_s / whole.pages);
    vec![PageClass {
        coupling,
        locality: crate::class::Locality::Sweep,
        ..PageClass::new(round_u32(whole.pages), rate)
    }]
}

fn runs(part: &PageWriteTrace) -> Vec<RunShare> {
    let mut bins = [(0u64, 0u64); RUN_BINS.len()];
    for run in part.ticks.iter().flat_map(|tick| &tick.runs) {
        let bin = RUN_BINS.partition_point(|&longest| longest < run.len);
        bins[bin].0 += 1;
        bins[bin].1 += u64::from(run.len);
    }
    let all: u64 = bins.iter().map(|bin| bin.1).sum();
    bins.iter()
        .filter(|bin| bin.0 > 0)
        .map(|&(count, pages)| RunShare {
            pages: round_u32(pages as f64 / count as f64).max(1),
            share: thousandth(pages as f64 / all as f64),
        })
        .collect()
}

/// To three places: figures that anybody's computer makes alike.
fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
