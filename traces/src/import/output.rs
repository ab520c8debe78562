//! Where the samples of an import go, and the way there: numbering, counting, warnings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::progress::Progress;
use super::{ImportCounts, ImportError, ImportErrorKind, OutputError, StreamError};
use super::{Warning, WarningKind};
use crate::dirty::PageWriteTrace;
use crate::store::bundle::VmMeta;
use crate::store::sample::Sample;
use crate::store::series::{GapFill, Metric, flags};

/// Takes the samples of an import: VM by VM in ascending numbers, each in order of time.
pub trait Output {
    /// A sample of the VM numbered `sample.vm`.
    ///
    /// # Errors
    /// When it cannot be put away.
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError>;

    /// The VM whose samples came last; VMs of arrivals have none.
    ///
    /// # Errors
    /// When it cannot be put away.
    fn vm(&mut self, meta: VmMeta, page_writes: Option<PageWriteTrace>) -> Result<(), OutputError>;
}

/// Warnings kept; the rest is counted.
const MOST_WARNINGS: usize = 10_000;

/// Hands samples to an output.
pub(super) struct Emitter<'a> {
    out: &'a mut dyn Output,
    progress: Arc<Progress>,
    next_vm: u32,
    life: Life,
    metrics: u32,
    pub(super) counts: ImportCounts,
    pub(super) warnings: Vec<Warning>,
    more_warnings: u64,
}

/// What is known of the VM under way.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    first_ms: Option<i64>,
    end_ms: i64,
    /// The end of the last sample with a CPU value.
    cpu_end_ms: i64,
    has_cpu: bool,
    gaps: GapFill,
    over: u64,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(out: &'a mut dyn Output, progress: Arc<Progress>) -> Self {
        Self {
            out,
            progress,
            next_vm: 0,
            life: Life::default(),
            metrics: 0,
            counts: ImportCounts::default(),
            warnings: Vec::new(),
            more_warnings: 0,
        }
    }

    pub(super) fn sample(&mut self, mut sample: Sample) -> Result<(), StreamError> {
        sample.vm = self.next_vm;
        let cpu = sample.values.get(Metric::CpuMilli).is_some();
        self.life.take(&sample, cpu);
        for (metric, _) in sample.values.iter() {
            self.metrics |= 1 << metric as u32;
        }
        self.counts.samples += 1;
        self.progress.count_written();
        if self.counts.samples.is_multiple_of(4096) && self.progress.is_stopped() {
            return Err(ImportError::new(Path::new(""), 0, ImportErrorKind::Stopped).into());
        }
        Ok(self.out.sample(&sample)?)
    }

    /// Ends a VM; one without samples is left out unless `arrivals`. Says what there is to know of it,
    /// and whether it was kept.
    pub(super) fn end_vm(
        &mut self,
        mut meta: VmMeta,
        page_writes: Option<PageWriteTrace>,
        arrivals: bool,
    ) -> Result<Option<VmNotes>, StreamError> {
        let mut life = std::mem::take(&mut self.life);
        if life.first_ms.is_none() && !arrivals {
            return Ok(None);
        }
        // A page-level recording has its own clock of CPU, without gaps.
        if page_writes.is_none() {
            life.end();
        } else {
            life.gaps = GapFill::default();
        }
        meta.vm_id = self.next_vm;
        meta.start_ms = meta.start_ms.or(life.first_ms);
        self.next_vm += 1;
        self.counts.gaps += life.gaps.gaps;
        self.counts.gap_ms += life.gaps.filled_ms;
        self.counts.over_capacity += life.over;
        self.out.vm(meta, page_writes)?;
        Ok(Some(VmNotes {
            gaps: life.gaps,
            over: life.over,
        }))
    }

    pub(super) fn warn(&mut self, file: &Path, kind: WarningKind) {
        if self.warnings.len() < MOST_WARNINGS {
            let file = file.to_path_buf();
            self.warnings.push(Warning { file, kind });
        } else {
            self.more_warnings += 1;
        }
    }

    pub(super) fn vms(&self) -> u32 {
        self.next_vm
    }

    /// What was counted and warned of, and the metrics there are.
    pub(super) fn finish(mut self, root: &Path) -> (ImportCounts, Vec<Warning>, Vec<Metric>) {
        if self.more_warnings > 0 {
            self.warnings.push(Warning {
                file: PathBuf::from(root),
                kind: WarningKind::More {
                    count: self.more_warnings,
                },
            });
        }
        let has = |metric: &Metric| self.metrics & (1 << *metric as u32) != 0;
        let metrics = Metric::ALL.into_iter().filter(has).collect();
        (self.counts, self.warnings, metrics)
    }
}

/// What there is to know of one VM.
#[derive(Debug, Clone, Copy)]
pub(super) struct VmNotes {
    pub(super) gaps: GapFill,
    pub(super) over: u64,
}

impl Life {
    /// The same stretches that [`Series::cpu_trace`](crate::store::series::Series::cpu_trace) fills.
    fn take(&mut self, sample: &Sample, cpu: bool) {
        let interval = sample.interval;
        if self.first_ms.is_none() {
            self.first_ms = Some(interval.t_ms);
            self.cpu_end_ms = interval.t_ms;
        }
        self.end_ms = interval.end_ms();
        if cpu {
            self.has_cpu = true;
            self.gap_to(interval.t_ms);
            self.cpu_end_ms = self.end_ms;
        }
        if interval.flags & flags::OVER_CAPACITY != 0 {
            self.over += 1;
        }
    }

    fn gap_to(&mut self, t_ms: i64) {
        let gap = t_ms.abs_diff(self.cpu_end_ms);
        self.gaps.gaps += u64::from(gap > 0);
        self.gaps.filled_ms += gap;
    }

    fn end(&mut self) {
        if self.has_cpu {
            self.gap_to(self.end_ms);
        }
    }
}
