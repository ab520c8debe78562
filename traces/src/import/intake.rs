//! What readers of tables fill: VMs by the source's ids, and their samples in any order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::progress::Progress;
use super::tidy::Rule;
use super::{ImportError, ImportErrorKind, ImportOptions, StreamError, WarningKind};
use crate::store::bundle::VmMeta;
use crate::store::sample::{Sample, Values};
use crate::store::series::{Interval, Metric, flags};
use crate::store::sort::Sorter;
use crate::units::round_u64;

/// A VM of a table.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Vm {
    pub(super) meta: VmMeta,
    /// Cores that 100 % stand for.
    pub(super) cores: Option<f64>,
    /// A table describes it, not only samples.
    pub(super) described: bool,
}

/// VMs and samples being read.
pub(super) struct Intake<'a> {
    pub(super) options: &'a ImportOptions,
    progress: Arc<Progress>,
    pub(super) vms: Vec<Vm>,
    ids: HashMap<Box<str>, u32>,
    pub(super) sorter: Sorter,
    /// How to tidy the samples, when the table read asks for something else than its format.
    pub(super) rule: Option<Rule>,
    /// Things counted that become a warning each.
    pub(super) tally: BTreeMap<Tally, u64>,
}

/// What readers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tally {
    /// Marks for "invalid" in a column.
    Invalid(&'static str),
    /// Rows left out, with the reason.
    LeftOut(&'static str),
    /// VMs of an open bucket: how the source writes it, what stands for it.
    Bucket(&'static str, &'static str),
    /// A normalised column left out: which, the option that brings it in.
    Normalised(&'static str, &'static str),
    /// A unit that was guessed: column, unit, why.
    Guessed(&'static str, &'static str, &'static str),
    /// A source without cores: one is assumed.
    UnknownCores,
    /// Rows that the one with the same instant replaced.
    Duplicates,
}

impl Tally {
    /// The warning of a count.
    pub(super) fn warning(self, count: u64) -> WarningKind {
        match self {
            Self::Invalid(column) => WarningKind::Invalid { column, count },
            Self::LeftOut(why) => WarningKind::LeftOut { count, why },
            Self::Bucket(bucket, taken) => WarningKind::Bucket {
                vms: count,
                bucket,
                taken,
            },
            Self::Normalised(column, option) => WarningKind::Normalised { column, option },
            Self::Guessed(column, unit, why) => WarningKind::Guessed { column, unit, why },
            Self::UnknownCores => WarningKind::UnknownCores,
            Self::Duplicates => WarningKind::Duplicates { count },
        }
    }
}

impl<'a> Intake<'a> {
    pub(super) fn new(options: &'a ImportOptions, sorter: Sorter) -> Self {
        Self {
            options,
            progress: Arc::clone(&options.progress),
            vms: Vec::new(),
            ids: HashMap::new(),
            sorter,
            rule: None,
            tally: BTreeMap::new(),
        }
    }

    /// The number of the VM with this id, a new one if need be; `None` when it is not wanted.
    pub(super) fn vm(&mut self, id: &str) -> Option<u32> {
        if let Some(&vm) = self.ids.get(id) {
            return Some(vm);
        }
        if !self.options.wants(id) {
            return None;
        }
        let vm = u32::try_from(self.vms.len()).ok()?;
        let meta = VmMeta {
            source_id: Some(id.to_string()),
            ..VmMeta::named(id)
        };
        self.vms.push(Vm {
            meta,
            ..Vm::default()
        });
        self.ids.insert(id.into(), vm);
        Some(vm)
    }

    /// A VM that is there.
    pub(super) fn get(&mut self, vm: u32) -> &mut Vm {
        &mut self.vms[vm as usize]
    }

    pub(super) fn count(&mut self, tally: Tally) {
        *self.tally.entry(tally).or_default() += 1;
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self, sample: Sample) -> Result<(), StreamError> {
        self.progress.count_read();
        if self.progress.is_stopped() {
            return Err(ImportError::new(Path::new(""), 0, ImportErrorKind::Stopped).into());
        }
        Ok(self.sorter.push(sample)?)
    }

    /// Thousandths of a core from per cent of the VM, and the flag for what is above all of it.
    pub(super) fn milli(&self, vm: u32, percent: f64) -> (u64, u32) {
        let cores = self.vms[vm as usize].cores.unwrap_or(1.0);
        let over = if percent > 100.0 {
            flags::OVER_CAPACITY
        } else {
            0
        };
        (round_u64(percent * cores * 10.0), over)
    }
}

/// A sample of one VM.
pub(super) fn sample(
    vm: u32,
    t_ms: i64,
    dur_ms: u32,
    flags: u32,
    values: &[(Metric, Option<u64>)],
) -> Sample {
    let interval = Interval {
        t_ms,
        dur_ms,
        flags,
    };
    let values = Values::of(values);
    Sample {
        vm,
        interval,
        values,
    }
}
