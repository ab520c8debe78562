//! Traces written in the formats of simulators: to compare with them on the same input.
//!
//! Each is an [`Output`](crate::import::Output) of an import, so that any source can be exported in
//! bounded memory, and each appears whole or not at all. What a format needs and the trace lacks must be
//! given; what it cannot hold is dropped. Never inside: values made up.

mod opendc;
mod planetlab;

use std::io;
use std::path::PathBuf;

pub use opendc::OpenDcWriter;
pub use planetlab::PlanetLabWriter;

use crate::store::partial::PartialError;
use crate::store::sample::Sample;
use crate::store::series::{GapPolicy, Metric};

/// What to put where a trace is silent.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportOptions {
    /// Virtual CPUs of VMs without a number.
    pub vcpus: Option<u32>,
    /// RAM of VMs without a size.
    pub mem_bytes: Option<u64>,
    /// Clock of a core of VMs without a capacity; 1000 makes a MHz a thousandth of a core.
    pub core_mhz: Option<u32>,
    /// For stretches without CPU samples.
    pub gaps: GapPolicy,
}

/// What was done to fit the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportCounts {
    /// VMs written.
    pub vms: u64,
    /// Lines or rows written.
    pub rows: u64,
    /// Stretches without samples that were filled.
    pub gaps: u64,
    /// Their length together.
    pub gap_ms: u64,
    /// Values above what the format can hold, cut to it.
    pub clamped: u64,
    /// VMs without any CPU sample, left out.
    pub without_cpu: u64,
}

/// An export that failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The place, or the system.
    #[error(transparent)]
    Place(#[from] PartialError),
    /// A file could not be written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A table could not be written.
    #[error("{file}: {source}")]
    Parquet {
        /// Which file.
        file: &'static str,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// Something the format needs and the trace does not say.
    #[error("VM {vm} has no {what}, which the format needs: give {option}")]
    Missing {
        /// Which VM.
        vm: String,
        /// What.
        what: &'static str,
        /// What to give.
        option: &'static str,
    },
    /// Two VMs of one name, where names must differ.
    #[error("two VMs are named {vm}, and the format has one file a name and day")]
    SameName {
        /// The name.
        vm: String,
    },
}

/// CPU demand of a VM as consecutive steps: samples without a CPU value and gaps are filled.
#[derive(Debug)]
struct Steps {
    gaps: GapPolicy,
    /// The last step, not given out before the next one says whether it goes on: start, end, CPU.
    last: Option<Step>,
    /// Length of the last sample: linear filling goes in steps of it.
    step_ms: i64,
}

/// A stretch of one CPU value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    from_ms: i64,
    to_ms: i64,
    milli: u64,
    filled: bool,
}

impl Steps {
    fn new(gaps: GapPolicy) -> Self {
        Self {
            gaps,
            last: None,
            step_ms: 1,
        }
    }

    /// Takes a sample and appends the steps that are finished.
    fn take(&mut self, sample: &Sample, out: &mut Vec<Step>) {
        let Some(milli) = sample.values.get(Metric::CpuMilli) else {
            return;
        };
        let interval = sample.interval;
        let step = Step {
            from_ms: interval.t_ms,
            to_ms: interval.end_ms(),
            milli,
            filled: false,
        };
        if let Some(last) = self.last.replace(step) {
            out.push(last);
            self.fill(last, step, out);
        }
        self.step_ms = i64::from(interval.dur_ms);
    }

    fn end(&mut self, out: &mut Vec<Step>) {
        out.extend(self.last.take());
    }

    fn fill(&self, last: Step, next: Step, out: &mut Vec<Step>) {
        let gap = next.from_ms - last.to_ms;
        if gap <= 0 {
            return;
        }
        let filled = |from_ms, to_ms, milli| Step {
            from_ms,
            to_ms,
            milli,
            filled: true,
        };
        match self.gaps {
            GapPolicy::Hold => out.push(filled(last.to_ms, next.from_ms, last.milli)),
            GapPolicy::Zero => out.push(filled(last.to_ms, next.from_ms, 0)),
            GapPolicy::Linear => {
                // As `Series::cpu_trace`: at most 4096 steps.
                let steps = ((gap + self.step_ms - 1) / self.step_ms)
                    .clamp(1, 4096)
                    .min(gap);
                for step in 0..steps {
                    let from = last.to_ms + gap * step / steps;
                    let to = last.to_ms + gap * (step + 1) / steps;
                    let at = (step as f64 + 0.5) / steps as f64;
                    let value = last.milli as f64 + (next.milli as f64 - last.milli as f64) * at;
                    out.push(filled(from, to, crate::units::round_u64(value)));
                }
            }
        }
    }
}
